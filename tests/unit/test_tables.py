"""Tables in five forms: the same figures, marks and escapes."""

import csv
import io
import re

import pytest
from rich.console import Console
from test_page import Balanced

from hm4sr.experiments.tables import (
    Cell,
    Table,
    escape_latex,
    escape_markdown,
    figure,
    marked,
    terminal_tables,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
)

NASTY = r"a|b_c*d`e & <i> 50% $x$ #1 {y} \z ~^ [l](u)"


@pytest.fixture
def table() -> Table:
    column = marked([figure(0.04201, 0.0003), figure(0.0415), figure(0.02), figure(None)])
    column[0] = Cell(column[0].text, column[0].value, column[0].spread, column[0].mark, "†")
    names = ["HM4SR", "SASRec", NASTY, "absent"]
    rows = [[Cell(name), cell] for name, cell in zip(names, column, strict=True)]
    return Table("my results", f"Results on {NASTY}", ["Model", "NDCG@10"], rows, ["† all of them"], [3])


def test_the_best_and_the_second_are_marked_and_equal_figures_share_a_mark():
    cells = marked([figure(0.1), figure(0.30001), figure(0.3), figure(0.2, 0.1), figure(None), figure(0.2)])
    assert [cell.mark for cell in cells] == ["", "best", "best", "second", "", "second"]
    assert [cell.mark for cell in marked([figure(2.0), figure(1.0)], largest=False)] == ["second", "best"]
    assert [cell.mark for cell in marked([figure(0.5)])] == [""]
    assert [cell.mark for cell in marked([figure(0.0), figure(0.1)])] == ["", "best"]


def test_markdown_holds_its_columns_whatever_the_names(table):
    text = to_markdown([table], "Title")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 6
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert "| HM4SR | **0.0420 ± 0.0003**† |" in text
    assert "| SASRec | <ins>0.0415</ins> |" in text
    assert "\n# " not in text
    assert text.startswith("# Title\n\n## Results on a\\|b\\_c\\*d\\`e")


def test_markdown_escapes_are_exactly_what_is_special():
    assert escape_markdown("a|b_c\nd") == r"a\|b\_c d"
    assert escape_markdown("<script>") == r"\<script\>"
    assert escape_markdown("0.5 (plain) +1 - x") == "0.5 (plain) +1 - x"


def test_latex_escapes():
    assert escape_latex("50% & a_b #1 $x$ {y}") == r"50\% \& a\_b \#1 \$x\$ \{y\}"
    assert escape_latex(r"\z ~^") == r"\textbackslash{}z \textasciitilde{}\textasciicircum{}"
    assert escape_latex("1 ± 2†") == r"1 $\pm$ 2$\dagger$"
    assert escape_latex("λ2, β") == r"$\lambda$2, $\beta$"


def test_latex_is_balanced_and_marks(table):
    text = to_latex([table])
    assert r"HM4SR & \textbf{0.0420 $\pm$ 0.0003}\textsuperscript{$\dagger$} \\" in text
    assert r"SASRec & \underline{0.0415} \\" in text
    assert r"\label{tab:my-results}" in text
    assert text.count(r"\midrule") == 2
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    for name in re.findall(r"\\begin{([a-z*]+)}", text):
        assert f"\\end{{{name}}}" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    for line in body.splitlines():
        assert len(re.findall(r"(?<!\\)&", line)) == line.endswith(r"\\")


def test_csv_keeps_numbers_in_full(table):
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert rows[0] == ["Model", "NDCG@10", "NDCG@10 std"]
    assert rows[1] == ["HM4SR", "0.04201", "0.0003"]
    assert rows[2] == ["SASRec", "0.0415", ""]
    assert rows[3][0] == NASTY
    assert rows[4] == ["absent", "", ""]


def test_csv_holds_no_formulas():
    evil = Table("t", "t", ["a"], [[Cell("=1+1")], [Cell("-0.5", -0.5)]])
    assert to_csv(evil).splitlines() == ["a", "'=1+1", "-0.5"]


def test_html_is_balanced_and_escaped(table):
    parser = Balanced()
    text = to_html(table)
    parser.feed(text)
    assert not parser.open
    assert ("tr", {"class": "rule"}) in parser.seen
    assert "<strong>0.0420 ± 0.0003</strong><sup>†</sup>" in text
    assert "<u>0.0415</u>" in text
    assert "<i>" not in text


def test_a_terminal_table_tells_marks_without_styles_and_loses_no_column():
    header = ["Model", *(f"column {number}" for number in range(12))]
    best, second = marked([figure(0.5, 0.01), figure(0.25)])
    rows = [[Cell("one"), *[best] * 12], [Cell("two"), *[second] * 12]]
    stream = io.StringIO()
    console = Console(file=stream, width=60, color_system=None)
    console.print(*terminal_tables(Table("t", "Title", header, rows, ["a note"]), 60))
    text = stream.getvalue()
    assert text.count("0.5000") == text.count("±0.0100¹") == 12
    assert text.count("0.2500²") == 12
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("Title") == text.count("a note") == 1
