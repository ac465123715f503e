"""Gates on numbers: each passes where it should and closes where it should."""

import dataclasses
import datetime

import pyarrow as pa
import pytest

from stores.files import Root
from stores.manifests import Manifest
from stores.tables import write_part
from tests.transforms.gates.releases import closed, manifest_of, staged_of
from transforms.gates import GATES, vectors
from transforms.gates.counts import pins_lost_share, users_lost_share

SOUND = {
    "read_logs": {"rows_read": 100, "rows_dropped": 2},
    "update_histories": {"rows_new": 98, "users_active": 10},
    "join_vectors": {"users_without_token": 1},
    "embed_users": {"users_embedded": 9},
    "merge_snapshot": {"users_carried_over": 11},
    "shard_pins": {"vectors_read": 31, "vectors_zero": 1},
    "build_indexes": {"pins_unfindable": 0},
}
OF_NUMBERS = GATES[: GATES.index(vectors.users_alike)]  # those after them open files


def closed_with(counters: dict, staged: Manifest | None = None) -> list[str]:
    return closed(OF_NUMBERS, staged_of(dataclasses.replace(staged or manifest_of(20, 30, 30), counters=counters)))


def test_a_sound_run_passes():
    assert closed_with(SOUND) == []


@pytest.mark.parametrize(
    ("step", "counter", "value", "gate"),
    [
        ("update_histories", "rows_new", 97, "rows_unaccounted"),
        ("update_histories", "rows_new", 99, "rows_unaccounted"),
        ("embed_users", "users_embedded", 8, "users_unaccounted"),
        ("join_vectors", "users_without_token", 0, "users_unaccounted"),
        ("merge_snapshot", "users_carried_over", 12, "snapshot_rows_unaccounted"),
        ("shard_pins", "vectors_read", 32, "pins_unaccounted"),
        ("build_indexes", "pins_unfindable", 1, "pins_unfindable"),
        ("embed_users", "users_not_finite", 1, "users_not_finite"),
        ("embed_pins", "pins_not_finite", 1, "pins_not_finite"),
        ("embed_users", "users_constant", 1, "users_constant"),
        ("embed_pins", "pins_constant", 1, "pins_constant"),
        ("read_logs", "rows_dropped", 6, "rows_dropped_share"),
        ("embed_users", "users_failed", 1, "users_failed_share"),
    ],
)
def test_one_wrong_number_closes_its_gate(step, counter, value, gate):
    counters = {name: dict(found) for name, found in SOUND.items()}
    counters.setdefault(step, {})[counter] = value
    assert gate in closed_with(counters)


def test_pins_that_are_in_no_index():
    assert closed_with(SOUND, manifest_of(20, 30, 29)) == ["pins_not_indexed"]


def test_nobody_at_all():
    nobody = {step: dict.fromkeys(found, 0) for step, found in SOUND.items()}
    assert closed_with(nobody, manifest_of(0, 0, 0)) == ["users_present", "pins_present"]


def test_a_new_user_does_not_make_up_for_a_lost_one(tmp_path):
    root, date = Root(str(tmp_path)), datetime.date(2026, 11, 1)
    lost = (users_lost_share, pins_lost_share)

    def released(users: list[int], pins: list[int]) -> Manifest:
        tables = {name: [] for name in ("histories", "indexes")}
        for name, key, ids in (("user_embeddings", "user_id", users), ("pin_embeddings", "pin_id", pins)):
            tables[name] = [write_part(root, name, date, 0, pa.table({key: pa.array(ids, pa.int64())}))]
        return dataclasses.replace(manifest_of(0, 0, 0), tables=tables)

    def closed_between(users: list[int], pins: list[int]) -> list[str]:
        return closed(lost, staged_of(released(users, pins), [before], root=root))

    ids = list(range(40))
    before = released(ids, ids)
    assert closed_between(ids, ids) == closed_between(ids[2:], ids[2:]) == []  # 5 %
    assert closed_between([*ids[3:], 100, 101, 102], ids) == ["users_lost_share"]
    assert closed_between(ids, [*ids[3:], 100, 101, 102]) == ["pins_lost_share"]
    expired = {"merge_snapshot": {"users_expired": 1}}
    staged = staged_of(dataclasses.replace(released(ids[3:], ids), counters=expired), [before], root=root)
    assert closed(lost, staged) == []
    assert all(gate(staged_of(released(ids, ids), root=root)) is None for gate in lost)  # nothing before it
