"""What every registered model promises. A model that is added later is covered without an edit here."""

import math
from dataclasses import replace

import pytest
import torch
from jaxtyping import TypeCheckError
from safetensors.torch import load_file, save_file

from contract.catalogs import (
    LENGTHS,
    MAX_LENGTH,
    NAMES,
    SPRING,
    batch_of,
    histories,
    prefix_of,
    rows_of,
    scores,
    small_catalog,
    small_model,
    total_loss,
    training_batch,
    widened,
    without_noise,
)
from hm4sr.errors import UserError
from hm4sr.models import get_model
from hm4sr.models.base import SeqRecModel
from hm4sr.types import Catalog, ItemFeatures, SeqBatch

PARALLEL = [name for name in NAMES if get_model(name).parallel]

NUM_PARAMETERS = {
    "difsr": 831_155,
    "fearec": 786_368,
    "gru4rec": 711_808,
    "iisan": 4_116_437,
    "lrurec": 827_633 - 2 * 64,  # in real numbers, without the imaginary output biases that nothing reads
    "m3srec": 1_216_588,
    "missrec": 901_825,
    "nova": 884_928 + 2 * 128,  # with a LayerNorm for each modality
    "sasrec": 786_368,
    "tedrec": 1_502_530,
    "ticoserec": 786_368,
    "tisasrec": 764_608,
    "unisrec": 1_198_016,
}
"""From the sources, at 10,672 items of 192 categories, histories of 50 and the default settings."""

TEXT_ALONE = {"tedrec", "unisrec"}
"""Models that the sources describe with text and no pictures."""

INITIAL_LOSS_BOUND = dict.fromkeys(
    ["difsr", "fearec", "gru4rec", "lrurec", "nova", "sasrec", "ticoserec", "tisasrec"], 0.1
)
INITIAL_LOSS_BOUND |= {"iisan": 0.9, "m3srec": 3.5, "missrec": 1.5, "tedrec": 1.8, "unisrec": 4.2}
"""How far the first main loss may be from ln(V - 1), where 0.5 is too loose or too tight.

A cosine over tau = 0.07 spreads widely from the start (see the test of its variance), and the items of the
history itself, which the model's input carries to its output, are near +14. IISAN's item vectors are made of
states of unit spread, not of small numbers: a score's variance v raises the loss by about v / 2.
"""

ID_TOO = {"hm4sr", "hm4sr-plus", "nova"}
"""Multi-modal models that run on IDs alone."""

COSINES = {"m3srec": 1, "missrec": 3, "tedrec": 1, "unisrec": 1}
"""Models that score by cosine / 0.07, and of how many independent cosines a score is the mean."""


def encode(model: SeqRecModel, batch: SeqBatch) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model.encode(batch)


