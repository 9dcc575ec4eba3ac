"""How the pages become a site: `make docs`. Neither the build nor a page loads anything from elsewhere."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "src")]

from tools import reference  # noqa: E402

import hm4sr  # noqa: E402

reference.write(DOCS / "reference")

project = "HM4SR"
version = release = hm4sr.__version__
copyright = "the authors of HM4SR's code; MIT licence"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
highlight_language = "text"
nitpicky = True
html_theme = "furo"
html_title = f"HM4SR {version}"
html_static_path: list[str] = []
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"sidebar_hide_name": False}

_PLACEHOLDER = "other-pages"


def _list_other_pages(app: object, page: str, source: list[str]) -> None:
    """List the pages that nobody has listed at the end: a new page only has to be there."""
    if page == "index":
        pages = sorted(str(file.relative_to(DOCS).with_suffix("")) for file in DOCS.rglob("*.md"))
        listed = {word for line in source[0].splitlines() for word in line.split() if len(line.split()) == 1}
        others = [
            name
            for name in pages
            if name not in listed and name != "index" and not name.startswith(("_build", "decisions/"))
        ]
        source[0] = source[0].replace(_PLACEHOLDER, "\n".join(others))


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _list_other_pages)  # type: ignore[attr-defined]
