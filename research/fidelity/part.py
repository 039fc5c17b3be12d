"""The part `fidelity` of a reproduction: starts the measurement, and writes its page."""

from mbrec.study import launch
from mbrec.study.jobs import Job, shipped
from research.fidelity import measure
from research.fidelity.page import page
from research.paper.page import Page
from research.paper.runs import Lab


def tuning_jobs(lab: Lab) -> list[Job]:
    """Return nothing: no setting is chosen."""
    return []


def jobs(lab: Lab) -> list[Job]:
    """Return nothing: these runs are watched step by step, in processes of their own."""
    return []


def write(lab: Lab) -> Page:
    """Train and measure what is not there yet, and return the page."""
    folder = lab.folder / "fidelity" / f"{lab.size.name}-{shipped()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    size, seeds = measure.SIZES[lab.size.name], len(lab.seeds)
    lab.trained += len(measure.missing(folder, size, seeds))
    arguments = [lab.size.name, str(folder), str(seeds)]
    launch.start("research.fidelity.worker", arguments, folder, processes=lab.processes)
    runs = measure.load(folder, size, seeds)
    lab.total += len(runs)
    return page(runs)