def test_the_registry_holds_the_known_models():
    assert {"hm4sr", "sasrec"} <= set(NAMES)
    assert all(get_model(name).name == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_finite_and_of_the_declared_shape(name):
    model, batch = small_model(name), training_batch(name)
    vectors = model.item_vectors()
    hidden, given = encode(model, batch), scores(model, batch)
    assert vectors.ndim == 2
    assert len(vectors) == 41
    assert hidden.shape[:2] == (6, 9)
    assert given.shape == (6, 41)
    assert (given[:, 0] == -torch.inf).all()
    for tensor in (vectors, hidden, given[:, 1:]):
        assert tensor.isfinite().all()
    terms = model.train().losses(batch)
    assert "main" in terms
    for term in terms.values():
        assert term.shape == ()
        assert term.isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_the_dot_product_of_its_history_and_its_item(name):
    if get_model(name).scores is not SeqRecModel.scores:
        pytest.skip("this model's score does not factorise")
    model, batch = small_model(name), training_batch(name)
    hidden, vectors = encode(model, batch), model.item_vectors().detach()
    given = scores(model, batch)
    for row, length in enumerate(LENGTHS):
        for item in (1, 17, 40):
            expected = sum(a * b for a, b in zip(hidden[row, length - 1], vectors[item], strict=True))
            torch.testing.assert_close(given[row, item], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_blocks_of_modalities_tile_a_vector(name):
    model = small_model(name)
    blocks = model.blocks()
    if not blocks:
        pytest.skip("this model's vectors are not made of one part for each modality")
    columns = [column for block in blocks.values() for column in range(block.start, block.stop)]
    assert columns == list(range(model.item_vectors().shape[1]))
    assert next(iter(blocks)) == "id"
    assert set(blocks) <= {"id", *model.catalog.features}


@pytest.mark.parametrize("name", NAMES)
def test_items_that_come_after_training_stand_in_histories_and_change_no_other_score(name):
    model, batch = small_model(name).eval(), training_batch(name)
    with torch.no_grad():
        features = dict(small_catalog(num_items=3, seed=5).features)
        vectors = model.new_item_vectors(features)
        if vectors is None:
            pytest.skip("this model judges only items it was trained on")
        before = model.scores(batch, model.fix_items())
        model.append_items(vectors, features)
        longer = torch.cat([model.item_vectors(), vectors[1:]])
        after = model.scores(batch, longer)
        new = replace(batch, items=torch.where(batch.items == batch.items[0, 0], 43, batch.items))
        with_new = model.scores(new, longer)
    torch.testing.assert_close(after[:, :41], before, rtol=1e-6, atol=1e-6)
    assert after[:, 41:].isfinite().all()
    assert with_new[0, 1:].isfinite().all()
    assert not torch.allclose(with_new[0, 1:], after[0, 1:])


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    model = small_model(name).train()
    total_loss(model, training_batch(name, [9, 1, 2, 5, 9, 3, 8, 7])).backward()
    without = [
        key
        for key, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_give_the_same_scores_in_a_fresh_model(name, tmp_path):
    model, batch = small_model(name, seed=1), training_batch(name)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "weights")
    other = small_model(name, seed=2)
    assert not torch.equal(scores(other, batch), scores(model, batch))
    other.load_state_dict(load_file(tmp_path / "weights"))
    assert torch.equal(scores(other, batch), scores(model, batch))


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name):
    model, batch = small_model(name), training_batch(name)
    wide = widened(batch, MAX_LENGTH - batch.items.shape[1])
    torch.testing.assert_close(scores(model, wide), scores(model, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_change_the_main_loss(name):
    model = small_model(name, **without_noise(name)).train()
    batch = training_batch(name)
    narrow, wide = model.losses(batch)["main"], model.losses(widened(batch, 3))["main"]
    torch.testing.assert_close(wide, narrow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_vector_of_a_whole_history_is_the_one_at_its_last_event(name):
    model, batch = small_model(name), training_batch(name)
    last = encode(model, batch)[torch.arange(len(LENGTHS)), batch.lengths - 1]
    with torch.no_grad():
        torch.testing.assert_close(model.last_hidden(batch), last, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_the_others(name):
    model, batch = small_model(name), training_batch(name)
    together = scores(model, batch)
    for row in range(len(LENGTHS)):
        alone = scores(model, rows_of(batch, [row]))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_only_a_model_that_is_not_parallel_lets_later_events_change_earlier_positions(name):
    model, batch = small_model(name), histories([9, 9, 9])
    if not get_model(name).parallel:
        enlarge(model)
    items, times = batch.items.clone(), batch.times.clone()
    items[:, 5:] = items[:, 5:] % 40 + 1
    times[:, 5:] += 123_456
    changed = SeqBatch(items, times, batch.lengths, batch.targets, batch.users)
    before, after = encode(model, batch), encode(model, changed)
    assert (before[:, 5:] - after[:, 5:]).abs().max() > 1e-4
    difference = (before[:, :5] - after[:, :5]).abs().max()
    if get_model(name).parallel:
        assert difference <= 1e-6
    else:
        assert difference > 1e-4, "one causal pass is exact for this model: declare parallel = True"


def enlarge(model: SeqRecModel) -> None:
    """Weights as large as training makes them: at the start, what leaks may be as small as rounding."""
    rng = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.5)


@pytest.mark.parametrize("name", PARALLEL)
def test_one_pass_over_all_positions_equals_the_prefixes_one_by_one(name):
    model, batch = small_model(name), histories([9, 9, 9])
    together = encode(model, batch)
    for length in range(1, 10):
        alone = encode(model, prefix_of(batch, length))
        torch.testing.assert_close(together[:, length - 1], alone[:, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PARALLEL)
def test_training_mode_is_causal_too(name):
    model, batch = small_model(name, **without_noise(name)).train(), histories([9, 9, 9])
    with torch.no_grad():
        whole = model.encode(batch)
        torch.testing.assert_close(whole[:, :4], model.encode(prefix_of(batch, 4)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole, encode(model, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("modalities", [("text",), ("audio", "scent", "text")])
@pytest.mark.parametrize("name", [name for name in NAMES if get_model(name).multimodal])
def test_a_modality_is_a_name_of_any_number(name, modalities):
    model, batch = small_model(name, small_catalog(modalities=modalities)), training_batch(name)
    assert scores(model, batch)[:, 1:].isfinite().all()
    total_loss(model.train(), batch).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    "name", [name for name in NAMES if get_model(name).multimodal and name not in ID_TOO]
)
def test_a_model_of_features_says_so_where_there_are_none(name):
    with pytest.raises(UserError, match=f"'{name}' reads item features.*hm4sr features"):
        small_model(name, small_catalog(modalities=()))


def losses_of_three_steps(name: str, seed: int) -> list[float]:
    model = small_model(name, seed=seed).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(3):
        terms = model.losses(training_batch(name, seed=step))
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        losses += [term.item() for term in terms.values()]
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_the_losses_to_the_last_bit(name):
    first = losses_of_three_steps(name, seed=5)
    torch.manual_seed(99)  # the global generator has no say
    assert losses_of_three_steps(name, seed=5) == first
    assert losses_of_three_steps(name, seed=6) != first


@pytest.mark.parametrize("name", NAMES)
def test_losses_in_bfloat16_are_close(name):
    """A bfloat16 is good to 2^-8; the products pass through a few layers that keep their scale."""
    model, batch = small_model(name, seed=1, **without_noise(name)).train(), training_batch(name)
    exact = {key: term.item() for key, term in model.losses(batch).items()}
    model = small_model(name, seed=1, **without_noise(name)).train()
    model.matmul_dtype = torch.bfloat16
    terms = model.losses(batch)
    torch.stack(list(terms.values())).sum().backward()
    for key, term in terms.items():
        assert term.item() == pytest.approx(exact[key], rel=8 * 2**-8, abs=8 * 2**-8)
    for parameter in model.parameters():
        assert parameter.grad.dtype == parameter.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_builds_on_the_meta_device(name):
    real = small_model(name)
    with torch.device("meta"):
        model = small_model(name, small_catalog_on_cpu())
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.is_meta, f"{key} was allocated"
    shapes = {key: tensor.shape for key, tensor in real.state_dict().items()}
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == shapes
    assert model.num_parameters() == real.num_parameters()


def small_catalog_on_cpu() -> Catalog:
    """The catalogue is data: it exists wherever the model is built."""
    with torch.device("cpu"):
        return small_catalog()


@pytest.mark.parametrize("name", NAMES)
def test_finds_a_planted_answer(name):
    """After item i comes item i + 1, round and round: chance is right once in 20 times, the answer always."""
    num_items, parallel = 20, get_model(name).parallel
    settings = dict.fromkeys(without_noise(name), 0.1)
    model = small_model(name, small_catalog(num_items), seed=3, **settings).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rng = torch.Generator().manual_seed(4)

    def walks(count: int) -> SeqBatch:
        start = torch.randint(0, num_items, (count, 1), generator=rng)
        lengths = torch.randint(1, 7, (count,), generator=rng)
        times = SPRING + 86_400 * torch.arange(6).expand(count, -1)
        return batch_of((start + torch.arange(7)) % num_items + 1, times, lengths, parallel)

    def share_found() -> float:
        batch = walks(200)
        best = scores(model, batch).argmax(1)
        wanted = batch.targets.gather(1, batch.lengths[:, None] - 1)[:, 0]
        return float((best == wanted).float().mean())

    assert share_found() < 0.4
    for step in range(120):
        model.train()
        optimizer.zero_grad()
        total_loss(model, walks(64)).backward()
        optimizer.step()
        if step % 20 == 19 and share_found() > 0.9:
            return
    pytest.fail(f"found {share_found():.0%} after 120 steps")


@pytest.mark.parametrize("name", [name for name in NAMES if name in NUM_PARAMETERS])
def test_number_of_parameters_is_that_of_the_sources(name):
    model, modalities = get_model(name), ("text",) if name in TEXT_ALONE else ("image", "text")
    features = {modality: encoded_features(10_673) for modality in modalities} if model.multimodal else {}
    categories = torch.ones(10_673, 1, dtype=torch.int64)
    with torch.device("meta"):
        catalog = Catalog(10_672, features, categories, num_categories=192, max_length=50)
        built = model(model.Config(), catalog, torch.Generator())
    assert built.num_parameters() == NUM_PARAMETERS[name]


def encoded_features(num_rows: int) -> ItemFeatures:
    """What encoders of 12 blocks, 768 wide, give; the values take no memory."""
    present = torch.arange(num_rows) > 0
    zero = torch.zeros(1, dtype=torch.float16)
    return ItemFeatures(zero.expand(num_rows, 768), present, zero.expand(num_rows, 12, 768), zero.expand(768))


def hm4sr_parameters(V: int, L: int, d: int, widths: list[int], C: int, K1: int, K2: int, rows: int) -> int:
    """Counted from the equations; `rows` is the size of the interval table."""
    M, T = 1 + len(widths), 2 * d
    items_and_positions = V * d + L * d
    projections = sum(width * d + d for width in widths)
    interactive = M * K1 * (M * d * d + d) + M * (d * K1 + K1) + M
    time = rows * d + 2 * d
    temporal = T * K2 + K2 + K2 * M * d
    layer = 4 * (d * d + d) + 2 * d + (d * 4 * d + 4 * d) + (4 * d * d + d) + 2 * d
    encoders = M * (2 * d + 2 * layer)
    categories = M * d * C + C
    placeholders = len(widths) * (T * d + d)
    return (
        items_and_positions
        + projections
        + interactive
        + time
        + temporal
        + encoders
        + categories
        + placeholders
    )


@pytest.mark.parametrize(
    ("modalities", "widths"), [(("text", "image"), [32, 33]), (("text",), [32]), ((), [])]
)
def test_number_of_parameters_of_hm4sr_follows_from_the_equations(modalities, widths):
    catalog = small_catalog(100, modalities, num_categories=7, missing=False, width=32)
    model = get_model("hm4sr")(get_model("hm4sr").Config(), catalog, torch.Generator())
    rows = math.floor(100 * math.log2(30 * 86_400 + 1)) + 1
    assert model.num_parameters() == hm4sr_parameters(101, MAX_LENGTH, 64, widths, 7, 4, 4, rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_loss_is_that_of_a_uniform_guess(name):
    """Weights drawn small make nearly equal scores, so the loss starts near ln(V - 1).

    A LayerNorm gives a history vector h of squared length d for each modality. Against a table drawn with
    standard deviation s, the scores of a history have variance d s^2, and a Gaussian of that variance raises
    the logarithm of the mean of exp by half of it: SASRec starts 0.013 above ln(V - 1).
    """
    model, batch = initial_state(name)
    main = float(model.eval().losses(batch)["main"].detach())
    assert abs(main - model.catalog.chance_loss) < INITIAL_LOSS_BOUND.get(name, 0.5)


@pytest.mark.parametrize("name", sorted(COSINES))
def test_the_first_scores_of_a_cosine_model_spread_as_theory_says(name):
    """The cosine of random directions in D dimensions has variance 1 / D, outside the history itself."""
    model, batch = initial_state(name)
    given = scores(model, batch)
    outside = torch.ones_like(given, dtype=torch.bool).scatter(1, batch.items, False)
    outside[:, 0] = False
    expected = 1 / (64 * 0.07**2) / COSINES[name]
    assert float(given[outside].var()) == pytest.approx(expected, rel=0.2)


def test_the_first_loss_of_hm4sr_is_the_one_that_theory_gives():
    """Each modality adds d s^2 |f|^2 to the variance of the scores, f the item's feature (|f| = 1 here).

    Three modalities of d = 64 and s = 0.02 give a variance of 0.077: the loss starts 0.038 above ln(V - 1).
    The sample's own noise, the mean of N scores of that variance, is at most 4 standard errors.
    """
    model, batch = initial_state("hm4sr")
    variance = 3 * 64 * 0.02**2
    main = float(model.eval().losses(batch)["main"].detach())
    num_targets = int((batch.targets > 0).sum())
    noise = 4 * math.sqrt(variance / num_targets)
    assert abs(main - model.catalog.chance_loss - variance / 2) < noise + 0.02


def initial_state(name: str) -> tuple[SeqRecModel, SeqBatch]:
    """A model with its default settings and 1,000 items that all have every modality."""
    catalog = small_catalog(1_000, missing=False, width=64)
    model = get_model(name)(get_model(name).Config(), catalog, torch.Generator().manual_seed(7))
    return model, histories([10] * 100, 1_000, get_model(name).parallel, seed=8)


def test_shapes_in_signatures_are_enforced():
    features = ItemFeatures(torch.zeros(5, 3), torch.ones(5, dtype=torch.bool))
    with pytest.raises(TypeCheckError, match="present"):
        ItemFeatures(features.vectors, torch.ones(4, dtype=torch.bool))
    model, batch = small_model("sasrec"), histories([3, 2])
    with pytest.raises(TypeCheckError, match="candidates"):
        model.scores(batch, torch.zeros(41))
