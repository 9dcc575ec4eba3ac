"""An item table of which each process keeps some rows learns, judges and is saved as a whole one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from contract.catalogs import histories, rows_of, small_catalog, small_model, without_noise
from contract.test_parallel import LENGTHS, alike, known_rows
from hm4sr.errors import UserError
from hm4sr.evaluation import ranking
from hm4sr.models import registered_models
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.ranks import current, together
from hm4sr.nn.shards import sharded_tables
from hm4sr.training.optimizer import Optimizer
from hm4sr.training.settings import Experiment
from hm4sr.training.sharding import load_whole, save_whole
from processes import in_processes

SHARDABLE = sorted(name for name, model in registered_models().items() if model.shardable)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in SHARDABLE},
    **{f"{name}, sampled": (name, {}) for name in SHARDABLE},
    **{f"{name}, fewer rows than processes": (name, {}) for name in SHARDABLE},
    **{f"{name}, sampled, fewer rows than processes": (name, {}) for name in SHARDABLE},
    "hm4sr, padding scored": ("hm4sr", {"score_padding": True}),
    "hm4sr, bfloat16": ("hm4sr", {}),
    "hm4sr-plus, no seen term": ("hm4sr-plus", {"seen_bias": False}),
}
NEGATIVES = 7
STEPS = 3


def prepared(case: str) -> tuple[SeqRecModel, Optimizer]:
    name, settings = CASES[case]
    model = small_model(
        name, replace(small_catalog(), target_counts=torch.arange(41)), **without_noise(name), **settings
    )
    model.train()
    alike(model)
    if getattr(model, "seen", None) is not None:
        torch.nn.init.constant_(model.seen.weight, 0.1)
    sampled = "sampled" in case
    if sampled:
        model.negatives = NEGATIVES
    if "bfloat16" in case:
        model.matmul_dtype = torch.bfloat16
    if current().size > 1:
        model.shard_items(current())
    return model, Optimizer(model, 0.01, 0.0, sparse=sampled, average=0.0 if sampled else 0.9)


def learned(case: str) -> dict[str, Tensor]:
    """Losses of some steps, this process's part of each, and what the weights and moments are then."""
    ranks = current()
    model, optimizer = prepared(case)
    batch = histories(LENGTHS[:1] if "fewer" in case else LENGTHS, parallel=True)
    found = {}
    for step in range(STEPS):
        if model.negatives:  # rank 1 goes on where rank 0 stops drawing
            model.rng = torch.Generator().manual_seed(step)
            if ranks.rank:
                torch.randint(1, 41, (NEGATIVES // 2,), generator=model.rng)
        with together(replace(ranks, rows=known_rows(batch, ranks.size))):
            terms = model.losses(rows_of(batch, slice(ranks.rank, None, ranks.size)))
        optimizer.step(torch.stack(list(terms.values())).sum())
        found |= {f"loss {term} {step}": value.detach() for term, value in terms.items()}
    sharded = sharded_tables(model)
    found |= {f"part {k}" if k in sharded else k: v for k, v in model.state_dict().items()}
    found |= {f"part {k}" if optimizer.has_rows(k) else k: v for k, v in optimizer.state().items()}
    return {f"{case}: {key}": value for key, value in found.items()}


def all_learned() -> dict[str, Tensor]:
    return {key: value for case in CASES for key, value in learned(case).items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, Tensor]]:
    return in_processes(2, tmp_path_factory.mktemp("processes"), all_learned)


@pytest.mark.parametrize("case", CASES)
def test_it_learns_what_one_process_learns(case, found):
    alone = learned(case)
    first, second = ({k: v for k, v in one.items() if k.startswith(f"{case}: ")} for one in found)
    assert first.keys() == second.keys()
    tolerance = {"rtol": 0.02, "atol": 0.02} if "bfloat16" in case else {"rtol": 1e-3, "atol": 1e-4}
    for key, expected in alone.items():
        if ": loss" in key:
            torch.testing.assert_close(first[key] + second[key], expected, **tolerance)
        elif key in first:
            assert torch.equal(first[key], second[key]), f"{key}: the processes would drift apart"
            torch.testing.assert_close(first[key], expected, **tolerance, msg=key)
        else:
            parts = [one[key.replace(": ", ": part ", 1)] for one in (first, second)]
            assert [len(part) for part in parts] == [20, 21]
            torch.testing.assert_close(torch.cat(parts), expected, **tolerance, msg=key)
    kept = [key for key in first if ": part " in key]
    assert len(kept) == (3 if "sampled" in case else 4), "weights, two moments, the average"


def test_each_process_keeps_half_of_the_numbers(found):
    """The rest of a model is the same in all processes; of the item table there is no second copy."""
    alone = learned("sasrec")
    whole = sum(value.numel() for key, value in alone.items() if "loss" not in key)
    table = 4 * 41 * 16
    for one, rows in zip(found, (20, 21), strict=True):
        here = sum(v.numel() for k, v in one.items() if k.startswith("sasrec: ") and "loss" not in k)
        assert here == whole - table + 4 * rows * 16


def test_models_that_need_their_whole_table_are_refused():
    assert {"sasrec", "hm4sr", "hm4sr-plus"} <= set(SHARDABLE)
    for name in registered_models():
        values = {"data": {"path": "d"}, "model": {"name": name}, "train": {"shard_items": True}}
        if name in SHARDABLE:
            Experiment.build(values, "test")
            continue
        with pytest.raises(UserError, match=f"shard_items = true, but {name} needs its whole item table"):
            Experiment.build(values, "test")


def test_it_is_not_compiled():
    train = {"shard_items": True, "compile": True}
    with pytest.raises(UserError, match=r"train\.compile is not made for train\.shard_items"):
        Experiment.build({"data": {"path": "d"}, "model": {"name": "sasrec"}, "train": train}, "test")


def ranked(names: list[str]) -> dict[str, Tensor]:
    """Ranks of targets among all items and among those not had, of fresh models."""
    found = {}
    batch = histories(LENGTHS, parallel=True)
    targets = torch.tensor([1, 40, 20, 19, 21, 7, 33])
    for name in names:
        model = small_model(name, **without_noise(name))
        if getattr(model, "seen", None) is not None:
            torch.nn.init.constant_(model.seen.weight, 0.1)
        if current().size > 1:
            model.shard_items(current())
        for unseen in (False, True):
            rank = ranking._ranks if model.bounds is None else ranking._ranks_together
            with torch.inference_mode(), ranking.judging(model) as candidates:
                found[f"{name} {unseen}"] = rank(model, candidates, batch, targets, unseen)
    return found


def test_it_ranks_among_all_items(tmp_path):
    first, second = in_processes(2, tmp_path, ranked, SHARDABLE)
    for key, expected in ranked(SHARDABLE).items():
        assert len(expected.unique()) > 3
        assert torch.equal(first[key], expected), key
        assert torch.equal(second[key], expected), key


TENSORS = {
    "table": torch.randn(41, 3),
    "moment": torch.arange(41, dtype=torch.float64)[:, None],
    "rest": torch.randn(5),
    "steps": torch.tensor(7),
}


def is_part(name: str) -> bool:
    return name in ("table", "moment")


def saved_and_read(tensors: dict[str, Tensor], folder: Path, source: Path) -> dict[str, Tensor]:
    """Write this process's part, and read its part of what one process wrote."""
    rank, size = current().rank, current().size
    bounds = [41 * number // size for number in range(size + 1)]
    mine = {k: v[bounds[rank] : bounds[rank + 1]] if is_part(k) else v for k, v in tensors.items()}
    save_whole(mine, None if rank else folder / "whole.safetensors", bounds, is_part)
    read = load_whole(None if rank else source, bounds, is_part)
    assert read.keys() == mine.keys()
    for name, tensor in mine.items():
        assert torch.equal(read[name], tensor), name
    return {}


@pytest.mark.parametrize("size", [2, 3])
def test_the_file_is_that_of_one_process(tmp_path, size, monkeypatch):
    monkeypatch.setattr("hm4sr.training.sharding._ROWS", 7)
    source = tmp_path / "one.safetensors"
    save_file(TENSORS, source)
    in_processes(size, tmp_path, saved_and_read, TENSORS, tmp_path, source)
    assert (tmp_path / "whole.safetensors").read_bytes() == source.read_bytes()
    assert not list(tmp_path.glob("*.part-*"))
    assert load_file(source).keys() == TENSORS.keys()
