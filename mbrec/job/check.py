"""Checks a command line before anything is started."""

from mbrec import UserError
from mbrec.config.composer import Composed, composed, shipped_configs, with_folder

# The table in the folder of a sweep, by which that is known.
SWEEP_TABLE = "sweep.csv"


def check(arguments: list[str]) -> Composed:
    """Compose a command line into a configuration that can be run.

    Raises:
        UserError: in a few lines, what is wrong and what was probably meant.
    """
    overrides = with_folder(arguments)
    with shipped_configs():
        found = composed(overrides)
    folder = found.folder
    if folder is not None and (folder / "metrics.json").exists():
        raise UserError(
            f"expected a new run, got run.name={folder.name}, which is finished; to train it on: "
            f"run.name=NEW resume.path={folder}"
        )
    if folder is not None and (folder / SWEEP_TABLE).exists():
        raise UserError(
            f"expected a new run, got run.name={folder.name}, which is a sweep; -m continues it"
        )
    return found
