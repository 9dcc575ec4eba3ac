"""How the weights of every model start: drawn from what, and how wide."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor

from contract.catalogs import SMALL, small_catalog
from hm4sr.models import get_model

D, V, L = 16, 41, 12
SEEDS = 8
"""So many starts are looked at together, so that small parameters, too, say something."""
SIGMAS = 4.5


@dataclass(frozen=True)
class Normal:
    """N(0, std), cut off at two standard deviations if `cut`; row 0 is zero in a table with `padding`."""

    std: float
    cut: bool = False
    padding: bool = False

    def check(self, starts: list[Tensor]) -> None:
        if self.padding:
            assert not any(start[0].any() for start in starts)
        values = torch.cat([start[int(self.padding) :].flatten() for start in starts]).double()
        n, std = len(values), self.std * (_STD_OF_CUT if self.cut else 1)
        assert float(values.std()) == pytest.approx(std, rel=SIGMAS / math.sqrt(2 * n))
        assert float(values.mean()) == pytest.approx(0.0, abs=SIGMAS * std / math.sqrt(n))
        farthest = float(values.abs().max()) / self.std
        if self.cut:
            assert farthest <= 2 + 1e-6
        if n >= 500:
            assert farthest > (1.9 if self.cut else 2.2), "no normal distribution"


_STD_OF_CUT = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))
"""Of N(0, 1) between -2 and 2."""


@dataclass(frozen=True)
class Even:
    """Uniform between two numbers, itself or what a function makes of it."""

    low: float
    high: float
    of: Callable[[Tensor], Tensor] = torch.clone

    def check(self, starts: list[Tensor]) -> None:
        values = self.of(torch.cat([start.flatten() for start in starts]).double())
        n, width = len(values), self.high - self.low
        assert values.min() >= self.low - 1e-6
        assert values.max() <= self.high + 1e-6
        std = width / math.sqrt(12)
        assert len(values.unique()) > 1
        assert float(values.std()) == pytest.approx(std, rel=SIGMAS / math.sqrt(2 * n))
        assert float(values.mean()) == pytest.approx(
            (self.low + self.high) / 2, abs=SIGMAS * std / math.sqrt(n)
        )


@dataclass(frozen=True)
class Always:
    """The same in every start."""

    values: Any

    def check(self, starts: list[Tensor]) -> None:
        for start in starts:
            assert torch.equal(start.double(), torch.tensor(self.values).double().expand(start.shape))


def within(fan_in: float) -> Even:
    """U(+-1 / sqrt(inputs)), as torch draws its linear layers."""
    return Even(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


def glorot(rows: int, columns: int, padding: bool = False) -> Normal:
    return Normal(math.sqrt(2 / (rows + columns)), padding=padding)


def glorot_even(rows: int, columns: int) -> Even:
    bound = math.sqrt(6 / (rows + columns))
    return Even(-bound, bound)


def maps(names: str, weight: Any, bias: Any = None) -> dict[str, Any]:
    """The same for the weights of several layers, and for their biases."""
    starts = {f"*{name}.weight": weight for name in names.split()}
    return starts if bias is None else starts | {f"*{name}.bias": bias for name in names.split()}


BERT, TABLE = Normal(0.02), Normal(0.02, padding=True)
CUT, CUT_TABLE = Normal(0.02, cut=True), Normal(0.02, cut=True, padding=True)
ZERO, ONE = Always(0.0), Always(1.0)

NORMS = {"*norm*.weight": ONE, "*norm*.bias": ZERO}
FEED_FORWARD = maps(".expand .contract", BERT, ZERO)
BLOCKS = NORMS | FEED_FORWARD | maps(".query_key_value .out", BERT, ZERO)
IDS = {"items.weight": TABLE, "positions.weight": BERT}
FEATURES = maps("projections.*.linear", BERT, ZERO) | {"projections.*.stand_in": BERT}
ADAPTORS = {"*.moe.weight": BERT, "*.moe.bias": ZERO, "*.moe.gate": ZERO, "*.moe.noise": ZERO}
SASREC = IDS | BLOCKS
PACKED = glorot_even(3 * D, D)  # query, key and value as one matrix
RING = {  # |lambda|^2 is even between .8^2 and .99^2, the angle in a whole turn, gamma^2 is 1 - |lambda|^2
    "*.nu": Even(0.8**2, 0.99**2, lambda nu: torch.exp(-2 * torch.exp(nu))),
    "*.theta": Even(0.0, 1.0, lambda theta: torch.exp(theta) / (2 * math.pi)),
    "*.gamma": Even(0.8**2, 0.99**2, lambda gamma: 1 - torch.exp(2 * gamma)),
}
HM4SR = (
    SASREC
    | FEATURES
    | maps("interactive.experts category_head", within(3 * D), within(3 * D))
    | {"interactive.gate_weight": within(D)}
    | {"interactive.gate_bias": within(3 * D)}  # as narrow as the experts' biases, not as torch's: within(D)
    | {"interactive.strength": Always([0.0, 1.0, 1.0])}
    | {"time.parts.0.table.weight": BERT, "time.parts.1.frequency": ONE, "time.parts.1.phase": ZERO}
    | {"temporal.experts": Normal(0.1)}
    | maps("temporal.gate", BERT, ZERO)
    | maps("placeholders.*", within(2 * D), within(2 * D))
)

STARTS: dict[str, dict[str, Any]] = {
    "difsr": SASREC
    | {"attributes.weight": TABLE}
    | maps(".position .attribute .row .energy attribute_head", BERT, ZERO),
    "fearec": SASREC,
    "gru4rec": {
        "items.weight": glorot(V, D, padding=True),
        "recurrent.weight_ih_l0": glorot_even(3 * 64, D),
        "recurrent.weight_hh_l0": glorot_even(3 * 64, 64),
        "out.weight": within(64),
        "out.bias": within(64),
    },
    "hm4sr": HM4SR,
    "hm4sr-plus": {pattern: start for pattern, start in HM4SR.items() if "placeholders" not in pattern}
    | {"question.gap.table.weight": BERT, "question.moment.frequency": ONE, "question.moment.phase": ZERO}
    | maps("question.inner", within(2 * D), within(2 * D))
    | maps("question.outer", BERT, ZERO)
    | {"seen.weight": ZERO},
    "iisan": NORMS
    | {"positions.weight": BERT, "stand_ins.*": BERT, "towers.?.gates": ZERO, "common.gates": ZERO}
    | maps(".down .up", Normal(0.01), ZERO)
    | {"common.maps.1.weight": within(9)}
    | maps("heads.0.? heads.2.?", within(8), within(8))
    | maps("heads.1.?", within(9), within(9))
    | maps("join", within(3 * D), within(3 * D))
    | maps(".query_key_value .attention.out", glorot(D, D))
    | maps(".expand .contract", glorot(2 * D, D), ZERO),
    "lrurec": NORMS
    | RING
    | {"items.weight": CUT_TABLE, "bias.weight": CUT_TABLE}
    | maps(".into_states .out_of_states .expand .contract", CUT, CUT),
    "m3srec": FEATURES
    | NORMS
    | {"ids.weight": TABLE, "positions.weight": BERT, "modality": BERT}
    | maps(".query_key_value .out .gate", BERT, ZERO)
    | {"*.expand.weight": BERT, "*.expand.bias": ZERO, "*.contract.weight": BERT}
    | {"layers.?.experts.?.bias": ZERO},
    "missrec": IDS
    | FEATURES
    | NORMS
    | FEED_FORWARD
    | maps(".out", BERT, ZERO)
    | maps(".query .key_value", PACKED, ZERO)
    | {"phi": ZERO, "centroids": ZERO, "clusters": ZERO},
    "nova": IDS
    | FEATURES
    | NORMS
    | FEED_FORWARD
    | maps(".query_key .value .out", BERT, ZERO)
    | maps(".score", BERT),
    "sasrec": SASREC,
    "tedrec": SASREC
    | ADAPTORS
    | {"blank": BERT, "fusion.filter": BERT}
    | maps("fusion.gates.?", BERT, within(D)),
    "ticoserec": SASREC,
    "tisasrec": NORMS
    | {"items.weight": glorot(V, D, padding=True)}
    | maps("position_keys position_values", glorot(L, D))
    | maps("interval_keys interval_values", glorot(257, D))
    | maps(".query .key .value .expand .contract", glorot(D, D), ZERO),
    "unisrec": SASREC | ADAPTORS,
}
"""What each parameter and saved buffer starts from, by pattern; each name fits one pattern alone."""

VARIANTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("difsr", {"fusion": "concat"}, maps(".row", BERT, ZERO)),
    ("difsr", {"train_attributes": False}, {"attributes.weight": Normal(1.0, padding=True)}),
    ("gru4rec", {"layers": 3}, {"recurrent.weight_??_l[12]": within(64)}),
    ("hm4sr", {"aware_gates": True}, {"interactive.missing_shift": ZERO}),
    ("hm4sr", {"time_embedding": "day"}, maps("placeholders.*", within(D), within(D))),
    (
        "hm4sr",
        {"time_embedding": "cos"},
        {"time.parts.0.frequency": Normal(1.0), "time.parts.0.phase": ZERO}
        | maps("placeholders.*", within(D), within(D)),
    ),
    ("hm4sr", {"preset": "released"}, {"time.parts.1.frequency": BERT, "temporal.experts": Normal(0.1)}),
    ("nova", {"fusion": "concat"}, maps(".map", BERT, ZERO)),
    ("nova", {"training": "cloze"}, {"mask": BERT}),
    (
        "tisasrec",
        {"blocks": "sasrec"},
        {"items.weight": TABLE}
        | maps("position_keys position_values interval_keys interval_values", BERT)
        | maps(".query .key .value .out .expand .contract", BERT, ZERO),
    ),
]
"""Settings under which a model has other parameters, and how these start."""


def starts_of(name: str, settings: dict[str, Any]) -> dict[str, list[Tensor]]:
    """Every parameter and saved buffer, drawn with several seeds."""
    model, catalog = get_model(name), small_catalog()
    given = {key: value for key, value in SMALL.items() if key in model.Config.model_fields} | settings
    config = model.Config.parse(given, name)
    drawn = [model(config, catalog, torch.Generator().manual_seed(seed)) for seed in range(SEEDS)]
    states = [built.state_dict() for built in drawn]
    return {key: [state[key] for state in states] for key in states[0]}


def check(starts: dict[str, list[Tensor]], expected: dict[str, Any], needed: dict[str, Any]) -> None:
    unused = set(needed)
    for key, values in starts.items():
        patterns = [pattern for pattern in expected if fnmatchcase(key, pattern)]
        assert len(patterns) == 1, f"{key} fits {patterns or 'no pattern'}: say how it starts"
        unused.discard(patterns[0])
        try:
            expected[patterns[0]].check(values)
        except AssertionError as error:
            raise AssertionError(f"{key} does not start as {expected[patterns[0]]}: {error}") from None
    assert not unused, "nothing has these names"


@pytest.mark.parametrize("name", sorted(STARTS))
def test_weights_start_as_wide_as_the_table_says(name):
    check(starts_of(name, {}), STARTS[name], STARTS[name])


@pytest.mark.parametrize(("name", "settings", "others"), VARIANTS)
def test_weights_of_a_variant_start_as_wide_as_the_table_says(name, settings, others):
    check(starts_of(name, settings), STARTS[name] | others, others)


def test_a_parameter_that_is_not_in_the_table_is_noticed():
    starts = starts_of("sasrec", {})
    with pytest.raises(AssertionError, match=r"encoder.norm.weight fits no pattern"):
        check(starts, IDS | FEED_FORWARD, {})
    for wrong in (Normal(0.025), Normal(0.02, cut=True), Even(-0.035, 0.035), ZERO):
        with pytest.raises(AssertionError, match=r"items.weight does not start as"):
            check(starts, SASREC | {"items.weight": wrong}, {})
