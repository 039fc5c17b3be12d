"""Drafts a data set's configuration: `mbrec describe FOLDER [key=value ...]`."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mbrec.config.errors import plain_errors
from mbrec.files import atomic
from mbrec.prepare.describe.draft import remarks, write_draft
from mbrec.prepare.describe.guess import Role, guess
from mbrec.prepare.describe.labels import LabelRates, count_labels, find_labels, manifest_rates
from mbrec.prepare.describe.names import unique_name
from mbrec.prepare.describe.profile import Profile, read_profile

USAGE = """usage: mbrec describe FOLDER [key=value ...]

Reads a data set and prints a draft of its configuration: which columns are ids, numbers and labels,
how each is used, and why. FOLDER is a prepared data set, or any folder (or URI) of Parquet files;
without a manifest.json, all training rows are read. A column that tells a label too well on its own
is left out or marked, with the reason and the line that takes it back.
  name=shop         write configs/data/shop.yaml, and configs/tasks/LABEL.yaml for each label that
                    has no task yet, and print the command that trains on them
  labels=[a,b]      the columns that are labels; default: by their values and names
  plot=FILE.png     the picture of label rates, ids and missing values; default:
                    FOLDER/describe.png; none: no picture
  configs=FOLDER    folder of the configuration; default: ./configs
  overwrite=true    replace configs/data/shop.yaml"""

PICTURE = "describe.png"


@dataclass
class Options:
    """Options of the command line; see `USAGE`."""

    name: str = ""
    labels: list[str] | None = None
    plot: str = ""
    configs: str = "configs"
    overwrite: bool = False

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "Options":
        """Return the options.

        Raises:
            ValueError: naming an argument that is not one, and those that there are.
        """
        known = [option.name for option in fields(cls)]
        found = cls()
        for argument in arguments:
            key, separator, value = argument.partition("=")
            if not separator or key not in known:
                raise ValueError(
                    f"expected key=value with a key of {', '.join(known)}, got {argument}"
                )
            if key == "labels":
                found.labels = [name.strip() for name in value.strip("[]").split(",")]
            elif key == "overwrite":
                if value.lower() not in ("true", "false"):
                    raise ValueError(f"expected overwrite=true or overwrite=false, got {argument}")
                found.overwrite = value.lower() == "true"
            else:
                setattr(found, key, value)
        if found.name and not re.fullmatch(r"[A-Za-z_]\w*", found.name, re.ASCII):
            raise ValueError(
                f"expected a name of letters, digits and underscores, got {found.name}"
            )
        return found


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    with plain_errors():
        path, *rest = arguments
        if "=" in path and not os.path.exists(path):
            raise ValueError(f"expected the folder of a data set first, got {path}")
        describe(path, Options.parse(rest))


def describe(path: str, options: Options) -> None:
    """Draft the configuration of the data set at `path`; see `USAGE`.

    Raises:
        ValueError: if there is no data set, an option does not fit, or a file exists already.
    """
    configs = Path(options.configs)
    if options.name:
        _check_target(configs, options)
    profile = read_profile(path)
    labels, kept_out = find_labels(profile, options.labels)
    guesses = guess(profile, labels, kept_out)
    picture = options.plot or ("none" if "://" in path else str(Path(path) / PICTURE))
    rates, counted = manifest_rates(profile, labels), None
    if labels and (picture != "none" or rates is None):
        counted = count_labels(profile, labels)
        rates = counted.by_label()
    text = write_draft(profile, labels, guesses, rates or {}, f"mbrec describe {path}")
    notes = "".join(f"{note}\n" for note in remarks(labels, guesses))
    if options.name:
        _write(configs, options.name, text, notes, [label.name for label in labels])
    else:
        print(text, end="", flush=True)
        _log(f"{notes}name=NAME writes this to configs/data/NAME.yaml, and the tasks for it")
    if picture != "none":
        ids = [name for name, one in guesses.items() if one.role is Role.categorical]
        _draw(picture, profile, ids, counted)


def find_tasks(folders: Sequence[Path], labels: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the tasks for labels: existing ones that need no other labels, or new ones.

    A label may have several, among different rows: conversions among clicks and among impressions.

    Args:
        folders: `tasks` of the configurations; a file in a later one replaces others.
        labels: names of the data set's labels.

    Returns:
        The names of the tasks, in the order of the labels, and name -> YAML of the new ones.
    """
    names: list[str] = []
    new: dict[str, str] = {}
    paths = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    known = {name: _read_task(path) for name, path in sorted(paths.items())}
    for label in labels:
        serving: dict[str | None, str] = {}
        for name, (served, given) in known.items():
            fits = served == label and (given is None or given in labels)
            # The one with the name of the label comes before others.
            if fits and (given not in serving or name == label):
                serving[given] = name
        if not serving:
            name = unique_name(label, known)
            new[name] = f"# @package tasks.{name}\n# {label}, over all rows.\nlabel: {label}\n"
            serving[None] = name
        # Rates among some rows before the rate among all.
        names += sorted(serving.values(), key=lambda n: n == serving.get(None))
    return names, new


def _read_task(path: Path) -> tuple[str | None, str | None]:
    """Return the label of a task, and the label that is given."""
    try:
        node = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: expected the YAML of a task: {reason}") from error
    if not isinstance(node, dict):
        return None, None
    return node.get("label"), node.get("given")


def _check_target(configs: Path, options: Options) -> None:
    """Refuse a configuration that cannot be written, before any row is read."""
    if not (configs / "data").is_dir() or not (configs / "tasks").is_dir():
        fix = "run this where configs/ is, or name it with configs=FOLDER"
        raise ValueError(f"expected folders data and tasks in {configs}, found none: {fix}")
    target = configs / "data" / f"{options.name}.yaml"
    if target.exists() and not options.overwrite:
        raise ValueError(f"{target} already exists; overwrite=true replaces it")


def _write(configs: Path, name: str, draft: str, notes: str, labels: Sequence[str]) -> None:
    found = find_spec("mbrec.configs")
    shipped = [Path(place) for place in (found and found.submodule_search_locations) or []]
    is_shipped = configs.resolve() in [place.resolve() for place in shipped]
    # Hydra finds those that are shipped beside those of a folder that it is given.
    folders = [configs] if is_shipped else [*shipped, configs]
    tasks, new = find_tasks([folder / "tasks" for folder in folders], labels)
    target = configs / "data" / f"{name}.yaml"
    files = {target: draft}
    files |= {configs / "tasks" / f"{task}.yaml": text for task, text in new.items()}
    for path, text in files.items():
        atomic.write_text(path, text)
        print(f"wrote {path}")
    print(notes, end="")
    if not tasks:
        print(f"no label was found: name some in {target}, and write tasks for them")
        return
    where = "" if is_shipped else f"--config-dir {configs} "
    command = f"scripts/train.sh {where}data={name} 'tasks=[{','.join(tasks)}]'"
    print(f"Review and edit the draft, then train:\n  {command}")


def _draw(picture: str, profile: Profile, ids: Sequence[str], rates: LabelRates | None) -> None:
    try:
        from mbrec.prepare.describe import plots
    except ImportError as error:
        how = ".venv/bin/pip install -c constraints.txt matplotlib"
        _log(f"no picture: {error}; install it with {how}")
        return
    try:
        drawn = plots.draw(picture, profile, ids, rates)
    except OSError as error:
        _log(f"no picture: {error}")
        return
    _log(f"drew {picture}" if drawn else "no picture: there are no labels, ids or missing values")


def _log(message: str) -> None:
    # Not on the standard output, which is the draft.
    sys.stderr.write(f"{message}\n")
