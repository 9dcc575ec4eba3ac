"""Recommendations from an export, with onnxruntime and numpy; torch is not needed.

recommender = OnnxRecommender.load("exports/games")
print(recommender.recommend(histories=[("B0001", 1405296000), ("B0002", 1405382400)]).table())
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from hm4sr.data.dataset import EventLog
from hm4sr.data.tables import read_own
from hm4sr.errors import UserError
from hm4sr.files import reason
from hm4sr.manifest import NAME, check_format, read_manifest, verify_listed
from hm4sr.serving.base import BaseRecommender, Served
from hm4sr.serving.histories import InventedTimes
from hm4sr.serving.ranker import DotProductRanker
from hm4sr.serving.requests import PaddedHistories, Users
from hm4sr.serving.search import Floats
from hm4sr.serving.shelf import Shelf

FORMAT = "hm4sr-onnx"
VERSION = 1
FILES = ["encoder.onnx", "items.parquet", "items.safetensors"]
INPUTS = ("items", "times", "lengths", "asked")


class OnnxRecommender(BaseRecommender):
    """Answers as `Recommender` does, after given histories: an export holds no users."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], vectors: Floats, session: Any):
        self._session = session
        self._inputs = [value.name for value in session.get_inputs()]  # those that the model reads
        table = read_own(folder / "items.parquet")
        counts = np.concatenate([[0], table["events"].to_numpy()]).astype(np.int64)
        self._blocks = {
            name: slice(int(start), int(stop)) for name, (start, stop) in manifest["blocks"].items()
        }
        seen_bias = float(manifest.get("seen_bias", 0.0))
        if not math.isfinite(seen_bias):
            raise ValueError(f"a seen_bias of {seen_bias}")
        ranker = DotProductRanker(self._encode, vectors, self._blocks, seen_bias=seen_bias)
        super().__init__(
            Served(Shelf(table, counts), ranker),
            Users({}, _no_events(), f"the export {folder}"),
            InventedTimes(int(manifest["invented"]["last"]), int(manifest["invented"]["gap"])),
            int(manifest["max_length"]),
        )

    @classmethod
    def load(cls, folder: str | Path, threads: int = 0) -> "OnnxRecommender":
        """Load what `hm4sr export` wrote.

        Args:
            folder: the export.
            threads: processor threads of the encoder; 0 leaves the choice to onnxruntime.

        Raises:
            UserError: no export is there, a file is damaged, or onnxruntime is not installed.
        """
        folder = Path(folder)
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                "an export is run by onnxruntime: install it with `pip install 'hm4sr[export]'`."
            ) from error
        if not (folder / NAME).is_file():
            raise UserError(f"{folder} is not an export (no manifest.json): run `hm4sr export` first.")
        manifest = read_manifest(folder / NAME)
        advice = "give a folder written by `hm4sr export`"
        check_format(folder, manifest, (FORMAT, VERSION), "an export", advice)
        verify_listed(folder, manifest, FILES)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors are raised as well as logged
        try:
            vectors = load_file(folder / "items.safetensors")["vectors"]
            session = onnxruntime.InferenceSession(
                str(folder / "encoder.onnx"), options, providers=["CPUExecutionProvider"]
            )
            export = cls(folder, manifest, vectors, session)
            export._try(vectors)
        except UserError:
            raise
        except Exception as error:  # what onnxruntime raises has no name of its own to catch it by
            raise UserError(
                f"{folder} cannot be read by this onnxruntime ({reason(error)}): export again."
            ) from error
        return export

    def _try(self, vectors: Floats) -> None:
        """See that the parts fit each other, which hashes do not tell.

        Raises:
            ValueError: they do not, or the encoder fails on a history of one event.
        """
        if vectors.ndim != 2 or len(vectors) != len(self.served.shelf) + 1 or vectors.dtype != np.float32:
            raise ValueError(f"vectors {vectors.shape} for {len(self.served.shelf):,} items")
        if strange := set(self._inputs) - set(INPUTS):
            raise ValueError(f"the encoder asks for {sorted(strange)}")
        if not all(0 <= block.start <= block.stop <= vectors.shape[1] for block in self._blocks.values()):
            raise ValueError("blocks beyond the vectors")
        one, moment = np.ones((1, 1), dtype=np.int64), np.full((1, 1), self.invented.last, dtype=np.int64)
        first = self._encode(PaddedHistories(one, moment, one[0], -one[0], moment[0], one[:, :0]))
        if first.shape != (1, vectors.shape[1]):
            raise ValueError(f"the encoder gives {first.shape} for vectors {vectors.shape}")

    def _encode(self, histories: PaddedHistories) -> Floats:
        """Vectors of histories (B x Q)."""
        given = {name: np.ascontiguousarray(getattr(histories, name)) for name in self._inputs}
        vectors: Floats = self._session.run(None, given)[0]
        return vectors


def _no_events() -> EventLog:
    nothing = np.zeros(0, dtype=np.int64)
    return EventLog(nothing.astype(np.int32), nothing, np.zeros(1, dtype=np.int64), nothing, nothing)
