"""The pin branch of a night: everything made anew, against pins that are as they were, against 1 % of them changed.

    .venv/bin/python -m benchmarks.reuse [--pins 20000] [--shards 4] [--rounds 3] [--share 0.01] [--spread 0.5]

The steps are the job's own, task by task in one process and one thread, without Beam; CPU seconds of each, so that a
busy machine disturbs them less. Vectors lie around a hundred centres (`--spread`: how far; drawn at random they are the
hardest to index). In every round a root gets four nights: its first; the same with `--reindex all`; one of the same
vectors; one in which a share of the pins has other vectors. Printed: seconds, ratios to the night of everything, bytes
that are new under `pin_embeddings` and `indexes`, and what the two graphs find of the ten best, at the width served.
"""

import argparse
import collections
import dataclasses
import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.records import record
from pinnerformer_model.checkpoint import model_digest, new_model, save_model
from pinnerformer_model.config import preset
from stores.files import FileEntry, Root
from stores.hnsw import IndexParameters
from stores.indexes import load_shards, search_shards
from stores.neighbours import exact_top_k, tie_aware_recall
from stores.pin_shards import ShardBefore
from stores.pin_vectors import VectorSet, describe_vectors
from stores.schemas import from_binary_column
from stores.tables import SORTED, read_files
from transforms.model import ModelReference
from transforms.pins import BuildIndex, EmbedShard
from transforms.resume import find_completed_pins
from transforms.run import RunFolder
from transforms.sort_vectors import CutVectors, KeepTable, SortShard, remove_other_tables, vectors_folder
from transforms.step_reports import StepReport

DATE = datetime.date(2026, 11, 1)
SORT, EMBED, INDEX = "cut and sort", "embed", "index"


@dataclasses.dataclass
class Night:
    """What the pin branch of a night made: shards as the next night compares with them, and CPU seconds by step."""

    shards: dict[int, ShardBefore]
    seconds: dict[str, float]


def split(found: Iterator[Any]) -> tuple[list[Any], list[StepReport]]:
    """What a task of a DoFn gave: its main output, and its reports."""
    everything = list(found)
    reports = [one.value[1] for one in everything if hasattr(one, "tag")]
    return [one for one in everything if not hasattr(one, "tag")], reports


def pin_night(
    root: Root, number: int, vectors: VectorSet, model: ModelReference, shards: int, before: Mapping[int, ShardBefore]
) -> Night:
    """Runs the pin branch of one night, every task of it."""
    run = RunFolder(root, f"night-{number}", vectors_folder=vectors_folder(vectors, shards))
    date, done = DATE + datetime.timedelta(number), find_completed_pins(run, shards)
    seconds: dict[str, float] = {}
    started = time.process_time()
    cut, sort, keep = CutVectors(run, shards, ()), SortShard(run, vectors, {}), KeepTable(run, shards, vectors, {})
    pieces = collections.defaultdict(list)
    for group in done.vectors_to_cut(vectors, shards):
        for shard, piece in split(cut.process(group))[0]:
            pieces[shard].append(piece)
    tables = [split(sort.process(element))[0][0] for element in sorted(pieces.items())]
    tables += [split(keep.process(element))[0][0] for element in done.shard_tables()]
    seconds[SORT], started = time.process_time() - started, time.process_time()
    embed = EmbedShard(run, date, model, vectors.dtype, before)
    embed.setup()
    embedded = [split(embed.process(table)) for table in tables]
    seconds[EMBED], started = time.process_time() - started, time.process_time()
    index = BuildIndex(run, date, IndexParameters(), before)
    index.setup()
    indexed = [split(index.process(files[0])) for files, _ in embedded]
    seconds[INDEX] = time.process_time() - started
    root.remove(run.staging)
    remove_other_tables(run)
    made = {}
    for (files, (of_pins,)), (_, (of_index,)) in zip(embedded, indexed, strict=True):
        (part,) = of_pins.facts
        facts = of_pins.facts[part] | of_index.facts[part]
        graphs = tuple((graph["find_ef"], graph["unfindable"]) for graph in facts["graphs"])
        made[int(part)] = ShardBefore(
            facts["vectors"], files[0], tuple(of_index.files["indexes"]), facts["built"], graphs
        )
    return Night(made, seconds)


