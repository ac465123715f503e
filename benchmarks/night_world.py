"""What `benchmarks.nights` runs on: a root whose pins are embedded and indexed, a full store, logs of several nights.

One generator for every side. Made directly (`benchmarks.daily`): yesterday's histories and snapshot. Then one night of
the product with ten users embeds the pins, builds the index and fills the store; what is measured are nights after it,
each on a copy of the root and the store as they were then.
"""

import contextlib
import dataclasses
import datetime
import os
import shutil
import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.daily import (
    MIDNIGHT_MS,
    PIN_VECTOR_DIM,
    PINS,
    TONIGHT,
    draw_rows,
    make_model,
    make_root,
    read_pin_vectors,
    sequences_of,
    write_log,
    write_vectors,
)
from benchmarks.measuring import Cost, run_measured
from benchmarks.peers.tower import NightInputs
from pinnerformer_model.days import DAY_MS
from pinnerformer_model.sequences import Sequences
from stores.files import Root
from stores.ids import bucket_of
from stores.layout import choose_counts
from stores.manifests import Manifest, manifest_path
from stores.releases import read_current
from stores.schemas import ENGAGEMENTS
from stores.tables import read_files

SETTLED = TONIGHT  # the night that embeds and indexes the pins
MEASURED = TONIGHT + datetime.timedelta(days=1)
SETTLED_MS, MEASURED_MS = MIDNIGHT_MS + DAY_MS, MIDNIGHT_MS + 2 * DAY_MS  # the ends of these days
ROWS_TONIGHT = 3  # of a user who acts
SLICE = 512  # active users that the product embeds at a time
NIGHT, STORE = "root", "kv"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# Users of random histories and initial weights are all alike, which is not what is measured here.
LIMITS = b"max_users_alike: 1\nmin_coverage_share: 0\nmin_coverage_pins: 0\n"


@dataclasses.dataclass(frozen=True)
class World:
    """A folder with all that nights need.

    Attributes:
        folder: Has `root`, `kv`, `pins`, `model`, `gates.yaml`, and `logs-NAME` for every night.
        actors: Users with long histories, int64 [N], who act in these nights.
        pins: Pins there are.
        settled: The manifest of the night that embedded and indexed them.
    """

    folder: str
    actors: np.ndarray
    pins: int
    settled: Manifest

    def add_night(self, name: str, active: int, heavy_rows: int = 0) -> None:
        """A log of the measured night.

        Args:
            name: The night's.
            active: So many of the users act, 3 rows each.
            heavy_rows: Rows that one more user has; 0: there is no such user.
        """
        logs = f"{self.folder}/logs-{name}"
        shutil.copytree(f"{self.folder}/logs", logs, copy_function=os.link)
        users, counts = self.actors[:active], np.full(active, ROWS_TONIGHT)
        if heavy_rows:
            users, counts = np.r_[users, self.actors[active]], np.r_[counts, heavy_rows]
        write_log(logs, MEASURED, draw_rows(users, counts, self.pins, MEASURED_MS, 1, seed=active))

    def inputs(self, name: str) -> NightInputs:
        """What a night reads, as the peers are told it."""
        root, parts = Root(f"{self.folder}/{NIGHT}"), {}
        for table in ("histories", "user_embeddings"):
            files = self.settled.parts(table)
            parts[table] = [root.path(entry.path) for part in sorted(files) for entry in files[part]]
        return NightInputs(
            parts["histories"],
            parts["user_embeddings"],
            [f"{self.folder}/logs-{name}/ds={MEASURED}/a.parquet"],
            f"{self.folder}/{PINS}",
            f"{self.folder}/model",
            str(MEASURED),
        )

    @contextlib.contextmanager
    def copy(self) -> Iterator[str]:
        """A folder with the root and the store as they were after the settled night; removed afterwards."""
        place = f"{self.folder}/copy"
        # Files of a root are replaced and never written into, so that links do; LMDB's are.
        shutil.copytree(f"{self.folder}/{NIGHT}", f"{place}/{NIGHT}", copy_function=os.link)
        shutil.copytree(f"{self.folder}/{STORE}", f"{place}/{STORE}")
        try:
            yield place
        finally:
            shutil.rmtree(place)


def slices_of(inputs: NightInputs, part: int, parts: int) -> list[Sequences]:
    """The sequences of a night, bucket by bucket and cut as the product cuts them, of every `parts`-th bucket."""
    log = pq.read_table(inputs.logs, columns=ENGAGEMENTS.names)
    bucket = bucket_of(log["user_id"].to_numpy(), len(inputs.histories))
    vectors = read_pin_vectors(inputs.vectors)
    found = []
    for number in range(part, len(inputs.histories), parts):
        mine = log.filter(bucket == number)
        history = pq.read_table(inputs.histories[number])
        active = np.unique(mine["user_id"].to_numpy())
        if not len(active):
            continue
        kept = history.filter(np.isin(history["user_id"].to_numpy(), active))
        rows = newest_first(pa.concat_tables([mine, kept.cast(mine.schema)]).unify_dictionaries())
        user = rows["user_id"].to_numpy()
        starts = np.searchsorted(user, active[::SLICE])
        for start, end in zip(starts, np.r_[starts[1:], len(user)], strict=True):
            found.append(sequences_of(rows.slice(start, end - start), vectors))
    return found


