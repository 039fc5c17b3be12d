"""The rules that keep the code small, layered and documented, read off its source."""

import ast
import dataclasses
import inspect
import re
import sys
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from draw_architecture import PACKAGES, PICTURE, draw, pairs

import mbrec.balance
from mbrec.balance import Balancer
from mbrec.config.settings import Config

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "mbrec").rglob("*.py"))
RESEARCH = sorted((ROOT / "research").rglob("*.py"))
SOURCES = MODULES + RESEARCH + sorted((ROOT / "scripts").glob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FOLDERS = (
    "mbrec",
    "research",
    "configs",
    "scripts",
    "tests",
    "docs",
    "docker",
    ".ci",
    "requirements",
)
GENERATED = re.compile(r"__pycache__|\.egg-info|\.(pyc|png|gz|parquet)$")
# Put together from parts, so that this file passes its own test.
MACHINE_PATHS = ["/" + "work/", "../" + "shared"]
REGISTRIES = ["pypi" + ".org", "python" + "hosted", "download." + "pytorch.org"]
CPU_WHEELS = "https://" + REGISTRIES[2] + "/whl/cpu"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def all_files() -> list[Path]:
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in files if not GENERATED.search(name_of(path))]


def nodes(kind: type | tuple[type, ...]) -> list[tuple[Path, typing.Any]]:
    return [
        (p, node) for p, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kind)
    ]


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of every import; of `from a import b` both a and a.b."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {name_of(path)}:{node.lineno}"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(module: str) -> set[str]:
    found = [
        path for path in SOURCES for name in imports(path) if f"{name}.".startswith(f"{module}.")
    ]
    return {name_of(path) for path in found}


def dataclasses_of(kind: type) -> dict[str, type]:
    """Return the dataclasses that a dataclass consists of, itself included."""
    found, hints = {kind.__name__: kind}, typing.get_type_hints(kind)
    waiting = list(hints.values())
    while waiting:
        hint = waiting.pop()
        waiting += typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            found |= dataclasses_of(typing.cast(type, hint))
    return found


def balancers() -> dict[str, type]:
    exported = {name: getattr(mbrec.balance, name) for name in mbrec.balance.__all__}
    return {
        name: kind
        for name, kind in exported.items()
        if issubclass(kind, Balancer) and not kind.__name__.endswith("Balancer")
    }


def mentioned(names: set[str], path: Path) -> list[str]:
    text = path.read_text()
    return [name for name in names if re.search(rf"(?<![A-Za-z]){name}(?![A-Za-z])", text)]


def test_functions_have_at_most_50_lines():
    lengths = {
        f"{name_of(path)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path, node in nodes(FUNCTIONS)
    }
    assert len(lengths) > 100
    assert {name: n for name, n in lengths.items() if n > 50} == {}


def test_no_file_or_folder_is_a_drawer_for_odds_and_ends():
    vague = re.compile(r"_?(utils?|commons?|helpers?|misc)$")
    names = {part for path in all_files() for part in path.relative_to(ROOT).with_suffix("").parts}
    assert "mbrec" in names
    assert [name for name in names if vague.match(name)] == []


def test_no_except_without_a_class():
    handlers = nodes(ast.ExceptHandler)
    assert handlers
    assert [f"{name_of(path)}:{node.lineno}" for path, node in handlers if node.type is None] == []


def test_nothing_runs_text_or_unpickles_or_starts_a_shell():
    found = []
    for path, node in nodes(ast.Call):
        called = ast.unparse(node.func)
        shell = any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords)
        if called in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"} or shell:
            found.append(f"{name_of(path)}:{node.lineno} {called}")
    for path, node in nodes(ast.Attribute):
        if ast.unparse(node) == "torch.load":
            found.append(f"{name_of(path)}:{node.lineno} torch.load")
    unsafe = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
    for path in SOURCES:
        refused = [n for n in imports(path) if n == "torch.load" or n.split(".")[0] in unsafe]
        found += [f"{name_of(path)} {name}" for name in refused]
    assert found == ["mbrec/checkpoint/metadata.py pickle"]


def test_the_only_unpickler_is_one_that_knows_what_it_may_make():
    path = ROOT / "mbrec/checkpoint/metadata.py"
    parts = [n for p, n in nodes(ast.Attribute) if p == path and ast.unparse(n.value) == "pickle"]
    used = {ast.unparse(node) for node in parts}
    assert used == {"pickle.Unpickler", "pickle.UnpicklingError"}
    # It is a base class, and never made itself.
    calls = [ast.unparse(node.func) for p, node in nodes(ast.Call) if p == path]
    assert "pickle.Unpickler" not in calls
    assert calls.count("_Unpickler") == 1
    (unpickler,) = [node for _, node in nodes(ast.ClassDef) if node.name == "_Unpickler"]
    assert [ast.unparse(base) for base in unpickler.bases] == ["pickle.Unpickler"]
    assert {"find_class", "persistent_load"} <= {getattr(n, "name", "") for n in unpickler.body}
    names = [n for p, n in nodes(ast.Name) if p == path and n.id == "pickle"]
    assert len(names) == len(parts)


