"""Yesterday's snapshot and today's vectors."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.schemas import user_embeddings_schema
from tests.stores.snapshots import SNAPSHOT, rows_of
from tests.worlds import day
from transforms.snapshots import merge_snapshot, rows_with_new_action

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
