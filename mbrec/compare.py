"""Compares balancers on a model: `python -m mbrec.compare experiment=NAME balancers=[...]`."""

import hashlib
import re
import sys
import time
from pathlib import Path

from mbrec.job import run_lock
from mbrec.study.launch import resumable

USAGE = """usage: python -m mbrec.compare [experiment=NAME] [key=value ...]

Will balancing help my model? Trains it with equal weights, as one model a task, and with each
balancer, with the same seeds on the same batches, and writes compare.md, compare.csv, compare.json
and pictures. No difference is called real whose 95 % interval covers zero. The same command goes on
where it was interrupted.
  balancers=[equal,static_grid,multibalance]   words of balancer=..., some with arguments:
                   multibalance+lr=1+prior_strength=0; static_grid: the best of 2 K static weights
  seeds=5          runs of each
  group=COLUMN     GAUC by this column of the evaluation rows, such as user
  tuning=[KEY=VALUE,...]   settings for choosing static weights, so that it is done on other rows:
                   'tuning=[data.evaluation=[validation/*.parquet]]'; default: other seeds
  overhead=true    measure the QPS drop of each balancer, in a run of its own
  processes=N      of each run; default: a power of two, up to one per GPU; two without any
  out=DIR          for the pages; default: outputs/compare/EXPERIMENT_SETTINGS. The runs are
                   beside them. Other balancers, seeds or groups write the same pages anew
  KEY=VALUE        any setting of scripts/train.sh"""

DEFAULTS = {
    "balancers": "[equal,static_grid,multibalance]",
    "seeds": "5",
    "group": "",
    "tuning": "[]",
    "overhead": "true",
    "processes": "",
    "out": "",
}
# What differs between the runs of a comparison is set by the comparison.
TAKEN = ("balancer", "trainer.seed", "trainer.measure_overhead", "run", "resume", "monitor.group")


def words_in(text: str, key: str) -> list[str]:
    """Return the words of a list on the command line, split at its outer commas.

    >>> words_in("[a=[1,2],b]", "tuning")
    ['a=[1,2]', 'b']

    Raises:
        ValueError: if it is no list.
    """
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError(f"expected {key}=[A,B,...], got {key}={text}")
    found, depth = [""], 0
    for character in text[1:-1]:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and not depth:
            found.append("")
        else:
            found[-1] += character
    return [word.strip() for word in found if word.strip()]


def arguments(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the settings of the comparison, and those of the model.

    Raises:
        ValueError: if a word is neither, or sets what the comparison sets.
    """
    settings, overrides = dict(DEFAULTS), []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"expected key=value, got {word}")
        if key in DEFAULTS:
            settings[key] = value
            continue
        bare = key.lstrip("+~")
        if any(bare == taken or bare.startswith(f"{taken}.") for taken in TAKEN):
            raise ValueError(
                f"expected no {bare} here, got {word}: the comparison sets it "
                "(balancers=[...], seeds=N, out=DIR)"
            )
        overrides.append(word)
    for key in ("seeds", "processes"):
        if settings[key] == DEFAULTS[key]:
            continue
        if not settings[key].isdecimal() or not int(settings[key]):
            raise ValueError(f"expected a positive number in {key}, got {settings[key]}")
    if settings["overhead"] not in ("true", "false"):
        raise ValueError(f"expected overhead=true or false, got {settings['overhead']}")
    return settings, overrides


def tasks_of(
    overrides: list[str], tuning: list[str], balancers: list[str], *, measure: bool = False
) -> list[str]:
    """Compose what will be trained, so that a typing error is told at once; return the tasks.

    Args:
        overrides: of the model.
        tuning: more of them, for the runs that choose static weights.
        balancers: words of `balancers=[...]`.
        measure: whether overhead will be measured.

    Raises:
        ValueError: in a few lines, what is wrong.
    """
    from hydra import compose, initialize_config_module

    from mbrec.config import settings as config
    from mbrec.job.check import check
    from mbrec.study.comparison import STATIC_GRID, setting

    measuring = ["trainer.measure_overhead=true"] if measure else []
    check([*overrides, *measuring])
    arguments(tuning)
    check([*overrides, *tuning])
    for word in balancers:
        if word != STATIC_GRID:
            check([*overrides, *setting(word).overrides, *measuring])
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        found, tuned = (
            list(config.parse(compose("train", overrides=words)).tasks)
            for words in (overrides, [*overrides, *tuning])
        )
    if tuned != found:
        raise ValueError(
            f"expected the tasks {', '.join(found)} in tuning=[...] as well, got {', '.join(tuned)}"
        )
    return found


def compare(settings: dict[str, str], overrides: list[str], command: list[str]) -> Path:
    """Train what a comparison needs, and write its pages; return the first."""
    started = time.monotonic()
    balancers = words_in(settings["balancers"], "balancers")
    if not balancers:
        raise ValueError("expected at least one balancer in balancers=[...], got none")
    tuning, model = words_in(settings["tuning"], "tuning"), overrides
    if settings["group"]:
        overrides = [*overrides, f"monitor.group={settings['group']}"]
    measure = settings["overhead"] == "true"
    tasks = tasks_of(overrides, tuning, balancers, measure=measure)

    from mbrec.study.comparison import Comparison
    from mbrec.study.comparison_page import write_pages
    from mbrec.study.launch import default_processes
    from mbrec.study.pages import conditions
    from mbrec.study.worlds import World

    named = [word.partition("=")[2] for word in overrides if word.startswith("experiment=")]
    label = re.sub(r"[^\w.-]", "_", named[-1]) if named else "default"
    out = Path(settings["out"] or Path("outputs/compare") / _name(label, model))
    title = label if named else "this model"
    world = World(label, title, tuple(tasks), tuple(overrides), tuple(tuning))
    seeds = range(int(settings["seeds"]))
    processes = int(settings["processes"] or default_processes())
    # Other numbers of ranks may see other batches.
    runs = out / f"runs_{processes}"
    found = Comparison(runs, seeds, world, balancers, measure, processes=processes)
    with run_lock.alone(runs, "comparison"):
        found.train()
        seconds = time.monotonic() - started
        took = {"trained": found.trained, "total": found.total, "seconds": seconds}
        return write_pages(found, out, conditions(command, processes, seeds, **took))


def _name(label: str, model: list[str]) -> str:
    """Return a folder for the pages: comparisons of other models have others.

    >>> _name("paper_ads", ["experiment=paper_ads"])
    'paper_ads'
    >>> _name("default", ["optimizer.dense_lr=.01"])
    'default_optimizer.dense_lr_.01-e48f8023'
    """
    from mbrec.study.pages import slug

    more = [word for word in model if not word.startswith("experiment=")]
    if not more:
        return label
    digest = hashlib.sha256("\0".join(more).encode()).hexdigest()[:8]
    return f"{slug('_'.join([label, *more]))[:100]}-{digest}"


def main() -> None:
    """Run the command line."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return
    with resumable():
        page = compare(*arguments(words), ["mbrec.compare", *words])
        print(page.read_text())
        print(f"-> {page}")


if __name__ == "__main__":
    main()
