"""Items new to the user in the next 14 days, on real receipts: ours beside popularity, ALS and SASRec.

`python -m benchmarks.quality --cache CACHE`. Everybody gets the same training users, the same held-out users' past and
the same vectors; everybody's settings are chosen on one half of the held-out users, and the figure is of the other:
recall@10 among products that the household had never bought. ALS is that of `implicit`, held-out users folded in;
SASRec that of `rectools`, with and without the vectors; both in an environment that is made under CACHE (downloads a
few hundred MB once). Five seeds: their mean; ± is the standard error over households, then the deviation over seeds.
"ahead" is how far the last row is ahead of another, paired by household.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from examples.completejourney.import_receipts import import_receipts
from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import ModelConfig
from pinnerformer_model.days import DAY_MS
from pinnerformer_model.evaluation import Figures, Moments
from pinnerformer_model.negatives import Negatives
from pinnerformer_model.objectives import Objective
from pinnerformer_model.ranking import Pairs
from pinnerformer_model.timelines import Timelines
from pinnerformer_model.training import BatchMaker, Feed, Trainer, TrainingSettings
from pinnerformer_model.user_errors import USER_IDS, difference, ratio
from pipelines.cli import main as pinnerformer
from pipelines.training.evaluate import load_evaluation
from stores.files import replace_atomically
from transforms.baselines import baseline_rows
from transforms.evaluation import Evaluation
from transforms.training_data import TrainingData, config_fields

CUT = datetime.date(2017, 11, 1)
RANKED = 400  # of a peer's list; a positive below that is a miss anyway
PEERS = ("rectools[torch]==0.19.0", "implicit==0.7.3")

# What is tried on the first half, per contestant.
ALS = [
    {"factors": f, "regularization": r, "alpha": a, "iterations": 15}
    for f in (32, 64, 128)
    for r in (0.01, 1.0)
    for a in (1.0, 10.0)
]
_SASREC = {"blocks": 2, "heads": 2, "factors": 64, "length": 100, "batch": 64, "dropout": 0.2}
SASREC = [  # a softmax over all 62,000 products costs a minute of one core an epoch: sampled, as ours is
    {**_SASREC, "loss": "sampled_softmax", "negatives": 64, "lr": 1e-3, "epochs": e, "vectors": v}
    for e in (1, 5, 15)
    for v in (False, True)
]


@dataclasses.dataclass(frozen=True)
class Ours:
    """One setting of our own that is tried.

    Attributes:
        first_only: Labels are first purchases only; else every purchase.
        burn_in_days: The first days of the data have no labels: nobody knows yet what is new to a household.
        learning_rate, steps, days, length, random_negatives: Of training.
    """

    first_only: bool
    burn_in_days: int = 0
    learning_rate: float = 3e-4
    steps: int = 300
    days: int = 28
    length: int = 64
    random_negatives: int = 1024
    hidden_size: int = 256
    users_per_step: int = 64
    positions: int = 16


OURS = [
    Ours(first_only=False),
    Ours(first_only=True),
]


def prepare(cache: str) -> tuple[Evaluation, TrainingData]:
    """Imports the receipts and makes timelines, once."""
    world, timelines = os.path.join(cache, "world"), os.path.join(cache, "timelines")
    import_receipts(world, CUT)
    if not os.path.exists(os.path.join(timelines, "timelines.json")):
        inputs = [f"--{name}={world}/{name}" for name in ("logs", "pins")]
        inputs += [f"--label-rule={world}/label-rule.json", f"--out={timelines}"]
        days = ["--start=2017-01-01", f"--end={CUT + datetime.timedelta(13)}", "--evaluation-share=0.3"]
        if pinnerformer(["training-data", *inputs, *days]):
            sys.exit("the timelines could not be made")
    evaluation, data, _ = load_evaluation(timelines, f"{world}/pins", CUT, 14)
    return evaluation, data


def peer_python(cache: str) -> str:
    """The interpreter of the peers' own environment, made if it is not there."""
    folder = os.path.join(cache, "peers")
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(os.path.join(folder, "ready")):
        uv = os.path.join(os.path.dirname(sys.executable), "uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *PEERS], check=True)
        with open(os.path.join(folder, "ready"), "w"):
            pass
    return python


def write_input(evaluation: Evaluation, data: TrainingData, path: str) -> None:
    """What a peer is given: everybody's past, and who is asked. Does nothing if it is there."""
    if os.path.exists(path):
        return
    columns: dict[str, np.ndarray] = {"vectors": np.asarray(data.vectors)}
    past = {"train": data.timelines.before(evaluation.cut_ms), "eval": evaluation.timelines.before(evaluation.cut_ms)}
    for name, timelines in past.items():
        columns[f"{name}_user"] = np.repeat(timelines.user_ids, timelines.lengths)
        columns[f"{name}_item"] = timelines.pin_row.astype(np.int64)
        columns[f"{name}_time"] = timelines.timestamp_ms
    asked = np.unique(evaluation.timelines.user_ids[evaluation.moments("once").user])
    kept = np.isin(columns["eval_user"], asked)
    for name in ("user", "item", "time"):
        columns[f"eval_{name}"] = columns[f"eval_{name}"][kept]
    with replace_atomically(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, asked=asked, **columns)


Sums = dict[str, np.ndarray]  # `user_ids`, and the hits and targets among new items of each


def sums_of(figures: Figures) -> Sums:
    return {name: figures.by_user[name] for name in (USER_IDS, "hits_new", "targets_new")}


def recall_of(sums: Sums) -> tuple[float, float]:
    """Recall@k of new items, a positive, and its standard error over households."""
    return ratio(sums["hits_new"], sums["targets_new"])


def hits_of_lists(ranked: np.ndarray, asked: np.ndarray, evaluation: Evaluation, k: int = 10) -> Sums:
    """Hits of new items from ranked lists of items that the user does not have."""
    moments = evaluation.moments("once")
    fresh = new_targets(moments)
    ids = evaluation.timelines.user_ids[moments.user]
    lists = ranked[np.searchsorted(asked, ids)]  # [Q, n]
    base = int(max(lists.max(), fresh.row.max())) + 1
    key = np.where(lists >= 0, np.arange(len(lists))[:, None] * base + lists, -1)
    own = np.isin(key, fresh.query * base + fresh.row)
    before = np.cumsum(~own, axis=1)  # others up to a place: a target with fewer than k of them is a hit
    hit = key[own & (before < k)]
    hits = np.isin(fresh.query * base + fresh.row, hit).astype(np.float64)
    counted = {
        "hits_new": np.bincount(fresh.query, hits, len(ids)),
        "targets_new": np.bincount(fresh.query, minlength=len(ids)).astype(np.float64),
    }
    return {USER_IDS: ids, **counted}


def new_targets(moments: Moments) -> Pairs:
    return Pairs(moments.targets.query[moments.new], moments.targets.row[moments.new])


def run_peer(cache: str, peer: str, settings: dict[str, Any], seed: int, evaluation: Evaluation) -> dict[str, Sums]:
    """One fit of a peer: hits on either half; kept under the cache."""
    name = f"{peer}-{'-'.join(str(v) for v in settings.values())}-{seed}"
    target = os.path.join(cache, "runs", f"{name}.npz")
    if not os.path.exists(target):
        wanted = json.dumps({"peer": peer, "seed": seed, "ranked": RANKED, **settings})
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quality_peers.py")
        source = os.path.join(cache, "input.npz")
        command = [peer_python(cache), script, source, f"{target}.part.npz", wanted]
        subprocess.run(command, check=True, cwd=cache, env={**os.environ, "OMP_NUM_THREADS": "1"})
        os.rename(f"{target}.part.npz", target)
    ranked = np.load(target)["ranked"]
    asked = np.load(os.path.join(cache, "input.npz"))["asked"]
    return {half: hits_of_lists(ranked, asked, evaluation.half(half)) for half in ("choice", "report")}


def first_purchases(timelines: Timelines, burn_in_days: int) -> Timelines:
    """The same timelines with only the first event of a user with a pin for a positive, past the first days."""
    owner = np.repeat(np.arange(len(timelines)), timelines.lengths)
    order = np.lexsort((timelines.pin_row, owner))  # stable: a user's events with a pin stay in order of time
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(owner[order]) != 0) | (np.diff(timelines.pin_row[order]) != 0)
    positive = np.zeros(len(order), bool)
    positive[order[first]] = True
    positive &= timelines.timestamp_ms >= timelines.timestamp_ms.min() + burn_in_days * DAY_MS
    return dataclasses.replace(timelines, positive=timelines.positive & positive)


