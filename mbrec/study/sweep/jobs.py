"""A sweep: `-m` trains a job for each combination of the values that settings are given.

The values are written as Hydra has them: `a,b`, `choice(a,b)`, `range(1,4)`, `glob(*)`. Hydra's own
launcher is not used: each process would make folders of its own, and one that fails would leave the
others waiting for it.
"""

import hashlib
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hydra.core.override_parser.types import Override

# File systems end at 255 bytes; a digest takes the place of the rest.
MAX_NAME = 120


@dataclass(frozen=True)
class Job:
    """One combination.

    Attributes:
        name: of its folder below the sweep's; it depends on nothing but the swept values.
        swept: setting -> value, of those that have several.
        overrides: all of them, for Hydra to compose.
    """

    name: str
    swept: dict[str, str]
    overrides: list[str]

    @property
    def title(self) -> str:
        """The swept values as they were typed."""
        return " ".join(f"{key}={value}" for key, value in self.swept.items())


def expand(overrides: Sequence[Override]) -> list[Job]:
    """Return the jobs of a sweep: all combinations, the last setting changes fastest.

    Args:
        overrides: as Hydra parses them; of several of one setting the last counts.

    Raises:
        ValueError: if values cannot be listed, are of Hydra's own settings, or come twice.
    """
    chosen = {override.get_key_element(): override for override in overrides}
    values = {key: _values(override) for key, override in chosen.items()}
    swept = [key for key, override in chosen.items() if override.is_sweep_override()]
    found = []
    for combination in itertools.product(*values.values()):
        texts = dict(zip(values, combination, strict=True))
        of_job = {key.lstrip("+"): texts[key].partition("=")[2] for key in swept}
        found.append((of_job, [*texts.values()]))
    if not found:
        raise ValueError("expected at least one value of each setting, got none")
    names = [_name(of_job) for of_job, _ in found]
    # Characters that folders do not have may be all that tells two jobs apart.
    for i, (name, times) in enumerate([(name, names.count(name)) for name in names]):
        names[i] = name if times == 1 else _digested(name, found[i][0])
    if len(set(names)) < len(names):
        raise ValueError(f"expected each value once, got {_twice(found)} twice")
    return [Job(name, *parts) for name, parts in zip(names, found, strict=True)]


def _values(override: Override) -> list[str]:
    """Return what Hydra is told for each value of a setting."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if override.is_hydra_override():
        raise ValueError(f"expected one value of a setting of Hydra, got {override.input_line}")
    if not override.is_discrete_sweep():
        raise ValueError(
            f"expected values that can be listed, as choice(...) or range(...), got "
            f"{override.input_line}"
        )
    key = override.get_key_element()
    with _same_shuffle(str(override.input_line)):
        return [f"{key}={value}" for value in override.sweep_string_iterator()]


@contextmanager
def _same_shuffle(seed: str) -> Iterator[None]:
    """Let `shuffle(...)` give the same order in every process, and when the sweep goes on."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _name(swept: dict[str, str]) -> str:
    """Return a folder's name for the values that are swept.

    Without `=` and `,`: it can be written as a value on a command line.

    >>> _name({"balancer": "equal", "tasks": "[ctr,cvr]", "optimizer.dense_lr": "1e-05"})
    'balancer-equal--tasks-ctr_cvr--optimizer.dense_lr-1e-05'
    """
    parts = [f"{_plain(key)}-{_plain(value)}" for key, value in swept.items()]
    name = "--".join(parts) or "0"
    return name if len(name) <= MAX_NAME else _digested(name, swept)


def _plain(text: str) -> str:
    return re.sub(r"[^-\w.+@]+", "_", text, flags=re.ASCII).strip("_")


def _digested(name: str, swept: dict[str, str]) -> str:
    digest = hashlib.blake2b(repr(sorted(swept.items())).encode(), digest_size=4).hexdigest()
    return f"{name[: MAX_NAME - 10]}--{digest}"


def _twice(found: list[tuple[dict[str, str], list[str]]]) -> str:
    times = Counter(" ".join(f"{k}={v}" for k, v in swept.items()) for swept, _ in found)
    return times.most_common(1)[0][0]
