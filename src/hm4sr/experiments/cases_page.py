"""Cases as HTML, as a table and as a figure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import pairwise

from hm4sr.experiments.cases import NUM_RECOMMENDED, Answer, CaseStudy, UserCase
from hm4sr.experiments.page import Shown, card, gap_in_words
from hm4sr.experiments.plots import Card, Drawing, cards
from hm4sr.experiments.tables import Cell, Table

_COLOURS = 6


def cases_section(study: CaseStudy) -> str:
    """A section of a page: histories with the weights of the gates, and both lists of recommendations."""
    names = _modalities(study)
    gates = list(
        dict.fromkeys(name for case in study.cases for event in case.history for name in event.gates)
    )
    experts = max(
        (len(event.gates[g]) for c in study.cases for event in c.history for g in event.gates), default=0
    )
    legend = _legend("experts", [str(number + 1) for number in range(experts)]) if gates else ""
    legend += _legend("shares of the score", names) if names else ""
    told = (
        f"The best other model on validation is {study.rival}; both as trained under seed {study.seed}. "
        "Users are drawn by lot among those for whom ours alone, the other alone, both or neither had what "
        f"came next among the best {NUM_RECOMMENDED}. Bars below an event: weights of the experts, gate by "
        f"gate. Bars below an item recommended by {study.ours}: what each modality does (hatched: against)."
    )
    body = "\n".join(_article(case, study, names) for case in study.cases)
    return (
        f'<section aria-labelledby="cases">\n<h2 id="cases">Users</h2>\n<p class="note">{escape(told)}</p>\n'
        f"{legend}{body}\n</section>"
    )


def _modalities(study: CaseStudy) -> list[str]:
    answers = [answer for case in study.cases for answer in case.answers[study.ours]]
    return list(dict.fromkeys(name for answer in answers for name in answer.shares))


def _legend(what: str, names: Sequence[str]) -> str:
    keys = "".join(
        f'<li><i class="swatch" style="background: var(--s{number % _COLOURS})"></i>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend"><li>{escape(what)}:</li>{keys}</ul>\n'


def _article(case: UserCase, study: CaseStudy, names: Sequence[str]) -> str:
    times = [event.shown.time for event in case.history]
    gaps = [("", False), *(gap_in_words(before, after) for before, after in pairwise(times))]
    history = "".join(
        card(event.shown, label, fresh, details="".join(_mix(gate, w) for gate, w in event.gates.items()))
        for event, (label, fresh) in zip(case.history, gaps, strict=True)
    )
    label, fresh = gap_in_words(times[-1] if times else None, case.target.time)
    lists = "".join(
        f"<div><h4>{escape(model)} <small>ranks it {case.ranks[model]:,}</small></h4>\n<ol>"
        + "".join(_answer_card(rank, answer, names) for rank, answer in enumerate(answers, start=1))
        + "</ol></div>\n"
        for model, answers in case.answers.items()
    )
    count = len(case.history) + case.earlier
    earlier = f", the last {len(case.history)} shown" if case.earlier else ""
    return (
        f"<article>\n<h3>User {escape(case.user)}: {escape(case.kind)}</h3>\n"
        f"<h4>History <small>{count} events{earlier}, oldest first</small></h4>\n<ol>{history}</ol>\n"
        f'<div class="answer">\n<div class="target"><h4>What came next</h4>\n'
        f"<ol>{card(case.target, label, fresh)}</ol></div>\n<div>{lists}</div>\n</div>\n</article>"
    )


def _answer_card(rank: int, answer: Answer, names: Sequence[str]) -> str:
    details = ""
    if answer.shares:
        values = [answer.shares.get(name, 0.0) for name in names]
        details = _mix("", values, names)
    return card(answer.shown, f"#{rank}" + (" · hit" if answer.hit else ""), hit=answer.hit, details=details)


def _mix(name: str, values: Sequence[float], names: Sequence[str] = ()) -> str:
    """A stacked bar of parts whose absolute values sum to 1, with the numbers for those who do not see it."""
    told = ", ".join(
        f"{names[number] + ' ' if names else ''}{value:.2f}" for number, value in enumerate(values)
    )
    parts = "".join(
        f'<i{" class=against" if value < 0 else ""} style="width: {100 * abs(value):.1f}%; '
        f'background-color: var(--s{number % _COLOURS})"></i>'
        for number, value in enumerate(values)
    )
    label = f'<span class="dim">{escape(name)}</span>' if name else ""
    described = escape(f"{name}: {told}" if name else told)
    return f'{label}<span class="mix" role="img" aria-label="{described}" title="{described}">{parts}</span>'


def cases_table(study: CaseStudy) -> Table:
    """Every shown item of every case, a row each."""
    rows: list[list[Cell]] = []
    rules = []
    for number, case in enumerate(study.cases, start=1):
        if rows:
            rules.append(len(rows))
        first = Cell(f"{number}: {case.kind}")
        for event in case.history:
            gates = "; ".join(_numbers(name, {}, weights) for name, weights in event.gates.items())
            rows.append(
                _row(first, "history", "", event.shown.title, event.shown.category, event.shown.time, gates)
            )
        target = case.target
        rows.append(_row(first, "target", "", target.title, target.category, target.time, ""))
        for model, answers in case.answers.items():
            for rank, answer in enumerate(answers, start=1):
                shown = answer.shown
                mark = f"{rank} (hit)" if answer.hit else str(rank)
                rows.append(
                    _row(
                        first, model, mark, shown.title, shown.category, None, _numbers("", answer.shares, ())
                    )
                )
    header = [
        "Case",
        "Part",
        "Rank",
        "Item",
        "Category",
        "Time (UTC)",
        "Weights of experts; shares of the score",
    ]
    ranks = [
        f"Case {number}: what came next has rank "
        + " and ".join(f"{rank:,} under {model}" for model, rank in case.ranks.items())
        + "."
        for number, case in enumerate(study.cases, start=1)
    ]
    return Table("cases", f"{study.ours} and {study.rival} on single users", header, rows, ranks, rules)


def _row(
    first: Cell, part: str, rank: str, title: str, category: str, time: int | None, numbers: str
) -> list[Cell]:
    when = "" if time is None else datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")
    return [first, Cell(part), Cell(rank), Cell(title), Cell(category), Cell(when), Cell(numbers)]


def _numbers(name: str, shares: Mapping[str, float], weights: Sequence[float]) -> str:
    told = [f"{key} {value:.2f}" for key, value in shares.items()] + [f"{value:.2f}" for value in weights]
    return " ".join([name, *told]).strip()


def case_drawings(study: CaseStudy) -> list[Drawing]:
    """A figure a case: pictures, names, categories and times, as in the paper."""
    drawings = []
    for number, case in enumerate(study.cases, start=1):
        history = [_drawn(event.shown) for event in case.history[-(NUM_RECOMMENDED - 1) :]]
        rows = [("History, and what came next", [*history, _drawn(case.target, marked=True)])]
        rows += [
            (f"{model}, best {NUM_RECOMMENDED}", [_drawn(answer.shown, answer.hit) for answer in answers])
            for model, answers in case.answers.items()
        ]
        caption = f"Case {number}: {case.kind}"
        told = "; ".join(f"{heading}: {', '.join(c.title for c in shown)}" for heading, shown in rows)
        drawings.append(Drawing(f"case-{number}", caption, f"{caption}. {told}.", cards(rows)))
    return drawings


def _drawn(shown: Shown, marked: bool = False) -> Card:
    when = "" if shown.time is None else datetime.fromtimestamp(shown.time, UTC).strftime("%d %b %Y")
    return Card(shown.title, shown.category, when, shown.picture, marked)
