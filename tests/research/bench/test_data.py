import io
import sys
from contextlib import redirect_stdout
from functools import partial
from typing import Any
from unittest import mock

import pytest
from ranks import run_ranks

from research.bench import data, reading


def measured(folder: str) -> dict[str, Any]:
    """Run the command with short blocks, without its other processes."""
    from importlib.util import find_spec

    from mbrec.reader.parquet import ParquetReader

    memory: list[Any] = []

    def peak_memory(store: Any, files: Any, rows: Any, options: Any) -> dict[int, float]:
        memory.extend([rows, ParquetReader(files, store=store, **options).num_rows])
        return dict.fromkeys(rows, 12.4)

    arguments = ["data/preset=tiny", f"data.path={folder}", "trainer.global_batch_size=256"]
    with (
        redirect_stdout(io.StringIO()) as printed,
        mock.patch.object(reading, "compare", partial(reading.compare, rounds=1)),
        mock.patch.multiple(reading, BLOCK_ROWS=1, MODEL_STEPS=2, peak_memory=peak_memory),
        mock.patch.object(data.subprocess, "run") as job,
        mock.patch(
            "importlib.util.find_spec",
            lambda name, *rest: None if name in data.PEERS else find_spec(name, *rest),
        ),
    ):
        data.main(arguments)
    (command,), options = job.call_args
    return {
        "printed": printed.getvalue(),
        "memory at its peak, beyond that of the first batch": memory,
        "command": command,
        "options": options,
        "arguments": arguments,
    }


@pytest.fixture(scope="module")
def done(tiny_data, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    return run_ranks(measured, 1, folder, str(tiny_data))[0]


@pytest.mark.slow
def test_every_part_prints_its_figures(done, tiny_data):
    lines = [
        line.split("  ")[0] if line[:1] != " " else line for line in done["printed"].splitlines()
    ]
    first, *_ = lines
    assert first.startswith("6,554 rows of ")
    assert first.endswith(", batches of 256; one thread")
    assert str(tiny_data) in first
    parts = [
        "reader and pyarrow",
        "reader and model, one core",
        "memory at its peak, beyond that of the first batch",
    ]
    parts += ["the whole job, two processes of one thread"]
    at = [lines.index(part) for part in parts]
    assert at == sorted(at)
    names = [line.strip().partition("  ")[0] for line in lines if line.startswith("  ")]
    assert names == [
        "pyarrow, columns into memory",
        "reader, in file order",
        "reader, shuffle 65,536",
        "training, batches in memory",
        "reader",
        *(f"{rows:,} rows: 12 MiB" for rows in data.MEMORY_ROWS),
    ]
    assert "pip install torch-rechub" in done["printed"]


@pytest.mark.slow
def test_memory_is_measured_with_the_readers_own_options(done):
    assert done["memory at its peak, beyond that of the first batch"] == [data.MEMORY_ROWS, 6554]


@pytest.mark.slow
def test_job_is_run_on_two_processes_with_the_same_settings(done):
    command = done["command"]
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    at = command.index("--nproc-per-node")
    assert command[at + 1] == "2"
    assert command[-len(done["arguments"]) - 3 :] == [
        "-m",
        "research.bench",
        "job",
        *done["arguments"],
    ]
    assert done["options"]["check"] is True
    assert done["options"]["env"]["OMP_NUM_THREADS"] == "1"
