"""The part `fidelity` of a reproduction: starts the measurement, and writes its page."""

from mbrec.reproduce import fidelity
from mbrec.reproduce.fidelity_page import page
from mbrec.reproduce.lab import Lab
from mbrec.reproduce.page import Page
from mbrec.study import launch
from mbrec.study.jobs import Job, shipped


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
    size, seeds = fidelity.SIZES[lab.size.name], len(lab.seeds)
    lab.trained += len(fidelity.missing(folder, size, seeds))
    arguments = [lab.size.name, str(folder), str(seeds)]
    launch.start("mbrec.reproduce.worker", arguments, folder, processes=lab.processes)
    runs = fidelity.load(folder, size, seeds)
    lab.total += len(runs)
    return page(runs)
