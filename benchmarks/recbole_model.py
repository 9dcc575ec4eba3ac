"""Time RecBole's SASRec, GRU4Rec or FEARec, in an environment of its own; prints one line of JSON.

RecBole's quick start fails with current numpy and torch, so its own model, data loader and evaluation are
called one after the other. An epoch takes minutes: steps are timed and multiplied by their number.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import time
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer

SETTINGS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "MAX_ITEM_LIST_LENGTH": 50,
    "train_batch_size": 1024,
    "eval_batch_size": 2048,
    "train_neg_sample_args": None,
    "loss_type": "CE",
    "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
    "metrics": ["NDCG", "MRR"],
    "topk": [5, 10, 20],
    "valid_metric": "NDCG@20",
    "use_gpu": False,
    "show_progress": False,
}
# What RecBole's own settings of a model leave open.
OF_MODEL = {"FEARec": {"contrast": "us_x", "tau": 1.0, "sim": "dot"}}


def main() -> None:
    """Warm up, time the wanted number of steps, then one ranking of all test targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds NAME/NAME.inter")
    parser.add_argument("name")
    parser.add_argument("--model", default="SASRec", choices=("SASRec", "GRU4Rec", "FEARec"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = str(arguments.folder.resolve())
    os.chdir(folder)  # where RecBole leaves its logs
    config = Config(
        model=arguments.model,
        dataset=arguments.name,
        config_dict={
            **SETTINGS,
            **OF_MODEL.get(arguments.model, {}),
            "data_path": folder,
            "checkpoint_dir": folder,
        },
    )
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    room = importlib.import_module("recbole.model.sequential_recommender")
    model = getattr(room, arguments.model)(config, train.dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    seconds, started = [], time.perf_counter()
    for number, batch in enumerate(train):
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
        now = time.perf_counter()
        if number >= 3:
            seconds.append(now - started)
        started = now
        if len(seconds) == arguments.steps:
            break
    trainer = Trainer(config, model)
    started = time.perf_counter()
    trainer.evaluate(test, load_best_model=False, show_progress=False)
    ranking = time.perf_counter() - started
    step = statistics.median(seconds)
    result = {
        "step_ms": step * 1e3,
        "epoch_s": step * len(train),
        "ranking_s": ranking,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": torch.get_num_threads(),
        "precision": "float32",
        "epoch_from": f"{len(seconds)} of {len(train)} steps",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
