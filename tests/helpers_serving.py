"""A tiny data set and runs trained on it for an epoch, shared by the tests of serving."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from hm4sr.cli import main
from hm4sr.data.dataset import save_dataset
from hm4sr.features.store import save_features
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment
from hm4sr.types import ItemFeatures

ITEMS = ["007", "7", "Käse", "日本", "a,b", 'say "hi"', *(f"i{number}" for number in range(6, 20))]
USERS = ["0042", "42", "Zoë", *(f"u{number}" for number in range(3, 12))]
START, DAY = 1_405_296_000, 86_400


def make_dataset(path, rng_seed=3, pictures=None):
    """Twelve users with 4 to 13 events over 20 items; the last item is never used, the first two most."""
    rng = np.random.default_rng(rng_seed)
    lengths = [4 + row % 10 for row in range(len(USERS))]
    weights = np.r_[8.0, 6.0, np.ones(len(ITEMS) - 3), 0.0]
    users, items, times = [], [], []
    for user, length in enumerate(lengths):
        users += [user] * length
        items += (rng.choice(len(ITEMS), length, p=weights / weights.sum()) + 1).tolist()
        times += (START + DAY * np.sort(rng.integers(0, 400, length))).tolist()
    titles = [None if number == 8 else f"Title of {item}" for number, item in enumerate(ITEMS)]
    return save_dataset(
        path,
        pl.DataFrame(
            {"user": users, "item": items, "time": times},
            schema={"user": pl.Int32, "item": pl.Int32, "time": pl.Int64},
        ),
        pl.DataFrame(
            {
                "user_id": USERS,
                "events": lengths,
                "train_end": [length - 2 for length in lengths],
                "valid_end": [length - 1 for length in lengths],
            }
        ),
        pl.DataFrame(
            {
                "item_id": ITEMS,
                "title": titles,
                "brand": [None] * len(ITEMS),
                "categories": [["odd" if number % 2 else "even"] for number in range(len(ITEMS))],
                "text": titles,
                "image": pictures or [None] * len(ITEMS),
            },
            schema_overrides={"brand": pl.String, "image": pl.String},
        ),
        rules={},
        statistics={},
    )


def add_features(dataset, width=5, rng_seed=7):
    """Random text and image vectors; the second item has no text, the third no image."""
    rng = np.random.default_rng(rng_seed)
    for missing, name in ((2, "text"), (3, "image")):
        vectors = rng.standard_normal((len(ITEMS) + 1, width)).astype(np.float32)
        present = np.ones(len(ITEMS) + 1, dtype=bool)
        present[[0, missing]] = False
        vectors[~present] = 0
        features = ItemFeatures(torch.from_numpy(vectors), torch.from_numpy(present))
        save_features(dataset, name, features, {"modality": name, "encoder": "drawn"})


def make_run(path, dataset, model="sasrec", max_length=6):
    """A model trained for one epoch; histories of the data set are longer than its window."""
    experiment = Experiment.build(
        {
            "data": {"path": str(dataset.path), "max_length": max_length},
            "model": {"name": model, "dim": 8, "inner": 16, "layers": 1},
            "train": {"epochs": 1, "device": "cpu", "threads": 1},
        },
        "test",
    )
    return train_run(experiment, path)


class ServiceProcess:
    """A running `hm4sr serve` and the lines of its log."""

    def __init__(self, process, log):
        self.process, self._log = process, log
        self.port = int(self.wait_for("listening on")["message"].rsplit(":", 1)[1])

    def lines(self):
        return [
            json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]

    def wait_for(self, message):
        while True:
            found = [line for line in self.lines() if line["message"].startswith(message)]
            if found:
                return found[-1]
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.02)


@contextlib.contextmanager
def started_service(run, *arguments, **environment):
    """Serve a run on a free port; killed at the end if it has not stopped."""
    line = [sys.executable, "-m", "hm4sr.cli", "serve", str(run), "--port", "0", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as stream:
            process = subprocess.Popen(line, stderr=stream, env={**os.environ, **environment})
        try:
            yield ServiceProcess(process, log)
        finally:
            process.kill()
            process.wait()


def pairs(answer):
    """Ids and scores of an answer, from Python or as JSON."""
    if isinstance(answer, dict):
        return [(item["item_id"], item["score"]) for item in answer["items"]]
    return [(item.item_id, item.score) for item in answer.items]


def same_list(one, other, tolerance=1e-4):
    """Whether two lists of (id, score) are the same, but for the order of items whose scores are."""
    if len(one) != len(other):
        return False
    scores = dict(other)
    return all(
        abs(score - its) <= tolerance
        and (item == another or abs(scores.get(item, other[-1][1]) - score) <= tolerance)
        for (item, score), (another, its) in zip(one, other, strict=True)
    )


def recommend_caller(folder, capsys):
    """Calls `hm4sr recommend` in-process on the run `where` of a folder; gives code, output, errors."""

    def call(*arguments, where="run"):
        with pytest.raises(SystemExit) as stopped:
            main(["recommend", str(folder / where), *map(str, arguments)])
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out, said.err

    return call