def bytes_under(root: Root) -> int:
    """Of the files of pins and indexes."""
    found = 0
    for table in ("pin_embeddings", "indexes"):
        for folder, _, names in os.walk(root.path(table)):
            found += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
    return found


def draw_vectors(pins: int, dim: int, spread: float, seed: int) -> np.ndarray:
    """float16 [pins, dim], unit norm, around a hundred centres."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((100, dim))
    vectors = centres[random.integers(0, 100, pins)] + spread * random.standard_normal((pins, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def write_vectors(folder: str, vectors: np.ndarray) -> None:
    os.makedirs(folder, exist_ok=True)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"pin_id": np.arange(len(vectors)), "vector": flat}), f"{folder}/vectors.parquet")
    with open(f"{folder}/version.json", "w") as file:
        json.dump({"pinsage_version": "benchmark"}, file)


def recall_of(root: Root, night: Night, dim: int) -> float:
    """recall@10 of a night's indexes at the width that finds every pin, for queries near pins."""
    shards = [night.shards[part] for part in sorted(night.shards)]
    rows = [read_files(root, [shard.embeddings]) for shard in shards]
    ids = np.concatenate([table["pin_id"].to_numpy() for table in rows])
    embeddings = np.concatenate([from_binary_column(table["embedding"]) for table in rows])
    random = np.random.default_rng(3)
    queries = embeddings[random.integers(0, len(ids), 500)].astype(np.float32)
    queries += 0.05 * random.standard_normal(queries.shape).astype(np.float32)
    entries: list[FileEntry] = [entry for shard in shards for entry in shard.indexes]
    ef = max(find_ef for shard in shards for find_ef, _ in shard.graphs)
    found = search_shards(load_shards(root, entries, dim), queries, 10, ef)
    return tie_aware_recall(found, exact_top_k(queries, ids, embeddings, 10))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pins", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.01, help="of the pins that change (%(default)s)")
    parser.add_argument("--spread", type=float, default=0.5, help="0: a hundred points; large: random (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = preset("small", action_vocabulary=("a",), surface_vocabulary=("s",), pinsage_version="benchmark")
    kinds = ("everything", "unchanged", f"{arguments.share:.0%} changed")
    seconds: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        save_model(f"{folder}/model", config, *new_model(config, seed=1))
        model = ModelReference(f"{folder}/model", model_digest(f"{folder}/model"), threads=1)
        for number in range(arguments.rounds):
            root = Root(f"{folder}/root-{number}")
            vectors = draw_vectors(arguments.pins, config.pin_vector_dim, arguments.spread, seed=number)
            before: dict[int, ShardBefore] = {}
            for step, kind in enumerate(("first", *kinds)):
                if step == 3:
                    other = draw_vectors(arguments.pins, config.pin_vector_dim, arguments.spread, seed=100 + number)
                    some = np.random.default_rng(number).random(arguments.pins) < arguments.share
                    vectors[some] = other[some]
                if step in (0, 3):
                    write_vectors(f"{folder}/pins", vectors)
                if kind == "everything":
                    root.remove(SORTED)
                described = describe_vectors(f"{folder}/pins", "benchmark")
                were = bytes_under(root)
                known = {} if kind == "everything" else before
                night = pin_night(root, step, described, model, arguments.shards, known)
                if step:
                    seconds[kind].append(night.seconds)
                    text = ", ".join(f"{name} {value:.2f} s" for name, value in night.seconds.items())
                    found = recall_of(root, night, config.embedding_dim)
                    new = (bytes_under(root) - were) / 1e6
                    print(f"round {number + 1}: {kind}: {text}; {new:.2f} MB new; recall {found:.4f}", flush=True)
                before = night.shards
    for kind in kinds[1:]:
        pairs = list(zip(seconds[kind], seconds["everything"], strict=True))
        whole = statistics.median(sum(a.values()) / sum(b.values()) for a, b in pairs)
        made = statistics.median((a[EMBED] + a[INDEX]) / (b[EMBED] + b[INDEX]) for a, b in pairs)
        vectors_s = statistics.median(a[SORT] / b[SORT] for a, b in pairs)
        most = 0.02 if kind == "unchanged" else 0.15
        what = f"{kind}: sorting, embedding and indexing pins / all of them"
        note = f"without the sorting of the vectors {made:.3f}; that alone {vectors_s:.3f}"
        record("reuse", what, whole, at_most=most, note=note)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
