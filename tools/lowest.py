"""The quick tests with the lowest versions that pyproject.toml allows: `python -m tools.lowest FOLDER`.

Direct dependencies are resolved to their lowest versions, torch and the tools of development stay as pinned:
on the common index an older torch comes with gigabytes of GPU libraries, and an older linter says nothing
about the package. FOLDER gets the list and a virtual environment.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("features", "tune", "faiss", "export", "distributed", "serve")
_KEPT = ("torch",)
_TOOLS = (
    *("beartype", "hypothesis", "import-linter", "ir-measures", "pytest", "pytest-benchmark", "pytest-xdist"),
    *("scipy", "httpx>=0.28"),  # the second is what an older starlette asks services with in tests
)
"""What the tests need beside the package."""


def main(folder: Path) -> None:
    """Resolve, install and test."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pinned.txt").write_text("\n".join(_pins((*_KEPT, *_TOOLS))) + "\n")
    (folder / "wanted.txt").write_text("\n".join([*_direct(), *_TOOLS]) + "\n")
    list_of_versions = folder / "lowest.txt"
    uv = [sys.executable, "-m", "uv"]
    _run(
        [
            *(*uv, "pip", "compile", "--quiet", "--resolution", "lowest-direct"),
            *("--no-header", "--no-annotate", "--no-emit-package", "torch"),
            *("--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"),
            *("--constraint", str(folder / "pinned.txt")),
            *("--output-file", str(list_of_versions), str(folder / "wanted.txt")),
        ]
    )
    lines = [line for line in list_of_versions.read_text().splitlines() if not _of_gpu(line)]
    list_of_versions.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    environment = folder / "venv"
    _run([sys.executable, "-m", "venv", "--clear", str(environment)])
    python = str(environment / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet"]
    # As in `make install`: torch by its pin and alone, then what it needs is there and nothing replaces it.
    _run([*install, *_pins(_KEPT)])
    _run([*install, "--requirement", str(list_of_versions)])
    _run([*install, "--no-deps", "--editable", str(ROOT)])
    _run([python, "-m", "pip", "check"])
    _run([python, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider"])


def _direct() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name in EXTRAS for line in optional[name])]
    return [line for line in wanted if not line.startswith("hm4sr")]


def _pins(names: tuple[str, ...]) -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line.partition("==")[0] in names]


def _of_gpu(line: str) -> bool:
    """Libraries that a GPU build of torch would bring along."""
    return line.startswith(("nvidia-", "cuda-", "triton"))


def _run(command: list[str]) -> None:
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
