"""Measures the way of the rows: `python -m research.bench data [key=value ...]`.

Takes the settings of training. Prints the reader beside pyarrow and beside the model, its memory
on 2 M and 20 M rows, the peers that are installed, and the whole job on two processes beside a bare
loop.
"""

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_module

from mbrec.config import settings as configuration
from mbrec.config.errors import plain_errors
from mbrec.job.check import check

MEMORY_ROWS = (2_000_000, 20_000_000)
PEERS = {"torch_rechub": "torch-rechub", "deepctr_torch": "deepctr-torch"}


def measure(config: configuration.Config, overrides: Sequence[str]) -> None:
    """Print all figures; the first three parts use one thread of one process."""
    import pyarrow as pa
    import torch

    from mbrec.distributed import process
    from mbrec.job import build, readers
    from mbrec.reader import dataset
    from mbrec.reader.parquet import ParquetReader
    from research.bench import reading

    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    runtime = process.start()
    store = readers.open_data(config, runtime)
    columns = config.data.columns
    options: dict[str, Any] = {
        "columns": columns,
        "tasks": config.tasks,
        "global_batch_size": config.trainer.global_batch_size,
        "shuffle_rows": config.data.shuffle_rows,
        "oracle": False,
        "vocabularies": dataset.load_vocabularies(columns, store),
    }
    files = store.find(config.data.train)

    def make(**changed: Any) -> ParquetReader:
        return ParquetReader(files, store=store, **{**options, **changed})

    reader = make()
    print(f"{reader.num_rows:,} rows of {store.name}, batches of {reader.batch_size:,}; one thread")
    _show("reader and pyarrow", reading.beside_arrow(make).lines())
    sharded = build.shard(config, runtime)
    sharded.model.train()
    # Without this a full collection of what torch has imported strikes whoever is on.
    gc.collect()
    gc.freeze()
    _show("reader and model, one core", reading.beside_model(reader, sharded.pipeline).lines())
    peaks = reading.peak_memory(store, files, MEMORY_ROWS, options)
    _show(
        "memory at its peak, beyond that of the first batch",
        [f"{rows:>12,} rows: {mib:.0f} MiB" for rows, mib in peaks.items()],
    )
    _peers(config)
    _job(overrides)


def _peers(config: configuration.Config) -> None:
    installed = [module for module in PEERS if importlib.util.find_spec(module)]
    for module in (name for name in PEERS if name not in installed):
        print(f"\n{PEERS[module]} is not installed (pip install {PEERS[module]})")
    if installed:
        from research.bench import contest

        for title, speed in contest.measure(config, installed).items():
            _show(title, speed.lines())


def _job(overrides: Sequence[str]) -> None:
    """Run the job's own bench, with the same settings."""
    print("\nthe whole job, two processes of one thread", flush=True)
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launch, "-m", "research.bench", "job", *overrides]
    subprocess.run(command, env=environment, check=True)


def _show(title: str, lines: Sequence[str]) -> None:
    print(f"\n{title}")
    for line in lines:
        print(f"  {line}", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    with plain_errors():
        check(list(arguments))
        with initialize_config_module("mbrec.configs", version_base="1.3"):
            config = configuration.parse(compose("train", overrides=list(arguments)))
        config.monitor.progress = False
        measure(config, arguments)
