"""Who is asked, about which acts, and which of their vectors are kept."""

import dataclasses
import datetime

import numpy as np
import pyarrow as pa

from pinnerformer_model.config import preset
from stores.files import Root
from stores.ids import uniform_of
from stores.layout import Layout
from stores.schemas import ENGAGEMENTS, from_binary_column, to_binary_column, user_embeddings_schema
from stores.tables import read_files
from transforms import acts
from transforms.acts import (
    ACTS,
    ACTS_PER_USER,
    BEFORE,
    draw_asked,
    find_acts,
    has_labels,
    per_bucket,
    write_acts,
    write_vectors,
)
from transforms.histories import merge_histories
from transforms.run import Instructions, Repair, Run

PAPER = preset(
    "tiny", action_vocabulary=("click", "repin"), surface_vocabulary=("homefeed", "search"), pinsage_version="v1"
)
NO_LABELS = dataclasses.replace(PAPER, surface_vocabulary=("search", "board"))


def rows_of(rows: list[tuple[int, int, str, str, float | None]]) -> pa.Table:
    """(user, pin, action, surface, duration), the newest first."""
    user, pin, action, surface, duration = zip(*rows, strict=True)
    time = list(range(len(rows), 0, -1))
    words = [pa.array(column, pa.string()).dictionary_encode() for column in (action, surface)]
    columns = [pa.array(user), pa.array(pin), pa.array(time, pa.int64()), *words, pa.array(duration, pa.float32())]
    return pa.table(columns, schema=ENGAGEMENTS)


def pairs(found: pa.Table) -> list[tuple[int, int]]:
    return list(zip(found["user_id"].to_pylist(), found["pin_id"].to_pylist(), strict=True))


def run_of(root: Root, *, everyone: bool = False, repair: Repair | None = None) -> Run:
    date, instructions = datetime.date(2026, 11, 2), Instructions(everyone, repair=repair)
    return Run(root, "night", date, "2026-11-02", "2026-11-01", Layout(4, 1, 5), instructions)


MIXED = rows_of(
    [
        (1, 10, "repin", "homefeed", None),
        (1, 11, "repin", "search", None),  # another surface
        (1, 12, "click", "homefeed", 9.0),  # too short
        (1, 13, "click", "homefeed", 11.0),
        (1, 10, "repin", "homefeed", None),  # the same pin again
        (1, 14, "share", "homefeed", 99.0),  # the model does not know the action
        (2, 10, "click", "search", 1.0),
    ]
)


def test_acts_are_the_positives_of_the_models_rule():
    assert pairs(find_acts(MIXED, PAPER, 5)) == [(1, 10), (1, 13)]


def test_a_star_in_the_rule_is_every_action_and_surface_that_the_model_knows():
    config = dataclasses.replace(PAPER, label_rule={"surfaces": ["*"], "actions": {"*": 0}})
    assert has_labels(config) and not has_labels(NO_LABELS)
    assert pairs(find_acts(MIXED, config, 5)) == [(1, 10), (1, 11), (1, 12), (1, 13), (2, 10)]  # not what is unknown


def test_where_the_rule_holds_for_nothing_every_act_counts():
    assert pairs(find_acts(MIXED, NO_LABELS, 5)) == [(1, 10), (1, 11), (1, 12), (1, 13), (1, 14), (2, 10)]
    assert pairs(find_acts(MIXED.slice(0, 0), NO_LABELS, 5)) == []


def test_a_user_has_the_newest_acts_and_no_more():
    rows = rows_of([(7, pin, "repin", "homefeed", None) for pin in range(ACTS_PER_USER + 3)])
    assert pairs(find_acts(rows, PAPER, 5)) == [(7, pin) for pin in range(ACTS_PER_USER)]


def test_asked_are_those_of_the_lowest_hash():
    users = np.arange(1000)
    asked = draw_asked(users, 10)
    assert asked.tolist() == sorted(sorted(users.tolist(), key=lambda u: uniform_of(np.array([u]), acts.SALT)[0])[:10])
    # The same ones night after night, as far as they act.
    assert {user for user in asked.tolist() if user % 2 == 0} <= set(draw_asked(users[::2], 10).tolist())
    assert (per_bucket(20_000, 64), per_bucket(20_000, 1 << 20)) == (312, 1)


def test_a_row_seen_before_is_no_new_act(tmp_path):
    old = MIXED.slice(0, 1)
    merged = merge_histories(old, MIXED, 10)
    assert pairs(merged.added)[0] == (1, 11)
    assert merged.added.num_rows == 6 and merge_histories(MIXED, MIXED, 10).added.num_rows == 0


def test_what_a_bucket_leaves(tmp_path):
    root = Root(str(tmp_path))
    found, files, counters = write_acts(run_of(root), 3, MIXED, MIXED.slice(0, 3), PAPER)
    assert counters == {"rows_added": 7, "rows_out_of_vocabulary": 1} and list(files) == [ACTS]
    assert read_files(root, files[ACTS]).equals(found) and files[ACTS][0].path.startswith("staging/night/acts/")
    _, files, _ = write_acts(run_of(root, everyone=True), 3, MIXED, MIXED.slice(0, 3), NO_LABELS)
    assert pairs(read_files(root, files[BEFORE])) == [(1, 10), (1, 11), (1, 12)]  # as it stood last night
    found, _, _ = write_acts(run_of(root, repair=Repair("users", 0)), 3, MIXED, MIXED, PAPER)
    assert found.num_rows == 0


def snapshot(rows: list[tuple[int, float, int]]) -> pa.Table:
    """(user, value, day of November)."""
    vectors = to_binary_column(np.array([[value] for _, value, _ in rows], np.float16).reshape(-1, 1))
    days = pa.array([datetime.date(2026, 11, day) for _, _, day in rows], pa.date32())
    users = pa.array([user for user, _, _ in rows], pa.int64())
    columns = [users, vectors, days, pa.array([0] * len(rows), pa.int64()), pa.array([False] * len(rows))]
    return pa.table(columns, schema=user_embeddings_schema(1))


def test_vectors_of_last_night_and_of_tonight(tmp_path):
    root, asked = Root(str(tmp_path)), pa.table({"user_id": [1, 1, 2, 4], "pin_id": [5, 6, 5, 5]})
    before = snapshot([(1, 0.5, 1), (3, 0.25, 1), (4, 0.75, 1)])
    tonight = snapshot([(1, 1.0, 2), (2, 2.0, 2), (3, 3.0, 2), (4, 0.75, 1)])
    rows = read_files(root, [write_vectors(run_of(root), 3, asked, before, tonight)])
    assert rows["user_id"].to_pylist() == [1, 2, 4]
    assert rows["before"].is_valid().to_pylist() == [True, False, True]
    assert rows["tonight"].is_valid().to_pylist() == [True, True, False]  # user 4 was not embedded tonight
    assert from_binary_column(rows["tonight"].drop_null()).ravel().tolist() == [1.0, 2.0]
    first = read_files(root, [write_vectors(run_of(root), 3, asked, snapshot([]), tonight)])
    assert first["before"].null_count == 3
