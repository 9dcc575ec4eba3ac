"""Experiments on disk: pages that need nothing from elsewhere, and tables and figures to publish from.

OUT/NAME.html         a page for each experiment
OUT/all.html          one for all
OUT/NAME/             tables.md, tables.tex, a CSV file for each table; each figure as SVG and PDF;
                      costs.csv, costs.tex: time and memory, which alone differ if all is repeated
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from hm4sr.config import to_toml
from hm4sr.experiments.chapters import Chapter, Setting
from hm4sr.experiments.definitions import ALL
from hm4sr.experiments.page import write_document
from hm4sr.experiments.paper import title_of
from hm4sr.experiments.plots import inline, save
from hm4sr.experiments.records import Record
from hm4sr.experiments.tables import Cell, Table, to_csv, to_html, to_latex, to_markdown
from hm4sr.files import write_text


def write_chapter(chapter: Chapter, setting: Setting, folder: Path) -> list[Path]:
    """Write the page, the tables and the figures of one experiment; returns their paths."""
    definition = chapter.outcome.definition
    place = folder / definition.name
    lead = [definition.asks, f"The paper: {definition.paper}", *chapter.notes]
    tables = [_named(table, definition.name) for table in chapter.tables]
    texts = {f"{_file(table)}.csv": to_csv(table) for table in chapter.tables}
    if tables:
        texts["tables.md"] = to_markdown(tables, f"{definition.title}, {setting.subject.name}", lead)
        texts["tables.tex"] = to_latex(tables)
    if chapter.costs is not None:
        texts["costs.csv"] = to_csv(chapter.costs)
        texts["costs.tex"] = to_latex([_named(chapter.costs, definition.name)])
    for name, text in texts.items():
        write_text(place / name, text)
    figures = [file for drawing in chapter.drawings for file in save(drawing, place)]
    page = folder / f"{definition.name}.html"
    title = f"{definition.title}, {setting.subject.name}"
    sections = [*_sections(chapter), *_foundations([chapter], setting)]
    write_document(page, title, definition.asks, sections)
    return [page, *(place / name for name in texts), *figures]


def write_all(chapters: Sequence[Chapter], setting: Setting, folder: Path) -> Path:
    """Write one page with all experiments; returns its path."""
    size = setting.facts.size
    lead = (
        f"{size['users']:,} users, {size['items']:,} items, {size['actions']:,} events. Settings and "
        "epochs were chosen on the validation part; the test part is only reported."
    )
    entries = "".join(
        f'<li><a href="#{chapter.outcome.definition.name}">{escape(chapter.outcome.definition.title)}</a>: '
        f"{escape(_state(chapter, setting))}</li>"
        for chapter in chapters
    )
    sections = [f'<nav aria-label="Experiments"><ul class="contents">{entries}</ul></nav>']
    for chapter in chapters:
        definition = chapter.outcome.definition
        body = "\n".join(
            section.replace("<h2", "<h3").replace("</h2>", "</h3>") for section in _sections(chapter)
        )
        sections.append(
            f'<section class="part" aria-labelledby="{definition.name}">\n'
            f'<h2 id="{definition.name}">{escape(definition.title)}</h2>\n'
            f'<p class="lead">{escape(definition.asks)}</p>\n{body}\n</section>'
        )
    page = folder / f"{ALL}.html"
    title = f"HM4SR on {setting.subject.name}: all experiments"
    write_document(page, title, lead, [*sections, *_foundations(chapters, setting)])
    return page


def _named(table: Table, experiment: str) -> Table:
    """With a name that is its own among the tables of all experiments."""
    return replace(table, name=f"{experiment} {table.name}")


def _file(table: Table) -> str:
    return "-".join(table.name.replace("(", "").replace(")", "").split())


def _state(chapter: Chapter, setting: Setting) -> str:
    lines = [line for line in chapter.outcome.lines if line.identity]
    if not lines:
        return "done" if chapter.tables else "not done"
    done = sum(bool(line.records) for line in lines)
    return f"{done} of {len(lines)} lines have runs"


def _sections(chapter: Chapter) -> list[str]:
    definition = chapter.outcome.definition
    told = [f"The paper: {definition.paper}", *chapter.notes]
    notes = "".join(f'<p class="note">{escape(line)}</p>\n' for line in told)
    figures = "\n".join(map(inline, chapter.drawings))
    shown = [notes, chapter.body, figures]
    shown += [to_html(_named(table, definition.name)) for table in chapter.tables]
    if chapter.costs is not None:
        shown.append(to_html(_named(chapter.costs, definition.name)))
    return [section for section in shown if section]


def _foundations(chapters: Sequence[Chapter], setting: Setting) -> list[str]:
    """What the figures stand on: settings, data, versions."""
    models = dict.fromkeys(line.part.model for c in chapters for line in c.outcome.lines if line.identity)
    details = "".join(_configuration(model, setting) for model in models)
    head = '<section aria-labelledby="settings">\n<h2 id="settings">Settings</h2>\n'
    told = '<p class="note">Of each model, before an experiment changes them.</p>\n'
    sections = [f"{head}{told}{details}</section>"] if models else []
    rows = [[Cell(name), Cell(digest)] for name, digest in setting.subject.files.items()]
    rows += [
        [Cell(f"{modality}/{name}"), Cell(digest)]
        for modality, hashes in setting.subject.features.items()
        for name, digest in hashes.items()
    ]
    title = f"Data: {setting.subject.name}"
    sections.append(to_html(Table("data", title, ["File", "sha256"], rows)))
    records = [r for c in chapters for line in c.outcome.lines for r in line.records.values()]
    return [*sections, *(to_html(table) for table in _machines(records))]


def _configuration(model: str, setting: Setting) -> str:
    values: dict[str, Any] = setting.bases.plain(model).resolved()
    values["data"] = {**values["data"], "path": setting.subject.name}
    del values["seed"]
    file = setting.bases.file(model)
    origin = f"{file.parent.name}/{file.name}" if file else "defaults"
    changed = "".join(f", --set {text}" for text in setting.bases.overrides)
    summary = escape(f"{title_of(model)}: {origin}{changed}")
    return f"<details><summary>{summary}</summary>\n<pre>{escape(to_toml(values))}</pre></details>\n"


def _machines(records: Iterable[Record]) -> list[Table]:
    """Versions and hardware of the runs, a row for each combination."""
    counts: dict[str, int] = {}
    for record in {record.path: record for record in records}.values():
        key = json.dumps(record.environment, sort_keys=True)
        counts[key] = counts.get(key, 0) + 1
    if not counts:
        return []
    names = sorted({name for key in counts for name in json.loads(key)})
    rows = [
        [Cell(str(count)), *(Cell(str(json.loads(key).get(name, ""))) for name in names)]
        for key, count in sorted(counts.items())
    ]
    return [Table("machines", "Versions and hardware", ["Runs", *names], rows)]