def test_the_balance_library_imports_torch_and_the_standard_library_alone():
    folder = [path for path in MODULES if package_of(path) == "balance"]
    assert len(folder) >= 30
    names = {name for path in folder for name in imports(path)}
    own = {name for name in names if f"{name}.".startswith("mbrec.balance.")}
    others = {name.split(".")[0] for name in names - own} - set(sys.stdlib_module_names)
    assert others == {"torch"}


def package_of(path: Path) -> str:
    """Return the package of mbrec that a module lies in; empty for an entry point."""
    parts = path.relative_to(ROOT / "mbrec").parts
    return parts[0] if len(parts) > 1 else ""


def test_the_packages_are_those_that_have_an_order():
    folders = {path.parent.name for path in (ROOT / "mbrec").glob("*/__init__.py")}
    assert folders == set(PACKAGES)


def test_a_package_imports_only_packages_that_stand_before_it():
    found = pairs()
    assert len(found) > 30
    assert {(a, b) for a, b in found if PACKAGES.index(b) > PACKAGES.index(a)} == set()


def test_nothing_imports_an_entry_point():
    entry_points = [p.stem for p in (ROOT / "mbrec").glob("*.py") if not p.stem.startswith("_")]
    assert {"train", "evaluate", "compare"} <= {*entry_points}
    assert {name: found for name in entry_points if (found := importers(f"mbrec.{name}"))} == {}


def test_the_picture_of_the_packages_is_up_to_date():
    assert PICTURE.read_text() == draw(), "run scripts/draw_architecture.py"


def test_nothing_loose_lies_beside_the_packages_but_entry_points():
    loose = {path for path in (ROOT / "mbrec").glob("*.py") if path.name != "__init__.py"}
    assert {path.name for path in loose} > {"train.py", "evaluate.py", "compare.py", "report.py"}
    without_main = {p.name for p in loose if '__name__ == "__main__"' not in p.read_text()}
    assert without_main == set()


def test_mbrec_imports_nothing_of_research():
    assert importers("research")
    assert not [name for name in importers("research") if name.startswith("mbrec/")]


def test_columns_read_no_configuration_and_no_torch():
    folder = [path for path in MODULES if package_of(path) == "columns"]
    assert len(folder) >= 5
    names = {name for path in folder for name in imports(path)}
    own = {name.split(".")[1] for name in names if name.startswith("mbrec.")}
    others = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"mbrec"}
    assert own == {"columns", "files"}
    assert others == {"numpy", "pyarrow"}


def test_the_trainer_names_no_task_balancer_or_label():
    data = [yaml.safe_load(path.read_text()) for path in (ROOT / "configs/data").glob("*.yaml")]
    names = {label for node in data for label in node["columns"].get("labels", ())}
    for group in ("tasks", "balancer"):
        names |= {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")}
    names |= set(balancers())
    assert names >= {"ctr", "cvr", "click", "conversion", "multibalance", "MultiBalance"}
    assert {"click", "conversion"} <= set(mentioned(names, ROOT / "configs/tasks/cvr.yaml"))
    assert mentioned(names, ROOT / "mbrec/training/trainer.py") == []


def test_every_package_is_listed_in_pyproject():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"mbrec.configs": "configs"}
    folders = {path.parent for path in MODULES if path.name == "__init__.py"}
    assert {path.parent for path in MODULES} == folders, "a folder of modules has no __init__.py"
    expected = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
    assert (ROOT / "configs/__init__.py").exists()
    assert sorted(settings["packages"]) == sorted([*expected, "mbrec.configs"])


def test_everything_public_has_a_docstring():
    seen, found = 0, []

    def visit(where: str, body: list[ast.stmt]) -> None:
        nonlocal seen
        for node in body:
            if not isinstance(node, (ast.ClassDef, *FUNCTIONS)) or node.name.startswith("_"):
                continue
            name = f"{where}.{node.name}"
            seen += 1
            if not ast.get_docstring(node):
                found.append(name)
            if isinstance(node, ast.ClassDef):
                visit(name, node.body)

    for path in SOURCES:
        tree = TREES[path]
        if tree.body and not ast.get_docstring(tree):  # an empty __init__.py has nothing to tell
            found.append(name_of(path))
        visit(name_of(path), tree.body)
    assert seen > 100
    assert found == []


def test_no_file_names_a_machine_path_or_a_package_registry():
    found, files = [], all_files()
    assert {"mbrec/train.py", "scripts/setup.sh", "README.md"} <= {name_of(path) for path in files}
    for path in files:
        name, text = name_of(path), path.read_text(errors="replace")
        if path.suffix == ".md" or name == "scripts/setup.sh":
            text = text.replace(CPU_WHEELS, "")
        paths = [] if name == ".ci/run" else MACHINE_PATHS
        found += [f"{name}: {part}" for part in [*paths, *REGISTRIES] if part in text]
    assert found == []


