import re
import subprocess
import sys

import pytest
import torch

import mbrec.balance
from mbrec.balance import MGDA, BalanceHook
from research.bench import balance
from research.bench.reference import Contest

SMALL = ["methods=Equal,MGDA", "sizes=2x64x8", "rounds=3", "batch=64", "width=8", "threads=1"]


def run(*arguments: str, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({list(blocked)}));"
        f"sys.argv = ['research.bench', *{list(arguments)}];"
        "runpy.run_module('research.bench', run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)


def test_the_command_needs_torch_alone_and_prints_markdown():
    blocked = ("torchrec", "fbgemm_gpu", "hydra", "omegaconf", "pyarrow", "tqdm", "tensorboard")
    done = run("balance", *SMALL, blocked=blocked)
    assert done.returncode == 0, done.stderr
    assert "GB/s" in done.stdout
    assert re.search(r"^\| MGDA \| 2 \| 64 \| 8 \| -?\d", done.stdout, re.MULTILINE)
    assert re.search(r"^\| `MultiBalance` \| \d+\.\d \| -?\d+\.\d \(", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rounds=many"], "expected a whole number for rounds"),
        (["round=3"], "expected key=value with one of device"),
        (["sizes=3x8"], "expected sizes as KxBxH"),
        (["methods=MGD"], "expected methods among AlignedMTL"),
        (["rounds=0"], "expected rounds to be an integer of at least 3"),
        (["sizes=0x0x0"], "expected sizes as KxBxH"),
    ],
)
def test_nonsense_is_refused_in_one_line(arguments, expected):
    with pytest.raises(SystemExit) as ended:
        balance.main(arguments)
    assert expected in str(ended.value.code)
    assert len(str(ended.value.code).splitlines()) == 1


@pytest.mark.parametrize("word", ["balanse", "experiment=bench"])
def test_another_first_word_is_refused_in_one_line(word):
    done = run(word)
    assert done.returncode != 0
    assert f"expected one of job, data, balance, contest first, got {word}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_every_method_that_works_at_the_representation_is_measured():
    exported = {name for name in mbrec.balance.__all__ if not name.endswith("Balancer")}
    assert exported - set(balance.methods()) == {"BalanceHook", "MoCo", "TorchJD"}
    assert all(make(2).num_tasks == 2 for make in balance.methods().values())


def gradients(contest, step):
    contest.optimizer.step = lambda: None
    step()
    return torch.cat([p.grad.flatten() for p in contest.model.parameters()])


def test_k_passes_are_what_the_hook_does_at_all_shared_parameters():
    contest = Contest(3, 32, 8, torch.device("cpu"))
    model = contest.model
    shared = torch.nn.ModuleList([model.tables, model.interaction, model.mlp])
    hook = BalanceHook(MGDA(3), parameters=shared)
    by_passes = gradients(contest, contest.passes())
    by_hook = gradients(contest, contest.hooked(hook))
    torch.testing.assert_close(by_hook, by_passes, rtol=1e-4, atol=1e-7)


def test_the_comparison_with_torchjd_is_of_equal_terms():
    contest = Contest(3, 32, 8, torch.device("cpu"))
    ours = gradients(contest, contest.passes())
    theirs = gradients(contest, contest.torchjd_parameters())
    # Its Frank-Wolfe steps stop at 1e-3.
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9
    ours = gradients(contest, contest.hooked(BalanceHook(MGDA(3))))
    theirs = gradients(contest, contest.torchjd_representation())
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9
