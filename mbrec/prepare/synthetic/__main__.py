"""Writes a synthetic data set and says what is in it: `python -m mbrec.prepare.synthetic`."""

import argparse
import difflib
import inspect
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from mbrec.config.synthetic import LABELS, ORACLE_PREFIX, Synthetic

_SAMPLE_ROWS = 1_000_000  # held-out rows that the optimum is computed on
_OF_CLICKS = "conversion, of clicks"
_PRESET = "small"  # as training's


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = _parser().parse_args(argv)

    from mbrec.config.errors import plain_errors

    with plain_errors():
        try:
            print(run(args.folder, args.settings))
        except KeyboardInterrupt:
            print("interrupted, nothing is left of it", file=sys.stderr)
            return 130
    return 0


def run(folder: Path, arguments: Sequence[str]) -> str:
    """Writes a data set below a folder, where training looks for it; returns a summary.

    Args:
        folder: What training calls `data.path`.
        arguments: See `parse`.
    """
    settings, processes = parse(arguments)

    from mbrec.prepare.synthetic.files import write

    target = folder / settings.fingerprint
    write(settings, target, progress=sys.stderr.isatty(), processes=processes)
    return f"{_summary(settings, target)}\n\nto train on it:\n  {_command(folder, arguments)}"


def parse(arguments: Sequence[str]) -> tuple[Synthetic, int | None]:
    """Returns the settings, and the number of processes if one is given.

    Raises:
        ValueError: If an argument is not `preset=NAME`, `processes=N` or a setting as key=value,
            in the grammar of training's command line.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    given = dict(_split(argument) for argument in arguments)
    processes = given.pop("processes", None)
    if processes is not None and not (isinstance(processes, int) and processes > 0):
        raise ValueError(f"expected processes >= 1, got {processes}")
    preset = _preset(given.pop("preset", _PRESET))
    try:
        node = OmegaConf.merge(OmegaConf.structured(Synthetic), preset, given)
        settings = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).partition(chr(10))[0]}") from error
    assert isinstance(settings, Synthetic)
    return settings, processes


def presets() -> list[str]:
    """Returns the names of the presets, which are in `configs/data/preset`."""
    names = (file.name for file in _presets().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _presets() -> Any:
    return resources.files("mbrec.configs") / "data" / "preset"


def _preset(name: object) -> Any:
    from omegaconf import OmegaConf

    if name not in presets():
        raise ValueError(f"expected preset to be one of {', '.join(presets())}, got '{name}'")
    return OmegaConf.create((_presets() / f"{name}.yaml").read_text(encoding="utf-8"))


def _split(argument: str) -> tuple[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not re.fullmatch(r"\w+=.*", argument, re.DOTALL):
        raise ValueError(f"expected key=value, got '{argument}'")
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise ValueError(f"expected key=value, got '{argument}': {error}") from error
    if override.is_sweep_override():
        raise ValueError(f"expected key=value with one value, got '{argument}'")
    key = override.key_or_group
    known = [*(setting.name for setting in fields(Synthetic)), "preset", "processes"]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        meant = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"expected one of {', '.join(known)}, got '{key}'{meant}")
    return key, override.value()


def _summary(settings: Synthetic, folder: Path) -> str:
    from mbrec.columns import manifest

    splits = manifest.load_folder(folder).splits
    train, held_out = splits["train"], splits["evaluation"]
    lines = [
        f"{train.rows:,} rows to train on, then {held_out.rows:,} held out, in {folder}",
        "",
        f"{'':<24}{'rate':>8}{'held out':>10}{'best NE':>10}{'best AUC':>10}",
    ]
    for name, optima in _optima(folder).items():
        rates = [_rate(split.label_rates, name) for split in (train, held_out)]
        lines.append("{:<24}{:>8.4f}{:>10.4f}{:>10.4f}{:>10.4f}".format(name, *rates, *optima))
    lines.append("best: what the true probabilities can expect on held-out rows")
    if settings.delay:
        lines.append("rate: without the conversions that were not known yet")
    return "\n".join(lines)


def _rate(label_rates: dict[str, float], name: str) -> float:
    if name != _OF_CLICKS:
        return label_rates[name]
    clicks = label_rates["click"]
    return label_rates["conversion"] / clicks if clicks else float("nan")


def _optima(folder: Path) -> dict[str, tuple[float, float]]:
    """The least NE and the highest AUC of each task, in a sample of the held-out rows."""
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


def _command(folder: Path, arguments: Sequence[str]) -> str:
    """What makes training find the data set: the same settings, in its words."""
    path = str(folder)
    if not re.fullmatch(r"[\w./~-]+", path):  # a comma, for one, would mean several values
        path = "'{}'".format(path.replace("'", r"\'"))
    overrides = ["data=synthetic", f"data.path={path}"]
    for argument in arguments:
        if argument.startswith("preset="):
            overrides.append(f"data/{argument}")
        elif not argument.startswith("processes="):
            overrides.append(f"data.synthetic.{argument}")
    return shlex.join(["mbrec", "train", *overrides])


def _parser() -> argparse.ArgumentParser:
    described = inspect.cleandoc(Synthetic.__doc__ or "").partition("Attributes:\n")[2]
    parser = argparse.ArgumentParser(
        prog="python -m mbrec.prepare.synthetic",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Write a synthetic impression log whose true probabilities are known.",
        epilog=f"settings, all optional:\n{described}",
    )
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="where to; a folder of its own is made in it"
    )
    parser.add_argument(
        "settings",
        metavar="key=value",
        nargs="*",
        help=f"preset={'|'.join(presets())} ({_PRESET}), processes=N (one for each million rows, "
        "at most one a core), or a setting",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
