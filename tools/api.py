"""Names and signatures of the public modules: `python -m tools.api` writes tests/public_api.txt."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "hm4sr"
SNAPSHOT = ROOT / "tests" / "public_api.txt"
_PRIVATE_ROOMS = ("cli", "experiments/page_style")
"""The command line is documented as commands, and a stylesheet is no interface."""


def listing() -> str:
    """One line for each public name, read from the source: nothing has to be installed or imported."""
    lines: list[str] = []
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).with_suffix("").as_posix()
        if place.startswith(_PRIVATE_ROOMS):
            continue
        module = f"hm4sr.{place.replace('/', '.')}".removesuffix(".__init__")
        lines += [f"{module}: {line}" for line in _names(ast.parse(file.read_text(encoding="utf-8")))]
    return "\n".join(lines) + "\n"


def _names(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() if _public(node.name):
                yield _signature(node)
            case ast.ClassDef() if not node.name.startswith("_"):
                bases = ", ".join(ast.unparse(base) for base in node.bases)
                yield f"class {node.name}({bases})" if bases else f"class {node.name}"
                yield from (f"{node.name}.{line}" for line in _names(node))
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                yield f"{name}: {ast.unparse(node.annotation)}"
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_") and name != "logger":
                yield name


def _public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    kinds = [ast.unparse(decorator) for decorator in node.decorator_list]
    marks = "".join(f"@{kind} " for kind in kinds if kind in ("property", "classmethod", "staticmethod"))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{marks}{node.name}({ast.unparse(node.args)}){returns}"


if __name__ == "__main__":
    SNAPSHOT.write_text(listing(), encoding="utf-8")
