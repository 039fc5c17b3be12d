"""The command line of a comparison, from its words to its pages."""

import hashlib
import re
import time
from pathlib import Path

DEFAULTS = {
    "balancers": "[equal,static_grid,multibalance]",
    "seeds": "5",
    "group": "",
    "tuning": "[]",
    "overhead": "true",
    "processes": "",
    "out": "",
}
# The comparison sets what differs between its runs.
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
    """Compose all that will be trained, so that a typing error fails at once; return the tasks.

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
    """Train the runs of a comparison, and write its pages; return the first.

    Args:
        settings: of the comparison.
        overrides: of the model.
        command: as typed after `python -m`, for the page.
    """
    started = time.monotonic()
    balancers = words_in(settings["balancers"], "balancers")
    if not balancers:
        raise ValueError("expected at least one balancer in balancers=[...], got none")
    tuning, model = words_in(settings["tuning"], "tuning"), overrides
    if settings["group"]:
        overrides = [*overrides, f"monitor.group={settings['group']}"]
    measure = settings["overhead"] == "true"
    tasks = tasks_of(overrides, tuning, balancers, measure=measure)

    from mbrec.job import run_lock
    from mbrec.study.benchmark import Benchmark
    from mbrec.study.comparison import Comparison
    from mbrec.study.comparison_page import write_pages
    from mbrec.study.launch import default_processes
    from mbrec.study.pages import conditions

    named = [word.partition("=")[2] for word in overrides if word.startswith("experiment=")]
    label = re.sub(r"[^\w.-]", "_", named[-1]) if named else "default"
    out = Path(settings["out"] or Path("outputs/compare") / _name(label, model))
    title = label if named else "this model"
    benchmark = Benchmark(label, title, tuple(tasks), tuple(overrides), tuple(tuning))
    seeds = range(int(settings["seeds"]))
    processes = int(settings["processes"] or default_processes())
    # Other numbers of ranks may see other batches.
    runs = out / f"runs_{processes}"
    found = Comparison(runs, seeds, benchmark, balancers, measure, processes=processes)
    with run_lock.alone(runs, "comparison"):
        found.train()
        seconds = time.monotonic() - started
        counts = {"trained": found.trained, "total": found.total, "seconds": seconds}
        return write_pages(found, out, conditions(command, processes, seeds, **counts))


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
