"""Limits for lines and for branches, which the limit of coverage itself adds up.

python -m tools.coverage --lines 90 --branches 80
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def shares() -> dict[str, float]:
    """Percent of lines and of branches that the last measured tests ran."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        command = [sys.executable, "-m", "coverage", "json", "-q", "-o", str(file)]
        subprocess.run(command, check=True)
        totals = json.loads(file.read_text())["totals"]
    lines = totals["covered_lines"] / totals["num_statements"]
    branches = totals["covered_branches"] / totals["num_branches"]
    return {"lines": 100 * lines, "branches": 100 * branches}


def main() -> int:
    """Print the shares; returns 1 where one is too small."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=float, required=True)
    parser.add_argument("--branches", type=float, required=True)
    least = vars(parser.parse_args())
    subprocess.run(
        [sys.executable, "-m", "coverage", "report", "--skip-covered", "--precision=1"], check=True
    )
    found = shares()
    for name, share in found.items():
        print(f"{name}: {share:.1f} %, at least {least[name]:g} % wanted")
    return int(any(found[name] < least[name] for name in found))


if __name__ == "__main__":
    sys.exit(main())
