"""Training throughput against the bare matrix products of the same tokens, and two processes against one.

    python -m benchmarks.training --cache .cache/training
    python -m benchmarks.training --cache .cache/training --processes 2

Alternates, round by round: `train`, as `pinnerformer train` runs it (drawing, gathering, moving, clipping, optimiser,
prefetch thread), and `floor`, the matrix products that the same steps cannot do without, forward and backward, at the
same shapes, into memory that is there already. Only real tokens count, the last block and the head count at the
positions that predict, and of attention nothing counts: a floor that a training without any overhead would miss.

With `--processes N` also `group`: N processes of one thread each, that train as one, beside one process of one thread.

On a machine that others use, pin OMP_NUM_THREADS=1 and take `--clock cpu`: the CPU time of the process, and of a group
that of the process which takes the most, without what the processes wait for one another.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.floor import Floor, Product
from benchmarks.measuring import alternate, median_ratio
from benchmarks.records import record
from pinnerformer_model.checkpoint import new_model
from pinnerformer_model.config import PRESETS, ModelConfig, preset
from pinnerformer_model.distributed import ALONE, Group
from pinnerformer_model.memory import keep_freed_memory
from pinnerformer_model.step_batches import BatchMaker, Feed, StepBatch
from pinnerformer_model.training import Trainer
from pinnerformer_model.training_settings import OBJECTIVES, Negatives, Objective, TrainingSettings
from pinnerformer_model.user_tower import build_user_tower
from pipelines.cli import main as pinnerformer
from transforms.training_data import config_fields, load_training_data


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


def products_of(batch: StepBatch, config: ModelConfig) -> list[Product]:
    """The matrix products of a step, attention's left out."""
    hidden, ffn, out = config.hidden_size, config.ffn_size, config.embedding_dim
    features = build_user_tower(config).features.width
    found = []
    for windows, row, _ in batch.windows:
        tokens, queries = len(windows.age), len(row)
        found.append((tokens, features, hidden))
        for layer in range(config.num_layers):
            rest = queries if layer == config.num_layers - 1 else tokens
            # Keys and values of every token; queries and what comes after them of those that are asked for.
            found += [(tokens, hidden, 2 * hidden), (rest, hidden, hidden), (rest, hidden, hidden)]
            found += [(rest, hidden, ffn), (rest, ffn, hidden)]
        found += [(queries, hidden, 4 * hidden), (queries, 4 * hidden, out)]
    pins = len(batch.pins)
    found += [(pins, config.pin_hidden_size, out), (len(batch.query_order), out, pins)]
    of_vectors = Product(pins, config.pin_vector_dim, config.pin_hidden_size, weight_gradient=True)
    return [of_vectors, *(Product(*shape, weight_gradient=True, input_gradient=True) for shape in found)]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, metavar="DIR", help="where the world is kept between runs")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--pins", type=int, default=50_000)
    parser.add_argument("--users-per-step", type=int, default=64)
    parser.add_argument("--random-negatives", type=int, default=4096)
    parser.add_argument("--objective", choices=OBJECTIVES, default=Objective().name)
    parser.add_argument("--token-budget", type=int, default=TrainingSettings().token_budget)
    parser.add_argument("--steps", type=int, default=8, help="a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="(default %(default)s)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="also N processes as one")
    return parser


def make_trainer(arguments: argparse.Namespace, group: Group = ALONE) -> tuple[Trainer, BatchMaker]:
    """What trains, and what draws its steps."""
    data = load_training_data(make_timelines(arguments.cache, arguments.users, arguments.pins), "train")
    config = preset(
        arguments.preset,
        **config_fields(data),
    )
    settings = TrainingSettings(
        objective=Objective(arguments.objective),
        negatives=Negatives(random=arguments.random_negatives),
        users_per_step=arguments.users_per_step,
        token_budget=arguments.token_budget,
    )
    maker = BatchMaker(data.timelines, data.vectors, settings, config.max_sequence_length, group)
    return Trainer(config, *new_model(config, 0), settings, len(data.vectors), group=group), maker


