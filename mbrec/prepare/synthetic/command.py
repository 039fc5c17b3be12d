"""Writes a synthetic data set and prints a summary: `mbrec synthetic FOLDER [key=value ...]`."""

import inspect
import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from mbrec.config.synthetic import LABELS, ORACLE_PREFIX, Synthetic

USAGE = """usage: mbrec synthetic FOLDER [key=value ...]

Writes an impression log whose true probabilities are known into a folder of its own below FOLDER,
where training with data.path=FOLDER finds it.
  preset={presets}
                    settings that those below change; default: as in training
  processes=N       default: one for each million rows, at most one per core
Settings, all optional:
{settings}"""

_SAMPLE_ROWS = 1_000_000  # held-out rows that the optimum is computed on
_OF_CLICKS = "conversion, of clicks"


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if not arguments or {"-h", "--help"} & set(arguments):
        described = inspect.cleandoc(Synthetic.__doc__ or "").partition("Attributes:\n")[2]
        print(USAGE.format(presets="|".join(presets()), settings=described))
        return

    from mbrec.config.errors import plain_errors

    with plain_errors():
        folder, *rest = arguments
        if "=" in folder and not os.path.exists(folder):
            raise ValueError(f"expected the folder to write to first, got {folder}")
        try:
            print(run(Path(folder), rest))
        except KeyboardInterrupt:
            print("interrupted; nothing was written", file=sys.stderr)
            sys.exit(130)


def run(folder: Path, arguments: Sequence[str]) -> str:
    """Write a data set below a folder, where training looks for it; return a summary.

    Args:
        folder: what training calls `data.path`.
        arguments: see `parse`.
    """
    settings, processes = parse(arguments)

    from mbrec.prepare.synthetic.files import write

    target = folder / settings.fingerprint
    write(settings, target, progress=sys.stderr.isatty(), processes=processes)
    path = str(folder)
    if not re.fullmatch(r"[\w./~-]+", path):  # a comma, for one, would separate several values
        path = "'{}'".format(path.replace("'", r"\'"))
    command = shlex.join(["mbrec", "train", f"data.path={path}", *_overrides(arguments)])
    return f"{_summary(settings, target)}\n\nto train on it:\n  {command}"


def presets() -> list[str]:
    """Return the names of the presets, which are in `configs/data/preset`."""
    folder = resources.files("mbrec.configs") / "data" / "preset"
    names = (file.name for file in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def parse(arguments: Sequence[str]) -> tuple[Synthetic, int | None]:
    """Return the settings, and the number of processes if one is given.

    Raises:
        ValueError: if an argument is not `preset=NAME`, `processes=N` or a setting as key=value,
            in the grammar of training's command line.
    """
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException

    from mbrec.config import composer, settings

    processes = None
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not re.fullmatch(r"\w+", key):
            raise ValueError(f"expected key=value, got '{argument}'")
        if key == "processes":
            if not value.isdecimal() or int(value) < 1:
                raise ValueError(f"expected processes >= 1, got {value}")
            processes = int(value)
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        try:
            found = settings.parse(compose("train", overrides=_overrides(arguments)))
        except HydraException as error:
            raise ValueError(composer.describe(error)) from error
    assert found.data.synthetic is not None
    return found.data.synthetic, processes


def _overrides(arguments: Sequence[str]) -> list[str]:
    """Return what makes training find the data set: the same settings, in its words."""
    overrides = ["data=synthetic"]
    for argument in arguments:
        if argument.startswith("preset="):
            overrides.append(f"data/{argument}")
        elif not argument.startswith("processes="):
            overrides.append(f"data.synthetic.{argument}")
    return overrides


def _summary(settings: Synthetic, folder: Path) -> str:
    from mbrec.columns import manifest

    splits = manifest.load_folder(folder).splits
    train, held_out = splits["train"], splits["evaluation"]
    lines = [
        f"{train.rows:,} rows to train on, then {held_out.rows:,} held out, in {folder}",
        "",
        f"{'':<24}{'rate':>8}{'held out':>10}{'best NE':>10}{'best AUC':>10}",
    ]
    rates = []
    for found in (train.label_rates, held_out.label_rates):
        of_clicks = found["conversion"] / found["click"] if found["click"] else float("nan")
        rates.append(found | {_OF_CLICKS: of_clicks})
    for name, optima in _optima(folder).items():
        columns = (rates[0][name], rates[1][name], *optima)
        lines.append("{:<24}{:>8.4f}{:>10.4f}{:>10.4f}{:>10.4f}".format(name, *columns))
    lines.append("best: the expectation of the true probabilities on held-out rows")
    if settings.delay:
        lines.append("rate: without the conversions that were not known yet")
    return "\n".join(lines)


def _optima(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the least NE and the highest AUC of each task, in a sample of the held-out rows."""
    import pyarrow as pa
    from pyarrow import parquet

    from mbrec.prepare.synthetic.optimum import auc_optimum, normalized_entropy_optimum

    names = [ORACLE_PREFIX + name for name in (*LABELS, "click_conversion")]
    tables: list[pa.Table] = []
    for file in sorted((folder / "evaluation").iterdir()):
        if sum(map(len, tables)) < _SAMPLE_ROWS:
            tables.append(parquet.ParquetFile(file).read(columns=names))
    table = pa.concat_tables(tables)
    click, given_click, like, share, comment, conversion = (table[n].to_numpy() for n in names)
    tasks = {"click": (click,), "conversion": (conversion,), _OF_CLICKS: (given_click, click)}
    tasks |= {"like": (like,), "share": (share,), "comment": (comment,)}
    return {
        name: (normalized_entropy_optimum(*p_and_weight), auc_optimum(*p_and_weight))
        for name, p_and_weight in tasks.items()
    }
