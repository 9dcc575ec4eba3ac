"""What in a data set should make its user look twice."""

from dataclasses import dataclass
from typing import Literal

from hm4sr.data.interactions import iso
from hm4sr.experiments.facts import Facts, PartFacts

_YEAR_1980, _YEAR_2100 = 315_532_800, 4_102_444_800
_DAY = 86_400
_MANY_TIES = 0.1
_TELLING, _ENOUGH_TIES = 0.9, 100
_MANY_REPEATS = 0.01
_MANY_TWINS = 0.01
_SPIKE, _SPIKE_DAYS = 0.2, 30


@dataclass(frozen=True)
class Finding:
    """One sentence about the data.

    Attributes:
        level: "warning" if it is probably a mistake or spoils an evaluation, "note" if it is good to know.
        text: what, how much, and what can be done.
    """

    level: Literal["warning", "note"]
    text: str


def findings(facts: Facts) -> list[Finding]:
    """All findings, warnings first."""
    found = [*_about_time(facts), *_about_ties(facts), *_about_the_split(facts), *_about_items(facts)]
    return sorted(found, key=lambda finding: finding.level != "warning")


def _about_time(facts: Facts) -> list[Finding]:
    times, found = facts.times, []
    span = f"{iso(times.first)} to {iso(times.last)}"
    if times.last >= _YEAR_2100:
        text = f"Times reach beyond 2100 ({span}): were milliseconds read as seconds? Set --time-unit."
        found.append(Finding("warning", text))
    elif times.first < _YEAR_1980:
        text = f"Times begin before 1980 ({span}): were seconds read as milliseconds, or is 0 no time?"
        found.append(Finding("warning", text))
    if times.last - times.first < _DAY:
        text = f"All events lie within one day ({span}): time can teach a model nothing."
        found.append(Finding("warning", text))
    elif times.on_busiest_day > _SPIKE * facts.num_events and times.last - times.first > _SPIKE_DAYS * _DAY:
        share = times.on_busiest_day / facts.num_events
        day = iso(times.busiest_day * _DAY)[:10]
        text = f"{share:.0%} of all events are of one day, {day}: that may be the date of an import."
        found.append(Finding("warning", text))
    if times.whole_days:
        found.append(Finding("note", "Times are whole days: what happened first within a day is unknown."))
    return found


def _about_ties(facts: Facts) -> list[Finding]:
    found = []
    if facts.out_of_order:
        text = f"{facts.out_of_order:,} events are older than the one before in their history: prepare again."
        found.append(Finding("warning", text))
    if facts.tied > _MANY_TIES * facts.num_events:
        ties = facts.rules.get("ties", "file")
        order = "that of the file" if ties == "file" else "that of a hash"
        share, test = facts.tied / facts.num_events, facts.parts["test"]
        text = (
            f"{share:.0%} of the events share their time with another one of their user, and "
            f"{_share(test.tied, test)} of the test targets with the event before; their order is {order}."
        )
        found.append(Finding("note", text))
    test = facts.parts["test"]
    ascending = test.ascending / max(test.tied, 1)
    if test.tied >= _ENOUGH_TIES and max(ascending, 1 - ascending) >= _TELLING:
        which, share = ("greater", ascending) if ascending >= _TELLING else ("smaller", 1 - ascending)
        text = (
            f"{share:.0%} of the {test.tied:,} test targets at the time of the event before have the {which} "
            "item id of the two, so the file's order tells of the target: --ties hash leaves it to chance."
        )
        found.append(Finding("warning", text))
    return found


def _about_the_split(facts: Facts) -> list[Finding]:
    train, valid, test = (facts.parts[part] for part in ("train", "valid", "test"))
    found = []
    if facts.rules.get("split") == "global-time":
        bounds = [bound for part in (train, valid, test) for bound in (part.first, part.last)]
        order = [bound for bound in bounds if bound is not None]
        if order != sorted(order):
            text = "The parts overlap in time although the split is a global one: the data set is damaged."
            found.append(Finding("warning", text))
    elif test.newer_in_training > 0:
        text = (
            f"For a test target, {test.newer_in_training:.0%} of the training events are newer than it on "
            "average, as leave-one-out has it: with --split global-time nothing is learned from the future."
        )
        found.append(Finding("note", text))
    for name, part in (("validation", valid), ("test", test)):
        if not part.events:
            found.append(Finding("warning", f"There are no {name} targets."))
        if part.repeated:
            text = (
                f"{part.repeated:,} {name} targets ({_share(part.repeated, part)}) are items that their user "
                "had before, which repeating the history finds; --duplicates pair leaves one of each."
            )
            many = part.repeated > _MANY_REPEATS * part.events
            found.append(Finding("warning" if many else "note", text))
        if part.cold:
            text = (
                f"{part.cold:,} {name} targets ({_share(part.cold, part)}) are items without a training "
                "event: no ID embedding can know them; --cold-items drop leaves them out."
            )
            found.append(Finding("note", text))
    if test.users < facts.num_users:
        without = facts.num_users - test.users
        found.append(Finding("note", f"{without:,} users have no test target and are learned from alone."))
    return found


def _about_items(facts: Facts) -> list[Finding]:
    found = [Finding("warning", reason) for reason in facts.stale]
    covered = {row.name: row for row in facts.coverage}
    if "picture found" in covered:
        missing = round((covered["picture named"].items - covered["picture found"].items) * facts.num_items)
        if missing:
            text = f"{missing:,} pictures are not found below {facts.rules.get('image_root')}."
            found.append(Finding("warning", text))
    if covered["text"].items < 1:
        without = round((1 - covered["text"].items) * facts.num_items)
        found.append(Finding("note", f"{without:,} items have no text."))
    twins = sum(map(len, facts.same_titles))
    if twins:
        first = ", ".join(facts.same_titles[0][:3])
        text = (
            f"{twins:,} items ({twins / facts.num_items:.1%}) share their title's words with another one, in "
            f"{len(facts.same_titles):,} groups, the largest of {len(facts.same_titles[0]):,} "
            f"({first}{', ...' if len(facts.same_titles[0]) > 3 else ''}): they may be the same product."
        )
        found.append(Finding("warning" if twins > _MANY_TWINS * facts.num_items else "note", text))
    return found


def _share(count: int, part: PartFacts) -> str:
    return f"{count / max(part.events, 1):.1%}"
