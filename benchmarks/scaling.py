"""Cost against users, items, history length and experts: one command, a table and a plot.

Every point is a process of its own that times some steps of HM4SR on synthetic data in which one size
differs from the base (Amazon Games' outline). Run: `python -m benchmarks.scaling`; writes scaling.json,
scaling.md and scaling.html into --folder.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import last_line
from benchmarks.timing import Bench, settings_of, summary
from hm4sr.cli.output import print_table
from hm4sr.experiments.chart import Line, line_chart
from hm4sr.experiments.page_style import STYLE
from hm4sr.features.synthetic import SyntheticConfig, synthesize

USERS, ITEMS, EVENTS_EACH, LENGTH, EXPERTS = 8_000, 10_000, 10, 50, 4
AXES: dict[str, list[dict[str, int]]] = {
    "users": [{"users": n} for n in (4_000, 8_000, 16_000, 32_000)],
    "items": [{"items": n} for n in (2_500, 5_000, 10_000, 20_000, 40_000)],
    "length": [{"length": n, "users": 80_000 // n} for n in (10, 20, 50, 100, 200)],
    "experts": [{"experts": n} for n in (2, 4, 8, 12)],
}
HEADER = ["axis", "value", "ms/step", "s/epoch", "us/target", "s/ranking", "us/ranked user", "peak MB"]


def main() -> None:
    """Time all points, or with --point one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench/scaling"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--point", help="one point as JSON; prints its figures")
    arguments = parser.parse_args()
    if arguments.point:
        point = json.loads(arguments.point)
        print(json.dumps(measure(point, arguments.folder, arguments.steps, arguments.threads)))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for axis, points in AXES.items():
        for point in points:
            command = [sys.executable, "-m", "benchmarks.scaling", "--point", json.dumps(point)]
            options = ["--folder", str(arguments.folder), "--steps", str(arguments.steps)]
            figures = last_line([*command, *options, "--threads", str(arguments.threads)])
            rows.append({"axis": axis, "value": point[axis], **figures})
            print(rows[-1], flush=True)
    (arguments.folder / "scaling.json").write_text(json.dumps(rows, indent=2) + "\n")
    table = [cells(row) for row in rows]
    lines = [HEADER, ["---"] * len(HEADER), *table]
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    (arguments.folder / "scaling.md").write_text(markdown + "\n")
    (arguments.folder / "scaling.html").write_text(page(rows))
    print_table(HEADER, table, title="HM4SR, all losses, text and image 768 wide; base: " + base())


def base() -> str:
    """The sizes that every point shares but for its own."""
    return f"{USERS:,} users, {ITEMS:,} items, {EVENTS_EACH} events a user, K1 = K2 = {EXPERTS}"


def measure(point: dict[str, int], folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """Figures of one point."""
    users, items = point.get("users", USERS), point.get("items", ITEMS)
    length, experts = point.get("length", LENGTH), point.get("experts", EXPERTS)
    each = point.get("length", EVENTS_EACH)
    events = max(users * each, 5 * items)
    sizes = {"users": users, "items": items, "events": events, "feature_dtype": "float16"}
    data = folder / f"data-{users}-{items}-{events}"
    if not (data / "manifest.json").is_file():
        synthesize(SyntheticConfig.parse(sizes, "benchmarks"), data)
    model = {"interactive_experts": experts, "temporal_experts": experts}
    bench = Bench.build(
        settings_of(data, "hm4sr", data={"max_length": max(50, length)}, model=model), threads
    )
    seconds, num_steps = bench.steps(10, steps)
    ranking = min(bench.ranking() for _ in range(2))
    figures = summary(bench, seconds, num_steps, [ranking])
    targets, ranked = bench.batches.num_targets, len(bench.dataset.events.targets("test"))
    return {
        **figures,
        "us_per_target": figures["epoch_s"] / targets * 1e6,
        "us_per_ranked": ranking / ranked * 1e6,
    }


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    return [
        row["axis"],
        f"{row['value']:,}",
        f"{row['step_ms']:.1f}",
        f"{row['epoch_s']:.1f}",
        f"{row['us_per_target']:.1f}",
        f"{row['ranking_s']:.2f}",
        f"{row['us_per_ranked']:.1f}",
        str(row["peak_mb"]),
    ]


def page(rows: list[dict[str, Any]]) -> str:
    """One self-contained page with a chart an axis."""
    charts = []
    for axis in AXES:
        own = [row for row in rows if row["axis"] == axis]
        lines = [
            Line("training, us a target", [(row["value"], row["us_per_target"]) for row in own]),
            Line("ranking, us a user", [(row["value"], row["us_per_ranked"]) for row in own]),
        ]
        label = f"cost against {axis}"
        charts.append(f"<h2>{label}</h2>" + line_chart(lines, label, axis, "microseconds"))
    head = "<!doctype html><html lang=en><meta charset=utf-8><title>Scaling of HM4SR</title>"
    body = f"<main><h1>Scaling of HM4SR</h1><p>Base: {base()}.</p>{''.join(charts)}</main>"
    return f"{head}<style>{STYLE}</style>{body}</html>"


if __name__ == "__main__":
    main()
