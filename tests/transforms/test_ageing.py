"""Rows, users and vectors that grow old, against a dict of users."""

import dataclasses
import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.files import Root
from stores.layout import Layout
from stores.schemas import ENGAGEMENTS, user_embeddings_schema
from stores.tables import read_files
from tests.worlds import day, midnight
from transforms.ageing import DAY_MS, Ageing
from transforms.histories import update_bucket
from transforms.run import Instructions, Run
from transforms.snapshots import merge_bucket

SCHEMA = user_embeddings_schema(1)
LENGTH = 3


def night(root: Root, number: int, after: int | None, ageing: Ageing) -> Run:
    before = None if after is None else day(after)
    told = Instructions(everyone_active=False, ageing=ageing)
    return Run(root, f"night-{number}", day(number), str(day(number)), None, Layout(1, 1, LENGTH), told, before)


def engagements(rows: list[tuple[int, int, int]]) -> pa.Table:
    """(user, day, millisecond of the day) as rows."""
    users, days, at = np.array(rows, np.int64).reshape(-1, 3).T
    words = pa.DictionaryArray.from_arrays(np.zeros(len(rows), np.int32), pa.array(["x"]))
    times = [midnight(int(d)) + int(t) for d, t in zip(days, at, strict=True)]
    return pa.table(
        [users, at, pa.array(times, pa.int64()), words, words, pa.nulls(len(rows), pa.float32())], schema=ENGAGEMENTS
    )


@dataclasses.dataclass
class DictModel:
    """The rules, one user at a time: rows newest first, and (newest row, day it was made) of those in the snapshot."""

    ageing: Ageing
    rows: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    snapshot: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def night(self, number: int, after: int | None, came: list[tuple[int, int, int]]) -> set[int]:
        oldest = midnight(number + 1 - self.ageing.max_history_days) if self.ageing.max_history_days else -(1 << 62)
        awake = midnight(number + 1 - self.ageing.max_idle_days) if self.ageing.max_idle_days else -(1 << 62)
        active = set()
        for user in self.rows.keys() | {row[0] for row in came}:
            before = self.rows.get(user, [])
            new = {midnight(d) + at for u, d, at in came if u == user}
            left = sorted((at for at in {*before, *new} if at >= oldest), reverse=True)[:LENGTH]
            due = any(
                Ageing(refresh_days=self.ageing.refresh_days).is_due(np.array([user]), day(n - 1), day(n))[0]
                for n in range(number if after is None else after + 1, number + 1)
            )
            if left and left[0] >= awake and (left != before or (after is not None and due)):
                active.add(user)
            self.rows[user] = left
        self.rows = {user: left for user, left in self.rows.items() if left}
        self.snapshot |= {user: (self.rows[user][0], number) for user in active}
        self.snapshot = {u: found for u, found in self.snapshot.items() if found[0] >= max(oldest, awake)}
        return active


NIGHTS = st.lists(
    st.tuples(
        st.integers(1, 3), st.lists(st.tuples(st.integers(-4, 5), st.integers(0, 6), st.integers(0, 3)), max_size=8)
    ),
    min_size=1,
    max_size=5,
)
AGES = st.builds(Ageing, st.sampled_from([0, 2, 5]), st.sampled_from([0, 1, 3]), st.sampled_from([0, 1, 4]))


@settings(max_examples=60, deadline=None)
@given(nights=NIGHTS, ageing=AGES)
def test_nights_equal_the_rules_written_plainly(tmp_path_factory, nights, ageing):
    root = Root(str(tmp_path_factory.mktemp("root")))
    model = DictModel(ageing)
    histories, files, snapshot, vectors = ENGAGEMENTS.empty_table(), [], SCHEMA.empty_table(), []
    number, after = 0, None
    for gap, drawn in nights:
        number += gap
        came = [(user, number - back, at) for user, back, at in drawn]
        run = night(root, number, after, ageing)
        updated = update_bucket(run, 0, histories, files, engagements(came), np.empty(0, np.int64))
        assert set(updated.active.tolist()) == model.night(number, after, came)
        histories, files = updated.rows, updated.entries
        assert read_files(root, files).equals(histories)
        found: dict[int, list[int]] = {}
        for row in histories.to_pylist():
            found.setdefault(row["user_id"], []).append(row["timestamp_ms"])
        assert found == model.rows
        new = [
            {
                "user_id": u,
                "embedding": b"ab",
                "embedding_date": day(number),
                "last_action_ms": found[u][0],
                "stale": False,
            }
            for u in updated.active.tolist()
        ]
        merged = merge_bucket(run, 0, snapshot, vectors, pa.Table.from_pylist(new, schema=SCHEMA))
        snapshot, vectors = merged.rows, merged.entries
        assert read_files(root, vectors).equals(snapshot)
        made = {r["user_id"]: (r["last_action_ms"], r["embedding_date"]) for r in snapshot.to_pylist()}
        assert made == {user: (at, day(when)) for user, (at, when) in model.snapshot.items()}
        assert not ageing.refresh_days or all(
            (day(number) - when).days < ageing.refresh_days for _, when in made.values()
        )
        after = number


def test_a_share_of_the_users_is_due_each_day_and_everybody_within_the_days():
    users, ageing = np.arange(-5_000, 5_000), Ageing(refresh_days=10)
    due = np.stack([ageing.is_due(users, day(n - 1), day(n)) for n in range(40)])
    assert (due.sum(axis=1) > 800).all() and (due.sum(axis=1) < 1_200).all()
    assert (due.reshape(4, 10, -1).sum(axis=1) == 1).all()  # each once in ten days
    caught_up = ageing.is_due(users, day(2), day(6))
    assert (caught_up == due[3:7].any(axis=0)).all()
    assert ageing.is_due(users, day(0), day(10)).all()
    assert not ageing.is_due(users, day(6), day(6)).any() and not ageing.is_due(users, None, day(6)).any()


def test_the_last_days_are_kept_to_the_millisecond():
    ageing, date = Ageing(max_history_days=2), datetime.date(1970, 1, 11)
    assert ageing.oldest_row_ms(date) == 9 * DAY_MS
    assert Ageing(1, 5).oldest_action_ms(date) == 10 * DAY_MS  # nobody is in the snapshot without a row
    assert Ageing().describe(date) == "" and "1970-01-10" in ageing.describe(date)


def test_an_unchanged_bucket_is_not_written_anew_by_the_defaults(tmp_path):
    root = Root(str(tmp_path))
    first = update_bucket(
        night(root, 0, None, Ageing()),
        0,
        ENGAGEMENTS.empty_table(),
        [],
        engagements([(1, 0, 5)]),
        np.empty(0, np.int64),
    )
    again = update_bucket(
        night(root, 9, 0, Ageing()), 0, first.rows, first.entries, engagements([]), np.empty(0, np.int64)
    )
    assert again.entries == first.entries and not len(again.active)


@pytest.mark.parametrize("flag", ["--max-idle-days", "--max-history-days", "--refresh-days"])
def test_no_days_at_all_are_refused(flag, capsys):
    from pipelines.cli import main

    assert main(["plan", "--root=x", "--logs=x", "--pins=x", "--model=x", "--date=2026-11-01", f"{flag}=0"]) == 2
    assert flag in capsys.readouterr().err.splitlines()[0]
