import subprocess
import sys

import pytest

from hm4sr.data.dataset import Dataset


@pytest.fixture
def shop(tmp_path):
    rows = [f"u{user},i{item},{1405296000 + 60 * (user + item)}\n" for user in range(6) for item in range(6)]
    (tmp_path / "log.csv").write_text("who,what,when\n" + "".join(rows) + rows[0] + "u9,i0,1405296000\n")
    items = [f"i{item},Thing {item},Tools|Small,Acme,p{item}.jpg\n" for item in range(6)]
    (tmp_path / "items.csv").write_text("what,title,category,brand,image_path\n" + "".join(items))
    return tmp_path


def run(folder, *arguments):
    columns = ["--user-column", "who", "--item-column", "what", "--time-column", "when"]
    command = [
        sys.executable,
        "-m",
        "hm4sr.cli",
        "prepare",
        "--interactions",
        "log.csv",
        "--items",
        "items.csv",
    ]
    return subprocess.run(
        [*command, "--out", "shop", *columns, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_prepare_prints_statistics_and_writes_a_data_set(shop):
    result = run(shop)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for line in (
        "users 6",
        "items 6",
        "actions 36",
        "avg. actions / user 6.00",
        "sparsity 0.00%",
        "time range 2014-07-14T00:00:00Z to 2014-07-14T00:10:00Z",
        "time unit s (recognised)",
        "categories divided by '|' (recognised)",
        "split leave-one-out",
        "actions in train 24",
        "actions in test 6",
        "rows read 38",
        "removed: duplicates 1",
        "removed: k core 1",
    ):
        assert line in lines
    assert any(line.startswith("pictures not found 6 of them") for line in lines)
    data = Dataset.open(shop / "shop")
    assert data.items["categories"].to_list() == [["Tools", "Small"]] * 6
    assert data.manifest["rules"]["image_root"] == str(shop)


def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(shop):
    before = sorted(path.name for path in shop.iterdir())
    result = run(shop, "--brand-column", "brnad")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("hm4sr: items.csv has no column 'brnad'")
    assert result.stderr.count("\n") == 1
    assert "did you mean --brand-column brand?" in result.stderr
    assert sorted(path.name for path in shop.iterdir()) == before


def test_force_replaces(shop):
    assert run(shop).returncode == 0
    again = run(shop)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert run(shop, "--force", "--ties", "hash").returncode == 0
    assert Dataset.open(shop / "shop").manifest["rules"]["ties"] == "hash"


def test_a_global_split_from_the_command_line(shop):
    # Interactions lie on the minutes 0 to 10; six of them from the eighth on.
    least = ("--min-user-events", "1", "--min-item-events", "1")
    moments = ("--valid-share", "0.3", "--test-from", "2014-07-14T00:08:00Z")
    result = run(shop, "--split", "global-time", *moments, *least)
    assert result.returncode == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "split global-time" in lines
    assert "actions in test 6 (from 2014-07-14T00:08:00Z)" in lines
    assert Dataset.open(shop / "shop").manifest["rules"]["test_from"] == "2014-07-14T00:08:00Z"
    refused = run(shop, "--force", "--cold-items", "maybe")
    assert refused.returncode == 2
    assert "'keep', 'drop'" in refused.stderr


def test_options_show_their_defaults(shop):
    result = run(shop, "--help")
    assert result.returncode == 0
    text = " ".join(result.stdout.split())
    assert "--min-user-events INTEGER" in text
    assert "[default: user_id]" in text
    assert "[default: 5]" in text


def test_a_value_out_of_range_names_the_rule(shop):
    result = run(shop, "--min-user-events", "0")
    assert result.returncode == 2
    assert "min_user_events" in result.stderr
