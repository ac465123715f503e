"""Retrieval, beside ONE plain hnswlib index of the same vectors (same links and candidates) at equal recall.

    OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.retrieval [--pins 60000] [--dim 256] [--k 100] [--rounds 3]
        [--root ROOT] [--keep DIR]

CPU time a user. Ours is all of `Retriever.retrieve`: the user's vector from LMDB, the shards as the night builds them,
with `exclude_engaged` the history from its file; of batches it is `search_shards`. The plain index has the vectors at
hand, and the histories in memory: asked for k and as many as the user engaged with, it throws those away. What it costs
at our recall is interpolated between widths of search. Half of a user's history is near to the user, half is anything.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import hnswlib
import numpy as np
import pyarrow as pa

from benchmarks.pins import Pins, add_flags, pins_of
from benchmarks.records import record
from stores.files import Root
from stores.hnsw import HnswGraph
from stores.ids import bucket_of
from stores.indexes import IndexParameters, build_shard, search_shards, write_built
from stores.kv import Current, open_store
from stores.kv.codec import encode_values
from stores.layout import open_layout
from stores.manifests import Manifest, write_manifest
from stores.neighbours import Neighbours, exact_top_k, ordered_top_k, tie_aware_recall
from stores.retriever import Retriever
from stores.schemas import pin_embeddings_schema, to_binary_column
from stores.tables import TABLES, write_part
from tests.worlds import FIRST

TURN = 15  # questions on end
DIGEST, BUCKETS = "ab" * 32, 64
WIDTHS = (1, 1.3, 1.7, 2.2, 3, 4, 5.5, 8, 11, 16, 32)  # of the plain index, times what it is asked for


def write_root(
    folder: str, pins: Pins, shards: int, histories: list[np.ndarray], others: int, ef: int | None
) -> tuple[str, str, str]:
    """A release of the pins and users, published; the users 0, 1, ... have the histories, and as many rows have others.

    Returns:
        The root, the URL of its store, and in words how the shards came out.
    """
    root, kv = Root(f"{folder}/root"), f"lmdb://{folder}/kv"
    layout = {"user_buckets": BUCKETS, "pin_shards": shards}
    open_layout(root, layout)
    tables: dict[str, list] = {table: [] for table in TABLES}
    tables["pin_embeddings"] = [
        write_part(
            root,
            "pin_embeddings",
            FIRST,
            0,
            pa.table(
                [pins.ids[:1], to_binary_column(pins.vectors[:1]), np.zeros(1, np.int64)],
                schema=pin_embeddings_schema(pins.vectors.shape[1]),
            ),
        )
    ]
    least, missed = 0, 0
    for number in range(shards):
        built = build_shard(*pins.shard(number, shards), IndexParameters())
        tables["indexes"] += write_built(root, FIRST, number, built)
        for find_ef, unfindable in built.graphs:
            least, missed = max(least, find_ef), missed + unfindable
    length = len(histories[0])
    lengths = [*map(len, histories), *[length] * others]
    users = np.repeat(np.arange(len(lengths)), lengths)
    drawn = np.random.default_rng(3).choice(pins.ids, others * length)
    rows = pa.table({"user_id": users, "pin_id": np.concatenate([*histories, drawn])})
    bucket = bucket_of(users, BUCKETS)
    tables["histories"] = [
        write_part(root, "histories", FIRST, b, rows.filter(pa.array(bucket == b))) for b in range(BUCKETS)
    ]
    settings = {"layout": layout, "index": {"ef_search": ef or least}}
    write_manifest(root, Manifest(str(FIRST), str(FIRST), None, DIGEST, tables, [], settings, {}, [], {}, []))
    ids = np.arange(len(histories))
    values = encode_values(pins.users.astype(np.float16), np.full(len(ids), 20_000, np.int32), DIGEST)
    with open_store(kv) as store:
        current = Current("g", str(FIRST), DIGEST, len(ids))
        store.upload("g", [(ids, values)], deletes=[], fresh=True, current=current)
    return root.url, kv, f"{shards} shards, served at ef {ef or least}, {missed} pins not findable"


def cpu_ms(ask: Callable[[int], Any], numbers: Iterable[int]) -> float:
    """Milliseconds of CPU of questions, asked one after the other, over all threads."""
    started = time.process_time()
    for number in numbers:
        ask(number)
    return 1e3 * (time.process_time() - started)


GOALS = {"one user": 0.8, "one user, exclude_engaged": 0.75}


@dataclasses.dataclass
class Compared:
    """Ours beside the plain index, asked one way.

    Attributes:
        questions: How many are asked, of `users` users each.
        ours: Asks one of them.
        recall: Of ours.
        plain: Asks one of them at a width.
        widths: The last of the plain index that does worse than ours, and the first that does not -> its recall.
        figures: (ours, plain at our recall) in milliseconds a user, one a round.
    """

    name: str
    questions: int
    users: int
    ours: Callable[[int], Any]
    recall: float
    plain: Callable[[int, int], Any]
    widths: dict[int, float]
    figures: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    def once(self) -> None:
        """One round: the ways take turns, so that a busy machine is busy for all.

        A turn is a few questions on end, as a server is asked them. With turns of one question, each would find the
        processor's caches full of what the other asks; and of the plain index only its first width would.
        """
        took: list[list[float]] = [[] for _ in range(1 + len(self.widths))]
        for first in range(0, self.questions, TURN):
            numbers = range(first, min(first + TURN, self.questions))
            took[0].append(cpu_ms(self.ours, numbers) / len(numbers))
            for turn, width in enumerate(self.widths, start=1):
                others = [(number + turn * self.questions // 3) % self.questions for number in numbers]
                took[turn].append(cpu_ms(lambda one: self.plain(one, width), others) / len(others))  # noqa: B023
        ours, *plain = (statistics.median(column) / self.users for column in took)
        self.figures.append((ours, float(np.interp(self.recall, list(self.widths.values()), plain))))

    def say(self) -> None:
        """Prints the medians."""
        ours, plain = (statistics.median(column) for column in zip(*self.figures, strict=True))
        ratio = statistics.median(plain / ours for ours, plain in self.figures)
        widths = " to ".join(f"{width} ({recall:.4f})" for width, recall in self.widths.items())
        print(f"{self.name}: ours {ours:.3f} ms, recall {self.recall:.4f}; plain {plain:.3f} ms, ef {widths}")
        note = f"ours {ours:.3f} ms, recall {self.recall:.4f}"
        record("retrieval", f"one plain index / ours, {self.name}", ratio, at_least=GOALS.get(self.name), note=note)


def widths_around(recall: float, asked: int, recall_at: Callable[[int], float]) -> dict[int, float]:
    """As `Compared.widths`, of a plain index that is asked for so many."""
    known: dict[int, float] = {}
    for width in (round(asked * factor) for factor in WIDTHS):
        known[width] = recall_at(width)
        if known[width] >= recall:
            break
    return dict(list(known.items())[-2:])


def without(found: Neighbours, histories: list[np.ndarray], k: int) -> Neighbours:
    """The first k of each answer that the user did not engage with."""
    kept = [np.flatnonzero(~np.isin(row, history))[:k] for row, history in zip(found.pin_ids, histories, strict=True)]
    columns = np.stack(kept)
    return Neighbours(np.take_along_axis(found.pin_ids, columns, 1), np.take_along_axis(found.scores, columns, 1))


def made_in(folder: str, pins: Pins, found: argparse.Namespace, histories: list[np.ndarray]) -> tuple[str, ...]:
    """As `write_root`, with the path of the plain index: made, unless the folder has them of the same flags."""
    flags = {name: given for name, given in vars(found).items() if name not in ("k", "rounds", "keep")}
    note, plain = f"{folder}/made.json", f"{folder}/plain.hnsw"
    if os.path.exists(note):
        with open(note) as file:
            made = json.load(file)
        if made["flags"] != flags:
            raise SystemExit(f"{note}: made with {made['flags']}; name another --keep")
        return *made["paths"], plain
    HnswGraph.build(pins.ids, pins.vectors, np.arange(len(pins.ids)), IndexParameters()).save(plain)
    paths = write_root(folder, pins, found.shards, histories, found.other_users, found.ef)
    with open(note, "w") as file:
        json.dump({"flags": flags, "paths": paths}, file)
    return *paths, plain


def load_plain(path: str, dim: int) -> HnswGraph:
    """As hnswlib itself does."""
    index = hnswlib.Index(space="ip", dim=dim)
    index.load_index(path)
    return HnswGraph(index)


def draw_histories(pins: Pins, exact: Neighbours, length: int) -> list[np.ndarray]:
    """Half of each of what is near to the user, half of all pins."""
    draw = np.random.default_rng(2)
    near = [draw.choice(row, length // 2, replace=False) for row in exact.pin_ids]
    return [np.unique(np.append(row, draw.choice(pins.ids, length - len(row)))) for row in near]


def compare(pins: Pins, plain: HnswGraph, retriever: Retriever, histories: list[np.ndarray], k: int) -> list[Compared]:
    """One user after the other, without and with what they engaged with, and all users at once."""
    users, queries = len(pins.users), pins.users
    longest = max(map(len, histories))
    exact = exact_top_k(queries, pins.ids, pins.vectors, k + longest)
    best, left = exact_top_k(queries, pins.ids, pins.vectors, k), without(exact, histories, k)

    def answers(exclude: bool) -> Neighbours:
        found = [retriever.retrieve(user, k, exclude) for user in range(users)]
        return Neighbours(np.stack([one.pin_ids for one in found]), np.stack([one.scores for one in found]))

    def plain_answer(user: int, width: int) -> None:
        pin_ids, _ = plain.search(queries[user : user + 1], k + len(histories[user]), width, 1)
        pin_ids[0][~np.isin(pin_ids[0], histories[user])][:k]

    def plain_recall(width: int) -> float:
        return tie_aware_recall(Neighbours(*plain.search(queries, k, width, -1)), best)

    def plain_recall_left(width: int) -> float:
        found = ordered_top_k(*plain.search(queries, k + longest, width, -1), k + longest)
        return tie_aware_recall(without(found, histories, k), left)

    one, excluded = tie_aware_recall(answers(False), best), tie_aware_recall(answers(True), left)
    shards, ef = retriever._opened.shards, retriever._opened.ef  # type: ignore[union-attr]
    single = widths_around(one, k, plain_recall)
    return [
        Compared(
            "one user",
            users,
            1,
            lambda user: retriever.retrieve(user, k),
            one,
            lambda user, width: plain.search(queries[user : user + 1], k, width, 1),
            single,
        ),
        Compared(
            "one user, exclude_engaged",
            users,
            1,
            lambda user: retriever.retrieve(user, k, exclude_engaged=True),
            excluded,
            plain_answer,
            widths_around(excluded, k + longest, plain_recall_left),
        ),
        Compared(
            f"{users} users at once",
            1,
            users,
            lambda _: search_shards(shards, queries, k, ef),
            one,
            lambda _, width: plain.search(queries, k, width, -1),
            single,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--history", type=int, default=100, help="pins that a user engaged with")
    parser.add_argument("--other-users", type=int, default=20_000, help="whose histories lie in the same files")
    parser.add_argument("--ef", type=int, help="serve at this width, and not at the least that finds every pin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", metavar="DIR", help="make root and indexes here, or take those of an earlier run")
    found = parser.parse_args()
    pins = pins_of(found)
    near = exact_top_k(pins.users, pins.ids, pins.vectors, 3 * found.history)
    histories = draw_histories(pins, near, found.history)
    with contextlib.ExitStack() as stack:
        folder = found.keep or stack.enter_context(tempfile.TemporaryDirectory())
        os.makedirs(folder, exist_ok=True)
        root, kv, words, path = made_in(folder, pins, found, histories)
        plain = load_plain(path, pins.vectors.shape[1])
        print(f"{len(pins.ids):,} pins of {pins.vectors.shape[1]} numbers, {words}; k {found.k}", flush=True)
        with Retriever(root, kv) as retriever:
            compared = compare(pins, plain, retriever, histories, found.k)
            for _ in range(found.rounds):
                for one in compared:
                    one.once()
    for one in compared:
        one.say()


if __name__ == "__main__":
    main()
