"""Manifests, layouts and Parquet files from elsewhere, or damaged: an error that names the file."""

import json
import random

import numpy as np
import pyarrow as pa
import pytest

from stores.errors import PinnerFormerError, StoreError
from stores.files import FileEntry, Root
from stores.layout import read_layout
from stores.logs import ColumnNames, LogFile, open_log_file
from stores.manifests import Manifest, manifest_path, read_manifest, write_manifest
from stores.pin_vectors import describe_vectors, read_vectors
from stores.releases import chain, read_hold
from stores.retention import Retention, collect
from stores.tables import TABLES, read_files, write_part
from tests.worlds import FIRST, make_rows, make_vectors, write_file, write_vectors
from transforms.read_logs import ReadCounts, RowGroup, read_valid

MUTATIONS = 700


@pytest.fixture
def root(tmp_path) -> Root:
    root = Root(str(tmp_path / "root"))
    rows = pa.table({"user_id": pa.array(range(50), pa.int64())})
    tables: dict[str, list[FileEntry]] = {table: [] for table in TABLES}
    for table in ("histories", "user_embeddings"):
        tables[table] = [write_part(root, table, FIRST, 0, rows)]
    settings = {"layout": {"user_buckets": 1, "pin_shards": 1}, "bootstrap_from": str(FIRST)}
    inputs = [{"path": "ds=2026-11-01/a.parquet", "rows": 1, "bytes": 2}]
    counters = {"read_logs": {"rows_read": 5}}
    manifest = Manifest(str(FIRST), str(FIRST), None, "ab" * 32, tables, inputs, settings, counters, [], {}, [3])
    write_manifest(root, manifest)
    root.write_bytes("CURRENT", f"{FIRST}\n".encode())
    root.write_json("layout.json", {"user_buckets": 1, "pin_shards": 1})
    return root


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../outside.parquet",
        "histories/../../outside.parquet",
        "histories//x",
        "histories/./x",
        "user_embeddings/x",
        "histories\\x",
        "histories/a\0b",
        "",
        7,
        None,
    ],
)
def test_a_manifest_names_nothing_outside_its_folder(root, path):
    relative = manifest_path(str(FIRST))
    found = root.read_json(relative)
    found["tables"]["histories"][0]["path"] = path
    root.write_json(relative, found)
    with pytest.raises(StoreError, match="not a manifest"):
        read_manifest(root, str(FIRST))
    with pytest.raises(StoreError):  # and gc, which deletes what is not named, does nothing
        collect(root, Retention(releases=1), [])


@pytest.mark.parametrize("release", ["../x", "/x", "a/b", "", ".hidden", "x" * 200, "a\nb"])
def test_a_release_is_no_path(root, release):
    with pytest.raises(StoreError):
        read_manifest(root, release)


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Flips, cuts, repeats or overwrites a few bytes."""
    out = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 5])):
        at = dice.randrange(len(out)) if out else 0
        kind = dice.randrange(5)
        if kind == 0 and out:
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del out[at : at + dice.choice([1, 4, 100])]
        elif kind == 2:
            out[at:at] = out[at : at + dice.choice([1, 8])]
        elif kind == 3:
            out[at:at] = dice.choice(
                [b"-1", b"null", b"[]", b"{}", b'"', b"1e999", b"\xff\xff\xff\xff", b"99999999999999"]
            )
        else:
            del out[at:]
    return bytes(out)


def put(root: Root, relative: str, data: bytes) -> None:
    """Without fsync: thousands of times."""
    with open(root.path(relative), "wb") as file:
        file.write(data)


def survives(what, path: str) -> bool:
    """Runs something on a damaged file; whether it worked all the same. Errors are ours and name the file."""
    try:
        what()
        return True
    except PinnerFormerError as error:
        assert error.exit_code in (1, 2, 3) and path in str(error).splitlines()[0], str(error)
        return False


def test_damaged_manifests_and_layouts(root):
    dice, refused = random.Random(1), 0
    for relative, read in (
        (manifest_path(str(FIRST)), lambda: list(chain(root))),
        ("layout.json", lambda: read_layout(root)),
        ("PINNED", lambda: read_hold(root)),
        ("HELD", lambda: read_hold(root)),
    ):
        if relative in ("PINNED", "HELD"):
            pin = {"release": "a", "rolled_back": "b", "reason": "c", "since": "d"}
            put(root, relative, json.dumps(pin).encode())
        sound = root.read_bytes(relative)
        for _ in range(MUTATIONS):
            put(root, relative, mutate(sound, dice))
            refused += not survives(read, root.url)
        put(root, relative, sound)
        assert survives(read, root.url)
    assert refused > MUTATIONS


def test_swapped_values_in_a_manifest(root):
    """JSON that is well-formed and wrong: every value replaced by values of other types."""
    relative = manifest_path(str(FIRST))
    sound = root.read_json(relative)

    def places(value, place=()):
        yield place
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            yield from places(inner, (*place, key))

    for place in list(places(sound))[1:]:
        for strange in (None, -1, 1.5, "x", "../..", [], {}, [None], {"a": None}, True, 1 << 70):
            changed = json.loads(json.dumps(sound))
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = strange
            put(root, relative, json.dumps(changed).encode())
            survives(lambda: [manifest.day for manifest in chain(root)], root.url)


def test_damaged_parquet_files(root, tmp_path):
    dice, refused = random.Random(2), 0
    manifest = read_manifest(root, str(FIRST))
    entry = manifest.tables["histories"][0]
    log = write_file(str(tmp_path / "logs"), 0, make_rows(0, 20, 5, 9, seed=1))
    write_vectors(str(tmp_path / "pins"), make_vectors(40))
    with open(log, "rb") as file, open(f"{tmp_path}/pins/vectors.parquet", "rb") as vectors:
        sound_log, sound_vectors = file.read(), vectors.read()
    sound = root.read_bytes(entry.path)
    for _ in range(MUTATIONS):
        put(root, entry.path, mutate(sound, dice))
        refused += not survives(lambda: read_files(root, [entry]), root.path(entry.path))
        with open(log, "wb") as file:
            file.write(mutate(sound_log, dice))
        refused += not survives(lambda: read_log(log), log)
        with open(f"{tmp_path}/pins/vectors.parquet", "wb") as file:
            file.write(mutate(sound_vectors, dice))
        refused += not survives(lambda: read_pins(str(tmp_path / "pins")), file.name)
    assert refused > 2 * MUTATIONS


def read_log(path: str) -> None:
    """Reads a log file to its end, as a run does."""
    source = open_log_file(path, ColumnNames())
    file = LogFile(path, "ds=2026-11-01/a.parquet", FIRST, source.metadata.num_rows, 0, "")
    for index in range(source.num_row_groups):
        list(read_valid(RowGroup(file, index), ColumnNames(), np.array([3]), ReadCounts.zero()))


def read_pins(folder: str) -> None:
    """Reads a vector set to its end, as a run does."""
    for file in describe_vectors(folder, "v1").files:
        for group in range(file.row_groups):
            read_vectors(file, group)
