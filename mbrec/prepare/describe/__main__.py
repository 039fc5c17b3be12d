"""Drafts a data set's configuration: `python -m mbrec.prepare.describe DIR [key=value ...]`."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from mbrec.config.errors import plain_errors
from mbrec.files import atomic
from mbrec.prepare.describe.draft import Draft, remarks, write_draft
from mbrec.prepare.describe.guess import guess
from mbrec.prepare.describe.label_names import Label, find_labels
from mbrec.prepare.describe.label_rates import LabelRates, count_labels
from mbrec.prepare.describe.profile import Profile, look_at
from mbrec.prepare.describe.task_files import find_tasks

USAGE = """usage: python -m mbrec.prepare.describe DIR [key=value ...]

Looks at a data set and prints a draft of its configuration: which columns are ids, numbers and
labels, what is done to them, and why. DIR is a prepared data set, or any folder (or URI) of
Parquet files; without a manifest.json, all training rows are read. A column that tells a label too
well on its own is left out or marked, with the reason and the line that takes it back.
  name=shop         write configs/data/shop.yaml, and configs/tasks/LABEL.yaml for each label that
                    has no task yet, and print the command that trains on them
  labels=[a,b]      the columns that are labels; default: by what they hold, and their names
  plot=FILE.png     the picture of label rates, ids and missing values; default: DIR/describe.png;
                    none: no picture
  configs=DIR       folder of the configuration; default: ./configs
  overwrite=true    replace configs/data/shop.yaml"""

PICTURE = "describe.png"


@dataclass
class Options:
    """What was asked for on the command line."""

    name: str = ""
    labels: list[str] | None = None
    plot: str = ""
    configs: str = ""
    overwrite: bool = False

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "Options":
        """Return the options.

        Raises:
            ValueError: naming an argument that is none, and those that there are.
        """
        known = [field.name for field in fields(cls)]
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


def describe(path: str, options: Options) -> None:
    """Draft the configuration of the data set at `path`; see `USAGE`.

    Raises:
        ValueError: if there is no data set, an option does not fit, or a file is there already.
    """
    configs = _configs(options) if options.name else None
    profile = look_at(path)
    labels, kept_out = find_labels(profile, options.labels)
    guesses = guess(profile, labels, kept_out)
    picture = _picture(path, options)
    counted = None
    if labels and (picture or not _are_known(profile, labels)):
        counted = count_labels(profile, labels)
    command = f"python -m mbrec.prepare.describe {path}"
    rates = _rates(profile, labels, counted)
    draft = write_draft(profile, labels, guesses, rates, command)
    notes = remarks(labels, guesses)
    if configs is None:
        print(draft.text, end="", flush=True)
        for note in notes:
            _tell(note)
        _tell("name=NAME writes this to configs/data/NAME.yaml, and the tasks for it")
    else:
        _write(configs, options.name, draft, notes)
    if picture:
        _draw(picture, profile, draft, counted)


def _configs(options: Options) -> Path:
    """Return the folder of the configuration, before anything is read."""
    configs = Path(options.configs or "configs")
    if not (configs / "data").is_dir() or not (configs / "tasks").is_dir():
        remedy = "run this where configs/ is, or name it with configs=DIR"
        raise ValueError(f"expected folders data and tasks in {configs}, found none: {remedy}")
    target = configs / "data" / f"{options.name}.yaml"
    if target.exists() and not options.overwrite:
        raise ValueError(f"{target} is there already; overwrite=true replaces it")
    return configs


def _picture(path: str, options: Options) -> str:
    if options.plot:
        return "" if options.plot == "none" else options.plot
    return "" if "://" in path else str(Path(path) / PICTURE)


def _are_known(profile: Profile, labels: Sequence[Label]) -> bool:
    splits = profile.manifest.splits if profile.manifest else {}
    return all(
        split in splits and label.expression in splits[split].label_rates
        for split in profile.layout.splits
        for label in labels
    )


def _rates(
    profile: Profile, labels: Sequence[Label], counted: LabelRates | None
) -> Mapping[str, Mapping[str, float]]:
    """Return label -> split -> rate."""
    splits = list(profile.layout.splits)
    if counted is not None:
        found = {split: counted.of(split) for split in splits}
        return {
            label.name: {split: found[split][number] for split in splits}
            for number, label in enumerate(labels)
        }
    known = profile.manifest.splits if profile.manifest else {}
    return {
        label.name: {split: known[split].label_rates[label.expression] for split in splits}
        for label in labels
    }


def _write(configs: Path, name: str, draft: Draft, notes: Sequence[str]) -> None:
    found = find_spec("mbrec.configs")
    shipped = [Path(place) for place in (found and found.submodule_search_locations) or []]
    is_shipped = configs.resolve() in [place.resolve() for place in shipped]
    # Hydra finds those that are shipped beside those of a folder that it is given.
    folders = [configs] if is_shipped else [*shipped, configs]
    tasks = find_tasks([folder / "tasks" for folder in folders], draft.labels)
    files = {configs / "data" / f"{name}.yaml": draft.text}
    files |= {configs / "tasks" / f"{task}.yaml": text for task, text in tasks.new.items()}
    for path, text in files.items():
        atomic.write_text(path, text)
        print(f"wrote {path}")
    for note in notes:
        print(note)
    if not tasks.names:
        print(f"no label was found: name some in {configs / 'data' / name}.yaml, and write tasks")
        return
    where = "" if is_shipped else f"--config-dir {configs} "
    command = f"scripts/train.sh {where}data={name} 'tasks=[{','.join(tasks.names)}]'"
    print(f"Look the draft over, then train:\n  {command}")


def _draw(picture: str, profile: Profile, draft: Draft, rates: LabelRates | None) -> None:
    try:
        from mbrec.prepare.describe import plots
    except ImportError as error:
        how = ".venv/bin/pip install -c constraints.txt matplotlib"
        _tell(f"no picture: {error}; install it with {how}")
        return
    try:
        drawn = plots.draw(picture, profile, list(draft.categorical.values()), rates)
    except OSError as error:
        _tell(f"no picture: {error}")
        return
    _tell(f"drew {picture}" if drawn else "no picture: there are no labels, ids or missing values")


def _tell(message: str) -> None:
    # Not on the standard output, which is the draft.
    sys.stderr.write(f"{message}\n")


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    with plain_errors():
        path, *rest = arguments
        if "=" in path and not os.path.exists(path):
            raise ValueError(f"expected the folder of a data set first, got {path}")
        describe(path, Options.parse(rest))


if __name__ == "__main__":
    main()
