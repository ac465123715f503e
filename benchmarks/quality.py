"""Items new to the user in the next 14 days, on real receipts: ours beside popularity, ALS and SASRec.

`python -m benchmarks.quality --cache CACHE`. Everybody gets the same training users, the same held-out users' past and
the same vectors; everybody's settings are chosen on one half of the held-out users, and the figure is of the other:
recall@10 among products that the household had never bought. ALS is that of `implicit`, held-out users folded in;
SASRec that of `rectools`, with and without the vectors; both in an environment that is made under CACHE (downloads a
few hundred MB once). Five seeds: mean and standard deviation.
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
from pinnerformer_model.evaluation import Moments
from pinnerformer_model.negatives import Negatives
from pinnerformer_model.objectives import Objective
from pinnerformer_model.ranking import Pairs, recall
from pinnerformer_model.timelines import Timelines
from pinnerformer_model.training import BatchMaker, Feed, Trainer, TrainingSettings
from pipelines.cli import main as pinnerformer
from pipelines.training.evaluate import load_evaluation
from stores.files import replace_atomically
from transforms.evaluation import MEAN_WINDOWS, POPULARITY_DAYS, Evaluation
from transforms.training_data import TrainingData

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


def recall_of_lists(ranked: np.ndarray, asked: np.ndarray, evaluation: Evaluation, k: int = 10) -> float:
    """Recall@k of new items, a positive, from ranked lists of items that the user does not have."""
    moments = evaluation.moments("once")
    fresh = new_targets(moments)
    lists = ranked[np.searchsorted(asked, evaluation.timelines.user_ids[moments.user])]  # [Q, n]
    base = int(max(lists.max(), fresh.row.max())) + 1
    key = np.where(lists >= 0, np.arange(len(lists))[:, None] * base + lists, -1)
    own = np.isin(key, fresh.query * base + fresh.row)
    before = np.cumsum(~own, axis=1)  # others up to a place: a target with fewer than k of them is a hit
    hit = key[own & (before < k)]
    hits = np.isin(fresh.query * base + fresh.row, hit).astype(np.float64)
    return recall(hits, fresh.query)[0]


def new_targets(moments: Moments) -> Pairs:
    return Pairs(moments.targets.query[moments.new], moments.targets.row[moments.new])


def run_peer(cache: str, peer: str, settings: dict[str, Any], seed: int, evaluation: Evaluation) -> dict[str, float]:
    """One fit of a peer: recall on either half; kept under the cache."""
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
    return {half: recall_of_lists(ranked, asked, evaluation.half(half)) for half in ("choice", "report")}


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


def run_ours(cache: str, ours: Ours, seed: int, evaluation: Evaluation, data: TrainingData) -> dict[str, float]:
    """One training of our own model: recall on either half; kept under the cache."""
    path = os.path.join(cache, "runs", f"ours-{'-'.join(str(v) for v in dataclasses.astuple(ours))}-{seed}.json")
    if os.path.exists(path):
        with open(path) as file:
            return json.load(file)
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
        action_vocabulary=tuple(data.description["action_vocabulary"]),
        surface_vocabulary=tuple(data.description["surface_vocabulary"]),
        pinsage_version=data.description["pinsage_version"],
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
        found[half] = evaluation.half(half).model(*towers, ours.length, ("once",))["once"].recall_new[0]
    with open(path, "w") as file:
        json.dump(found, file)
    return found


def contest(
    name: str, tried: list[Any], once: Callable[[Any, int], dict[str, float]], seeds: int
) -> tuple[str, list[float]]:
    """Chooses a setting with the first seed on the first half; then every seed's figure on the other."""
    figures = []
    for setting in tried:
        started = time.perf_counter()
        figures.append(once(setting, 0)["choice"])
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
    rows: list[tuple[str, str, list[float]]] = []
    days = max(POPULARITY_DAYS, key=lambda d: choice.popularity(d).recall_new[0])
    rows.append(("popularity", f"of {days or 'all'} days", [report.popularity(days).recall_new[0]]))
    window = max(MEAN_WINDOWS, key=lambda w: choice.mean_of_last(w).recall_new[0])
    rows.append(("mean of last vectors", f"of {window}", [report.mean_of_last(window).recall_new[0]]))
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
    figures = report.popularity(days)
    print(f"\nrecall@10 of {figures.positives_new:,} new products of {figures.users:,} households, mean ± deviation")
    for name, setting, values in rows:
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        print(f"{name:24}{statistics.fmean(values):.4f}{spread:10}  {setting}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
