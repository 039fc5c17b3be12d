"""Measures the balancing library: `python -m research.bench balance [key=value ...]`.

Needs torch alone (2.11 or newer), and torchjd for two of the comparisons where it is installed.
Prints Markdown.
"""

import ctypes
import inspect
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import torch

import mbrec.balance
from mbrec.balance import BalanceHook, Balancer, ParameterBalancer, TorchJD
from mbrec.balance.arguments import check_choice, check_count
from mbrec.monitor.timing import Spread, drop, interleave, spread
from research.bench.boundary import Size, added_time, copy_bandwidth, fits, sync_free
from research.bench.reference import Contest

QUICK = [Size(3, 2048, 256), Size(3, 8192, 64), Size(3, 8192, 512), Size(8, 8192, 512),
         Size(16, 8192, 256), Size(3, 65536, 256)]  # fmt: skip
FULL = [Size(k, b, h) for k in (2, 3, 8, 16) for b in (2048, 8192, 65536) for h in (64, 512, 1024)]
TARGET = Size(3, 8192, 512)


@dataclass(frozen=True)
class Settings:
    """The settings of the command line.

    Attributes:
        device: cpu or cuda.
        methods: comma-separated names of classes, or `all`; for the first table. `MoCo` works at
            parameters only, and `TorchJD` has no cost of its own.
        sizes: `quick`, `full`, or comma-separated K x B x H such as 3x8192x512.
        rounds: pairs of steps for each figure.
        batch: B of the comparison with other ways.
        width: H of that comparison.
        threads: of torch on the CPU; 0 leaves its default.
        allocator: `keep` lets glibc keep freed memory; with `system` it gives gradients of this
            size back in every step, and each step pays for the pages again, hook or not.
    """

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    methods: str = "all"
    sizes: str = "quick"
    rounds: int = 25
    batch: int = 2048
    width: int = 256
    threads: int = 0
    allocator: str = "keep"


def parse(arguments: Sequence[str]) -> Settings:
    """Return the settings of a command line, or raise a ValueError."""
    known = {field.name: field.type for field in fields(Settings)}
    settings = Settings()
    for text in arguments:
        key, _, value = text.partition("=")
        if key not in known or not value:
            raise ValueError(f"expected key=value with one of {', '.join(known)}, got {text}")
        whole = isinstance(getattr(settings, key), int)
        if whole and not value.isdigit():
            raise ValueError(f"expected a whole number for {key}, got {value}")
        settings = replace(settings, **{key: int(value) if whole else value})
    return settings


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return names[0] if names else platform.machine()


