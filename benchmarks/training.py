"""Training throughput beside the bare forward and backward of the same batches.

    python -m benchmarks.training --cache .cache/training

Alternates, round by round: `train`, as `pinnerformer train` runs it (drawing, gathering, moving, clipping, optimiser,
prefetch thread), and `bare`, forward and backward of the very same batches, made beforehand and held in memory.
"""

import argparse
import os
import statistics
import time

import numpy as np
import torch

from benchmarks.measuring import alternate, median_ratio
from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import PRESETS, preset
from pinnerformer_model.negatives import Negatives
from pinnerformer_model.objectives import Objective
from pinnerformer_model.training import BatchMaker, Feed, Trainer, TrainingSettings
from pipelines.cli import main as pinnerformer
from transforms.training_data import load_training_data


def make_timelines(cache: str, users: int, pins: int) -> str:
    """Sixty days of a synthetic world, made once; returns the folder of its timelines."""
    world, timelines = os.path.join(cache, f"world-{users}-{pins}"), os.path.join(cache, f"timelines-{users}-{pins}")
    if not os.path.exists(os.path.join(world, "world.json")):
        size = [f"--users={users}", f"--pins={pins}", "--start=2026-09-01", "--days=60", "--seed=1"]
        assert pinnerformer(["synth", f"--out={world}", *size]) == 0
    if not os.path.exists(os.path.join(timelines, "timelines.json")):
        where = [f"--logs={world}/logs", f"--pins={world}/pins", f"--out={timelines}"]
        assert pinnerformer(["training-data", *where, "--start=2026-09-01", "--end=2026-10-30"]) == 0
    return timelines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, metavar="DIR", help="where the world is kept between runs")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--pins", type=int, default=50_000)
    parser.add_argument("--users-per-step", type=int, default=64)
    parser.add_argument("--random-negatives", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8, help="a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    data = load_training_data(make_timelines(arguments.cache, arguments.users, arguments.pins), "train")
    config = preset(
        arguments.preset,
        action_vocabulary=tuple(data.description["action_vocabulary"]),
        surface_vocabulary=tuple(data.description["surface_vocabulary"]),
        pinsage_version=data.description["pinsage_version"],
    )
    settings = TrainingSettings(
        objective=Objective(),
        negatives=Negatives(random=arguments.random_negatives),
        users_per_step=arguments.users_per_step,
    )
    maker = BatchMaker(data.timelines, data.vectors, settings, config.max_sequence_length)
    trainer = Trainer(config, *new_model(config, 0), settings, len(data.vectors))
    batches = [maker.make(step) for step in range(arguments.steps)]
    tokens = sum(batch.tokens for batch in batches)
    waits = []

    def train() -> float:
        started = time.perf_counter()
        feed = Feed(maker, 0, arguments.steps)
        for _ in range(arguments.steps):
            trainer.step(feed.next())
        feed.close()
        seconds = time.perf_counter() - started
        waits.append(feed.waited_s / seconds)
        return tokens / seconds

    def bare() -> float:
        started = time.perf_counter()
        for batch in batches:
            for parameter in trainer.parameters:
                parameter.grad = None
            trainer.loss(batch).backward()
        return tokens / (time.perf_counter() - started)

    bare()  # the first pass allocates
    print(f"{tokens:,} tokens a round of {arguments.steps} steps, {torch.get_num_threads()} threads; tokens/s:")
    figures = alternate(arguments.rounds, {"train": train, "bare": bare})
    print(f"train / bare forward + backward: {median_ratio(figures['train'], figures['bare']):.3f} (median)")
    print(f"median tokens/s: train {statistics.median(figures['train']):,.0f}, bare {np.median(figures['bare']):,.0f}")
    print(f"share of the time that training waited for data: {statistics.median(waits):.1%} (median)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
