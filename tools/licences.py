"""Licences of everything that `constraints.txt` pins: `python -m tools.licences` writes docs/licences.md."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
_HEAD = """# Licences of dependencies

HM4SR is under the MIT licence. It contains no code of other projects; it is used together with these, which
`make install` fetches, as far as an extra asks for them. Made by `python -m tools.licences` from what the
packages themselves declare, for the versions in `constraints.txt`.

| package | licence as declared |
|---|---|
"""
_LONGEST = 60
"""A longer text is the licence itself in the place of its name."""


def pinned() -> dict[str, str]:
    """Names in the constraints, and their versions."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def licence(package: Distribution) -> str:
    """What a package declares: an expression, a short text, or its classifiers."""
    declared = package.metadata
    if "License-Expression" in declared:
        return str(declared["License-Expression"])
    classifiers = [
        line.split(" :: ")[-1]
        for line in declared.get_all("Classifier") or []
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    if classifiers:
        return ", ".join(sorted(set(classifiers)))
    text = " ".join(str(declared["License"]).split()) if "License" in declared else ""
    return text if 0 < len(text) <= _LONGEST else "see the package"


def page() -> str:
    """The page; a package that is not installed in the pinned version keeps its line."""
    kept = dict(
        re.findall(r"^\| (\S+) \| (.+) \|$", PAGE.read_text() if PAGE.is_file() else "", re.MULTILINE)
    )
    rows = []
    for name, version in pinned().items():
        try:
            package = distribution(name)
            here = package.version.partition("+")[0] == version  # torch adds what it was built for
        except PackageNotFoundError:
            here = False
        told = licence(package) if here else kept.get(name, "not installed where this was made")
        rows.append(f"| {name} | {told} |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
