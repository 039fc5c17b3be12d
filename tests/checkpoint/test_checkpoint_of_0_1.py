"""A run of version 0.1 is still read: its tensors bit for bit, its YAML, and what follows.

`of_0_1` was trained by version 0.1 on two ranks, 20 of 26 steps of a tiny job.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks

from mbrec.config import saved

OLD = Path(__file__).parent / "of_0_1"
# The first 16 digits of the SHA-256 of each tensor, as torch's own reader finds it.
TENSORS = """
8e253d9ae4dae5e6 model.bottom.categorical.embeddings.embedding_bags.item.weight
5b047b7cad5aecf9 model.bottom.categorical.embeddings.embedding_bags.tags.weight
09ff5e22e84a0adb model.bottom.categorical.embeddings.embedding_bags.user.weight
5604ddc0e530ab0b model.bottom.interaction.cross.bias.0
83844bc10067a4ed model.bottom.interaction.cross.kernels.0
39db428095cd283b model.bottom.interaction.projection._mlp.0._linear.bias
c1b58762ecb18ed6 model.bottom.interaction.projection._mlp.0._linear.weight
1b8d9ca66dc8d2df model.bottom.numerical.mlp._mlp.0._linear.bias
43e20d9fccb2a473 model.bottom.numerical.mlp._mlp.0._linear.weight
4062383cdcdef2ef model.heads.hook.balancer.norm_average.ctr
c698a80f69d61d3a model.heads.hook.balancer.norm_average.cvr
0c27700c82d333aa model.heads.hook.balancer.step
757637c859f1c806 model.heads.hook.balancer.weight.ctr
aa8ba15d70e98035 model.heads.hook.balancer.weight.cvr
bd77e43389da7fdd model.heads.mlps.ctr.bias
76e4619ee2c7b593 model.heads.mlps.ctr.weight
90babec8df4d77e2 model.heads.mlps.cvr.bias
64decff91d66be5b model.heads.mlps.cvr.weight
de423cac7f4a153c optimizer.bottom.categorical.embeddings.embedding_bags.item.weight.item.momentum1
80e07b44122847e8 optimizer.bottom.categorical.embeddings.embedding_bags.tags.weight.tags.momentum1
628ac80caa5a74a5 optimizer.bottom.categorical.embeddings.embedding_bags.user.weight.user.momentum1
435543ea9592e786 optimizer.bottom.interaction.cross.bias.0.exp_avg
d0f869c34006d123 optimizer.bottom.interaction.cross.bias.0.exp_avg_sq
8502957747a29907 optimizer.bottom.interaction.cross.bias.0.step
9eb1707c63429e4b optimizer.bottom.interaction.cross.kernels.0.exp_avg
195bcc7caed03835 optimizer.bottom.interaction.cross.kernels.0.exp_avg_sq
8502957747a29907 optimizer.bottom.interaction.cross.kernels.0.step
6b557b489f9c9cf9 optimizer.bottom.interaction.projection._mlp.0._linear.bias.exp_avg
1369cbf51b89b0ba optimizer.bottom.interaction.projection._mlp.0._linear.bias.exp_avg_sq
8502957747a29907 optimizer.bottom.interaction.projection._mlp.0._linear.bias.step
ac8bcb9bb690a38a optimizer.bottom.interaction.projection._mlp.0._linear.weight.exp_avg
8eb346a280baa90a optimizer.bottom.interaction.projection._mlp.0._linear.weight.exp_avg_sq
8502957747a29907 optimizer.bottom.interaction.projection._mlp.0._linear.weight.step
d4217a47bf350476 optimizer.bottom.numerical.mlp._mlp.0._linear.bias.exp_avg
25775f5100eac784 optimizer.bottom.numerical.mlp._mlp.0._linear.bias.exp_avg_sq
8502957747a29907 optimizer.bottom.numerical.mlp._mlp.0._linear.bias.step
80edce2ae511ba73 optimizer.bottom.numerical.mlp._mlp.0._linear.weight.exp_avg
6a3bdca320700911 optimizer.bottom.numerical.mlp._mlp.0._linear.weight.exp_avg_sq
8502957747a29907 optimizer.bottom.numerical.mlp._mlp.0._linear.weight.step
dbac7640f7733218 optimizer.heads.mlps.ctr.bias.exp_avg
a993a0f3e3d627e5 optimizer.heads.mlps.ctr.bias.exp_avg_sq
8502957747a29907 optimizer.heads.mlps.ctr.bias.step
3e63126c20773e20 optimizer.heads.mlps.ctr.weight.exp_avg
5c6e21e95fa4ae4b optimizer.heads.mlps.ctr.weight.exp_avg_sq
8502957747a29907 optimizer.heads.mlps.ctr.weight.step
99643b0d30a071fc optimizer.heads.mlps.cvr.bias.exp_avg
badbe175bc12e26f optimizer.heads.mlps.cvr.bias.exp_avg_sq
8502957747a29907 optimizer.heads.mlps.cvr.bias.step
837a7f1bef8817b7 optimizer.heads.mlps.cvr.weight.exp_avg
c4212a620f13d909 optimizer.heads.mlps.cvr.weight.exp_avg_sq
8502957747a29907 optimizer.heads.mlps.cvr.weight.step
"""


def digest(value: Any) -> str:
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor

    if isinstance(value, ShardedTensor):
        (shard,) = value.local_shards()
        value = shard.tensor
    return hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()[:16]


def use(run: str, data: str) -> dict[str, Any]:
    """Load, continue for six steps, and score the run of before."""
    from mbrec.checkpoint import tensors
    from mbrec.distributed import process
    from mbrec.job import build, resume
    from mbrec.job.evaluation import evaluate

    options = ["runtime.plugins=[]", f"data.path={data}", "trainer.steps=26"]
    config = saved.load(Path(run) / "config.yaml", [*options, f"resume.path={run}"])
    continued = Path(run).with_name("continued")
    source = resume.source(config, continued)
    trainer, sharded = build.trainer(config, process.start(), continued, source=source)
    loaded = tensors.collect(sharded.model, sharded.optimizer)
    found: dict[str, Any] = {"tensors": {name: digest(value) for name, value in loaded.items()}}
    found["step"] = trainer.step
    trainer.fit()
    found["history"] = trainer.history
    evaluate(Path(run), [f"data.path={data}"], Path(run).with_name("scores"))
    return found


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("of_0_1")
    run = shutil.copytree(OLD, folder / "run")
    (folder / "ranks").mkdir()
    (found,) = run_ranks(use, 1, folder / "ranks", str(run), str(folder / "data"))
    return folder, found


def metrics() -> dict[str, Any]:
    return json.loads((OLD / "metrics.json").read_text())


def test_its_yaml_has_the_settings_and_the_present_names_of_its_classes():
    config = saved.load(OLD / "config.yaml", [])
    assert config.trainer.steps == 20
    assert config.model.interaction["_target_"] == "mbrec.model.interactions.dcn.DCN"
    assert "mbrec.modules.interaction.DCN" in (OLD / "config.yaml").read_text()
    assert list(config.tasks) == ["ctr", "cvr"]


@pytest.mark.slow
def test_every_tensor_is_loaded_bit_for_bit(used):
    assert used[1]["tensors"] == dict(line.split()[::-1] for line in TENSORS.split("\n")[1:-1])
    assert used[1]["step"] == 20


@pytest.mark.slow
def test_it_continues_with_its_rows_and_its_evaluations(used):
    history, before = used[1]["history"], metrics()["history"]
    assert [entry["step"] for entry in history] == [10, 20, 26]
    assert history[0] == before[0]
    # The evaluation after step 20 was under way when the run was saved.
    assert same(history[1]["tasks"], before[1]["tasks"])


@pytest.mark.slow
def test_it_scores_as_it_did(used):
    scores = json.loads((used[0] / "scores" / "evaluation.json").read_text())
    assert same(scores["tasks"], metrics()["tasks"])


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether all figures are those that another machine found."""
    return all(found[t] == pytest.approx(figures, rel=1e-4) for t, figures in expected.items())
