import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

sys.path.insert(0, str(Path(__file__).parent))
from feature_kit import make_dataset

from hm4sr.cli import main
from hm4sr.errors import UserError
from hm4sr.features.own import store_own
from hm4sr.features.store import feature_names, load_features, save_features
from hm4sr.types import ItemFeatures

IDS = ["i2", "unknown", "i0"]
ROWS = np.array([[2.0, 2.5], [9.0, 9.0], [0.0, 0.5]], dtype=np.float32)


@pytest.fixture
def shop(tmp_path):
    return make_dataset(tmp_path / "shop", ["a", "b", "c"])


def write(folder, form):
    """The same vectors in one of the forms that are read."""
    file = folder / f"audio.{form.partition(' ')[0]}"
    match form:
        case "parquet of lists":
            lists = pl.DataFrame({"item_id": [*IDS, "i1"], "vector": [*ROWS.tolist(), None]})
            lists.write_parquet(file)
        case "parquet of columns":
            pl.DataFrame({"item_id": IDS, "x": ROWS[:, 0], "y": ROWS[:, 1]}).write_parquet(file)
        case "npy":
            np.save(file, ROWS.astype(np.float64))
        case "safetensors":
            save_file({"whatever": ROWS.astype(np.float16)}, file)
    file.with_suffix(".txt").write_text("\r\n".join(IDS) + "\r\n")
    return file


@pytest.mark.parametrize("form", ["parquet of lists", "parquet of columns", "npy", "safetensors"])
def test_vectors_go_to_the_items_of_their_ids(shop, tmp_path, form):
    report = store_own(shop, "audio", write(tmp_path, form))
    stored = load_features(shop, "audio")
    assert stored.vectors.tolist() == [[0, 0], [0, 0.5], [0, 0], [2, 2.5]]
    assert stored.present.tolist() == [False, True, False, True]
    assert stored.vectors.dtype == (torch.float16 if form == "safetensors" else torch.float32)
    assert (report.present, report.missing, report.width) == (2, 1, 2)


