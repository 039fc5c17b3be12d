"""The files in `configs/tasks`: which of them serve the labels of a data set, and new ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mbrec.prepare.describe.column_names import unique_name


@dataclass
class Tasks:
    """Tasks for the labels of a data set.

    Attributes:
        names: those to train, in the order of the labels.
        new: file name without `.yaml` -> text, of those that are not there yet.
    """

    names: list[str] = field(default_factory=list)
    new: dict[str, str] = field(default_factory=dict)


def find_tasks(folders: Sequence[Path], labels: Sequence[str]) -> Tasks:
    """Return the tasks for labels: those in some folders that need no other labels, or new ones.

    A label may have several, among different rows: conversions among clicks and among impressions.

    Args:
        folders: `tasks` of the configurations; a file in a later one takes the place of others.
        labels: names of the data set's labels.
    """
    tasks = Tasks()
    paths = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    known = {name: _read(path) for name, path in sorted(paths.items())}
    for label in labels:
        serving: dict[str | None, str] = {}
        for name, (served, given) in known.items():
            fits = served == label and (given is None or given in labels)
            # The one that is called like the label comes before others.
            if fits and (given not in serving or name == label):
                serving[given] = name
        if not serving:
            name = unique_name(label, known)
            tasks.new[name] = (
                f"# @package tasks.{name}\n# {label}, over all rows.\nlabel: {label}\n"
            )
            serving[None] = name
        # Rates among some rows before the rate among all.
        tasks.names += sorted(serving.values(), key=lambda n: n == serving.get(None))
    return tasks


def _read(path: Path) -> tuple[str | None, str | None]:
    """Return the label of a task, and the label that is given."""
    try:
        node = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: expected the YAML of a task: {reason}") from error
    if not isinstance(node, dict):
        return None, None
    return node.get("label"), node.get("given")