def newest_first(rows: pa.Table, longest: int = 256) -> pa.Table:
    """Rows by user, newest first, at most `longest` of each."""
    rows = rows.sort_by([("user_id", "ascending"), ("timestamp_ms", "descending")])
    user = rows["user_id"].to_numpy()
    rank = np.arange(len(user)) - np.searchsorted(user, user)
    return rows.filter(rank < longest)


def topic_vectors(pins: int, topics: int, random: np.random.Generator) -> np.ndarray:
    """float32 [pins, PIN_VECTOR_DIM]: pins around topics, as pins are; an index of pure noise is a hard one."""
    centres = random.standard_normal((topics, PIN_VECTOR_DIM), np.float32)
    vectors = random.standard_normal((pins, PIN_VECTOR_DIM), np.float32)
    vectors += 1.5 * centres[random.integers(0, topics, pins)]
    return vectors


def night_command(world_folder: str, place: str, logs: str, date: datetime.date, workers: int) -> list[str]:
    """The whole command of the product, with everything on.

    Args:
        place: Where `root` and `kv` are.
        workers: Processes; 0: as many as the product chooses.
    """
    given = {"logs": f"{world_folder}/{logs}", "pins": f"{world_folder}/pins", "model": f"{world_folder}/model"}
    given |= {"root": f"{place}/{NIGHT}", "gates": f"{world_folder}/gates.yaml", "kv": f"lmdb://{place}/{STORE}"}
    command = [sys.executable, "-m", "pipelines.cli", "daily", f"--date={date}", "--min-age=0h"]
    command += [f"--{name}={value}" for name, value in given.items()]
    return command + worker_flags(workers)


def worker_flags(workers: int) -> list[str]:
    """How the product is told a number of workers; 0: it chooses."""
    return [f"--workers={workers}"] if workers else []


@dataclasses.dataclass(frozen=True)
class Night:
    """A night of the product.

    Attributes:
        cost: Of the whole command.
        release: Its manifest.
        after_commit_s: Seconds from the manifest on: publishing, the summary, the exit.
        embedded: As `embeddings_of`, if it was asked for.
    """

    cost: Cost
    release: Manifest
    after_commit_s: float
    embedded: tuple[np.ndarray, np.ndarray] | None


def run_night(world: World, name: str, workers: int, read_back: bool = False) -> Night:
    """Runs a measured night on a copy of the world; arguments as of `night_command`."""
    with world.copy() as place:
        command = night_command(world.folder, place, f"logs-{name}", MEASURED, workers)
        started = time.time()
        cost = run_measured(command, ONE_THREAD, f"{place}/night.log")
        root = Root(f"{place}/{NIGHT}")
        release = read_current(root)
        assert release is not None and release.day == MEASURED
        committed = os.path.getmtime(root.path(manifest_path(release.release)))
        embedded = embeddings_of(root, release, MEASURED) if read_back else None
        return Night(cost, release, started + cost.wall_s - committed, embedded)


def make_world(folder: str, users: int, active: int, rows: int, pins: int, workers: int = 2) -> World:
    """Makes a world and runs its settled night, which takes what embedding and indexing all pins takes.

    Buckets and shards are as many as the product would choose, had it read the histories' rows in a first night.
    """
    random = np.random.default_rng(1)
    make_model(folder)
    write_vectors(folder, topic_vectors(pins, max(1, pins // 100), random))
    actors = random.permutation(make_root(folder, users, active, rows, pins, choose_counts(rows, pins), random))
    # The last ones: in a small night nobody acts who has a vector of the settled one, or the gate of drift would close.
    ten = draw_rows(actors[-10:], np.full(10, ROWS_TONIGHT), pins, SETTLED_MS, 1, seed=9)
    write_log(f"{folder}/logs", SETTLED, ten)
    Root(folder).write_bytes("gates.yaml", LIMITS)
    command = night_command(folder, folder, "logs", SETTLED, workers)
    run_measured(command, ONE_THREAD, f"{folder}/settled.log")
    settled = read_current(Root(f"{folder}/{NIGHT}"))
    assert settled is not None and settled.day == SETTLED
    return World(folder, actors, pins, settled)


def embeddings_of(root: Root, manifest: Manifest, day: datetime.date) -> tuple[np.ndarray, np.ndarray]:
    """The users whom a release embedded on a day, and their vectors: int64 [N] sorted, float16 [N, d]."""
    entries = [entry for files in manifest.parts("user_embeddings").values() for entry in files]
    return select_day(read_files(root, entries), day)


def select_day(snapshot: pa.Table, day: datetime.date) -> tuple[np.ndarray, np.ndarray]:
    """As `embeddings_of`, of a table whose `embedding` is binary of either kind."""
    rows = snapshot.filter(snapshot["embedding_date"].to_numpy() == np.datetime64(day)).sort_by("user_id")
    vectors = np.frombuffer(b"".join(rows["embedding"].to_pylist()), np.float16)
    return rows["user_id"].to_numpy(), vectors.reshape(len(rows), -1)