def keep_memory() -> bool:
    """Let glibc keep freed memory; return whether that worked."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, to the largest value that an int has.
    return all(mallopt(option, 2**31 - 1) for option in (-1, -3))


def sizes_of(text: str) -> list[Size]:
    """Return the sizes that a setting names.

    >>> sizes_of("2x64x8")
    [Size(num_tasks=2, batch=64, width=8)]
    """
    if text in ("quick", "full"):
        return QUICK if text == "quick" else FULL
    try:
        sizes = [Size(*(int(n) for n in part.split("x"))) for part in text.split(",")]
        for size in sizes:
            check_count("size", min(size.num_tasks, size.batch, size.width), low=1)
        return sizes
    except (ValueError, TypeError):
        raise ValueError(f"expected sizes as KxBxH, quick or full, got {text}") from None


def methods() -> dict[str, Callable[[int], Balancer]]:
    """Return what makes a balancer of K tasks, by name: all that work at the representation."""
    found: dict[str, Callable[[int], Balancer]] = {}
    for name in mbrec.balance.__all__:
        kind = getattr(mbrec.balance, name)
        if not issubclass(kind, Balancer) or name.endswith("Balancer"):
            continue
        if issubclass(kind, ParameterBalancer) or kind is TorchJD:
            continue
        found[name] = kind
    found["Static"] = lambda k: mbrec.balance.Static(k, weights=[1.0 / k] * k)
    return dict(sorted(found.items()))


def chosen(text: str) -> dict[str, Callable[[int], Balancer]]:
    """Return the methods that a setting names, or raise a ValueError."""
    known = methods()
    if text == "all":
        return known
    if wrong := set(text.split(",")) - known.keys():
        raise ValueError(f"expected methods among {', '.join(known)}, got {', '.join(wrong)}")
    return {name: known[name] for name in text.split(",")}


class Measurement:
    """The tables, one after the other, on one machine."""

    def __init__(self, settings: Settings) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings = settings
        self.keeps = settings.allocator == "keep" and keep_memory()
        self.device = torch.device(settings.device)
        self.bandwidth = copy_bandwidth(self.device, self.wait)
        self._references: dict[Size, float] = {}

    def wait(self) -> None:
        """Return when the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def heading(self) -> str:
        """Return the machine that the figures hold for."""
        name = cpu_name()
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name()
        return (
            f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
            f"{torch.__version__}, copy {self.bandwidth / 1e9:.1f} GB/s (read and written, "
            f"256 MB tensors), memory {'kept' if self.keeps else 'returned'} by the allocator"
        )

    def methods_table(self) -> str:
        """Return the cost of each method at each size."""
        lines = [
            "| method | K | B | H | added ms (95 % interval) | inside the hook ms | floor ms "
            "| added / floor | share of a reference step |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        made = chosen(self.settings.methods)
        for size in sizes_of(self.settings.sizes):
            if not fits(size, self._memory()):
                lines.append(f"| all | {size.num_tasks} | {size.batch} | {size.width} | no room |")
                continue
            # Of a grid: every method at the size that the target is set for, one at the others.
            all_of_them = size == TARGET or self.settings.sizes not in ("quick", "full")
            names = [n for n in made if all_of_them or n == "MultiBalance"] or list(made)
            for name in names:
                self._progress(f"{name} at {size.num_tasks} x {size.batch} x {size.width}")
                lines.append(self._row(name, BalanceHook(made[name](size.num_tasks)), size))
        return "\n".join(lines)

    def contest_table(self) -> str:
        """Return the QPS drop of whole steps of one model, for each way to balance it."""
        contest = Contest(3, self.settings.batch, self.settings.width, self.device)
        steps = contest.steps()
        self._progress("whole steps of the reference model")
        seconds = interleave(list(steps.values()), self.wait, rounds=self.settings.rounds)
        lines = ["| way | step ms | QPS drop % (95 % interval) |", "|---|---|---|"]
        for name, times in zip(steps, seconds, strict=True):
            fell = drop(seconds[0], times).text(1) if times is not seconds[0] else "-"
            lines.append(f"| {name} | {1e3 * spread(times).median:.1f} | {fell} |")
        return "\n".join(lines)

    def sync_table(self) -> str:
        """Return which methods make the host wait for a GPU."""
        free = {
            name: sync_free(BalanceHook(make(3)).to(self.device), Size(3, 256, 64), self.device)
            for name, make in methods().items()
        }
        waiting = [name for name, found in free.items() if not found]
        return f"{len(free) - len(waiting)} of {len(free)} methods never wait for the GPU" + (
            f"; these do: {', '.join(waiting)}" if waiting else ""
        )

    def _row(self, name: str, hook: BalanceHook, size: Size) -> str:
        hook.to(self.device)
        found = added_time(hook, size, self.device, self.wait, rounds=self.settings.rounds)
        floor = size.least_bytes / self.bandwidth
        milli, ratio = (
            Spread(*(scale * value for value in astuple(found.added))) for scale in (1e3, 1 / floor)
        )
        share = 100 * found.added.median / self._reference(size)
        return (
            f"| {name} | {size.num_tasks} | {size.batch} | {size.width} | {milli.text()} "
            f"| {1e3 * found.inside.median:.2f} | {1e3 * floor:.2f} "
            f"| {ratio.text()} | {share:.2f} % |"
        )

    def _reference(self, size: Size) -> float:
        """Return the seconds of a step of the reference model without a hook."""
        if size not in self._references:
            contest = Contest(size.num_tasks, size.batch, size.width, self.device)
            (times,) = interleave([contest.hooked(None)], self.wait, rounds=5, warmup=1)
            self._references[size] = spread(times).median
        return self._references[size]

    def _memory(self) -> float:
        if self.device.type == "cuda":
            return 0.8 * torch.cuda.mem_get_info()[0]
        return 0.5 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def _progress(self, text: str) -> None:
        print(f"bench: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    if "--help" in arguments or "-h" in arguments:
        print(f"python -m research.bench balance [key=value ...]\n\n{inspect.getdoc(Settings)}")
        return
    try:
        settings = parse(arguments)
        check_count("rounds", settings.rounds, low=3)
        check_choice("allocator", settings.allocator, ("keep", "system"))
        sizes_of(settings.sizes)
        chosen(settings.methods)
    except ValueError as error:
        sys.exit(f"research.bench balance: {error}")
    measurement = Measurement(settings)
    print(measurement.heading(), end="\n\n")
    print(measurement.methods_table(), end="\n\n")
    print(measurement.contest_table())
    if measurement.device.type == "cuda":
        print("\n" + measurement.sync_table())
