"""Small models of HM4SR, and its equations as plain loops."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from contract.catalogs import SPRING, histories, small_catalog, small_model
from hm4sr.models.hm4sr import HM4SR
from hm4sr.nn.moe import InteractiveMoE, TemporalMoE
from hm4sr.types import Catalog, Clock, SeqBatch

CLOCK = Clock(SPRING, SPRING + 90 * 86_400, 30 * 86_400)
LENGTHS = [9, 1, 2, 5, 9, 3]
TERMS = ["main", "cp", "idcl", "pcl"]


def build(catalog: Catalog | None = None, **settings: Any) -> HM4SR:
    model = small_model("hm4sr", catalog, **settings)
    assert isinstance(model, HM4SR)
    return model


def plain(**settings: Any) -> HM4SR:
    """In training mode, but without the randomness of dropout."""
    return build(**{"dropout": 0.0, "attention_dropout": 0.0, **settings}).train()


def step(model: HM4SR, batch: SeqBatch, lr: float = 0.01) -> dict[str, Tensor]:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    terms = model.train().losses(batch)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    return terms


def names(model: HM4SR, part: str) -> list[str]:
    return [key for key, _ in model.named_parameters() if part in key]


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def affine(weight: list[list[float]], x: list[float], bias: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def close(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(
        actual.detach().double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-5
    )


def interactive_by_hand(moe: InteractiveMoE, e: list[list[float]]) -> list[list[float]]:
    """Eq. 7-10 for the vectors of one event, a list for each modality."""
    M, D, K = moe.gate_weight.shape
    expert_weight = moe.experts.weight.detach().double().view(M, K, D, M * D).tolist()
    expert_bias = moe.experts.bias.detach().double().view(M, K, D).tolist()
    gate_weight = moe.gate_weight.detach().double().transpose(1, 2).tolist()
    gate_bias, alpha = moe.gate_bias.tolist(), moe.strength.tolist()
    everything = [value for vector in e for value in vector]
    result = []
    for m in range(M):
        g = softmax(affine(gate_weight[m], e[m], gate_bias[m]))
        found = [affine(expert_weight[m][k], everything, expert_bias[m][k]) for k in range(K)]
        result.append([e[m][i] + alpha[m] * sum(g[k] * found[k][i] for k in range(K)) for i in range(D)])
    return result


def temporal_by_hand(moe: TemporalMoE, e: list[list[float]], time: list[float]) -> list[list[float]]:
    """Eq. 14-16 for one event."""
    g = softmax(affine(moe.gate.weight.tolist(), time, moe.gate.bias.tolist()))
    experts, width = moe.experts.tolist(), len(e[0])
    everything = [value for vector in e for value in vector]
    mixed = [sum(g[k] * experts[k][i] * value for k in range(len(g))) for i, value in enumerate(everything)]
    return [mixed[start : start + width] for start in range(0, len(mixed), width)]


def library_encoder(encoder: nn.Module, dim: int, heads: int, inner: int) -> nn.Module:
    """The same encoder out of torch's own Transformer layers (eq. 17-18)."""
    layers = []
    for ours in encoder.layers:
        layer = nn.TransformerEncoderLayer(
            dim, heads, inner, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        theirs = {
            "self_attn.in_proj_weight": ours.attention.query_key_value.weight,
            "self_attn.in_proj_bias": ours.attention.query_key_value.bias,
            "self_attn.out_proj.weight": ours.attention.out.weight,
            "self_attn.out_proj.bias": ours.attention.out.bias,
        }
        for name, part in [
            ("linear1", ours.expand),
            ("linear2", ours.contract),
            ("norm1", ours.norm_attention),
            ("norm2", ours.norm_out),
        ]:
            theirs |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
        layer.load_state_dict({key: value.detach() for key, value in theirs.items()})
        layers.append(layer)

    def run(x: Tensor) -> Tensor:
        x = nn.functional.layer_norm(x, (dim,), encoder.norm.weight, encoder.norm.bias, 1e-12)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        for layer in layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return x

    return run


def exact_bucket(gap: int) -> int:
    """floor(100 log2(gap + 1)), in integers: the largest n with 2^n <= (gap + 1)^100."""
    return ((gap + 1) ** 100).bit_length() - 1


class Oracle:
    """HM4SR once more, event by event and pair by pair, from the equations."""

    def __init__(self, model: HM4SR):
        self.model, self.c = model, model.config
        self.names = model.modalities
        self.encoders = [
            library_encoder(model.encoders[name], self.c.dim, self.c.heads, self.c.inner)
            for name in self.names
        ]

    def x(self, item: int) -> list[list[float]]:
        """Eq. 4-5: one vector for each modality."""
        vectors = [self.model.items.weight[item].tolist()]
        for name in self.names[1:]:
            feature, projection = self.model.catalog.features[name], self.model.projections[name]
            if feature.present[item]:
                weight, bias = projection.linear.weight.tolist(), projection.linear.bias.tolist()
                centred = feature.vectors[item]
                if self.c.center_features:
                    centred = centred - feature.vectors[feature.present].mean(0)
                vectors.append(affine(weight, centred.tolist(), bias))
            else:
                vectors.append(projection.stand_in.tolist())
        return vectors

    def flat_x(self, item: int) -> Tensor:
        return torch.tensor(self.x(item)).flatten()

    def events(self, batch: SeqBatch, row: int) -> tuple[list[list[list[float]]], list[list[float]]]:
        """Eq. 6-16: after both experts, for each event and modality; and the time vectors."""
        mixed, times = [], []
        for position in range(int(batch.lengths[row])):
            place = self.model.positions.weight[position].tolist()
            e = [
                [value + p for value, p in zip(vector, place, strict=True)]
                for vector in self.x(int(batch.items[row, position]))
            ]
            time = self.time(batch.times[row].tolist(), position)
            mixed.append(
                temporal_by_hand(self.model.temporal, interactive_by_hand(self.model.interactive, e), time)
            )
            times.append(time)
        return mixed, times

    def time(self, times: list[int], position: int) -> list[float]:
        """Eq. 11-13."""
        table, absolute = self.model.time.parts
        gap = times[position] - times[position - 1] if position else 0
        row = min(exact_bucket(gap), table.table.num_embeddings - 1)
        midnight = CLOCK.first - CLOCK.first % 86_400
        days, d = (times[position] - midnight) / 86_400, self.c.dim
        frequency, phase = absolute.frequency.tolist(), absolute.phase.tolist()
        cosines = [math.cos(frequency[i] * days / 10_000 ** (i / d) + phase[i]) for i in range(d)]
        return table.table.weight[row].tolist() + cosines

    def hidden(self, batch: SeqBatch, row: int, replaced: list[bool] | None = None) -> list[Tensor]:
        """Eq. 17-18, and 24 where positions are replaced: L x D for each modality."""
        mixed, times = self.events(batch, row)
        result = []
        for m, name in enumerate(self.names):
            vectors = [event[m] for event in mixed]
            if replaced is not None and m > 0:
                head = self.model.placeholders[name]
                weight, bias = head.weight.tolist(), head.bias.tolist()
                vectors = [
                    affine(weight, time, bias) if out else vector
                    for vector, time, out in zip(vectors, times, replaced, strict=False)
                ]
            result.append(self.encoders[m](torch.tensor(vectors)[None])[0].detach())
        return result

    def losses(self, batch: SeqBatch, replaced: Tensor) -> dict[str, float]:
        """Eq. 20-26."""
        model, c = self.model, self.c
        catalog = model.catalog
        rows = []  # (history vectors, their twins, target, user) of each target
        for b in range(len(batch.items)):
            whole, twin = self.hidden(batch, b), self.hidden(batch, b, replaced[b].tolist())
            rows += [
                ([h[i] for h in whole], [h[i] for h in twin], int(batch.targets[b, i]), int(batch.users[b]))
                for i in range(int(batch.lengths[b]))
                if batch.targets[b, i] > 0
            ]
        items = {item: self.flat_x(item) for item in range(1, catalog.num_items + 1)}
        main = 0.0
        for views, _, target, _ in rows:
            y = {item: float(torch.cat(views) @ vector) for item, vector in items.items()}
            main += math.log(sum(math.exp(value) for value in y.values())) - y[target]
        entropy, cells = 0.0, 0
        weight, bias = model.category_head.weight.tolist(), model.category_head.bias.tolist()
        for item in batch.items[batch.items > 0].tolist():
            mine = catalog.categories[item].tolist()
            for number, logit in enumerate(affine(weight, items[item].tolist(), bias), start=1):
                probability = 1 / (1 + math.exp(-logit))
                entropy -= math.log(probability if number in mine else 1 - probability)
                cells += 1
        id_term = contrast(
            [views[0] for views, *_ in rows],
            [items[target][: c.dim] for *_, target, _ in rows],
            [[a[2] == b[2] for b in rows] for a in rows],
            c.temperature,
            c.exclude_false_negatives,
        )
        ignored = [[a[2] == b[2] or (c.exclude_false_negatives and a[3] == b[3]) for b in rows] for a in rows]
        placeholder_terms = [
            contrast(
                [views[m] for views, *_ in rows],
                [twins[m] for _, twins, *_ in rows],
                ignored,
                c.pcl_temperature,
                c.exclude_false_negatives,
            )
            for m in range(1, len(self.names))
        ]
        return {
            "main": main / len(rows),
            "cp": c.cp_weight * entropy / cells,
            "idcl": c.idcl_weight * id_term,
            "pcl": c.pcl_weight * sum(placeholder_terms) / len(placeholder_terms),
        }


def contrast(
    queries: list[Tensor], keys: list[Tensor], ignored: list[list[bool]], temperature: float, exclude: bool
) -> float:
    """Eq. 23 and 25, pair by pair."""
    total = 0.0
    for i, query in enumerate(queries):
        negatives = 0.0
        for j, key in enumerate(keys):
            similarity = float(query @ key / (query.norm() * key.norm())) / temperature
            if j == i:
                positive = math.exp(similarity)
            elif not ignored[i][j]:
                negatives += math.exp(similarity)
            elif not exclude:
                negatives += 1.0
        total -= math.log(positive / (positive + negatives))
    return total / len(queries)


def small_world() -> tuple[Catalog, SeqBatch]:
    """Few items, so that targets repeat within the batch, and users with two rows each."""
    catalog = small_catalog(8, width=5)
    batch = histories([4, 1, 3, 5], 8, seed=2)
    return catalog, SeqBatch(
        batch.items, batch.times, batch.lengths, batch.targets, torch.tensor([0, 1, 1, 2])
    )


def lively(model: HM4SR) -> HM4SR:
    """Larger weights than at the start, so that a slip shows; alpha and phases away from 0."""
    rng = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.2)
    return model
