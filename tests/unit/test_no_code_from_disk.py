"""Nothing executable is loaded from disk: no such call in the sources, no pickle opened while they run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hm4sr
from hm4sr.errors import UserError
from hm4sr.features.pretrained import _check_files
from hm4sr.training.run import train_run
from hostile_kit import numpy_archive, pickled, torch_file
from training_kit import experiment_on, make_dataset

PACKAGE = Path(hm4sr.__file__).parent
MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS = {"torch.load", "torch.jit.load", "torch.package", "numpy.load", "np.load", "pl.deserialize"}
METHODS = {"deserialize", "unsafe_load"}
BUILTINS = {"eval", "exec", "compile", "__import__"}


def offences(source: str) -> list[str]:
    """What in a module could execute content of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.partition(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                found.append(module)
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                found.append(name)
            case ast.Call(func=ast.Attribute(attr=attribute) as called):
                if ast.unparse(called) in CALLS or attribute in METHODS:
                    found.append(ast.unparse(called))
                if any(word.arg == "allow_pickle" for word in node.keywords):
                    found.append("allow_pickle")
            case ast.keyword(arg="trust_remote_code" | "weights_only", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    found.append(ast.unparse(node))
            case ast.keyword(arg="use_safetensors", value=value):
                if not (isinstance(value, ast.Constant) and value.value is True):
                    found.append(ast.unparse(node))
    return found


def test_no_module_executes_what_it_reads() -> None:
    found = {str(file.relative_to(PACKAGE)): offences(file.read_text()) for file in PACKAGE.rglob("*.py")}
    assert len(found) > 100
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "import torch\ntorch.load('x')",
        "np.load(file, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "AutoModel.from_pretrained(x, trust_remote_code=flag)",
        "AutoModel.from_pretrained(x, use_safetensors=None)",
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert offences(source)


AUDITED = """
import sys
from pathlib import Path
# What libraries bring with them is imported before anything is watched.
from hm4sr.serving.recommender import Recommender
from hm4sr.training.run import Run
found = []
def watch(event, arguments):
    if event in ("pickle.find_class", "marshal.loads", "marshal.load"):
        found.append((event, arguments))
recommender = Recommender.load(Path({run!r}))
sys.addaudithook(watch)
run = Run.open(Path({run!r}))
run.load_model(run.dataset())
run.ranks(), run.metrics(), run.items
recommender = Recommender.load(Path({run!r}))
answer = recommender.recommend(histories=[[(item, 0) for item in run.items["item_id"][:2]]], k=3)
assert answer
print("found", [one for one in found if one[0] == "pickle.find_class"])
import pickle, collections
pickle.loads(pickle.dumps(collections.OrderedDict()))
print("watched", any(one[0] == "pickle.find_class" for one in found))
"""


def test_loading_a_run_and_recommending_opens_no_pickle(tmp_path: Path) -> None:
    make_dataset(tmp_path / "shop")
    train_run(experiment_on(tmp_path / "shop", epochs=1), tmp_path / "run")
    code = AUDITED.format(run=str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["found []", "watched True"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pth"])
def test_an_encoder_that_is_a_pickle_is_refused_by_name(tmp_path: Path, name: str) -> None:
    trace, folder = tmp_path / "trace", tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / name).write_bytes(torch_file(trace))
    with pytest.raises(UserError, match=rf"has only {name}, which could execute code when loaded"):
        _check_files(folder, str(folder), "text")
    assert not trace.exists()


@pytest.mark.parametrize("make", [pickled, torch_file, numpy_archive])
def test_weights_that_are_a_pickle_are_refused_and_not_executed(tmp_path: Path, make) -> None:
    from hm4sr.files import hash_files
    from hm4sr.manifest import NAME, read_manifest, write_manifest
    from hm4sr.training.run import Run

    trace = tmp_path / "trace"
    make_dataset(tmp_path / "shop")
    run = train_run(experiment_on(tmp_path / "shop", epochs=1), tmp_path / "run")
    (run.path / "model.safetensors").write_bytes(make(trace))
    manifest = read_manifest(run.path / NAME)
    sealed = {**manifest, "files": hash_files(run.path, list(manifest["files"]))}
    write_manifest(run.path / NAME, sealed)
    opened = Run.open(run.path)
    with pytest.raises(UserError, match=r"model\.safetensors does not fit"):
        opened.load_model(opened.dataset())
    assert not trace.exists()
