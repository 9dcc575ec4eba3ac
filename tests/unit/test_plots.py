"""Figures: the same bytes in any process, colours of the page, nothing that a title could break."""

import subprocess
import sys
from pathlib import Path

from hm4sr.experiments.plots import Card, Drawing, Panel, Point, Series, bars, cards, inline, lines, save

SCRIPT = """
import sys
from pathlib import Path
from test_plots import drawings
from hm4sr.experiments.plots import save
for drawing in drawings():
    save(drawing, Path(sys.argv[1]))
"""


def drawings() -> list[Drawing]:
    points = [Point("full", 0.04, 0.002, 0.042, ours=True), Point("-CP", 0.038), Point("-Text", None)]
    panels = [Panel("NDCG@5", "", [Series("", points)], 0.042), Panel("MRR@5", "", [Series("", points)])]
    swept = [Panel("K1", "experts", [Series("HM4SR", points), Series("SASRec", points)], 0.04, "NDCG@5")]
    shown = [("History", [Card("A $5 cup & <saucer>", "Home", "01 Jan 2021", None, True)])]
    return [
        Drawing("bars", "Bars", "bars", bars(panels)),
        Drawing("lines", "Lines", "lines", lines(swept)),
        Drawing("cards", "Cards", "cards", cards(shown)),
    ]


def test_the_same_bytes_in_any_process(tmp_path):
    for drawing in drawings():
        svg, pdf = save(drawing, tmp_path / "here")
        assert pdf.read_bytes().startswith(b"%PDF")
        assert b"CreationDate" not in pdf.read_bytes()
        assert "<dc:date>" not in svg.read_text()
    for seed in ("1", "2"):
        place = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])}
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / seed)], check=True, env=place)
        for file in (tmp_path / "here").iterdir():
            assert (tmp_path / seed / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_figure_in_a_page_takes_the_page_s_colours():
    text = inline(drawings()[0])
    assert text.startswith('<figure class="wide"><svg role="img" aria-label="bars"')
    assert "var(--s0)" in text
    assert "#0072b2" not in text
    assert "not run" in text
    assert ".0400" in text


def test_titles_are_shown_as_they_are():
    text = inline(drawings()[2])
    assert "A $5 cup &amp; &lt;saucer&gt;" in text
