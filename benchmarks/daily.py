"""A night of the daily job on the preset `small`: the user branch's time, against the bare model, and memory.

    .venv/bin/python -m benchmarks.daily [--users 1000000] [--active 50000] [--rows 30000000]

The root is made directly: users with lengths of a lognormal (those who act tonight: median 60, mean 85, at most 256),
their vectors of yesterday, 64 buckets. Then `pinnerformer daily` runs in a process of its own and its memory is
watched. Then the same active users go, best batched, through the bare model in a loop, in a process like the first;
the pipeline's users are timed inside RunInference. Alternating in pieces: half of the bare loop runs before the job,
half after it.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.measuring import peak_pss
from pinnerformer_model.checkpoint import load_model, model_digest, new_model, save_model
from pinnerformer_model.config import preset
from pinnerformer_model.days import DAY_MS, midnight_ms
from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.sequences import Sequences
from stores.files import Root
from stores.ids import bucket_of
from stores.layout import open_layout
from stores.manifests import Manifest, write_manifest
from stores.names import Counter, Step
from stores.releases import move_current, read_current
from stores.schemas import ENGAGEMENTS, to_binary_column, user_embeddings_schema
from stores.tables import TABLES, read_files, write_part

YESTERDAY, TONIGHT = datetime.date(2026, 11, 1), datetime.date(2026, 11, 2)
MIDNIGHT_MS = midnight_ms(TONIGHT)
ACTIONS, SURFACES = ("click", "closeup", "repin"), ("board", "home", "search")
MEDIAN, MEAN, LONGEST = 60, 85, 256
USER_BRANCH = (Step.READ_LOGS, Step.UPDATE_HISTORIES, Step.JOIN_VECTORS, Step.EMBED_USERS, Step.MERGE_SNAPSHOT)
PIN_VECTOR_DIM = 256  # of the preset
KNOWN_USERS = 256  # whom the model embeds for yesterday's snapshot, which everybody's vectors are drawn from
PINS = "pins/vectors.parquet"
PIECE = 5000  # users at a time through the bare model


def draw_lengths(count: int, median: float, mean: float, random: np.random.Generator) -> np.ndarray:
    """Lognormal lengths, 1 to LONGEST; int64 [count]."""
    sigma = np.sqrt(2 * np.log(mean / median))
    return np.clip(np.round(random.lognormal(np.log(median), sigma, count)), 1, LONGEST).astype(np.int64)


def draw_rows(users: np.ndarray, lengths: np.ndarray, pins: int, day_ms: int, days: int, seed: int) -> pa.Table:
    """Engagements of users, newest first, over the `days` that end at `day_ms`."""
    random = np.random.default_rng(seed)
    total = int(lengths.sum())
    owner = np.repeat(np.arange(len(users)), lengths)
    at = day_ms - 1 - random.integers(0, days * DAY_MS, total)
    at = at[np.lexsort((-at, owner))]
    duration = random.exponential(10, total).astype(np.float32)
    codes = [random.integers(0, 3, total).astype(np.int32) for _ in range(2)]
    return pa.table(
        [
            pa.array(users[owner]),
            pa.array((pins * random.random(total) ** 2).astype(np.int64)),
            pa.array(at),
            pa.DictionaryArray.from_arrays(codes[0], list(ACTIONS)),
            pa.DictionaryArray.from_arrays(codes[1], list(SURFACES)),
            pa.array(duration, mask=random.random(total) < 0.5),
        ],
        schema=ENGAGEMENTS,
    )


def make_inputs(folder: str, users: int, active: int, rows: int, pins: int, buckets: int = 64) -> None:
    """The model, the vectors, yesterday's release and tonight's log."""
    random = np.random.default_rng(1)
    make_model(folder)
    write_vectors(folder, random.standard_normal((pins, PIN_VECTOR_DIM)).astype(np.float32))
    acts = make_root(folder, users, active, rows, pins, {"user_buckets": buckets}, random)
    write_log(f"{folder}/logs", TONIGHT, draw_rows(acts, np.full(active, 3), pins, MIDNIGHT_MS + DAY_MS, 1, seed=99))


def make_model(folder: str) -> None:
    """`folder`/model: the preset `small` with initial weights."""
    config = preset("small", action_vocabulary=ACTIONS, surface_vocabulary=SURFACES, pinsage_version="benchmark")
    assert config.pin_vector_dim == PIN_VECTOR_DIM
    save_model(f"{folder}/model", config, *new_model(config, seed=1))


def write_vectors(folder: str, vectors: np.ndarray) -> None:
    """`folder`/pins: float32 [pins, PIN_VECTOR_DIM] as unit vectors of the pins 0, 1, 2, ..., 51 MB a row group."""
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), vectors.shape[1])
    make_folder(f"{folder}/pins")
    rows = pa.table({"pin_id": np.arange(len(vectors)), "vector": flat})
    pq.write_table(rows, f"{folder}/{PINS}", row_group_size=100_000)
    with open(f"{folder}/pins/version.json", "w") as file:
        json.dump({"pinsage_version": "benchmark"}, file)


def make_root(
    folder: str, users: int, active: int, rows: int, pins: int, counts: dict[str, int], random: np.random.Generator
) -> np.ndarray:
    """`folder`/root: yesterday's release, of histories and snapshot alone.

    A vector of the snapshot is one that the model gave, though not to this user: with any other, the night's measures
    of its index would search for what no tower asks.

    Args:
        active: Users whose histories are as long as those of users who act; all others share the rest of `rows`.
        counts: Of buckets and shards, by field of `Layout`.

    Returns:
        Their ids, int64 [active], sorted.
    """
    ids = np.arange(users)
    acts = np.zeros(users, bool)
    acts[random.choice(users, active, replace=False)] = True
    lengths = np.empty(users, np.int64)
    lengths[acts] = draw_lengths(active, MEDIAN, MEAN, random)
    rest = max(1.5, (rows - lengths[acts].sum()) / max(1, users - active))
    lengths[~acts] = draw_lengths(users - active, rest / 1.4, rest, random)

    root = Root(f"{folder}/root")
    layout = open_layout(root, {"history_length": LONGEST, **counts})
    bucket = bucket_of(ids, layout.user_buckets)
    tables: dict[str, list] = {name: [] for name in TABLES}
    known: np.ndarray | None = None
    for part in range(layout.user_buckets):
        mine = ids[bucket == part]
        table = draw_rows(mine, lengths[mine], pins, MIDNIGHT_MS, 60, seed=part)
        if known is None:
            first = mine[:KNOWN_USERS]
            known = embed(folder, table.filter(np.isin(table["user_id"].to_numpy(), first)))
        tables["histories"].append(write_part(root, "histories", YESTERDAY, part, table))
        latest = np.full(len(mine), MIDNIGHT_MS - 1)
        columns = [mine, to_binary_column(known[mine % len(known)]), [YESTERDAY] * len(mine), latest]
        snapshot = pa.table([*columns, np.zeros(len(mine), bool)], schema=user_embeddings_schema(256))
        tables["user_embeddings"].append(write_part(root, "user_embeddings", YESTERDAY, part, snapshot))
    settings = {"token_budget": 1024, "bootstrap_from": str(YESTERDAY)}
    digest = model_digest(f"{folder}/model")
    write_manifest(root, Manifest(str(YESTERDAY), str(YESTERDAY), None, digest, tables, [], settings, {}, [], {}, []))
    move_current(root, None, str(YESTERDAY))
    return ids[acts]


def write_log(logs: str, day: datetime.date, rows: pa.Table) -> None:
    """`logs`/ds=`day`: the rows in any order, as logs have them."""
    make_folder(f"{logs}/ds={day}")
    shuffled = rows.take(np.random.default_rng(7).permutation(len(rows)))
    pq.write_table(shuffled, f"{logs}/ds={day}/a.parquet", row_group_size=100_000)
    open(f"{logs}/ds={day}/_SUCCESS", "w").close()


def make_folder(path: str) -> None:
    Root(path).write_bytes(".made", b"")


def run_job(folder: str, beam_flags: list[str]) -> tuple[float, int]:
    """Runs the night; returns (wall seconds, peak bytes)."""
    inputs = [f"--{name}={folder}/{name}" for name in ("root", "logs", "pins", "model")]
    # Users of random histories and initial weights are all alike, which is not what is measured here.
    Root(folder).write_bytes("gates.yaml", b"max_users_alike: 1\nmin_coverage_share: 0\n")
    inputs += [f"--gates={folder}/gates.yaml", f"--date={TONIGHT}", "--min-age=0h"]
    command = [sys.executable, "-m", "pipelines.daily_inference", *inputs]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--publish=none", "--join=broadcast", *beam_flags])
    with peak_pss(process.pid) as peak:
        code = process.wait()
    if code:
        sys.exit(code)
    return time.perf_counter() - started, peak[0]


def sequences_of(rows: pa.Table, vectors: np.ndarray) -> Sequences:
    """Whole histories as the model takes them; every pin has a vector, every word is known."""
    user = rows["user_id"].to_numpy()
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    codes = {}
    for name, words in (("action", ACTIONS), ("surface", SURFACES)):
        codes[name] = pc.index_in(rows[name].cast(pa.string()), pa.array(words)).to_numpy()
    duration = rows["duration_s"].to_numpy(zero_copy_only=False).astype(np.float32)
    tokens = vectors[rows["pin_id"].to_numpy()]
    offsets = np.r_[starts, len(user)]
    return Sequences(
        user[starts], offsets, tokens, codes["action"], codes["surface"], rows["timestamp_ms"].to_numpy(), duration
    )


def read_pin_vectors(path: str) -> np.ndarray:
    """float16 [pins, PIN_VECTOR_DIM]: of the pins 0, 1, 2, ..., as `write_vectors` writes them."""
    column = pq.read_table(path)["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def embed(folder: str, rows: pa.Table) -> np.ndarray:
    """float16 [N, 256]: the model's vectors of N users, of whom these are all rows."""
    encoder = UserEncoder(load_model(f"{folder}/model").user_tower)
    return encoder.encode(sequences_of(rows, read_pin_vectors(f"{folder}/{PINS}")))


