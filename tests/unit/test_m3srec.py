"""M3SRec, the re-implementation: its mask, its experts and its auxiliary terms."""

from dataclasses import replace

import pytest
import torch

from contract.catalogs import histories, small_catalog, small_model
from hm4sr.models.m3srec import M3SRec
from hm4sr.nn.attention import CausalSelfAttention
from hm4sr.nn.experts import GatedFeedForward
from hm4sr.nn.losses import in_batch_contrastive


def build(catalog=None, **settings: object) -> M3SRec:
    model = small_model("m3srec", catalog, **settings)
    assert isinstance(model, M3SRec)
    return model


@pytest.mark.parametrize("training", [True, False])
def test_a_token_sees_all_tokens_of_its_own_and_of_earlier_events(training):
    attention = CausalSelfAttention(8, 2, 0.0, torch.Generator().manual_seed(0), block=3).train(training)
    x = torch.randn(1, 12, 8)
    before = attention(x)
    for changed in range(12):
        other = x.clone()
        other[0, changed] += 1.0
        moved = ((attention(other) - before).abs() > 1e-7).any(2)[0]
        assert moved.tolist() == [place // 3 >= changed // 3 for place in range(12)]


def test_attention_by_blocks_is_the_same_in_training_and_in_use():
    attention = CausalSelfAttention(8, 2, 0.0, torch.Generator().manual_seed(0), block=2)
    x = torch.randn(3, 10, 8)
    torch.testing.assert_close(attention.train()(x), attention.eval()(x))


def test_experts_are_weighted_feed_forward_parts():
    experts = GatedFeedForward(4, 6, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_()
    experts.requires_grad_(False)
    x = torch.randn(5, 4)
    gates = (x @ experts.gate.weight.T + experts.gate.bias).softmax(1)
    expected = torch.zeros(5, 4)
    for k in range(3):
        part = slice(6 * k, 6 * (k + 1))
        inner = torch.nn.functional.gelu(x @ experts.expand.weight[part].T + experts.expand.bias[part])
        expected += gates[:, k, None] * (inner @ experts.contract.weight[:, part].T + experts.bias[k])
    torch.testing.assert_close(experts(x), expected, rtol=1e-4, atol=1e-4)


def test_the_first_layer_has_experts_for_each_modality_and_the_second_shared_ones():
    assert [len(layer.experts) for layer in build().layers] == [2, 1]
    assert [len(layer.experts) for layer in build(layers=4).layers] == [2, 2, 1, 1]


def test_an_item_is_the_mean_of_its_projections_plus_its_id():
    model = build().eval()
    with torch.no_grad():
        image, text, x_id = model.item_states().chunk(3, dim=1)
        expected = torch.nn.functional.normalize((image + text) / 2 + x_id, dim=1)
        torch.testing.assert_close(model.item_vectors(), expected)
    without = build(use_id=False)
    assert without.ids is None
    assert without.item_states().shape == (41, 32)


def test_the_auxiliary_terms_contrast_history_and_answer_where_the_modality_is_there():
    model, batch = build().eval(), histories([9, 5, 7])
    targets = batch.targets[batch.targets > 0]
    with torch.no_grad():
        terms = model.losses(batch)
        hidden, _ = model.look(batch)
        parts = model.item_states()[targets].chunk(3, dim=1)
    image, text = (model.catalog.features[name].present[targets] for name in ("image", "text"))
    same = targets[:, None] == targets

    def contrast(a, b, rows):
        return float(in_batch_contrastive(a[rows], b[rows], same[rows][:, rows], 0.07))

    context = (contrast(hidden, parts[0], image) + contrast(hidden, parts[1], text)) / 2
    both = image & text
    alignment = (contrast(parts[0], parts[1], both) + contrast(parts[1], parts[0], both)) / 2
    assert float(terms["context"]) == pytest.approx(0.1 * context, rel=1e-4)
    assert float(terms["alignment"]) == pytest.approx(0.1 * alignment, rel=1e-4)


def test_one_modality_has_nothing_to_be_aligned_with():
    text = small_catalog(modalities=("text",))
    assert list(build(text).losses(histories([5, 3]))) == ["main", "context"]
    assert list(build(auxiliary_weight=0.0).losses(histories([5, 3]))) == ["main"]


def test_a_batch_whose_answers_have_no_pictures_has_nothing_to_contrast_them_with():
    catalog = small_catalog()
    nothing = torch.zeros(41, dtype=torch.bool)
    features = {name: replace(given, present=nothing) for name, given in catalog.features.items()}
    terms = build(replace(catalog, features=features)).losses(histories([5, 3]))
    assert float(terms["context"]) == float(terms["alignment"]) == 0.0


def test_the_first_epochs_learn_the_auxiliary_terms_alone():
    model, batch = build(pretrain_epochs=2).eval(), histories([9, 5, 7])
    with torch.no_grad():
        model.start_epoch(2)
        before = model.losses(batch)
        model.start_epoch(3)
        after = model.losses(batch)
    assert float(before["main"]) == 0.0 < float(after["main"])
    assert float(before["context"]) == pytest.approx(10 * float(after["context"]))
