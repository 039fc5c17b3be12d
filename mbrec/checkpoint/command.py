"""Looks into checkpoints: `mbrec checkpoint ls|verify|show DIR`."""

import datetime
from pathlib import Path
from typing import Any

from mbrec import UserError
from mbrec.checkpoint import folder, state
from mbrec.config.checkpoints import FIGURES
from mbrec.config.errors import plain_errors

USAGE = """usage: mbrec checkpoint ls DIR       the checkpoints of a run
       mbrec checkpoint verify DIR   read every byte and compare with the manifest
       mbrec checkpoint show DIR     what a checkpoint holds, without loading it

DIR is the folder of a run, or of one checkpoint (RUN/checkpoint/step_N). `show` takes the newest of
a run. `verify` returns 1 if anything is wrong."""


def list_checkpoints(run: Path) -> str:
    """Return a line for each checkpoint of a run, those that are not resumed from included.

    Raises:
        UserError: if there is none.
    """
    checkpoints = run / "checkpoint"
    rows = [["step", "saved", "size", "ranks", "last evaluation", ""]]
    best = folder.read_best(checkpoints)
    for path in folder.finished(checkpoints):
        step = folder.step_of(path)
        try:
            saved = state.read_verified(path)
        except ValueError:
            rows.append([f"{step:,}", "", "", "", "", "damaged: see verify"])
            continue
        note = "best" if step == best else ""
        row = [f"{step:,}", _time(saved.time), _bytes(folder.size(path)), str(saved.world_size)]
        rows.append([*row, _evaluation(saved), note])
    others = sorted(p for p in checkpoints.glob("step_*.*") if p.is_dir())
    notes = {folder.UNFINISHED: "unfinished, cleaned up by the next save"}
    notes |= {folder.DAMAGED: "does not verify; put aside", folder.EXPLODED: "training exploded"}
    for path in others:
        note = next((text for end, text in notes.items() if end in path.name), "")
        rows.append([path.name, "", _bytes(folder.size(path)), "", "", note])
    if len(rows) == 1:
        raise UserError(f"expected a checkpoint in {checkpoints}, found none")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join(lines)


def verify(path: Path) -> list[str]:
    """Print what was verified, and return what is wrong with it."""
    problems: list[str] = []
    for source in _sources(path):
        found = folder.verify(source)
        problems += found
        print(f"{source}: " + (f"{len(found)} problems" if found else "whole"))
    return problems


def show(source: Path) -> str:
    """Return what a checkpoint holds, for people.

    Raises:
        UserError: if its state or the index of its tensors is not what was written.
    """
    if problems := folder.verify(source, only=[folder.STATE, folder.METADATA]):
        raise UserError("\n  ".join(problems))
    found = state.read(source)
    lines = [f"{source}", f"step            {found.step:,}, saved {_time(found.time)}"]
    unread = sum(stop - start for part in found.position["unread"] for _, start, stop in part)
    lines.append(f"data            epoch {found.position['epoch']}, {unread:,} rows of it unread")
    lines += _mapping("learning rate", {n: f"{r:.6g}" for n, r in found.learning_rates.items()})
    lines.append(f"ranks           {found.world_size}")
    lines += _mapping("table", {t: f"{p}; {_sizes(source, t)}" for t, p in found.plan.items()})
    lines.append(f"interaction in  {', '.join(f'{n} {w}' for n, w in found.inputs.items())}")
    lines.append(f"tasks           {', '.join(found.tasks)}")
    lines.append(f"balancer        {found.balancer.get('class')}")
    for name, values in found.balancer.items():
        if isinstance(values, dict):
            text = ", ".join(f"{task} {value:.4g}" for task, value in values.items())
            lines.append(f"  {name:<14}{text}")
    lines.append(f"left out        {found.guard.get('skipped', 0)} batches")
    for entry in found.history[-1:]:
        lines.append(f"evaluation      after step {entry['step']:,}: {_evaluation(found)}")
    lines.append(f"schema, config  {found.schema_hash}, {found.config_hash}")
    lines.append("versions        " + ", ".join(f"{n} {v}" for n, v in found.versions.items()))
    lines += _mapping("file", {n: _bytes(f.bytes) for n, f in folder.read_manifest(source).items()})
    return "\n".join(lines)


def _sizes(source: Path, table: str) -> str:
    # torch, which takes seconds to import, is needed for this alone.
    from mbrec.checkpoint.tensors import inspect

    names = [n for n in inspect(source).sizes if n.endswith(f".embedding_bags.{table}.weight")]
    sizes = [inspect(source).sizes[name] for name in names]
    return ", ".join(f"{rows:,} x {dim}" for rows, dim in sizes)


def _sources(path: Path) -> list[Path]:
    if path in folder.finished(path.parent):
        return [path]
    found = folder.finished(path / "checkpoint")
    if not found:
        raise UserError(f"expected the folder of a run or of a checkpoint, got {path}")
    return found


def _evaluation(saved: state.RunState) -> str:
    if not saved.history:
        return "-"
    tasks: dict[str, dict[str, Any]] = saved.history[-1]["tasks"]
    (figure, *_) = FIGURES
    parts = [f"{task} {figure} {f[figure]:.4f}" for task, f in tasks.items() if f.get(figure)]
    return ", ".join(parts)


def _mapping(name: str, values: dict[str, Any]) -> list[str]:
    return [f"{name if not i else '':<16}{k}: {v}" for i, (k, v) in enumerate(values.items())]


def _time(seconds: float) -> str:
    if seconds >= 1e11:  # of a checkpoint from elsewhere, which may say anything
        return f"{seconds:.3g} s"
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _bytes(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if {"-h", "--help"} & set(arguments) or not arguments:
        print(USAGE)
        return
    with plain_errors():
        if len(arguments) != 2 or arguments[0] not in ("ls", "verify", "show"):
            raise UserError(f"expected ls, verify or show, and a folder, got {arguments}\n{USAGE}")
        command, path = arguments[0], Path(arguments[1])
        sources = _sources(path)
        if command == "ls":
            print(list_checkpoints(sources[0].parent.parent))
        elif command == "show":
            print(show(sources[-1]))
        elif problems := verify(path):
            raise UserError("\n  ".join(["the checkpoint is not whole:", *problems]))