def train_steps(trainer: Trainer, maker: BatchMaker, steps: int) -> float:
    """Steps 0 to `steps`; returns the share of the time that training waited for data."""
    started = time.perf_counter()
    feed = Feed(maker, 0, steps)
    for _ in range(steps):
        trainer.step(feed.next())
    feed.close()
    return feed.waited_s / (time.perf_counter() - started)


def rank_of_group(rank: int, arguments: argparse.Namespace, asked, told) -> None:
    """One of N processes: trains a round whenever it is asked to, and says what CPU time it took."""
    torch.set_num_threads(1)
    where = os.path.join(os.path.abspath(arguments.cache), f"group-{os.getppid()}")
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=arguments.processes)
    keep_freed_memory()
    trainer, maker = make_trainer(arguments, Group(rank, arguments.processes))
    train_steps(trainer, maker, 1)
    told.put(0.0)
    while asked.get():
        started = time.process_time()
        train_steps(trainer, maker, arguments.steps)
        told.put(time.process_time() - started)
    dist.destroy_process_group()


class GroupOfProcesses:
    """N processes that wait to train rounds together."""

    def __init__(self, arguments: argparse.Namespace):
        context = multiprocessing.get_context("spawn")
        self._told, self._asked = context.Queue(), [context.Queue() for _ in range(arguments.processes)]
        self._ranks = [
            context.Process(target=rank_of_group, args=(rank, arguments, asked, self._told), daemon=True)
            for rank, asked in enumerate(self._asked)
        ]
        for rank in self._ranks:
            rank.start()
        self._wait()

    def _wait(self) -> float:
        return max(self._told.get(timeout=300) for _ in self._ranks)

    def __call__(self) -> float:
        """Trains a round; returns the CPU seconds of the process that took the most."""
        for asked in self._asked:
            asked.put(True)
        return self._wait()

    def close(self) -> None:
        for asked, rank in zip(self._asked, self._ranks, strict=True):
            asked.put(False)
            rank.join(60)


def main() -> int:
    arguments = make_parser().parse_args()
    keep_freed_memory()
    if arguments.processes > 1:
        torch.set_num_threads(1)
    trainer, maker = make_trainer(arguments)
    batches = [maker.make(step) for step in range(arguments.steps)]
    tokens = sum(batch.tokens for batch in batches)
    floor = Floor([product for batch in batches for product in products_of(batch, trainer.config)])
    waits = []
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter

    def measured(work: Callable[[], object]) -> Callable[[], float]:
        def once() -> float:
            started = clock()
            work()
            return tokens / (clock() - started)

        return once

    candidates = {
        "train": measured(lambda: waits.append(train_steps(trainer, maker, arguments.steps))),
        "floor": measured(floor),
    }
    group = GroupOfProcesses(arguments) if arguments.processes > 1 else None
    if group:
        together = group  # of which mypy knows that it is there
        of_group = (lambda: tokens / together()) if arguments.clock == "cpu" else measured(together)
        candidates = {"one": candidates["train"], "group": of_group}
    for once in candidates.values():
        once()  # the first pass allocates
    padded = sum(len(windows.lengths) * windows.longest for batch in batches for windows, _, _ in batch.windows)
    print(
        f"{tokens:,} tokens a round of {arguments.steps} steps, {padded / tokens - 1:.0%} more where attention pads; "
        f"{floor.flops / tokens / 1e6:.1f} MFLOP a token; {torch.get_num_threads()} threads; "
        f"load {os.getloadavg()[0]:.1f}; tokens/s ({arguments.clock}):"
    )
    figures = alternate(arguments.rounds, candidates)
    if group:
        group.close()
        ratio = median_ratio(figures["group"], figures["one"])
        record("training", f"tokens/s of {arguments.processes} processes / one", ratio)
        return 0
    ratio = median_ratio(figures["train"], figures["floor"])
    record("training", "tokens/s of training / bare matrix products of the same tokens", ratio, at_least=0.6)
    print(f"median tokens/s: train {np.median(figures['train']):,.0f}, floor {np.median(figures['floor']):,.0f}")
    print(f"share of the time that training waited for data: {statistics.median(waits):.1%} (median)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
