"""Targets: folders that hm4sr writes, with other files in them whose hashes are right."""

import io
import json
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuzz.target import Target, logging_off, refused_or_read


def manifest(folder: Path) -> Target:
    """Manifests as bytes, and well sealed ones with any values, of all kinds of folders."""
    from hm4sr.experiments.verify import verify
    from hm4sr.manifest import NAME, write_manifest

    place = folder / "something"
    place.mkdir()

    def run(data: bytes) -> None:
        if data[:1] == b"\0":
            values = _object(data[1:])
            if values is None:
                return
            write_manifest(place / NAME, values)
        else:
            (place / NAME).write_bytes(data[1:])
        refused_or_read(lambda: verify(place))

    formats = ["hm4sr-run", "hm4sr-dataset", "hm4sr-onnx", "hm4sr-recommendations", "hm4sr-report"]
    seeds = []
    for name in formats:
        values = {"format": name, "version": 1, "files": {"model.safetensors": "0" * 64}, "question": {}}
        seeds += [mark + json.dumps(values).encode() for mark in (b"\0", b"\1")]
    return Target(
        run, seeds, [name.encode() for name in formats] + [b'"files"', b"../", b"null", b"{}", b'"seal"']
    )


def small_run(folder: Path) -> None:
    """A prepared data set with features and a run on it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from hm4sr.training.run import train_run
    from training_kit import experiment_on, make_dataset

    logging_off()
    make_dataset(folder / "shop")
    train_run(experiment_on(folder / "shop", epochs=1), folder / "run")


def _object(data: bytes) -> dict[str, Any] | None:
    """A JSON object that a file can hold, or nothing."""
    try:
        values = json.loads(data)
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _replacing(place: Path, files: Sequence[str], use: Callable[[], None]) -> Callable[[bytes], None]:
    """Put an input in the place of one of a folder's files, make its hash right, use the folder, mend it."""
    from hm4sr.files import hash_files
    from hm4sr.manifest import NAME, read_manifest, write_manifest

    whole = {name: (place / name).read_bytes() for name in [*files, NAME]}
    values = read_manifest(place / NAME)

    def run(data: bytes) -> None:
        name = [*files, NAME][(data or b"\0")[0] % (len(files) + 1)]
        if name == NAME:
            others = _object(data[1:])
            if others is None:
                return
            write_manifest(place / NAME, {**values, **others})
        else:
            (place / name).write_bytes(data[1:])
            write_manifest(place / NAME, {**values, "files": values["files"] | hash_files(place, [name])})
        try:
            refused_or_read(use)
        finally:
            for changed in (name, NAME):
                (place / changed).write_bytes(whole[changed])

    return run


def dataset(folder: Path) -> Target:
    """The tables of a prepared data set, with right hashes."""
    from hm4sr.data.dataset import TABLES, Dataset

    small_run(folder)
    place = folder / "shop"

    def use() -> None:
        found = Dataset.open(place)
        assert found.events.num_events >= 0
        assert len(found.users) >= 0
        assert len(found.items) >= 0

    seeds = []
    for number, name in enumerate(TABLES):
        import polars as pl

        stream = io.BytesIO()
        frame = pl.read_parquet(place / name).head(5)
        frame.write_parquet(stream, compression="uncompressed", statistics=False)
        seeds += [bytes([number]) + stream.getvalue(), bytes([number]) + (place / name).read_bytes()]
    return Target(_replacing(place, TABLES, use), seeds, [b"PAR1", b"\xff\xff\xff\xff"])


def run_folder(folder: Path) -> Target:
    """The JSON and Parquet files of a run, with right hashes."""
    from hm4sr.experiments.records import Record
    from hm4sr.training.run import FILES, Run

    small_run(folder)
    place = folder / "run"

    def use() -> None:
        found = Run.open(place)
        found.load_model(found.dataset())
        found.experiment  # noqa: B018
        found.ranks  # noqa: B018
        found.metrics  # noqa: B018
        Record.open(place)

    files = [name for name in FILES if not name.endswith(".safetensors")]
    seeds = [bytes([number]) + (place / name).read_bytes() for number, name in enumerate(files)]
    words = [b"null", b"{}", b"[]", b"-1", b"1e999", b"NaN", b"9" * 25, b'"name"', b'"dim"', b"PAR1"]
    return Target(_replacing(place, files, use), seeds, words)


def export(folder: Path) -> Target:
    """The files of an export, with right hashes, and other words in its manifest."""
    from hm4sr.serving.export import export_onnx
    from hm4sr.serving.onnx_recommender import FILES, OnnxRecommender

    small_run(folder)
    place = folder / "export"
    export_onnx(folder / "run", place)

    def use() -> None:
        found = OnnxRecommender.load(place, threads=1)
        found.recommend(histories=["7"], k=3)

    seeds = [bytes([number]) + (place / name).read_bytes() for number, name in enumerate(FILES)]
    seeds.append(
        bytes([len(FILES)])
        + b'{"blocks": {"id": [0, 8]}, "max_length": 8, "invented": {"last": 1, "gap": 2}}'
    )
    return Target(
        _replacing(place, FILES, use), seeds, [b"null", b"-1", b"[]", b"{}", b"PAR1", b'"shape":[', b"1e99"]
    )


def weights(folder: Path) -> Target:
    """safetensors: the weights of a run and the vectors of a modality, with right hashes."""
    from hm4sr.data.dataset import Dataset
    from hm4sr.features.store import load_features
    from hm4sr.training.run import Run

    small_run(folder)
    features = folder / "shop" / "features" / "text"
    whole = Dataset.open(folder / "shop")

    def use_run() -> None:
        found = Run.open(folder / "run")
        found.load_model(whole)

    def use_features() -> None:
        found = load_features(whole, "text")
        assert found.vectors.shape[0] == len(found.present) == whole.num_items + 1

    runs = [
        _replacing(folder / "run", ["model.safetensors"], use_run),
        _replacing(features, ["vectors.safetensors"], use_features),
    ]

    def run(data: bytes) -> None:
        place, part = divmod((data or b"\0")[0] % 4, 2)
        runs[part](bytes([place]) + data[1:])

    def small(header: Any, content: bytes) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content

    vectors = {
        "vectors": {"dtype": "F32", "shape": [21, 1], "data_offsets": [0, 84]},
        "present": {"dtype": "BOOL", "shape": [21], "data_offsets": [84, 105]},
    }
    seeds = [
        b"\0" + (folder / "run" / "model.safetensors").read_bytes(),
        b"\1" + (features / "vectors.safetensors").read_bytes(),
        b"\1" + small(vectors, b"\0" * 84 + b"\1" * 21),
    ]
    words = [b'"dtype"', b'"F32"', b'"I64"', b'"F8_E4M3"', b'"BF16"', b'"shape"', b'"data_offsets"', b"[0,"]
    return Target(run, seeds, words)
