"""A run as files that onnxruntime reads, so that recommending needs no torch.

OUT/encoder.onnx          items (B x L, int64), times (B x L, int64), lengths (B, int64) -> vectors (B x Q)
OUT/items.safetensors     "vectors" (V x Q, float32; row 0 is padding)
OUT/items.parquet         item_id, title, categories, events (in training); row r is item number r + 1
OUT/manifest.json         settings, how well it agrees with the model, sha256 of every file
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from hm4sr.errors import UserError
from hm4sr.files import atomic_directory, hash_files, reason, sha256
from hm4sr.manifest import NAME, read_manifest, write_manifest
from hm4sr.models.base import SeqRecModel
from hm4sr.runtime import numpy_generator
from hm4sr.serving.onnx_recommender import FILES, FORMAT, INPUTS, VERSION, OnnxRecommender
from hm4sr.serving.ranker import DotProductRanker
from hm4sr.serving.recommender import Recommender
from hm4sr.types import SeqBatch

WANTED = 0.999
"""Share of the compared lists that must be the same."""
_LISTS, _K = 2_000, 20
_OPSET = 18


@dataclass(frozen=True)
class Agreement:
    """How an export compares with the model.

    Attributes:
        lists: compared lists of 20 items.
        same: share of them with the same items in the same order.
    """

    lists: int
    same: float


def export_onnx(run: Path, out: Path, data: Path | None = None, force: bool = False) -> Agreement:
    """Write an export, whole or not at all.

    Args:
        run: the run folder.
        out: folder to write.
        data: the prepared data set, if it has moved.
        force: replace an export that is there.

    Raises:
        UserError: the run cannot be used, its model cannot be exported or the export does not agree with it,
            `out` holds something, or onnxruntime is not installed.
    """
    _check(out, force)
    recommender = Recommender.load(run, data, "cpu")
    ranker = recommender.served.ranker
    if not isinstance(ranker, DotProductRanker):
        raise UserError(
            f"{run}: the scores of its model are no dot products, and only such models can be exported: "
            "serve it with torch."
        )
    with atomic_directory(out) as folder:
        _write_encoder(recommender.model, folder / "encoder.onnx", str(run))
        save_file({"vectors": ranker.vectors}, folder / "items.safetensors")
        shelf = recommender.served.shelf
        items = shelf.table.with_columns(events=pl.Series(shelf.counts[1:], dtype=pl.Int64))
        items.write_parquet(folder / "items.parquet", compression="zstd")
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "model": recommender.model.name,
            "run": sha256(run / NAME),
            "max_length": recommender.max_length,
            "blocks": {name: [block.start, block.stop] for name, block in ranker.blocks.items()},
            "seen_bias": ranker.seen_bias,
            "invented": {"last": recommender.invented.last, "gap": recommender.invented.gap},
            "files": hash_files(folder, FILES),
        }
        write_manifest(folder / NAME, manifest)
        try:
            agreement = _compare(recommender, OnnxRecommender.load(folder))
        except Exception as error:  # what onnxruntime raises has no name of its own to catch it by
            raise UserError(
                f"{run}: the export of its model {recommender.model.name} does not run "
                f"({reason(error.__cause__ or error)}), so it was not kept: serve the run with torch."
            ) from error
        if agreement.same < WANTED:
            raise UserError(
                f"{run}: only {agreement.same:.2%} of {agreement.lists:,} lists of the export are those of "
                "the model, so it was not kept: serve the run with torch."
            )
        write_manifest(folder / NAME, {**manifest, "same_lists": agreement.same})
    return agreement


def _check(out: Path, force: bool) -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            "an export needs onnx and onnxruntime: install them with `pip install 'hm4sr[export]'`."
        ) from error
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = out / NAME
    if not manifest.is_file() or read_manifest(manifest).get("format") != FORMAT:
        raise UserError(f"{out} exists and is no export: name another folder with --out.")
    if not force:
        raise UserError(f"{out} holds an export already: add --force to replace it, or name another --out.")


class _Encoder(nn.Module):
    """A model as a function of tensors."""

    def __init__(self, model: SeqRecModel):
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, times: Tensor, lengths: Tensor, asked: Tensor) -> Tensor:
        nobody = torch.full_like(lengths, -1)
        moments = asked[:, None].expand_as(items)
        batch = SeqBatch(items, times, lengths, torch.zeros_like(items), nobody, moments)
        return self.model.last_hidden(batch)


def _write_encoder(model: SeqRecModel, path: Path, run: str) -> None:
    """Trace the model on one batch.

    The tracer, unlike torch.export, needs no further package and takes seconds instead of a minute. What it
    cannot see, a model that computes otherwise for another batch, shows in the comparison of the lists.
    """
    rng = numpy_generator(0, "export")
    width = min(7, model.catalog.max_length)
    items = torch.from_numpy(rng.integers(1, model.catalog.num_rows, (5, width)))
    times = model.catalog.clock.first + torch.arange(width).expand(5, -1) * 86_400
    lengths = torch.tensor([width, 1, max(1, width - 2), max(1, width // 2), 1])
    free = {"items": {0: "B", 1: "L"}, "times": {0: "B", 1: "L"}}
    free |= {name: {0: "B"} for name in ("lengths", "asked", "vectors")}
    asked = times[:, -1] + torch.arange(5) * 3_600
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), _double_log2(), _no_graph():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Encoder(model).eval(),
                (items, times.contiguous(), lengths, asked),
                str(path),
                dynamo=False,
                input_names=list(INPUTS),
                output_names=["vectors"],
                dynamic_axes=free,
                opset_version=_OPSET,
            )
    except Exception as error:  # whatever an operation without counterpart raises
        raise UserError(
            f"{run}: the model {model.name} cannot be exported to ONNX ({reason(error)}): "
            "serve the run with torch."
        ) from error


@contextlib.contextmanager
def _double_log2() -> Iterator[None]:
    """Let a float64 log2 be log(x) / log(2), a few units of the last place too large.

    The tracer divides by a float32 log(2), and onnxruntime's logarithm can be one unit too small: intervals
    of 2^n - 1 seconds, whose row is a whole number exactly, would fall into the row below. No other whole
    number of seconds comes so near to the edge of a row from below.
    """

    def log2(graph: Any, x: Any) -> Any:
        exact = x.type().scalarType() == "Double"
        divisor = math.log(2.0) * (1.0 - 2e-15 if exact else 1.0)
        constant = torch.tensor(divisor, dtype=torch.float64 if exact else torch.float32)
        return graph.op("Div", graph.op("Log", x), graph.op("Constant", value_t=constant))

    onnx: Any = torch.onnx
    onnx.register_custom_op_symbolic("aten::log2", log2, _OPSET)
    try:
        yield
    finally:
        onnx.unregister_custom_op_symbolic("aten::log2", _OPSET)


@contextlib.contextmanager
def _no_graph() -> Iterator[None]:
    """Keep the tracer, which has no switch for it, from printing its graph before it refuses an operation."""
    backend: Any = torch._C
    said = getattr(backend, "_jit_onnx_log", None)
    if said is None:  # not torch's public interface: another version may have none
        yield
        return
    backend._jit_onnx_log = lambda *parts: None
    try:
        yield
    finally:
        backend._jit_onnx_log = said


def _compare(model: Recommender, export: OnnxRecommender) -> Agreement:
    """Lists after histories of users, whole and cut short at random, by both."""
    rng = numpy_generator(0, "compare")
    users = model.dataset.users["user_id"].to_list()
    chosen = [users[row] for row in rng.integers(0, len(users), _LISTS)] if users else []
    histories: list[Any] = []
    for user in chosen:
        events = model.history(user)
        histories.append(events[: int(rng.integers(1, len(events) + 1))] if events else [])
    if not histories:
        return Agreement(0, 1.0)
    ours = model.recommend(histories=histories, k=_K)
    theirs = export.recommend(histories=histories, k=_K)
    same = (ours.numbers == theirs.numbers).all(axis=1)
    return Agreement(len(histories), float(np.mean(same)))
