"""Every YAML composes into the typed schema, and whatever does not fit is refused."""

import re
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mbrec import UserError
from mbrec.balance import Balancer
from mbrec.config import composer, saved
from mbrec.config.instantiate import instantiate
from mbrec.config.settings import Config, parse
from mbrec.files import sealed
from mbrec.job import build, evaluation

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
GROUPS = {  # folder -> how its files are chosen
    "data": "data={}",
    "data/preset": "data/preset={}",
    "tasks": "tasks=[{}]",
    "balancer": "balancer={}",
    "interaction": "interaction={}",
    "experiment": "experiment={}",
    "hydra/help": "hydra/help={}",
    "hydra/job_logging": "hydra/job_logging={}",
}
TRAP = """
from pathlib import Path
Path(__file__).with_name("imported").touch()
class Thing:
    def __init__(self, num_tasks, scale): pass
"""


@pytest.fixture(autouse=True)
def hydra_paths():
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        yield


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder on the path with a module outside mbrec that leaves a trace when imported."""
    (tmp_path / "mbrec_trap.py").write_text(TRAP)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mbrec_trap", None)


def composed(*overrides: str) -> Config:
    return parse(compose("train", list(overrides)))


# What these say themselves that they need.
NEEDS = {
    "static": ["balancer.weights=[.2,.5,.3]"],
    "torchjd": ["balancer.weighting=MGDAWeighting"],
    "custom": ["balancer._target_=mbrec.balance.Equal"],
}


def saved_yaml(tmp_path: Path, *overrides: str) -> Path:
    path = tmp_path / "config.yaml"
    OmegaConf.save(compose("train", list(overrides)), path, resolve=True)
    return path


def as_json(tmp_path: Path, *overrides: str) -> None:
    saved.write(tmp_path, composed(*overrides))


def options(group: str) -> list[str]:
    return [path.stem for path in FILES if path.parent == Path(group)]


def balancer_of(*overrides: str) -> object:
    parsed = composed(*overrides)
    return instantiate(parsed.balancer, plugins=parsed.runtime.plugins, num_tasks=3)


def hook_of(*overrides: str) -> object:
    parsed = composed(*overrides)
    return build.balance_hook(parsed, build.bottom(parsed))


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g)])
def test_every_yaml_composes_and_parses(group, option):
    needs = NEEDS.get(option, []) if group == "balancer" else []
    parsed = composed(GROUPS[group].format(option), "data.path=x", *needs)
    assert parsed.tasks
    assert parsed.data.columns.categorical
    if group == "balancer":
        assert isinstance(instantiate(parsed.balancer, plugins=[], num_tasks=3), Balancer)


def test_no_yaml_escapes_the_test_of_every_yaml():
    tested = {Path(group) / f"{option}.yaml" for group in GROUPS for option in options(group)}
    assert all(options(group) for group in GROUPS)
    assert {*tested, Path("train.yaml")} == set(FILES)


@pytest.mark.parametrize("option", NEEDS)
def test_a_balancer_that_needs_a_setting_says_which(option):
    key = NEEDS[option][0].split("=")[0]
    with pytest.raises(ValueError, match=rf"expected a value for {re.escape(key)}"):
        composed(f"balancer={option}")


@pytest.mark.parametrize("option", options("interaction"))
def test_every_interaction_yaml_builds_a_module_of_the_model(option):
    model = build.ranker(composed(GROUPS["interaction"].format(option)), 1, with_hook=False)
    assert model.bottom.interaction.out_features > 0


def test_tasks_keep_their_order_on_the_command_line_and_in_an_experiment():
    assert list(composed("tasks=[ctr,cvr,like]").tasks) == ["ctr", "cvr", "like"]
    assert list(composed("tasks=[like,ctr,cvr]").tasks) == ["like", "ctr", "cvr"]
    parsed = composed("experiment=kuairand_feeds_multibalance", "data.path=x")
    assert list(parsed.tasks) == ["ctr", "like", "profile_enter", "long_view"]


def test_an_experiment_overrides_defaults_and_the_command_line_an_experiment():
    experiment = "experiment=kuairand_equal"
    path = "data.path=somewhere"
    default = composed().trainer.global_batch_size
    chosen = composed(experiment, path).trainer.global_batch_size
    assert chosen != default
    assert composed(experiment, path).balancer["_target_"] == "mbrec.balance.Equal"
    assert (
        composed(experiment, path, "trainer.global_batch_size=64").trainer.global_batch_size == 64
    )


def test_another_balancer_leaves_no_argument_of_the_default_one():
    assert composed("balancer=equal").balancer == {
        "_target_": "mbrec.balance.Equal",
        "scale": "sum",
    }


@pytest.mark.parametrize("experiment", ["ads_multibalance", "paper_ads", "bench"])
def test_another_interaction_or_balancer_leaves_no_key_of_a_class_that_was_not_chosen(
    experiment, tmp_path
):
    for group in ("interaction", "balancer"):
        (tmp_path / group).mkdir()
        package = "# @package model.interaction\n" if group == "interaction" else ""
        (tmp_path / group / "other.yaml").write_text(f"{package}_target_: mine.Other\nown: 3\n")
    given = [f"hydra.searchpath=[file://{tmp_path}]", f"experiment={experiment}"]
    found = composed(*given, "interaction=other", "balancer=other")
    expected = {"_target_": "mine.Other", "own": 3}
    assert (found.model.interaction, found.balancer) == (expected, expected)


def test_a_preset_changes_the_sizes_and_the_tables_follow():
    tiny = composed("data/preset=tiny").data
    assert tiny.synthetic.num_users < composed().data.synthetic.num_users
    assert tiny.columns.categorical["user"].cardinality == tiny.synthetic.num_users


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.columns.numerical.x0.column=__oracle_click", "features that are not hidden"),
        ("data.columns.categorical.user.column=__oracle_click", "features that are not hidden"),
        ("+data.columns.numerical={__oracle_click: {}}", "features that are not hidden"),
        ("data.columns.labels.click=__oracle_click", "labels that are not hidden"),
        ("data.columns.weight=__oracle_click", "labels that are not hidden"),
        ("data.columns.numerical.x0.column=click", "features that are no labels"),
        ("+data.columns.numerical={conversion: {}}", "features that are no labels"),
        ("data.columns.numerical.x0.std=0", "std of a numerical column"),
        ("data.columns.categorical.user.hash_size=4", "expected one of cardinality, hash_size"),
        ("data.synthetic.evaluation_fraction=1", "evaluation_fraction < 1"),
        ("tasks.ctr.weight=0", "weight of a task to be positive"),
        ("tasks=[]", "at least one task"),
        ("+tasks={like: {weight: 2}}", r"tasks\.like\.label.*not selected with tasks="),
        ("data=kuairand_pure", r"data\.path"),
    ],
)
def test_values_that_describe_no_run_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        composed(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.batchsize=3", "batchsize"),
        ("nothing=3", "nothing"),
        ("trainer.epochs=many", r"trainer\.epochs"),
        ("trainer.steps=1.5", r"trainer\.steps"),
        ("trainer.loss_reduction=mean", "loss_reduction"),
        ("data.synthetic.conflict=some", "conflict"),
        ("model.numerical=3", r"model\.numerical"),
        ("tasks.like.weight=2", r"tasks\.like"),
        ("balancer.rate=2", r"balancer\.rate"),
        ("balancer=mean", "balancer/mean"),
        ("data/preset=huge", "data/preset/huge"),
        ("tasks=[ctr,save]", "tasks/save"),
        ("experiment=mine", "experiment/mine"),
    ],
)
def test_unknown_keys_and_options_and_wrong_types_are_refused(override, message):
    with pytest.raises(ConfigCompositionException, match=message):
        compose("train", [override])


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "os.system",
        "builtins.eval",
        "functools.partial",
        "mbrecx.Thing",
        "mbrec.job.build.torch.load",
        "mbrec.job.build.os.system",
        "mbrec.config.instantiate.instantiate",
        "mbrec.balance.hook.torch.nn.Linear",
        "mbrec.balance",
        "mbrec",
        "''",
    ],
)
def test_a_target_outside_mbrec_is_refused_before_it_is_called(target, monkeypatch):
    parsed = composed(f"balancer._target_={target}", f"model.interaction._target_={target}")
    called = []
    for name in ("torch.load", "os.system", "torch.nn.Linear.__init__"):
        monkeypatch.setattr(name, lambda *_, **__: called.append(1))
    for node in (parsed.balancer, parsed.model.interaction):
        with pytest.raises(ValueError, match="expected a class of mbrec in _target_"):
            instantiate(node, plugins=[], num_tasks=3)
    assert called == []


def test_the_balancer_and_the_interaction_are_built_from_checked_targets():
    with pytest.raises(ValueError, match="expected a class of mbrec in _target_"):
        hook_of("balancer._target_=functools.partial")
    with pytest.raises(ValueError, match="expected a class of mbrec in _target_"):
        build.ranker(composed("model.interaction._target_=functools.partial"), 1, with_hook=False)


def test_a_module_outside_mbrec_is_imported_only_if_it_is_a_plugin(trap):
    target = "balancer._target_=mbrec_trap.Thing"
    with pytest.raises(ValueError, match="expected a class of mbrec in _target_"):
        balancer_of("balancer=equal", target)
    assert not (trap / "imported").exists()
    made = balancer_of("balancer=equal", target, "runtime.plugins=[mbrec_trap]")
    assert type(made).__module__ == "mbrec_trap"
    assert (trap / "imported").exists()


def test_a_class_that_is_no_balancer_is_refused(trap):
    target = ["balancer._target_=mbrec_trap.Thing", "runtime.plugins=[mbrec_trap]"]
    with pytest.raises(ValueError, match=r"expected a Balancer in balancer\._target_"):
        hook_of("balancer=equal", *target)


@pytest.mark.parametrize("target", ["mbrec.balance.MultiBalanc", "mbrec.balanc.MultiBalance"])
def test_a_misspelt_class_of_mbrec_is_told_as_a_wrong_value(target):
    with pytest.raises(ValueError, match=target):
        instantiate({"_target_": target}, plugins=[], num_tasks=3)


def test_an_unknown_argument_of_a_balancer_is_named():
    with pytest.raises(ValueError, match=r"mbrec\.balance\.MultiBalance.*'rate'"):
        balancer_of("+balancer.rate=2")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data/preset=tiny", "data.synthetic.conflict=conflict", "tasks=[share,cvr]"],
        ["experiment=kuairand_multibalance", "data.path=x", "data.order=exact"],
        ["balancer=equal", "trainer.loss_reduction=unmasked", "runtime.plugins=[mine]"],
    ],
)
def test_a_saved_configuration_loads_as_it_was(overrides, tmp_path):
    as_json(tmp_path, *overrides)
    expected = composed(*overrides)
    paths = [tmp_path / saved.JSON, tmp_path / saved.YAML, saved_yaml(tmp_path, *overrides)]
    for loaded in [saved.load(path, []) for path in paths]:
        assert loaded == expected
        assert list(loaded.tasks) == list(expected.tasks)


def test_json_holds_no_reference_and_no_mapping_in_the_place_of_a_value(tmp_path):
    for key, value in {"name": "${oc.env:HOME}", "folder": {"_target_": "os.system"}}.items():
        content = saved.plain(composed())
        content["run"][key] = value
        sealed.write_json(tmp_path / saved.JSON, content)
        with pytest.raises(UserError, match=rf"config\.json: expected .* in run\.{key}"):
            saved.load(tmp_path / saved.JSON, [])


def test_a_number_that_json_cannot_hold_is_refused_by_its_key(tmp_path):
    with pytest.raises(
        UserError, match=r"finite numbers in the configuration, got balancer\.lr=inf"
    ):
        as_json(tmp_path, "balancer.lr=inf")


def test_loading_takes_overrides_and_checks_them(tmp_path):
    path = saved_yaml(tmp_path)
    assert saved.load(path, ["data.evaluation=[a,b]"]).data.evaluation == ["a", "b"]
    with pytest.raises(ValueError, match="features that are not hidden"):
        saved.load(path, ["data.columns.numerical.x0.column=__oracle_click"])
    with pytest.raises(ValueError, match="not selected"):
        saved.load(path, ["tasks.like.weight=2"])


@pytest.mark.parametrize("key", ["trainer.batchsize", "nothing", "tasks.ctr.wieght"])
def test_loading_refuses_unknown_keys_in_the_file_and_in_overrides(key, tmp_path):
    path = saved_yaml(tmp_path)
    with pytest.raises((ValueError, OmegaConfBaseException), match=key):
        saved.load(path, [f"{key}=3"])
    node = OmegaConf.load(path)
    OmegaConf.update(node, key, 3)
    OmegaConf.save(node, path)
    with pytest.raises((ValueError, OmegaConfBaseException), match=key):
        saved.load(path, [])


@pytest.mark.parametrize("write", [saved_yaml, lambda folder, *given: as_json(folder, *given)])
def test_evaluation_takes_plugins_from_the_command_line_only(write, tmp_path, monkeypatch):
    write(tmp_path, "runtime.plugins=[theirs]")
    loaded, complete = [], saved.complete
    monkeypatch.setattr(saved, "complete", lambda *given: loaded.append(complete(*given)))
    for overrides, expected in ([], []), (["runtime.plugins=[mine]"], ["mine"]):
        with pytest.raises(AttributeError):  # it goes no further than what it has loaded: None
            evaluation.evaluate(tmp_path, overrides, None)
        assert loaded[-1].runtime.plugins == expected


def test_training_takes_plugins_from_the_command_line_only(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nruntime:\n  plugins: [theirs]\n"
    (tmp_path / "experiment/theirs.yaml").write_text(text)
    given = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=theirs"]
    assert composed(*given).runtime.plugins == ["theirs"]
    with pytest.raises(UserError, match=r"plugins on the command line, got it from a file"):
        composer.composed(given)
    for plugins in ([], ["mine"]):
        found = composer.composed([*given, f"runtime.plugins=[{','.join(plugins)}]"])
        assert found.config.runtime.plugins == plugins


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.mode=MULTIRUN", "expected -m for a sweep"),
        ("+hydra.job.env_set.A=b", "job_logging, verbose and searchpath alone"),
        ("hydra.job.chdir=true", "job_logging, verbose and searchpath alone"),
    ],
)
def test_what_hydra_would_do_at_the_start_of_a_job_is_refused_and_not_left_out(override, message):
    with pytest.raises(UserError, match=message):
        composer.composed([override])


@pytest.mark.parametrize(
    "override",
    [
        "trainer.global_batch_size=0",
        "trainer.epochs=0",
        "trainer.steps=0",
        "trainer.evaluate_every=0",
        "monitor.every=0",
        "optimizer.dense_lr=-1",
        "data.shuffle_rows=-1",
    ],
)
def test_a_number_out_of_range_is_refused_by_name(override):
    name = override.split("=")[0].rsplit(".")[-1]
    with pytest.raises(ValueError, match=f"expected {name} to be at least"):
        composed(override)
