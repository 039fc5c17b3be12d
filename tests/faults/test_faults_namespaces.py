"""Healthy ranks that share a machine and its name, and do not see each other's processes."""

import os
import subprocess
import sys

import pytest
from processes import ROOT, as_root
from torch._C._distributed_c10d import TCPStore

# Both ranks are at work for many looks of the watch, which waits for nobody here.
RANK = """
import os, time
from dataclasses import replace
import torch.distributed as dist
from mbrec.distributed import failures, process, watchdog

store = dist.TCPStore("127.0.0.1", int(os.environ["STORE"]))
runtime = process.start(timeout_s=60, store=store)
with failures.named_failures(replace(runtime, patience_s=0)):
    for _ in range(8):
        dist.barrier()
        time.sleep(watchdog.POLL_S)
dist.barrier()  # a rank that ends is dead to a watch that is still at work
print("finished")
"""


@as_root
@pytest.mark.parametrize(
    "enter",
    [
        # As a container for each GPU, with the host's network and name.
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"],
        # Its /proc shows the processes outside, where its own numbers are those of others.
        pytest.param(["unshare", "--pid", "--fork", "--kill-child"], marks=pytest.mark.nightly),
    ],
)
def test_a_rank_in_another_namespace_is_not_taken_for_dead(enter):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"STORE": str(store.port), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    common |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [*command, sys.executable, "-c", RANK],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_WORLD_SIZE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, command in enumerate([[], enter])
    ]
    try:
        told = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [text.splitlines()[-1:] for text in told] == [["finished"]] * 2, told
    assert [rank.returncode for rank in ranks] == [0, 0]