def run_ours(cache: str, ours: Ours, seed: int, evaluation: Evaluation, data: TrainingData) -> dict[str, Sums]:
    """One training of our own model: hits on either half; kept under the cache."""
    path = os.path.join(cache, "runs", f"ours-{'-'.join(str(v) for v in dataclasses.astuple(ours))}-{seed}-users.json")
    if os.path.exists(path):
        with open(path) as file:
            return {half: {n: np.array(v) for n, v in sums.items()} for half, sums in json.load(file).items()}
    config = ModelConfig(
        hidden_size=ours.hidden_size,
        num_layers=1,
        num_heads=4,
        ffn_size=4 * ours.hidden_size,
        max_sequence_length=ours.length,
        embedding_dim=ours.hidden_size,
        pin_hidden_size=2 * ours.hidden_size,
        action_dim=16,
        surface_dim=16,
        **config_fields(data),
    )
    settings = TrainingSettings(
        objective=Objective("dense_all_action", ours.days, ours.positions),
        negatives=Negatives("mixed", ours.random_negatives),
        steps=ours.steps,
        warmup_steps=ours.steps // 10,
        learning_rate=ours.learning_rate,
        users_per_step=ours.users_per_step,
        seed=seed,
    )
    timelines = data.timelines.before(evaluation.cut_ms)
    timelines = first_purchases(timelines, ours.burn_in_days) if ours.first_only else timelines
    trainer = Trainer(config, *new_model(config, seed, data.vectors), settings, len(data.vectors))
    feed = Feed(BatchMaker(timelines, data.vectors, settings, ours.length), 0, ours.steps)
    for _ in range(ours.steps):
        trainer.step(feed.next())
    feed.close()
    towers = trainer.user_tower.eval(), trainer.pin_tower.eval()
    found = {}
    for half in ("choice", "report"):
        found[half] = sums_of(evaluation.half(half).model(*towers, ours.length, ("once",))["once"])
    with open(path, "w") as file:
        json.dump({half: {name: v.tolist() for name, v in sums.items()} for half, sums in found.items()}, file)
    return found


