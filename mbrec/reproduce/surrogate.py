"""The part `fidelity` of a reproduction: starts the measurement, and writes its page."""

from mbrec import run_lock
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
    arguments = [lab.size.name, str(folder), str(len(lab.seeds))]
    with run_lock.alone(folder, "measurement"):
        launch.start("mbrec.reproduce.worker", arguments, folder, processes=lab.processes)
    return page(fidelity.load(folder, fidelity.SIZES[lab.size.name], seeds=len(lab.seeds)))
