"""`prepare` says what it can prepare, and a typing error costs a second."""

import subprocess
import sys

import pytest

from mbrec.prepare.command import RECIPES, main


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_help_has_a_line_for_each_recipe(capsys):
    said = printed(capsys, "--help")
    for name, recipe in RECIPES.items():
        assert f"{name} {recipe.title}" in said
    assert "csv a log in CSV files" in said


@pytest.mark.parametrize("name", RECIPES)
def test_the_help_of_a_recipe_has_its_options_and_where_its_files_are(name, capsys):
    said = printed(capsys, name, "--help")
    assert recipe_options(name) <= {word for word in said.split() if word.startswith("--")}
    assert RECIPES[name].terms.split()[0].rstrip(",;")[:20] in said
    assert ("--duplicates" in said) == bool(RECIPES[name].duplicates_help)


def recipe_options(name: str) -> set[str]:
    return {f"--{option.replace('_', '-')}" for option in RECIPES[name].options}


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["csv", "--what"], ["kuairand", "in"]])
def test_a_typing_error_is_named_and_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_help_imports_no_torch():
    code = (
        "import sys; from mbrec.prepare.command import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