def contest(
    name: str, tried: list[Any], once: Callable[[Any, int], dict[str, Sums]], seeds: int
) -> tuple[str, list[Sums]]:
    """Chooses a setting with the first seed on the first half; then every seed's hits on the other."""
    figures = []
    for setting in tried:
        started = time.perf_counter()
        figures.append(recall_of(once(setting, 0)["choice"])[0])
        shown = dataclasses.asdict(setting) if dataclasses.is_dataclass(setting) else setting  # type: ignore[arg-type]
        print(f"  {name} {shown}: {figures[-1]:.4f} ({time.perf_counter() - started:.0f} s)", flush=True)
    best = tried[int(np.argmax(figures))]
    return str(best), [once(best, seed)["report"] for seed in range(seeds)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, metavar="DIR", help="data, the peers' environment, finished runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=("ours", "als", "sasrec"), help="may be repeated")
    parser.add_argument("--smoke", action="store_true", help="one short setting each, to see it run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cache = os.path.abspath(arguments.cache)
    os.makedirs(os.path.join(cache, "runs"), exist_ok=True)
    evaluation, data = prepare(cache)
    write_input(evaluation, data, os.path.join(cache, "input.npz"))
    choice, report = evaluation.half("choice"), evaluation.half("report")
    rows: list[tuple[str, str, list[Sums]]] = []
    ours_beside = ("popularity", "mean_of_last", "whitened_mean", "item_cosine", "ease")
    for row in baseline_rows([choice], [report], names=ours_beside):
        if row.chosen_by in ("new", "both"):
            rows.append((row.name, row.title, [sums_of(row.figures)]))
    asked = arguments.only or ["als", "sasrec", "ours"]
    als, sasrec, ours = ALS, SASREC, OURS
    if arguments.smoke:
        als, ours = ALS[:1], [dataclasses.replace(OURS[0], steps=5)]
        sasrec = [{**SASREC[0], "epochs": 1}]
    if "als" in asked:
        once = functools.partial(run_peer, cache, "als", evaluation=evaluation)
        rows.append(("ALS (implicit)", *contest("ALS", als, lambda s, seed: once(s, seed), arguments.seeds)))
    if "sasrec" in asked:
        once = functools.partial(run_peer, cache, "sasrec", evaluation=evaluation)
        rows.append(("SASRec (rectools)", *contest("SASRec", sasrec, lambda s, seed: once(s, seed), arguments.seeds)))
    if "ours" in asked:
        fit = functools.partial(run_ours, cache, evaluation=evaluation, data=data)
        rows.append(("ours, dense all action", *contest("ours", ours, lambda s, seed: fit(s, seed), arguments.seeds)))
    print_rows(rows)
    return 0


def print_rows(rows: list[tuple[str, str, list[Sums]]]) -> None:
    """Prints every row with its errors, and how far the last one is ahead of it."""
    # The seeds' mean of every household first: it is households that were drawn.
    means = [{name: np.mean([seed[name] for seed in seeds], axis=0) for name in seeds[0]} for _, _, seeds in rows]
    last = means[-1]
    new, households = int(last["targets_new"].sum()), len(last[USER_IDS])
    print(f"\nrecall@10 of {new:,} new products of {households:,} households")
    for (name, setting, seeds), mean in zip(rows, means, strict=True):
        value, error = recall_of(mean)
        spread = f" (seeds ± {statistics.stdev(recall_of(s)[0] for s in seeds):.4f})" if len(seeds) > 1 else ""
        ahead = ""
        if mean is not last:
            order, its = np.argsort(last[USER_IDS]), np.argsort(mean[USER_IDS])
            pairs = [
                last["hits_new"][order],
                last["targets_new"][order],
                mean["hits_new"][its],
                mean["targets_new"][its],
            ]
            ahead = "{:+.4f} ± {:.4f}".format(*difference(*pairs))
        print(f"{name:24}{value:.4f} ± {error:.4f}{spread:20} ahead {ahead:18}  {setting}")


if __name__ == "__main__":
    sys.exit(main())
