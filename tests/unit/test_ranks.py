"""Rows, counts and gradients that processes exchange."""

import math

import torch
from torch import Tensor, nn

from hm4sr.nn.ranks import ALONE, Ranks, anywhere, counts, current, gather, once, share, together
from hm4sr.training.parallel import from_first, spread_tensors, sum_gradients, sum_losses
from processes import in_processes

ROWS = [2, 0, 3]


def rows_of(rank: int) -> Tensor:
    return torch.arange(float(ROWS[rank] * 2)).view(-1, 2) + 100 * rank


def exchanged() -> dict[str, Tensor]:
    rank = current().rank
    mine = rows_of(rank).requires_grad_()
    other = mine.detach()[:, :1, None].double().requires_grad_()
    numbers = mine.detach()[:, 0].long()
    (everyone, all_numbers, all_others), place = gather(mine, numbers, other)
    assert torch.equal(all_numbers, everyone[:, 0].long())
    assert torch.equal(all_others, everyone[:, :1, None].double())
    # Each process weighs all rows differently; the gradient of a row is the sum of the weights.
    weights = (1 + rank) * torch.arange(5.0)[:, None]
    ((everyone * weights).sum() + 2 * (all_others[:, 0] * weights).sum()).backward()
    assert torch.equal(other.grad[:, 0, 0].float(), 2 * mine.grad[:, 0])
    mean = rows_of(rank).mean() if ROWS[rank] else torch.tensor(math.nan)
    (nothing,), _ = gather(torch.zeros(0, 4, dtype=torch.int64))
    with together(Ranks(rank, 3, {"targets": ROWS})):  # known, so that nobody has to ask
        assert counts(ROWS[rank], "targets") == ROWS
        if rank == 0:
            assert torch.equal(share(torch.tensor(5.0), 2, "targets"), torch.tensor(2.0))
    return {
        "everyone": everyone.detach(),
        "place": torch.tensor(place),
        "gradient": mine.grad,
        "share": share(mean, ROWS[rank]),
        "once": once(torch.tensor(6.0)),
        "counts": torch.tensor(counts(rank * rank)),
        "anywhere": torch.tensor([anywhere(rank == 1), anywhere(False)]),
        "nothing": nothing,
        **gradients(rank),
        **sent(rank),
    }


def gradients(rank: int) -> dict[str, Tensor]:
    """Dense and sparse gradients, of which some processes have none; the middle one has no part at all."""
    used, unused = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    table = nn.Embedding(6, 2, sparse=True)
    idle = nn.Embedding(6, 2, sparse=True)
    if rank != 1:
        (used * (rank + 1)).sum().backward()
        table(torch.tensor([rank, 5, 5])).sum().backward()
    sum_gradients([used, unused], [table.weight, idle.weight])
    assert unused.grad is None
    assert idle.weight.grad is None
    return {"dense": used.grad, "sparse": table.weight.grad.to_dense()}


def sent(rank: int) -> dict[str, Tensor]:
    word = from_first({"é": [1, None]} if rank == 0 else None)
    assert word == {"é": [1, None]}
    assert from_first("" if rank == 0 else None) == ""
    state = {"a": torch.arange(3), "b": torch.tensor(0.5), "c": torch.zeros(0, 2)} if rank == 0 else {}
    received = spread_tensors(state)
    assert list(received) == ["a", "b", "c"]
    assert received["c"].shape == (0, 2)
    losses = sum_losses({"main": torch.tensor(1.0 + rank)} if rank != 1 else {})
    return {"received": received["a"], "half": received["b"], "losses": torch.tensor(losses["main"])}


def test_what_three_processes_exchange(tmp_path):
    found = in_processes(3, tmp_path, exchanged)
    whole = torch.cat([rows_of(rank) for rank in range(3)])
    weights = 6 * torch.arange(5.0)[:, None].expand(-1, 2)
    place = 0
    for rank, one in enumerate(found):
        assert torch.equal(one["everyone"], whole)
        assert one["place"] == place
        assert torch.equal(one["gradient"], weights[place : place + ROWS[rank]])
        place += ROWS[rank]
        assert one["counts"].tolist() == [0, 1, 4]
        assert one["anywhere"].tolist() == [True, False]
        assert one["once"] == 2.0
        assert one["nothing"].shape == (0, 4)
        assert one["dense"].tolist() == [4.0, 4.0, 4.0]
        assert one["sparse"][:, 0].tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 4.0]
        assert one["received"].tolist() == [0, 1, 2]
        assert one["half"] == 0.5
        assert one["losses"] == 4.0
    torch.testing.assert_close(sum(one["share"] for one in found), whole.mean())


def test_one_process_alone_changes_nothing():
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather(rows, rows) == ((rows, rows), 0)
    mean = rows.mean()
    assert share(mean, 3) is mean
    assert once(mean) is mean
    assert counts(4) == [4]
    assert from_first(rows) is rows


def test_a_context_ends_with_its_block():
    with together(ALONE) as inside:
        assert current() is inside
    assert current() == ALONE
