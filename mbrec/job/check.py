"""Checks a command line before anything is started."""

from pathlib import Path

from hydra import initialize_config_module

from mbrec.config.composer import composed, folder_of, with_folder

# The table in the folder of a sweep, by which that is known.
SWEEP_TABLE = "sweep.csv"


def check(overrides: list[str]) -> Path | None:
    """Compose and parse a configuration, and throw it away.

    Arguments that start with a dash are Hydra's own; nothing is checked beside them, except for a
    folder of further configurations (`--config-dir DIR`).

    Returns:
        the folder of the run, where it has a name.

    Raises:
        ValueError: in a few lines, what is wrong and what was probably meant.
    """
    overrides = with_folder(overrides)
    if any(text.startswith("-") for text in overrides):
        return None
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        config = composed(overrides)
    folder = folder_of(config)
    if folder is not None and (folder / "metrics.json").exists():
        raise ValueError(
            f"expected a new run, got run.name={folder.name}, which is finished; to train it on: "
            f"run.name=NEW resume.path={folder}"
        )
    if folder is not None and (folder / SWEEP_TABLE).exists():
        raise ValueError(
            f"expected a new run, got run.name={folder.name}, which is a sweep; -m goes on with it"
        )
    return folder
