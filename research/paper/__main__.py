"""Repeats the paper's tables and figure: `python -m research.paper PART [key=value ...]`."""

import importlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mbrec.job import run_lock
from mbrec.study.launch import resumable

if TYPE_CHECKING:  # --help must not wait for matplotlib
    from research.paper.page import Part
    from research.paper.runs import Runs

PARTS = ("table1", "table2", "table3", "table4", "figure2")
EXTRA = ("fidelity", "readings", "magnitude")
MODULES = {"fidelity": "research.fidelity.page"}
WORDS = (*PARTS, *EXTRA, "all")
KEYS = ("size", "data", "path", "out", "seeds", "processes")
SMOKE_TEST = "size=tiny is a smoke test: models hardly learn, and figures say nothing of methods."
USAGE = """usage: python -m research.paper table1|table2|table3|table4|figure2|all [key=value ...]
       python -m research.paper fidelity|readings|magnitude [key=value ...]

Trains what a table of He et al. 2024 (MultiBalance) needs, with the ordinary trainer, and writes
NAME.md, NAME.csv and, of most, NAME.png. The same command continues where it was interrupted.
  size=tiny        tiny: minutes, to see that it works; small: an hour; full: a night
  data=synthetic   or kuairand_pure: feeds A and ads on KuaiRand-Pure
  path=DIR         of the data set that `prepare kuairand` wrote; default: data/kuairand
  seeds=N          runs of each setting; default: of the size
  processes=N      of each run; default: a power of two, up to one per GPU; two without any
  out=DIR          for the pages; default: outputs/reproduce/SIZE_DATA. The runs are beside them

Beyond the paper: fidelity (how good a surrogate the representation is), readings (the choices
that the paper's text leaves open, and the effect of each), magnitude (a task whose gradients are
ten times larger)."""


def arguments(words: list[str]) -> tuple[str, dict[str, str]]:
    """Return the part and the settings of a command line, or raise a ValueError."""
    if not words or words[0] not in WORDS:
        got = words[0] if words else "none"
        raise ValueError(f"expected one of {', '.join(WORDS)} first, got {got}")
    part, *rest = words
    settings = dict(word.split("=", 1) for word in rest if "=" in word)
    for word in rest:
        if "=" not in word or word.partition("=")[0] not in KEYS:
            raise ValueError(f"expected {', '.join(KEYS)} as key=value, got {word}")
    return part, settings


def parts_of(word: str) -> list["Part"]:
    """Return the parts that a word of the command line stands for."""
    names = PARTS if word == "all" else (word,)
    modules = [MODULES.get(name, f"research.paper.{name}") for name in names]
    return [importlib.import_module(module).PART for module in modules]


def runs_of(settings: dict[str, str]) -> tuple["Runs", Path]:
    """Return the runs, none of them trained yet, and the folder for the pages.

    Raises:
        ValueError: if a setting has none of its values.
    """
    from mbrec.study.launch import default_processes
    from research.paper.data_sets import KUAIRAND, SIZES, SYNTHETIC, data_sets
    from research.paper.runs import Runs

    size, data = settings.get("size", "tiny"), settings.get("data", SYNTHETIC)
    if size not in SIZES:
        raise ValueError(f"expected size={'|'.join(SIZES)}, got {size}")
    if data not in (SYNTHETIC, KUAIRAND):
        raise ValueError(f"expected data={SYNTHETIC}|{KUAIRAND}, got {data}")
    path = settings.get("path", "data/kuairand")
    if data == KUAIRAND and not Path(path).is_dir():
        raise ValueError(f"expected path=DIR as `prepare kuairand` wrote it, got {path}")
    out = Path(settings.get("out", f"outputs/reproduce/{size}_{data}"))
    seeds = range(_positive(settings, "seeds", SIZES[size].seeds))
    processes = _positive(settings, "processes", default_processes())
    # Other numbers of ranks may see other batches.
    folder, found = out / f"runs_{processes}", data_sets(SIZES[size], data, path)
    return Runs(folder, seeds, SIZES[size], found, processes=processes), out


def _positive(settings: dict[str, str], key: str, default: int) -> int:
    text = settings.get(key, str(default))
    if not text.isdecimal() or not int(text):
        raise ValueError(f"expected a positive number in {key}, got {text}")
    return int(text)


def reproduce(word: str, settings: dict[str, str], command: list[str]) -> None:
    """Train what a part needs, and write its pages."""
    from mbrec.study.pages import conditions

    started = time.monotonic()
    runs, out = runs_of(settings)
    parts = parts_of(word)
    with run_lock.alone(runs.folder, "study"):
        # Settings are chosen first; then come all runs of all pages in one go.
        runs.run([job for part in parts for job in part.tuning_jobs(runs)])
        runs.run([job for part in parts for job in part.jobs(runs)])
        for part in parts:
            page = part.write(runs)
            exploded = runs.explosions([*part.tuning_jobs(runs), *part.jobs(runs)])
            page.notes = [*page.notes, *(f"NEX, {name}: {why}" for name, why in exploded.items())]
            if runs.size.name == "tiny":
                page.label += f" {SMOKE_TEST}"
            text = conditions(
                command,
                runs.processes,
                runs.seeds,
                trained=runs.trained,
                total=runs.total,
                seconds=time.monotonic() - started,
            )
            print(f"{page.title}\n{page.table.markdown}\n-> {page.save(out, text)}\n")


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
