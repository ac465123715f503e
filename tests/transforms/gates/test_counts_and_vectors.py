"""Gates on numbers and vectors: each passes where it should and closes where it should."""

import dataclasses
import datetime
import re

import numpy as np
import pyarrow as pa
import pytest

from stores.errors import UsageError
from stores.files import FileEntry, Root
from stores.manifests import Manifest
from stores.neighbours import Neighbours
from stores.tables import write_part
from transforms.embed_users import norm_range
from transforms.gates import ADVICE, Thresholds, gate, read_thresholds
from transforms.gates.counts import check_counts, check_lost
from transforms.gates.recall import check_coverage, coverage_pins
from transforms.gates.trends import check_trends, check_vectorless
from transforms.gates.vectors import check_alike, check_vectors
from transforms.run import StageReport

SOUND = {
    "read_logs": {"rows_read": 100, "rows_dropped": 2},
    "update_histories": {"rows_new": 98, "users_active": 10},
    "join_vectors": {"users_without_token": 1},
    "embed_users": {"users_embedded": 9},
    "merge_snapshot": {"users_carried_over": 11},
    "shard_pins": {"vectors_read": 31, "vectors_zero": 1},
    "build_indexes": {"pins_unfindable": 0},
}


def manifest_of(users: int, pins: int, indexed: int) -> Manifest:
    rows = {"histories": 0, "user_embeddings": users, "pin_embeddings": pins, "indexes": indexed}
    tables = {name: [FileEntry(f"{name}/x", 0, count, 0, "")] for name, count in rows.items()}
    return Manifest("2026-11-02", "2026-11-02", None, "", tables, [], {}, {}, [], {}, [])


def closed(counters: dict, staged: Manifest | None = None) -> list[str]:
    reports = {stage: StageReport(counters=found) for stage, found in counters.items()}
    gates = check_vectors(reports, Thresholds()) + check_counts(
        reports, staged or manifest_of(20, 30, 30), Thresholds()
    )
    return [gate.name for gate in gates if not gate.passed]


def test_a_sound_run_passes():
    assert closed(SOUND) == []


@pytest.mark.parametrize(
    ("stage", "counter", "value", "gate"),
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
    ],
)
def test_one_wrong_number_closes_its_gate(stage, counter, value, gate):
    counters = {name: dict(found) for name, found in SOUND.items()}
    counters.setdefault(stage, {})[counter] = value
    assert gate in closed(counters)


def test_pins_that_are_in_no_index():
    assert closed(SOUND, manifest_of(20, 30, 29)) == ["pins_not_indexed"]


def test_nobody_at_all():
    nobody = {stage: dict.fromkeys(found, 0) for stage, found in SOUND.items()}
    assert closed(nobody, manifest_of(0, 0, 0)) == ["users_present", "pins_present"]


@pytest.mark.parametrize("norm", [0.99, 1.01])
def test_norms(norm):
    reports = {"embed_users": StageReport(lowest={"norm": norm}, highest={"norm": 1.0})}
    assert [gate.name for gate in check_vectors(reports, Thresholds()) if not gate.passed] == ["users_norm"]


def test_what_norm_range_counts():
    vectors = np.array([[0.6, 0.8], [np.nan, 1], [0.7071, 0.7071], [0, 0]], np.float16)
    lowest, highest, not_finite, constant = norm_range(vectors)
    assert (lowest["norm"], not_finite, constant) == (0.0, 1, 2)
    assert abs(highest["norm"] - 1) < 1e-3


def test_vectors_that_are_all_alike():
    same = np.tile([0.6, 0.8], (50, 1))
    apart = np.random.default_rng(0).standard_normal((50, 2))
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    assert [g.passed for g in check_alike("users", same.sum(0), 50, Thresholds())] == [False]
    assert [g.passed for g in check_alike("users", apart.sum(0), 50, Thresholds())] == [True]
    assert check_alike("users", same[0], 1, Thresholds()) == []


