import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from hm4sr.experiments.chart import Line, line_chart
from hm4sr.experiments.page import Case, RunSummary, Shown, write_page

VOID = {"meta", "img", "br"}
NASTY = "<script>alert(\"x\")</script> & 'quotes'"


def picture(size: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((size, size), 80).convert("RGB").save(stream, kind)
    return stream.getvalue()


def curve(epochs: int) -> list[dict[str, object]]:
    return [
        {"epoch": epoch, "losses": {"main": 5 / epoch, "cp": 0.3}, "valid": {"ndcg@20": 0.01 * epoch}}
        for epoch in range(1, epochs + 1)
    ]


class Balanced(HTMLParser):
    """Collects the tags and checks that they close in order."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> is given twice"
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def parse(text: str) -> Balanced:
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def page(tmp_path: Path) -> str:
    file = tmp_path / "cup.png"
    file.write_bytes(picture(20))
    (tmp_path / "text.png").write_text("no picture at all")
    day = 86_400
    history = [
        Shown("a", f"Cup {NASTY}", "Kitchen > Cups", 1_600_000_000, file),
        Shown("b", "Broken", "Kitchen", 1_600_000_040, tmp_path / "text.png"),
        Shown("c", "Lost", "", 1_600_000_040 + 21 * day, tmp_path / "nowhere.png"),
        Shown("d", "Large", "", 1_600_000_040 + 22 * day, picture(700)),
    ]
    target = Shown("t", "The target", "Home", 1_600_000_040 + 23 * day, picture(20, "GIF"))
    runs = [
        RunSummary("Popularity", {"ndcg@10": 0.01}),
        RunSummary(f"HM4SR {NASTY}", {"ndcg@10": 0.2, "hit@10": 0.3}, curve(5), 1.25, 1_234_567),
    ]
    recommended = [Shown("a", "Cup"), Shown("t", "The target")]
    cases = [Case(f"u1 {NASTY}", history, target, recommended, earlier=3), Case("u2", [], target)]
    write_page(tmp_path / "page.html", f"Demo {NASTY}", runs, cases, lead=NASTY)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_tags_are_balanced(page):
    assert {"table", "svg", "img", "article", "figure"} <= {tag for tag, _ in parse(page).seen}


def test_text_is_escaped(page):
    assert "script" not in {tag for tag, _ in parse(page).seen}
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_needs_no_network(page):
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//|@import|url\(|<link|<script", text)
    for _, attributes in parse(page).seen:
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        assert "href" not in attributes


def test_missing_pictures_get_a_placeholder(page):
    seen = parse(page).seen
    alts = [attributes["alt"] for tag, attributes in seen if tag == "img"]
    assert alts == [
        f"Picture of Cup {NASTY}",
        "Picture of Large",
        "Picture of The target",
        "Picture of The target",
    ]
    assert sum(attributes.get("class") == "none" for _, attributes in seen) == 4


def test_large_pictures_are_made_small(page):
    assert len(page) < 60_000


def test_marks_the_hit_the_gaps_and_the_best(page):
    assert page.count('class="hit"') == 1
    assert "#2 · hit" in page
    assert "1 of 2 were found" in page
    assert "40 seconds later" in page
    assert re.search(r'class="fresh"><span class="label">3 weeks later', page)
    assert "7 events, the last 4 shown" in page
    assert "<strong>0.2000</strong>" in page
    assert "<strong>0.0100</strong>" not in page
    assert "1,234,567" in page


def test_nothing_to_show_is_still_a_page(tmp_path):
    write_page(tmp_path / "page.html", "Empty", [], [])
    parse((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_a_chart_places_its_points_inside():
    chart = line_chart([Line("a & b", [(1, 0.5), (2, float("nan")), (3, 0.25)], mark=0)], "d", "x", "y")
    points = re.search(r'points="([^"]*)"', chart)
    assert points
    pairs = [tuple(map(float, pair.split(","))) for pair in points[1].split()]
    assert len(pairs) == 2
    assert all(0 <= x <= 560 and 0 <= y <= 300 for x, y in pairs)
    assert pairs[0][1] < pairs[1][1]
    assert "a &amp; b" in chart
    assert "<circle" in chart
    assert line_chart([Line("none", [(1, float("nan"))])], "d", "x", "y") == ""
