"""The whole of HM4SR against plain loops."""

from typing import Any

import pytest
import torch
from hm4sr_kit import Oracle, build, close, lively, small_world

from contract.catalogs import small_catalog


@pytest.mark.parametrize("modalities", [("image", "text"), ("text",)])
@pytest.mark.parametrize("exclude", [True, False])
def test_the_whole_model_by_hand(modalities, exclude, monkeypatch):
    _, batch = small_world()
    catalog = small_catalog(8, modalities, width=5)
    settings: dict[str, Any] = {"dim": 4, "inner": 6, "interactive_experts": 2, "temporal_experts": 3}
    weights = {
        "cp_weight": 0.7,
        "idcl_weight": 1.3,
        "pcl_weight": 0.4,
        "temperature": 0.3,
        "pcl_temperature": 0.8,
    }
    model = build(
        catalog, dropout=0.0, attention_dropout=0.0, exclude_false_negatives=exclude, **settings, **weights
    )
    oracle = Oracle(lively(model).train())
    replaced = model._draw_replaced(batch)
    assert replaced.any()
    monkeypatch.setattr(model, "_draw_replaced", lambda _: replaced)
    actual, expected = model.losses(batch), oracle.losses(batch, replaced[..., 0])
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].item() == pytest.approx(value, rel=1e-5, abs=1e-5), name
    with torch.no_grad():
        scores = model.eval().scores(batch, model.item_vectors())
    for row, length in enumerate(batch.lengths.tolist()):
        last = torch.cat([h[length - 1] for h in oracle.hidden(batch, row)])
        close(scores[row, 1:], [float(last @ oracle.flat_x(item)) for item in range(1, 9)])