def test_a_new_user_does_not_make_up_for_a_lost_one(tmp_path):
    root, date = Root(str(tmp_path)), datetime.date(2026, 11, 1)

    def released(users: list[int], pins: list[int]) -> Manifest:
        tables = {name: [] for name in ("histories", "indexes")}
        for name, key, ids in (("user_embeddings", "user_id", users), ("pin_embeddings", "pin_id", pins)):
            tables[name] = [write_part(root, name, date, 0, pa.table({key: pa.array(ids, pa.int64())}))]
        return dataclasses.replace(manifest_of(0, 0, 0), tables=tables)

    def closed_between(users: list[int], pins: list[int]) -> list[str]:
        gates = check_lost(root, released(users, pins), before, Thresholds())
        return [found.name for found in gates if not found.passed]

    ids = list(range(40))
    before = released(ids, ids)
    assert closed_between(ids, ids) == closed_between(ids[2:], ids[2:]) == []  # 5 %
    assert closed_between([*ids[3:], 100, 101, 102], ids) == ["users_lost_share"]
    assert closed_between(ids, [*ids[3:], 100, 101, 102]) == ["pins_lost_share"]
    expired = {"merge_snapshot": {"users_expired": 1}}
    staged = dataclasses.replace(released(ids[3:], ids), counters=expired)
    assert all(found.passed for found in check_lost(root, staged, before, Thresholds()))


# Against the last releases.

MONDAY = datetime.date(2026, 11, 2)


def nights(rows: list[int], active: list[int] | None = None, step: int = 1) -> list[Manifest]:
    """Releases of consecutive days, newest first; the first of them is the root's first."""
    made = []
    for number, count in enumerate(rows):
        date = (MONDAY + datetime.timedelta(number * step)).isoformat()
        counters = {
            "read_logs": {"rows_read": count},
            "update_histories": {"users_changed": active[number] if active else 100},
            "join_vectors": {"tokens": 900, "tokens_without_vector": 100},
        }
        previous = made[0].release if made else None
        base = manifest_of(20, 30, 30)
        made.insert(0, dataclasses.replace(base, release=date, date=date, previous=previous, counters=counters))
    return made


def closed_trends(releases: list[Manifest]) -> list[str]:
    return [g.name for g in check_trends(releases[0], releases[1:], Thresholds()) if not g.passed]


def test_half_of_an_export():
    assert closed_trends(nights([9000, 100, 110, 90, 100, 30])) == []  # no weekday to compare with yet
    assert closed_trends(nights([9000, 100, 110, 90, 100, 20])) == ["rows_against_week"]
    assert closed_trends(nights([9000, 100, 110, 90, 100, 500])) == ["rows_against_week"]
    assert closed_trends(nights([9000, 100, 110, 90, 100, 0])) == ["rows_against_week"]
    assert closed_trends(nights([9000, 100, 100, 2])) == []  # too few to say


def test_a_sunday_is_compared_with_sundays():
    week = [1000, 1000, 1000, 1000, 1000, 400, 300]
    assert closed_trends(nights([1000, *week[1:], *week[:6], 280])) == []
    assert closed_trends(nights([1000, *week[1:], *week[:6], 900])) == ["rows_against_weekday"]


def test_active_users_are_held_to_the_same():
    rows = [100] * 9
    assert closed_trends(nights(rows, [50] * 8 + [45])) == []
    assert closed_trends(nights(rows, [50] * 8 + [10])) == ["active_against_week", "active_against_weekday"]


def test_a_night_that_caught_up_is_compared_by_rows_a_day():
    releases = nights([9000, 100, 100, 100, 100])
    caught_up = dataclasses.replace(releases[0], release="x", date="2026-11-09", previous=releases[0].release)
    assert check_trends(caught_up, releases, Thresholds())[0].measured == pytest.approx(100 / (100 / 3))
    again = dataclasses.replace(releases[0], release="2026-11-06.2", previous=releases[0].release)
    assert check_trends(again, releases, Thresholds()) == []  # it reads late files only