def run_bare(folder: str, part: int, parts: int) -> tuple[int, float]:
    """Feeds a share of tonight's active users to the bare model; returns (users, seconds in the model)."""
    manifest = read_current(Root(f"{folder}/root"))
    assert manifest is not None
    vectors = read_pin_vectors(f"{folder}/{PINS}")
    active = np.unique(pq.read_table(f"{folder}/logs/ds={TONIGHT}/a.parquet")["user_id"].to_numpy())
    mine = active[part::parts]
    encoder = UserEncoder(load_model(f"{folder}/model").user_tower)
    users, seconds = 0, 0.0
    buckets = manifest.parts("histories")
    found = []
    for entries in buckets.values():
        rows = read_files(Root(f"{folder}/root"), entries)
        found.append(rows.filter(np.isin(rows["user_id"].to_numpy(), mine)))
    rows = pa.concat_tables(found).unify_dictionaries()
    starts = np.flatnonzero(np.r_[True, np.diff(rows["user_id"].to_numpy()) != 0])
    bounds = np.r_[starts[::PIECE], len(rows)]
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        sequences = sequences_of(rows.slice(start, end - start), vectors)
        started = time.perf_counter()
        encoder.encode(sequences)
        seconds += time.perf_counter() - started
        users += len(sequences.user_ids)
    return users, seconds


