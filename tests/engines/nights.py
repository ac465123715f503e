"""Three nights of the daily job on an engine, and what must be equal to the local run's."""

import dataclasses

import numpy as np
import pyarrow as pa
import torch

from pipelines.cli import main
from stores.files import Root
from stores.manifests import Manifest
from stores.releases import chain, read_current
from stores.schemas import from_binary_column
from stores.tables import read_files
from tests.worlds import FIRST, day, make_rows, make_vectors, write_file, write_model, write_vectors

USERS, PINS, ROWS = 300, 400, 1500
NIGHTS = (
    # (day, flags); the second night joins the other way round, the third finds a file that came late
    (0, [f"--bootstrap-from={FIRST}", "--history-length=40", "--user-buckets=5", "--pin-shards=3"]),
    (1, ["--join=shuffle"]),
    (2, []),
)


def make_world(folder: str) -> list[str]:
    """Writes three days of logs, vectors and a model; returns the flags that name them."""
    for number in range(3):
        rows = make_rows(number, ROWS, USERS, PINS, seed=8)
        write_file(f"{folder}/logs", number, rows[:900], "a.parquet")
        write_file(f"{folder}/logs", number, rows[900:], "b.parquet")
    write_vectors(f"{folder}/pins", make_vectors(PINS))
    write_model(f"{folder}/model")
    return [f"--{name}={folder}/{name}" for name in ("logs", "pins", "model")]


def run_night(inputs: list[str], root: str, number: int, flags: list[str], engine: list[str]) -> Manifest:
    """Runs one night; `engine` is what Beam is given."""
    arguments = ["daily", f"--root={root}", *inputs, f"--date={day(number)}", "--quiet", *flags, *engine]
    if not any(flag.startswith("--kv=") for flag in flags):
        arguments.append("--publish=none")
    assert main(arguments) == 0
    manifest = read_current(Root(root))
    assert manifest is not None and manifest.day == day(number)
    return manifest


def run_nights(folder: str, root: str, engine: list[str]) -> list[Manifest]:
    """Runs all of `NIGHTS` on a world; the late file is written before the last of them."""
    # Initial weights are equal to the last bit by equal threads, and a night in this process leaves one.
    torch.set_num_threads(1)
    inputs = make_world(folder)
    manifests = []
    for number, flags in NIGHTS:
        if number == 2:
            write_file(f"{folder}/logs", 1, make_rows(1, 50, USERS, PINS, seed=9), "late.parquet")
        manifests.append(run_night(inputs, root, number, flags, engine))
    return manifests


def run_backfill(folder: str, root: str, engine: list[str]) -> list[Manifest]:
    """Backfills the days of a world at once; returns their releases, oldest first."""
    dates = [f"--start={day(0)}", f"--end={day(2)}", *NIGHTS[0][1], "--days-per-pass=2"]
    arguments = ["backfill", f"--root={root}", *make_world(folder), *dates, "--publish=none", "--quiet", *engine]
    assert main(arguments) == 0
    manifests = list(chain(Root(root)))[::-1]
    assert [manifest.day for manifest in manifests] == [day(0), day(1), day(2)]
    return manifests


def read_table(root: str, manifest: Manifest, table: str) -> pa.Table:
    """Every row of a table, bucket by bucket."""
    parts = [read_files(Root(root), entries) for _, entries in sorted(manifest.parts(table).items())]
    return pa.concat_tables(parts, promote_options="default")


def assert_same_release(root: str, found: Manifest, local_root: str, local: Manifest) -> None:
    """Histories and membership equal byte for byte, embeddings within one float16 step, nothing lost on the way."""
    assert found.tables["histories"] == local.tables["histories"]  # a file's name and checksum are its content's
    for table in ("user_embeddings", "pin_embeddings"):
        ours, theirs = read_table(root, found, table), read_table(local_root, local, table)
        assert ours.num_rows > 100
        assert ours.drop_columns(["embedding"]).equals(theirs.drop_columns(["embedding"]))
        step = ordered(from_binary_column(ours["embedding"])) - ordered(from_binary_column(theirs["embedding"]))
        assert np.abs(step).max() <= 1
    assert [e.rows for e in found.tables["indexes"]] == [e.rows for e in local.tables["indexes"]]
    assert found.counters == local.counters
    assert all(gate["passed"] for gate in found.gates)
    same = ("date", "previous", "release", "inputs", "model_digest", "retry_users")
    assert {k: v for k, v in dataclasses.asdict(found).items() if k in same} == {
        k: v for k, v in dataclasses.asdict(local).items() if k in same
    }


def ordered(vectors: np.ndarray) -> np.ndarray:
    """float16 as int32 that count the representable numbers: neighbours differ by one, +0 and -0 by none."""
    bits = vectors.view(np.uint16).astype(np.int32)
    return np.where(bits & 0x8000, -(bits & 0x7FFF), bits)
