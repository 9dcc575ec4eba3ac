"""Tables of figures, written alike for a terminal, Markdown, CSV, LaTeX and HTML."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text

_NOTHING = "\N{EN DASH}"
Mark = Literal["", "best", "second"]


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: what is shown; an empty one is shown as a dash.
        value: the number behind it, in full, for CSV; None where there is none.
        spread: its standard deviation; None where there is none.
        mark: the best of its column is bold, the second underlined.
        note: sign that follows, explained below the table.
    """

    text: str
    value: float | None = None
    spread: float | None = None
    mark: Mark = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a title, notes below it, and rows whose first cell says what they are.

    Attributes:
        name: short, for file names and LaTeX labels.
        title: one sentence.
        header: names of the columns.
        rows: as many cells each as there are columns.
        notes: sentences below.
        rules: numbers of rows that a line is drawn above.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    rules: Sequence[int] = ()


def figure(value: float | None, spread: float | None = None, pattern: str = ".4f") -> Cell:
    """A cell with a number, and its spread where there is one."""
    if value is None:
        return Cell("")
    text = format(value, pattern)
    return Cell(text if spread is None else f"{text} ± {format(spread, pattern)}", value, spread)


def marked(cells: Sequence[Cell], largest: bool = True) -> list[Cell]:
    """Mark the best and the second best of some cells; those shown alike share a mark, and 0 gets none.

    Args:
        cells: one column's (or one row's) cells; those without a number stay as they are.
        largest: whether more is better.
    """
    shown = {
        text.split(" ±")[0]: value for text, value in ((c.text, c.value) for c in cells) if value is not None
    }
    order = sorted(shown, key=lambda text: shown[text], reverse=largest)
    best: dict[str, Mark] = dict(zip(order, ("best", "second"), strict=False)) if len(order) > 1 else {}
    marks = {text: mark for text, mark in best.items() if float(shown[text])}
    return [
        Cell(c.text, c.value, c.spread, marks.get(c.text.split(" ±")[0], ""), c.note)
        if c.value is not None
        else c
        for c in cells
    ]


def terminal_tables(table: Table, width: int) -> "Iterator[RichTable | Text]":
    """For a terminal: best bold and ¹, second underlined and ², so that it can be told without styles too.

    A table that is too wide is cut into several beneath each other, each with the first column.
    """
    from rich.box import SIMPLE
    from rich.table import Table as RichTable
    from rich.text import Text

    styles = {"": "", "best": "bold", "second": "underline"}
    signs = {"": "", "best": "¹", "second": "²"}

    def shown(cell: Cell) -> Text:
        lines = (cell.text or _NOTHING).replace(" ± ", "\n±")
        return Text(lines, styles[cell.mark]) + Text(signs[cell.mark] + cell.note)

    columns = [[shown(row[number]) for row in table.rows] for number in range(len(table.header))]
    widths = [
        max(len(line) for text in [name.replace(" ", "\n"), *map(str, cells)] for line in text.splitlines())
        for name, cells in zip(table.header, columns, strict=True)
    ]
    blocks = _fold(widths, width)
    marks = any(cell.mark for row in table.rows for cell in row)
    notes = [*(["¹ best, ² second best."] if marks else []), *table.notes]
    for block in blocks:
        part = RichTable(box=SIMPLE, title_justify="left")
        part.title = table.title if block is blocks[0] else None
        for number in block:
            part.add_column(
                Text(table.header[number]),
                justify="right" if number else "left",
                min_width=widths[number],
            )
        for row, cells in enumerate(table.rows):
            if not any(cells[number].text for number in block[1:]):
                continue
            if row in table.rules:
                part.add_section()
            part.add_row(*(columns[number][row] for number in block))
        yield part
    if notes:
        yield Text("\n".join(notes) + "\n", style="dim")


def _fold(widths: Sequence[int], width: int) -> list[list[int]]:
    """Numbers of the columns of each block that fits, the first column in all of them."""
    gap = 3  # a space on either side and one between columns
    blocks: list[list[int]] = [[0]]
    used = first = widths[0] + gap + 1
    for number in range(1, len(widths)):
        if used + widths[number] + gap > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = first
        blocks[-1].append(number)
        used += widths[number] + gap
    return blocks


