"""Tests are spread over processes, which must find the same ones."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
def test_tests_have_the_same_names_at_any_time_and_under_any_hash_seed():
    found = []
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "", "-p", "no:xdist"]
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-2000:]
        found.append([line for line in done.stdout.splitlines() if "::" in line])
        time.sleep(1.1)  # times in whole seconds differ
    assert len(found[0]) > 1000
    assert found[0] == found[1]