# What writes files, by the end of its name, or with its module where others have that name too.
WRITERS = {"write_text", "write_bytes", "touch", "savefig", "print_figure", "ParquetWriter"}
WRITERS |= {"write_table", "write_dataset", "to_parquet", "to_csv", "to_file", "save_file"}
WRITERS |= {"FileWriter", "SummaryWriter", "FileSystemWriter", "open_output_stream"}
WRITERS |= {
    "NamedTemporaryFile",
    "mkstemp",
    "new_file",
    "np.save",
    "np.savez",
    "torch.save",
    "OmegaConf.save",
}
WRITERS |= {f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copytree", "move")}
# Why these need not go through mbrec/files/atomic.py. "New folder": what is written there appears
# as a whole, or is temporary, and nobody can have put a link into it.
MAY_WRITE = {
    "mbrec/files/atomic.py": "it is the writer",
    "mbrec/checkpoint/tensors.py FileSystemWriter": "new folder",
    "mbrec/columns/manifest.py write_text": "new folder",
    "mbrec/prepare/synthetic/files.py write_text": "new folder",
    "mbrec/prepare/synthetic/files.py ParquetWriter": "new folder",
    "mbrec/prepare/synthetic/files.py write_table": "new folder",
    "mbrec/prepare/synthetic/world.py save": "new folder",
    "mbrec/prepare/writer.py ParquetWriter": "new folder",
    "mbrec/prepare/writer.py write_table": "new folder",
    "mbrec/prepare/recipes/kuairand.py open": "new folder",
    "mbrec/prepare/spill.py new_file": "new folder",
    "mbrec/prepare/spill.py write_table": "new folder",
    "research/bench/contest.py write_table": "new folder",
    "mbrec/monitor/hparams.py FileWriter": "a name that cannot be guessed",
    "mbrec/monitor/monitor.py FileWriter": "a name that cannot be guessed",
    "mbrec/training/predictions.py ParquetWriter": "writes into an atomic file",
    "mbrec/training/predictions.py write_table": "writes into an atomic file",
    "mbrec/study/report/plots.py savefig": "writes into memory",
    "mbrec/prepare/describe/plots.py savefig": "writes into an atomic file",
    "mbrec/study/plots.py print_figure": "writes into an atomic file",
}


def may_write(call: ast.Call) -> bool:
    """Return whether a call may write a file: an `open` whose mode is not known to read does."""
    called = ast.unparse(call.func)
    name = called.rpartition(".")[2]
    if called == "os.open":
        return "os.O_RDONLY" not in ast.unparse(call)
    if name != "open":
        return bool({name, called} & WRITERS) and not called.startswith("atomic.")
    # Path.open has the mode first, the builtin after the path.
    given = call.args[called == "open" :]
    modes = [*given[:1], *(k.value for k in call.keywords if k.arg == "mode")]
    texts = [m.value if isinstance(m, ast.Constant) else "w" for m in modes] or ["r"]
    return bool(set(str(texts[0])) & set("wax+"))


def test_files_are_written_whole_and_through_no_link():
    found = set()
    for path, call in nodes(ast.Call):
        if path in MODULES + RESEARCH and may_write(call):
            where = name_of(path)
            name = ast.unparse(call.func).rpartition(".")[2]
            found.add(where if where in MAY_WRITE else f"{where} {name}")
    assert found == set(MAY_WRITE)


@pytest.mark.parametrize("name", balancers())
def test_every_argument_of_a_balancer_is_in_a_yaml(name):
    files = [
        yaml.safe_load(path.read_text()) for path in (ROOT / "configs/balancer").glob("*.yaml")
    ]
    files = [node.get("balancer", node) for node in files]
    target = f"mbrec.balance.{name}"
    keys = {key for node in files if node.get("_target_") == target for key in node}
    arguments = set(inspect.signature(balancers()[name]).parameters) - {"num_tasks"}
    assert keys - {"_target_"} == arguments, f"configs/balancer against {target}"


def test_every_setting_is_read_and_not_only_checked():
    schema = dataclasses_of(Config)
    expected = {"Task", "Columns", "Categorical", "Numerical", "Synthetic", "Run", "Optimizer"}
    assert expected < set(schema)
    checks = {
        id(inner)
        for _, node in nodes(FUNCTIONS)
        if node.name == "__post_init__"
        for inner in ast.walk(node)
    }
    found = [n for _, n in nodes(ast.Attribute) if isinstance(n.ctx, ast.Load)]
    read = {n.attr for n in found if id(n) not in checks}
    fields = {
        (name, field.name) for name, kind in schema.items() for field in dataclasses.fields(kind)
    }
    assert {f"{name}.{field}" for name, field in fields if field not in read} == set()