def to_markdown(tables: Sequence[Table], title: str = "", lead: Sequence[str] = ()) -> str:
    """Sections of Markdown with pipe tables; second best is <ins>, the underlining that GitHub shows."""
    blocks = [f"# {escape_markdown(title)}"] if title else []
    blocks += [escape_markdown(line) for line in lead]
    wraps = {"": "{}", "best": "**{}**", "second": "<ins>{}</ins>"}
    for table in tables:
        header = [escape_markdown(name) for name in table.header]
        rows = [
            [
                wraps[cell.mark].format(escape_markdown(cell.text or _NOTHING)) + escape_markdown(cell.note)
                for cell in row
            ]
            for row in table.rows
        ]
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        blocks.append(f"## {escape_markdown(table.title)}")
        blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
        blocks += [escape_markdown(note) for note in table.notes]
    return "\n\n".join(blocks) + "\n"


def to_csv(table: Table) -> str:
    """One table with its numbers in full; a spread has a column of its own, marks are left to the reader."""
    spreads = [
        any(row[column].spread is not None for row in table.rows) for column in range(len(table.header))
    ]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")

    def line(values: Sequence[tuple[str, str]]) -> None:
        writer.writerow(
            [part for pair, both in zip(values, spreads, strict=True) for part in pair[: 1 + both]]
        )

    line([(name, f"{name} std") for name in table.header])
    for row in table.rows:
        line(
            [
                (
                    _plain(cell.text) if cell.value is None else repr(cell.value),
                    "" if cell.spread is None else repr(cell.spread),
                )
                for cell in row
            ]
        )
    return stream.getvalue()


def to_latex(tables: Sequence[Table]) -> str:
    r"""Floating tables for a paper; they need \usepackage{booktabs,graphicx}."""
    return "% \\usepackage{booktabs,graphicx}\n" + "\n".join(map(_latex_table, tables))


def _latex_table(table: Table) -> str:
    wraps = {"": "%s", "best": "\\textbf{%s}", "second": "\\underline{%s}"}
    lines = [
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{escape_latex(table.title)}}}",
        f"\\label{{tab:{re.sub('[^a-z0-9]+', '-', table.name.lower())}}}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        "\\toprule",
        " & ".join(map(escape_latex, table.header)) + " \\\\",
        "\\midrule",
    ]
    for number, row in enumerate(table.rows):
        if number in table.rules:
            lines.append("\\midrule")
        cells = [
            wraps[cell.mark] % escape_latex(cell.text or _NOTHING)
            + (f"\\textsuperscript{{{escape_latex(cell.note)}}}" if cell.note else "")
            for cell in row
        ]
        lines.append(" & ".join(cells) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}}"]
    lines += [f"\\\\[2pt]{{\\footnotesize {escape_latex(note)}}}" for note in table.notes]
    return "\n".join([*lines, "\\end{table*}"]) + "\n"


def to_html(table: Table) -> str:
    """A section of a page in the style of `page_style`."""
    wraps = {"": "{}", "best": "<strong>{}</strong>", "second": "<u>{}</u>"}
    anchor = re.sub("[^a-z0-9]+", "-", table.name.lower())
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    body = []
    for number, row in enumerate(table.rows):
        cells = [wraps[cell.mark].format(escape(cell.text or _NOTHING)) for cell in row]
        cells = [
            text + (f"<sup>{escape(cell.note)}</sup>" if cell.note else "")
            for text, cell in zip(cells, row, strict=True)
        ]
        kind = ' class="rule"' if number in table.rules else ""
        data = "".join(f"<td>{text}</td>" for text in cells[1:])
        body.append(f'<tr{kind}><th scope="row">{cells[0]}</th>{data}</tr>')
    notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in table.notes)
    return (
        f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(table.title)}</h2>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{anchor}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(body)
        + f"\n</tbody>\n</table></div>\n{notes}</section>"
    )


_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\N{EN DASH}": "--",
    "†": r"$\dagger$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": "$-$",
    "λ": r"$\lambda$",
    "β": r"$\beta$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _plain(text: str) -> str:
    """Without what a spreadsheet would take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
