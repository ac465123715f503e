"""Yesterday's snapshot and today's vectors."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.files import FileEntry, Root
from stores.layout import Layout
from stores.schemas import user_embeddings_schema
from stores.tables import read_files
from tests.stores.snapshots import SNAPSHOT, rows_of
from tests.worlds import day, midnight
from transforms.ageing import Ageing
from transforms.run import Instructions, Run
from transforms.snapshots import merge_bucket, merge_snapshot, rows_with_new_action

SCHEMA = user_embeddings_schema(1)
YESTERDAY, TODAY = datetime.date(2026, 11, 23), datetime.date(2026, 11, 24)


def rows(vectors: dict[int, bytes | None], day: datetime.date, stale: set[int] = frozenset()) -> pa.Table:
    users = [
        {"user_id": u, "embedding": v, "embedding_date": day, "last_action_ms": u, "stale": u in stale or v is None}
        for u, v in vectors.items()
    ]
    return pa.Table.from_pylist(users, schema=SCHEMA)


USERS = st.dictionaries(st.integers(-20, 20), st.binary(min_size=2, max_size=2), max_size=15)


@given(old=USERS, stale=st.sets(st.integers(-20, 20)), new=USERS, failed=st.sets(st.integers(-20, 20)))
def test_it_is_a_dict_update_and_those_that_failed_are_stale(old, stale, new, failed):
    today = {**new, **dict.fromkeys(failed)}
    before = rows(dict(sorted(old.items())), YESTERDAY, stale)
    merged = merge_snapshot(before, rows(today, TODAY)).to_pylist()
    expected = {user: (vector, YESTERDAY, user in stale or user in failed) for user, vector in old.items()}
    expected |= {user: (vector, TODAY, False) for user, vector in today.items() if vector is not None}
    found = [(row["user_id"], (row["embedding"], row["embedding_date"], row["stale"])) for row in merged]
    assert found == sorted(expected.items())


def test_a_user_embedded_twice_is_an_error():
    twice = pa.concat_tables([rows({4: b"ab"}, TODAY), rows({4: b"cd"}, TODAY)])
    with pytest.raises(ValueError, match="user 4 was embedded twice"):
        merge_snapshot(SCHEMA.empty_table(), twice)


def test_equal_rows_give_equal_bytes_whatever_their_order():
    old, new = rows({1: b"aa", 5: b"bb"}, YESTERDAY), rows({9: b"cc", 2: None, 3: b"dd"}, TODAY)
    backwards = new.take(pa.array(np.arange(new.num_rows)[::-1]))
    assert merge_snapshot(old, new).equals(merge_snapshot(old, backwards))


@given(SNAPSHOT, SNAPSHOT)
@settings(max_examples=60, deadline=None)
def test_a_merge_is_a_dict_update(old, new):
    merged = merge_snapshot(rows_of(old), rows_of(new).take(np.arange(len(new))[::-1]))
    assert merged.equals(rows_of(old | new))


def test_users_embedded_by_age_alone_are_told_from_those_who_acted():
    def rows(newest: dict[int, int]) -> pa.Table:
        users = [
            {"user_id": u, "embedding": b"ab", "embedding_date": day(0), "last_action_ms": at, "stale": False}
            for u, at in newest.items()
        ]
        return pa.Table.from_pylist(users, schema=SCHEMA)

    assert rows_with_new_action(rows({1: 10, 2: 20}), rows({3: 5, 2: 21, 1: 10}))["user_id"].to_pylist() == [3, 2]


def snapshot_row(user: int, vector: bytes | None, made: int, acted_ms: int, stale: bool = False) -> dict:
    """A row whose vector was made on the day of a number."""
    keys = ("user_id", "embedding", "embedding_date", "last_action_ms", "stale")
    return dict(zip(keys, (user, vector, day(made), acted_ms, stale), strict=True))


OLD = [snapshot_row(1, b"aa", 0, midnight(0)), snapshot_row(5, b"bb", 0, midnight(0) - 1)]

# name -> (rows of the night, ageing, the bucket after it, users carried over, expired, stale, whether it is written)
NIGHTS = {
    "nobody is active": ([], Ageing(), OLD, 2, 0, 0, False),
    "somebody new, somebody again": (
        [snapshot_row(5, b"cc", 1, midnight(1)), snapshot_row(3, b"dd", 1, midnight(1))],
        Ageing(),
        [OLD[0], snapshot_row(3, b"dd", 1, midnight(1)), snapshot_row(5, b"cc", 1, midnight(1))],
        1,
        0,
        0,
        True,
    ),
    "somebody failed who had a vector, and somebody who had none": (
        [snapshot_row(1, None, 1, midnight(1), True), snapshot_row(9, None, 1, midnight(1), True)],
        Ageing(),
        [{**OLD[0], "stale": True}, OLD[1]],
        2,
        0,
        1,
        True,
    ),
    "somebody has been idle for two days": ([], Ageing(max_idle_days=2), [OLD[0]], 1, 1, 0, True),
    "everybody has": ([], Ageing(max_idle_days=1), [], 0, 2, 0, True),
}


@pytest.mark.parametrize("case", NIGHTS)
def test_a_bucket_of_the_night(case, tmp_path):
    new, ageing, expected, carried_over, expired, stale, written = NIGHTS[case]
    told = Instructions(everyone_active=False, ageing=ageing)
    run = Run(Root(str(tmp_path)), "night", day(1), str(day(1)), str(day(0)), Layout(1, 1, 9), told, day(0))
    entries = [FileEntry("user_embeddings/before", 0, 2, 0, "")]
    old, tonight = (pa.Table.from_pylist(users, schema=SCHEMA) for users in (OLD, new))
    merged = merge_bucket(run, 0, old, entries, tonight)
    assert merged.rows.to_pylist() == expected
    assert merged.report.counters == {
        "users": len(expected),
        "users_carried_over": carried_over,
        "users_expired": expired,
        "users_lost": expired,
        "users_stale": stale,
    }
    assert merged.report.files == {"user_embeddings": merged.entries}
    assert (merged.entries != entries) == written
    if written:
        assert read_files(run.root, merged.entries).equals(merged.rows)


def test_a_bucket_without_a_file_is_written_though_it_is_empty(tmp_path):
    told = Instructions(everyone_active=True)
    run = Run(Root(str(tmp_path)), "night", day(1), str(day(1)), None, Layout(1, 1, 9), told)
    merged = merge_bucket(run, 0, SCHEMA.empty_table(), [], SCHEMA.empty_table())
    assert [entry.rows for entry in merged.entries] == [0] and read_files(run.root, merged.entries).num_rows == 0
