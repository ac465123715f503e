"""Names of ids on their way and where they are merged: packed with rows, who keeps an id, equal to a plain merge."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from stores.files import Root
from stores.layout import Layout
from stores.schemas import ENGAGEMENTS, NAME_COLUMNS, STRING_CODES, names_schema
from transforms import named_rows
from transforms.id_names import Collided, MergedNames, merge_names
from transforms.named_rows import (
    Names,
    pack_pin_names,
    pack_rows,
    source_name,
    split_collided,
    unpack_names,
    unpack_rows,
    with_source,
)
from transforms.run import Instructions, Run
from transforms.user_names import BucketNames, keep_names

SOURCE = source_name("ds=2026-11-01/a.parquet", 3, 262_144)


def batch_of(users: list[str], pins: list[str], numbers: dict[str, int] | None = None) -> pa.RecordBatch:
    """A batch as `read_valid` has it, with ids that are what `numbers` says, or else distinct."""
    known = {name: n for n, name in enumerate(sorted({*users, *pins}))} | (numbers or {})
    rows = len(users)
    text = pa.array(["x"] * rows).dictionary_encode().cast(STRING_CODES)
    ids = [pa.array([known[name] for name in names], pa.int64()) for names in (users, pins)]
    columns = [*ids, pa.array(range(rows), pa.int64()), text, text, pa.nulls(rows, pa.float32())]
    names = [pa.array(strings).dictionary_encode().cast(STRING_CODES) for strings in (users, pins)]
    fields = [*ENGAGEMENTS, *(pa.field(name, STRING_CODES) for name in NAME_COLUMNS.values())]
    return with_source(pa.record_batch([*columns, *names], schema=pa.schema(fields)), SOURCE)


def pairs(names: Names) -> dict[int, str]:
    return dict(zip(names.ids.tolist(), names.strings.to_pylist(), strict=True))


def table(known: dict[int, str]) -> pa.Table:
    ids = sorted(known)
    return pa.table(
        [pa.array(ids, pa.int64()), pa.array([known[i] for i in ids], pa.string())], names_schema("user_id")
    )


def names_of(*found: tuple[int, str]) -> Names:
    return Names(np.array([i for i, _ in found], np.int64), pa.array([name for _, name in found], pa.string()))


@pytest.mark.parametrize("limit", [named_rows.MAX_SHUFFLED_BYTES, 3_000])
def test_rows_come_out_with_the_names_of_their_users(monkeypatch, limit):
    monkeypatch.setattr(named_rows, "MAX_SHUFFLED_BYTES", limit)
    random = np.random.default_rng(1)
    users = [f"user {n}" for n in random.integers(0, 60, 400)]
    batch = batch_of(users, [f"pin {n}" for n in random.integers(0, 30, 400)])
    packed = list(pack_rows(batch, 4))
    rows = []
    for bucket, chunk in packed:
        assert len(chunk) <= limit
        for part in unpack_rows([b"", chunk]):
            assert part.source == SOURCE and part.rows.schema == ENGAGEMENTS and part.users is not None
            named = pairs(part.users)
            assert set(named) == set(part.rows["user_id"].to_pylist())
            rows += [(bucket, named[row["user_id"]], row["timestamp_ms"]) for row in part.rows.to_pylist()]
    assert sorted((at, user) for _, user, at in rows) == list(enumerate(users))
    assert len({user for _, user, _ in rows}) == len({(bucket, user) for bucket, user, _ in rows})
    found = [pairs(names) for _, chunk in pack_pin_names(batch, 3) for _, names in unpack_names([chunk])]
    pins = dict(zip(batch["pin_id"].to_pylist(), batch["pin_name"].to_pylist(), strict=True))
    assert {i: name for part in found for i, name in part.items()} == pins and sum(map(len, found)) == len(pins)
    assert list(pack_pin_names(batch, 0)) == []


def test_numbers_are_packed_as_before_there_were_strings():
    batch = batch_of(["a", "b"], ["c", "d"]).select(ENGAGEMENTS.names).replace_schema_metadata(None)
    (chunk,) = [chunk for _, chunk in pack_rows(batch, 1)]
    (plain,) = named_rows.to_ipc(batch)
    assert chunk == plain and with_source(batch, SOURCE) is batch and list(split_collided(batch)) == [batch]


def test_strings_of_one_id_part_ways_before_they_are_packed():
    one = {"a": 1, "b": 2, "rival": 1, "other": 1, "p": 9, "q": 9}
    batch = batch_of(["a", "rival", "b", "a", "other", "rival"], ["p", "p", "p", "q", "p", "p"], one)
    parts = list(split_collided(batch))
    assert [part["timestamp_ms"].to_pylist() for part in parts] == [[0, 2], [1, 5], [3], [4]]
    sources = [part.schema.metadata[named_rows.SOURCE].decode() for part in parts]
    assert sources == sorted(sources) and len(set(sources)) == 4 and sources[0] == SOURCE
    assert max(sources) < source_name("ds=2026-11-01/a.parquet", 3, 300_000)


def test_a_merge_equals_a_plain_one():
    random = np.random.default_rng(7)
    for _ in range(30):
        known = {int(i): f"name {i}" for i in random.integers(0, 40, 15)}
        parts, plain, lost = [], dict(known), []
        for number in range(4):
            ids = np.unique(random.integers(0, 60, 12))
            found = [(int(i), f"name {i}" if random.random() < 0.8 else f"rival {random.integers(3)}") for i in ids]
            random.shuffle(found)
            parts.append((f"batch {number}", names_of(*found)))
            for i, name in found:
                if plain.setdefault(i, name) != name:
                    lost.append(Collided(f"batch {number}", i, name))
        merged = merge_names(table(known), parts)
        assert merged.table.equals(table(plain)) and merged.added == len(plain) - len(known)
        assert sorted(merged.collided, key=repr) == sorted(lost, key=repr)


def test_nothing_new_is_the_very_same_table():
    old = table({1: "a", 2: "b"})
    for parts in ([], [("x", names_of((2, "b"), (1, "a")))], [("x", names_of((2, "other")))]):
        assert merge_names(old, parts).table is old


def test_a_name_goes_with_the_last_row_and_the_vector(tmp_path):
    root, date = Root(str(tmp_path)), datetime.date(2026, 11, 2)
    run = Run(root, "night", date, str(date), None, Layout(1, 1, 9, user_ids="string"), Instructions(False))
    before = BucketNames(table({1: "a", 2: "b", 3: "c"}), [])
    rows = pa.table({"user_id": pa.array([1, 1], pa.int64())})
    kept = keep_names(run, 0, before, MergedNames(before.table, 0, []), rows, lambda: np.array([2]))
    assert kept.table is not None and kept.table.equals(table({1: "a", 2: "b"}))
    assert kept.files()["user_names"] == kept.entries and kept.entries[0].path.startswith(f"user_names/{date}/")
    assert BucketNames.read(run, kept.entries).table.equals(kept.table)

    def nobody_asks() -> np.ndarray:
        raise AssertionError("the snapshot was read though everybody has a row")

    both = pa.table({"user_id": pa.array([1, 2], pa.int64())})
    assert keep_names(run, 0, kept, MergedNames(kept.table, 0, []), both, nobody_asks) is kept
