"""Repeats the paper's tables and figure: `python -m research.paper PART [key=value ...]`."""

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mbrec.job import run_lock
from mbrec.study.launch import resumable

if TYPE_CHECKING:  # --help must not wait for matplotlib
    from research.paper.runs import Lab

PARTS = ("table1", "table2", "table3", "table4", "figure2")
EXTRA = ("fidelity", "readings", "magnitude")
# Where a part is in a module of another name.
MODULES = {"fidelity": "surrogate"}
KEYS = ("size", "data", "path", "out", "seeds", "processes")
SMOKE_TEST = "size=tiny is a smoke test: models hardly learn, and figures say nothing of methods."
USAGE = """usage: python -m research.paper table1|table2|table3|table4|figure2|all [key=value ...]
       python -m research.paper fidelity|readings|magnitude [key=value ...]

Trains what a table of He et al. 2024 (MultiBalance) needs, with the ordinary trainer, and writes
NAME.md, NAME.csv and, of most, NAME.png. The same command goes on where it was interrupted.
  size=tiny        tiny: minutes, to see that it works; small: an hour; full: a night
  data=synthetic   or kuairand_pure: feeds A and ads on KuaiRand-Pure
  path=DIR         of the data set that `prepare kuairand` wrote; default: data/kuairand
  seeds=N          runs of each setting; default: of the size
  processes=N      of each run; default: a power of two, up to one per GPU; two without any
  out=DIR          for the pages; default: outputs/reproduce/SIZE_DATA. The runs are beside them

Beyond the paper: fidelity (how good a surrogate the representation is), readings (what the paper's
text leaves open, and what each reading does), magnitude (a task whose gradients are ten
times larger)."""


def arguments(words: list[str]) -> tuple[str, dict[str, str]]:
    """Return the part and the settings of a command line.

    Raises:
        ValueError: if a word is none of these.
    """
    if not words or "=" in words[0]:
        raise ValueError(f"expected one of {', '.join((*PARTS, *EXTRA, 'all'))} first")
    part, *rest = words
    if part not in (*PARTS, *EXTRA, "all"):
        raise ValueError(f"expected one of {', '.join((*PARTS, *EXTRA, 'all'))}, got {part}")
    settings = {}
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals or key not in KEYS:
            raise ValueError(f"expected {', '.join(KEYS)} as key=value, got {word}")
        settings[key] = value
    return part, settings


def modules(part: str) -> list[ModuleType]:
    """Return what writes the pages of a part."""
    names = PARTS if part == "all" else (MODULES.get(part, part),)
    return [importlib.import_module(f"research.paper.{name}") for name in names]


def lab(settings: dict[str, str]) -> tuple["Lab", Path]:
    """Return what trains, and the folder for the pages.

    Raises:
        ValueError: if a setting is not one of its values.
    """
    from mbrec.study.launch import default_processes
    from research.paper.runs import Lab
    from research.paper.worlds import KUAIRAND, SIZES, SYNTHETIC, worlds

    size, data = settings.get("size", "tiny"), settings.get("data", SYNTHETIC)
    if size not in SIZES:
        raise ValueError(f"expected size={'|'.join(SIZES)}, got {size}")
    if data not in (SYNTHETIC, KUAIRAND):
        raise ValueError(f"expected data={SYNTHETIC}|{KUAIRAND}, got {data}")
    path = settings.get("path", "data/kuairand")
    if data == KUAIRAND and not Path(path).is_dir():
        raise ValueError(f"expected path=DIR as `prepare kuairand` wrote it, got {path}")
    out = Path(settings.get("out", f"outputs/reproduce/{size}_{data}"))
    seeds = range(positive(settings, "seeds", SIZES[size].seeds))
    processes = positive(settings, "processes", default_processes())
    # Other numbers of ranks may see other batches.
    runs, found = out / f"runs_{processes}", worlds(SIZES[size], data, path)
    return Lab(runs, seeds, SIZES[size], found, processes=processes), out


def positive(settings: dict[str, str], key: str, default: int) -> int:
    """Return a setting that is a positive number.

    Raises:
        ValueError: if it is none.
    """
    text = settings.get(key, str(default))
    if not text.isdecimal() or not int(text):
        raise ValueError(f"expected a positive number in {key}, got {text}")
    return int(text)


def reproduce(part: str, settings: dict[str, str], command: list[str]) -> None:
    """Train what a part needs, and write its pages."""
    from mbrec.study.pages import conditions

    started = time.monotonic()
    found, out = lab(settings)
    parts = modules(part)
    with run_lock.alone(found.folder, "study"):
        # Settings are chosen first; then all runs of all tables in one go.
        found.run([job for module in parts for job in module.tuning_jobs(found)])
        found.run([job for module in parts for job in module.jobs(found)])
        for module in parts:
            page = module.write(found)
            page.notes = [*page.notes, *_explosions(module, found)]
            if found.size.name == "tiny":
                page.label += f" {SMOKE_TEST}"
            text = conditions(
                command,
                found.processes,
                found.seeds,
                trained=found.trained,
                total=found.total,
                seconds=time.monotonic() - started,
            )
            print(f"{page.title}\n{page.table.markdown}\n-> {page.save(out, text)}\n")


def _explosions(module: ModuleType, found: "Lab") -> list[str]:
    """Return what a page's NEX stand for, and which settings were not to be chosen."""
    jobs = [*module.tuning_jobs(found), *module.jobs(found)]
    return [f"NEX, {name}: {why}" for name, why in found.explosions(jobs).items()]


def main() -> None:
    """Run the command line."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(USAGE)
        return
    with resumable():
        reproduce(*arguments(words), ["research.paper", *words])


if __name__ == "__main__":
    main()