def test_tokens_without_a_vector():
    def closed_with(without: int) -> list[str]:
        releases = nights([100] * 4)
        counters = {"join_vectors": {"tokens": 1000 - without, "tokens_without_vector": without}}
        staged = dataclasses.replace(releases[0], counters=counters)
        return [g.name for g in check_vectorless(staged, releases[1:], Thresholds()) if not g.passed]

    assert closed_with(190) == []
    assert closed_with(210) == ["vectorless_rise"]
    assert closed_with(610) == ["vectorless_share", "vectorless_rise"]


def test_popularity_collapse():
    everybody = np.tile(np.arange(10), (100, 1))
    spread = np.arange(1000).reshape(100, 10)
    assert (coverage_pins(everybody), coverage_pins(spread)) == (9, 900)
    assert coverage_pins(np.array([[5, 5, 5, 5, 5, 5, 5, 5, 5, 6]])) == 1
    assert coverage_pins(np.full((2, 10), -1)) == 0

    def closed_with(pins: np.ndarray, before: int | None) -> list[str]:
        settings = {"index": {"coverage_pins": before, "recall_users": 100}}
        previous = dataclasses.replace(manifest_of(1, 1, 1), settings=settings)
        found = Neighbours(pins, np.zeros(pins.shape, np.float32))
        return [g.name for g in check_coverage(found, 5000, previous, Thresholds()) if not g.passed]

    assert closed_with(spread, 900) == closed_with(spread, None) == []
    assert closed_with(spread, 2800) == ["coverage_fall"]
    assert closed_with(everybody, 9) == ["coverage_pins"]


# Thresholds from a file.


def write(tmp_path, text: str) -> str:
    path = tmp_path / "gates.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_moves_what_it_names(tmp_path):
    found = read_thresholds(write(tmp_path, "max_lost_share: 0.2\nrecall_users: 50\n"))
    assert found == dataclasses.replace(Thresholds(), max_lost_share=0.2, recall_users=50)
    assert read_thresholds(write(tmp_path, "# nothing\n")) == read_thresholds(None) == Thresholds()


def test_the_file_that_is_shipped_holds_the_defaults():
    assert read_thresholds("deploy/gates.yaml") == Thresholds()
    with open("deploy/gates.yaml") as file:
        named = re.findall(r"^(\w+):", file.read(), re.M)
    assert named == [field.name for field in dataclasses.fields(Thresholds)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_lost_shares: 0.2", "no threshold 'max_lost_shares'; did you mean max_lost_share?"),
        ("xyz: 0.2", "no threshold 'xyz'; there are norm_tolerance"),
        ("max_lost_share: much", "max_lost_share is 'much'; expected a number >= 0"),
        ("max_lost_share: .nan", "max_lost_share is nan"),
        ("max_lost_share: -1", "max_lost_share is -1"),
        ("recall_users: 0", "expected a whole number >= 1"),
        ("recall_users: true", "recall_users is True"),
        ("- a", "expected `name: number` lines"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, text, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        read_thresholds(write(tmp_path, text))


def test_no_such_file(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_thresholds(str(tmp_path / "none.yaml"))


def test_a_gate_closes_on_nan():
    assert not gate.at_most("x", float("nan"), 1, "").passed and not gate.at_least("x", float("nan"), 1, "").passed


def test_every_gate_says_where_to_look():
    named = set()
    for module in ("counts", "drift", "recall", "trends", "vectors", "canaries"):
        with open(f"transforms/gates/{module}.py") as file:
            named |= set(re.findall(r'at_(?:most|least)\(\s*f?"([\w{}]+)"', file.read()))
    assert len(named) > 12
    for name in named:
        pattern = re.sub(r"\{\w+\}", r"\\w+", name)
        assert any(re.fullmatch(pattern, advice) for advice in ADVICE), name