def spoilt(folder, **columns):
    pl.DataFrame(columns).write_parquet(folder / "audio.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["i0", "i0"], "v": [[1.0], [2.0]]}, "has item 'i0' twice"),
        ({"item_id": ["i0", "i1"], "v": [[1.0], [2.0, 3.0]]}, "of the lengths"),
        (
            {"item_id": ["i0", "i1"], "v": [[1.0], [float("nan")]]},
            "item 'i1' holds a value that is not finite",
        ),
        ({"item_id": ["i0", "i1"], "v": [[1.0], [None]]}, "item 'i1' holds a value that is not finite"),
        ({"item_id": ["i0"], "v": ["text"]}, "columns of numbers alone"),
        (
            {"item_id": ["i0"], "v": [["some", "text"]]},
            r"audio\.parquet cannot be read \(the lists of column 'v' are of type String, not of numbers\)",
        ),
        ({"item_id": ["i0"], "v": [[[1.0]]]}, r"are of type List\(Float64\), not of numbers"),
        (
            {"item_id": ["i0", "i1"], "v": [[1.0], [-1e200]]},
            r"item 'i1' holds -1e\+200, which is too large for",
        ),
        (
            {"item_id": ["i0"], "v": [1], "w": [1e200]},
            r"item 'i0' holds 1e\+200, which is too large for float32",
        ),
        ({"item_id": ["i0"]}, "columns of numbers alone"),
        ({"item_id": ["x"], "v": [[1.0]]}, "has none of the items"),
        ({"item": ["i0"], "v": [[1.0]]}, "no column 'item_id'"),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_is_stored(shop, tmp_path, columns, message):
    spoilt(tmp_path, **columns)
    with pytest.raises(UserError, match=message) as caught:
        store_own(shop, "audio", tmp_path / "audio.parquet")
    assert "\n" not in str(caught.value)
    assert feature_names(shop) == []


def test_a_value_too_large_for_float32_is_named_without_a_warning(shop, tmp_path, recwarn):
    file = write(tmp_path, "npy")
    np.save(file, np.array([[1.0, 2.0], [1e200, 0.0], [3.0, 1e200]]))
    with pytest.raises(
        UserError, match=r"audio\.npy: item 'i0' holds 1e\+200, which is too large for float32"
    ):
        store_own(shop, "audio", file)
    np.save(file, np.array([[1.0, 2.0], [1e200, 0.0], [3.0, 1e38]]))  # of an item that is passed over
    assert store_own(shop, "audio", file).present == 2
    np.save(file, np.array([[1.0, 2.0], [1.0, 0.0], [3.0, np.inf]]))
    with pytest.raises(UserError, match="item 'i0' holds a value that is not finite"):
        store_own(shop, "audio", file)
    assert not recwarn.list


def test_damaged_files_are_one_sentence(shop, tmp_path):
    file = write(tmp_path, "parquet of lists")
    file.write_bytes(file.read_bytes()[:-20])
    bf16 = tmp_path / "bf16.safetensors"
    save_tensors({"a": torch.ones(3, 2, dtype=torch.bfloat16)}, bf16)
    for damaged in (file, bf16):
        with pytest.raises(UserError, match=f"{damaged.name} cannot be read") as caught:
            store_own(shop, "audio", damaged)
        assert "\n" not in str(caught.value)


def test_an_array_without_its_ids_is_refused(shop, tmp_path):
    file = write(tmp_path, "npy")
    file.with_suffix(".txt").write_text("i0\n")
    with pytest.raises(UserError, match=r"shape is \(3, 2\), but audio.txt has 1 ids"):
        store_own(shop, "audio", file)
    file.with_suffix(".txt").unlink()
    with pytest.raises(UserError, match=r"audio.txt, which should hold the item id of each row"):
        store_own(shop, "audio", file)


def test_values_that_are_not_finite_are_not_stored_from_python_either(shop):
    present = torch.arange(4) > 0
    vectors = torch.ones(4, 2)
    vectors[2, 1] = torch.inf
    with pytest.raises(UserError, match="the text vector of item 'i1' holds a value that is not finite"):
        save_features(shop, "text", ItemFeatures(vectors, present), {})
    with pytest.raises(ValueError, match="padding"):
        save_features(shop, "text", ItemFeatures(torch.ones(4, 2), torch.ones(4, dtype=torch.bool)), {})


@pytest.mark.parametrize("given", ["audio", "items=x.parquet", "a/b=x.parquet", "id=x.parquet"])
def test_a_name_that_cannot_be_one_is_refused(shop, capsys, given):
    with pytest.raises(SystemExit) as stopped:
        main(["features", str(shop.path), "--vectors", given])
    assert stopped.value.code == 2
    assert "--vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--vectors", "x={}", "--vectors", "y={}", "--vectors", "x={}"],
            "--vectors names 'x' twice: give two",
        ),
        (
            ["--vectors", "text={}", "--text", "builtin"],
            "--vectors and --text-name are both 'text': give two",
        ),
        (
            ["--vectors", "a={}", "--image", "builtin", "--image-name", "a"],
            "--vectors and --image-name are both",
        ),
    ],
)
def test_no_name_is_given_two_sources(shop, tmp_path, capsys, arguments, message):
    file = write(tmp_path, "npy")
    with pytest.raises(SystemExit) as stopped:
        main(["features", str(shop.path), *(argument.format(file) for argument in arguments)])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert (said.out, feature_names(shop)) == ("", [])


def test_vectors_may_stand_beside_encoders_of_other_names(shop, tmp_path):
    given = ["--vectors", f"text={write(tmp_path, 'npy')}", "--text", "builtin", "--text-name", "words"]
    with pytest.raises(SystemExit) as stopped:
        main(["features", str(shop.path), *given])
    assert not stopped.value.code
    assert feature_names(shop) == ["text", "words"]


def test_the_command_stores_and_reports(shop, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["features", str(shop.path), "--vectors", f"audio={write(tmp_path, 'npy')}"])
    assert not stopped.value.code
    assert "2 (66.7%)" in capsys.readouterr().out
    assert feature_names(shop) == ["audio"]


def test_pickled_objects_are_refused(shop, tmp_path):
    file = write(tmp_path, "npy")
    np.save(file, np.array([{}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="Python objects"):
        store_own(shop, "audio", file)
