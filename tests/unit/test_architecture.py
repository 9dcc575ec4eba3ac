"""The rules of the source tree."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "hm4sr"
MODULES = sorted(PACKAGE.rglob("*.py"))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_imports_flow_one_way():
    code = (
        "import sys\nfrom importlinter.cli import lint_imports\n"
        "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True, no_logo=True))"
    )
    output = in_a_fresh_process(code)
    assert f"{len(CONTRACTS)} kept, 0 broken" in output


def test_every_room_of_the_contracts_exists():
    layers = next(contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
    rooms = [room.strip() for layer in layers for room in layer.split("|")]
    names = {module_name(path) for path in MODULES}
    assert set(rooms) <= names
    top = {name for name in names if name.count(".") == 1}
    assert top == set(rooms), "every top-level module has its place among the layers"


HELP = """
import sys
from hm4sr.cli import main
try:
    main(["--help"])
except SystemExit as exit:
    assert exit.code == 0
print("loaded:", [name for name in ("torch", "polars", "numpy", "transformers") if name in sys.modules])
"""


def test_help_loads_nothing_heavy():
    output = in_a_fresh_process(HELP)
    assert "recommend" in output
    assert "loaded: []" in output


def test_importing_the_package_loads_nothing_heavy():
    assert in_a_fresh_process("import sys, hm4sr; print('torch' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_has_a_docstring_and_fits_its_size(path):
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source))
    assert len(source.splitlines()) <= 400


FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.jit.load", "yaml.load", "numpy.fromfile"}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_executable_is_loaded_from_disk(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_IMPORTS
            assert not (node.module == "torch" and {alias.name for alias in node.names} & {"load", "save"})
        elif isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert keywords.get("allow_pickle") != "True"
            assert keywords.get("trust_remote_code") != "True"


def test_library_code_never_prints():
    for path in MODULES:
        if "cli" in path.parts or path.name == "progress.py":
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert "print" not in {ast.unparse(call.func) for call in calls}, path


def test_annotated_modules_keep_their_annotations():
    """Postponed annotations would be strings that nobody checks."""
    for path in MODULES:
        source = path.read_text()
        if re.search(r"^from jaxtyping import", source, re.MULTILINE):
            assert "from __future__ import annotations" not in source, path
