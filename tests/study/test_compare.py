"""The command line of a comparison refuses what it would not do."""

import pytest
from outcomes import Launcher

from mbrec.study import comparison_page, launch
from mbrec.study.compare import arguments, compare, tasks_of, words_in


def test_settings_of_the_model_are_passed_on():
    settings, overrides = arguments(["experiment=paper_ads", "seeds=3", "optimizer.dense_lr=.01"])
    assert settings["seeds"] == "3"
    assert overrides == ["experiment=paper_ads", "optimizer.dense_lr=.01"]


@pytest.mark.parametrize(
    "word",
    [
        "balancer=mgda",
        "balancer.lr=1",
        "+balancer.x=1",
        "trainer.seed=3",
        "run.name=x",
        "seeds=0",
        "seeds=many",
        "overhead=yes",
        "multibalance",
        "processes=-1",
        "trainer.measure_overhead=true",
    ],
)
def test_what_the_comparison_sets_and_what_is_no_number_is_refused(word):
    with pytest.raises(ValueError, match="expected"):
        arguments([word])


def test_lists_are_split_at_their_outer_commas():
    assert words_in("[a=[1,2],b={c:1,d:2}]", "x") == ["a=[1,2]", "b={c:1,d:2}"]
    assert words_in("[]", "x") == []
    with pytest.raises(ValueError, match=r"expected x=\[A,B,\.\.\.\]"):
        words_in("a,b", "x")


def test_other_settings_of_the_model_have_pages_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "run", Launcher({}).run)
    long = "data.path=" + "x" * 150
    models = [[], ["experiment=paper_ads", "group=user"]]
    models += [[long, "optimizer.dense_lr=.01"], [long, "optimizer.dense_lr=.02"]]
    monkeypatch.setattr("mbrec.study.compare.tasks_of", lambda *_, **__: ["ctr", "cvr"])
    monkeypatch.setattr(comparison_page, "save", lambda figure, path: None)
    pages = [
        compare(*arguments([*words, "seeds=2", "overhead=false"]), ["mbrec", "compare", *words])
        for words in models
    ]
    folders = [str(page.parent) for page in pages]
    assert folders[:2] == ["outputs/compare/default", "outputs/compare/paper_ads"]
    assert len(set(folders)) == len(models)
    assert all(len(page.parent.name) < 120 for page in pages)
    for page in pages:
        text = page.read_text()
        assert "# Will balancing help" in text
        assert "mbrec compare" in text
        assert "static weights, tuned" in text


def test_a_typing_error_is_told_before_anything_is_trained():
    assert tasks_of(["experiment=paper_ads"], [], ["equal", "multibalance+lr=1"]) == [
        "ctr",
        "cvr",
        "conv_imp",
    ]
    with pytest.raises(ValueError, match="Did you mean multibalance"):
        tasks_of([], [], ["multibalanc"])
    with pytest.raises(ValueError, match="rate"):
        tasks_of([], [], ["multibalance+rate=1"])
    with pytest.raises(ValueError, match="at least 440"):
        tasks_of(["trainer.steps=200"], [], ["equal"], measure=True)
    with pytest.raises(ValueError, match="expected the tasks ctr, cvr, conv_imp in tuning"):
        tasks_of([], ["tasks=[ctr]"], ["equal"])
    with pytest.raises(ValueError, match="optimizer"):
        tasks_of(["optimiser.dense_lr=1"], [], [])
