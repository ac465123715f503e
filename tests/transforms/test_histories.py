import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.schemas import ENGAGEMENTS
from transforms.histories import SLICE_ROWS, SLICE_USERS, cut_slices, merge_histories


def table(rows):
    """Rows (user, pin, ts, action, surface, duration) as a table, dictionaries in order of first use."""
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 6
    return pa.table([pa.array(list(c), f.type) for c, f in zip(columns, ENGAGEMENTS, strict=True)], schema=ENGAGEMENTS)


def tuples(rows: pa.Table):
    return [tuple(row.values()) for row in rows.to_pylist()]


def sort_key(row):
    user, pin, at, action, surface, duration = row
    return (user, -at, pin, action, surface, duration is None, duration or 0)


def merged_plainly(old, new, length):
    """The rule of the design, one user at a time: every row once, newest first, the first `length`."""
    out = []
    for user in sorted({row[0] for row in old + new}):
        out += sorted({row for row in old + new if row[0] == user}, key=sort_key)[:length]
    return out


def test_literal_merge():
    old = table(
        [(1, 10, 500, "save", "home", None), (1, 11, 400, "save", "home", 2.0), (3, 9, 100, "click", "home", 1.0)]
    )
    new = table(
        [(2, 7, 300, "click", "search", None), (1, 12, 600, "click", "home", 3.0), (1, 11, 400, "save", "home", 2.0)]
    )
    merged = merge_histories(old, new, history_length=2)
    assert tuples(merged.rows) == [
        (1, 12, 600, "click", "home", 3.0),
        (1, 10, 500, "save", "home", None),
        (2, 7, 300, "click", "search", None),
        (3, 9, 100, "click", "home", 1.0),
    ]
    assert merged.changed.tolist() == [1, 2]
    assert merged.counters == {"rows_new": 3, "rows_repeated": 1, "rows_past_length": 1}


def test_rows_that_change_nothing_leave_everybody_inactive():
    old = table([(1, 10, 500, "save", "home", None), (1, 11, 400, "save", "home", 2.0)])
    repeated = table([(1, 10, 500, "save", "home", None)])
    too_old = table([(1, 99, 10, "save", "home", None)])
    for new in (repeated, too_old, table([])):
        merged = merge_histories(old, new, history_length=2)
        assert merged.rows is None
        assert len(merged.changed) == 0


def test_null_and_zero_durations_are_different_rows():
    merged = merge_histories(table([]), table([(1, 1, 1, "a", "s", None), (1, 1, 1, "a", "s", 0.0)]), 10)
    assert tuples(merged.rows) == [(1, 1, 1, "a", "s", 0.0), (1, 1, 1, "a", "s", None)]


rows = st.tuples(
    st.integers(-2, 4),
    st.integers(0, 3),
    st.integers(0, 5),
    st.sampled_from(["save", "click", "hide"]),
    st.sampled_from(["home", "search"]),
    st.sampled_from([None, 0.0, 1.5]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(rows, max_size=25), min_size=1, max_size=4), st.integers(1, 6), st.randoms())
def test_merge_equals_the_rule_written_plainly(days, length, random):
    kept, plain = table([]), []
    for day in days:
        before = plain
        plain = merged_plainly(plain, day, length)
        random.shuffle(day)
        merged = merge_histories(kept, table(day), length)
        users = {row[0] for row in before + plain}
        changed = {u for u in users if [r for r in before if r[0] == u] != [r for r in plain if r[0] == u]}
        assert set(merged.changed.tolist()) == changed
        kept = kept if merged.rows is None else merged.rows
        assert tuples(kept) == plain


def test_equal_rows_give_equal_bytes_whatever_came_with_them():
    first = merge_histories(table([]), table([(1, 1, 1, "b", "s", None), (1, 2, 2, "a", "t", 1.0)]), 10).rows
    second = merge_histories(
        table([(1, 2, 2, "a", "t", 1.0)]), table([(1, 1, 1, "b", "s", None), (1, 9, 0, "z", "z", None)]), 2
    ).rows
    assert first.equals(second)
    assert first["action"].chunk(0).dictionary.to_pylist() == ["a", "b"]


@pytest.mark.parametrize("lengths", [[1] * (2 * SLICE_USERS + 3), [SLICE_ROWS // 2 + 1] * 3, [SLICE_ROWS + 5, 1, 1]])
def test_slices_cover_the_active_users_once_and_never_cut_one(lengths):
    users = np.repeat(np.arange(len(lengths)) * 2, lengths)
    count = len(users)
    everything = pa.table(
        [
            users,
            np.arange(count),
            -np.arange(count),
            pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array(["a"])),
            pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array(["s"])),
            pa.nulls(count, pa.float32()),
        ],
        schema=ENGAGEMENTS,
    )
    active = np.unique(users)[:-1] if len(lengths) > 3 else np.unique(users)
    seen = []
    for number, rows in cut_slices(everything, active):
        ids = rows["user_id"].to_numpy()
        assert number == len(seen)
        assert len(np.unique(ids)) <= SLICE_USERS
        assert len(ids) <= SLICE_ROWS or len(np.unique(ids)) == 1
        seen.append(ids)
    assert len(seen) > 1
    assert np.array_equal(np.concatenate(seen), users[np.isin(users, active)])