def bare_in_process(folder: str, part: int, parts: int) -> tuple[int, float]:
    """`run_bare` in a fresh process, as the job's."""
    code = (
        f"from benchmarks.daily import run_bare; import json; print(json.dumps(run_bare({folder!r}, {part}, {parts})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    users, seconds = json.loads(done.stdout.splitlines()[-1])
    return users, seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--active", type=int, default=50_000)
    parser.add_argument("--rows", type=int, default=30_000_000)
    parser.add_argument("--pins", type=int, default=100_000)
    arguments, beam_flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        print("making the root and tonight's log", flush=True)
        make_inputs(folder, arguments.users, arguments.active, arguments.rows, arguments.pins)
        before = bare_in_process(folder, 0, 2)
        print(f"bare model, before: {before[0] / before[1]:,.1f} users/s", flush=True)
        seconds, peak = run_job(folder, beam_flags)
        after = bare_in_process(folder, 1, 2)
        print(f"bare model, after:  {after[0] / after[1]:,.1f} users/s", flush=True)
        manifest = read_current(Root(f"{folder}/root"))
    assert manifest is not None and manifest.date == str(TONIGHT)
    timings = manifest.timings
    branch = sum(timings[name] for name in USER_BRANCH)
    print(f"\nuser branch, {branch:,.0f} s of work:")
    for name in USER_BRANCH:
        print(f"  {name:17} {timings[name]:8.1f} s  {100 * timings[name] / branch:5.1f} %")
    others = {name: found for name, found in timings.items() if name not in USER_BRANCH}
    print("elsewhere: " + ", ".join(f"{name} {found:.1f} s" for name, found in others.items()))
    between = seconds - sum(timings.values())
    print(f"wall {seconds:,.0f} s; start-up, Beam's own work and what no step counts: {between:,.1f} s")
    print(f"other steps / user branch: {100 * (1 - timings['embed_users'] / branch):.1f} % (to be < 15 %)")
    users = manifest.counters[Step.EMBED_USERS][Counter.USERS_EMBEDDED]
    pipeline, bare = users / timings[Step.EMBED_USERS], (before[0] + after[0]) / (before[1] + after[1])
    print(
        f"inference: {pipeline:,.1f} users/s in the pipeline, {bare:,.1f} bare: {100 * pipeline / bare:.0f} % (>= 90 %)"
    )
    print(f"peak proportional set size, all processes: {peak / 2**30:.2f} GiB (to be < 6 GiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
