"""What is seen of users and pins, beside a plain computation over the tables."""

import numpy as np
import pytest

from pipelines.explorer.picks import draw_user, find_picks, sampled_parts
from pipelines.explorer.seen import see_pin, see_user, users_alike
from pipelines.explorer.views import Shelf, history
from stores.files import Root
from stores.manifests import read_manifest
from stores.schemas import from_binary_column
from tests.pipelines.nights import histories_of, read_table

K = 7


class Plain:
    """A release's tables in memory: `users` and `pins` are id -> float64 vector, `rows` id -> history, newest first."""

    def __init__(self, root: str, release: str):
        manifest = read_manifest(Root(root), release)

        def vectors(table: str, key: str) -> dict[int, np.ndarray]:
            rows = read_table(root, manifest, table)
            found = from_binary_column(rows["embedding"]).astype(np.float64)
            return dict(zip(rows[key].to_pylist(), found, strict=True))

        self.users, self.pins = vectors("user_embeddings", "user_id"), vectors("pin_embeddings", "pin_id")
        self.rows = histories_of(root, manifest)

    def best(self, vector: np.ndarray, k: int, without: set[int]) -> list[int]:
        scores = {pin: float(one @ vector) for pin, one in self.pins.items() if pin not in without}
        return sorted(scores, key=lambda pin: (-round(scores[pin], 6), pin))[:k]


@pytest.fixture(scope="module")
def plain(made) -> Plain:
    return Plain(made.root, "2026-11-04")


@pytest.fixture(scope="module")
def before(made) -> Plain:
    return Plain(made.root, "2026-11-03")


@pytest.fixture(scope="module")
def shelf(made) -> Shelf:
    return Shelf(0, made.root)


@pytest.mark.parametrize("new", [False, True])
def test_pins_reasons_and_the_difference_are_those_of_a_plain_computation(new, shelf, plain, before, explored):
    view = shelf.open()
    some = [user for user in explored.users if user in before.users][:5]
    assert len(some) == 5
    for user in some:
        seen = see_user(
            view, user, str(user), K, exclude_engaged=new, before=shelf.before(view), catalogue=None, hosts=()
        )
        engaged = {row["pin_id"] for row in plain.rows[user]}
        without = engaged if new else set()
        want = plain.best(plain.users[user], K, without)
        assert [found.item.id for found in seen.pins] == want
        assert [found.engaged for found in seen.pins] == [pin in engaged for pin in want]
        was = before.best(before.users[user], K, without)
        assert [found.was for found in seen.pins] == [was.index(pin) + 1 if pin in was else 0 for pin in want]
        difference = seen.difference
        assert difference.cosine == pytest.approx(plain.users[user] @ before.users[user], abs=2e-3)
        assert difference.stayed == len(set(want) & set(was))
        assert [found.item.id for found in difference.gone] == [pin for pin in was if pin not in want]
        for found in seen.pins:
            pin = found.item.id
            kept = [one for one in engaged if one in plain.pins]
            if pin in engaged:
                assert found.why is None
            else:
                cosines = {one: float(plain.pins[one] @ plain.pins[pin]) for one in kept}
                assert cosines[found.why.item.id] == pytest.approx(max(cosines.values()), abs=1e-5)
                assert found.why.cosine == pytest.approx(max(cosines.values()), abs=2e-3)
                row = seen.rows[found.why.row]
                assert row.item.id == found.why.item.id
        assert seen.in_all == len(plain.rows[user]) == len(seen.rows)
        new_rows = len([row for row in plain.rows[user] if row["timestamp_ms"] >= 1_793_750_400_000])  # 2026-11-04
        assert sum(row.is_new for row in seen.rows) == new_rows
        moments = [row["timestamp_ms"] for row in plain.rows[user]]
        assert history(view, user)["timestamp_ms"].to_pylist() == sorted(moments, reverse=True)


def test_users_alike_and_neighbours_are_the_largest_inner_products(shelf, plain, explored):
    view, user = shelf.open(), explored.users[0]
    alike = users_alike(view, user, plain.users[user].astype(np.float32))
    scores = {other: float(plain.users[other] @ plain.users[user]) for other in plain.users if other != user}
    best = sorted(scores, key=lambda other: -scores[other])[: len(alike.users)]
    assert [other for other, _ in alike.users] == best and len(best) == 8
    assert (alike.among, alike.in_all) == (len(plain.users) - 1, len(plain.users))
    pin = next(iter(plain.pins))
    seen = see_pin(view, pin, K, None, ())
    assert [found.item.id for found in seen.pins] == plain.best(plain.pins[pin], K, {pin})


def test_picks_are_the_newest_the_most_changed_and_the_canaries(shelf, plain, before):
    view = shelf.open()
    picks = find_picks(view, shelf.before(view))
    manifest = view.manifest
    rows = read_table(view.root.url, manifest, "user_embeddings").to_pylist()
    by_moment = sorted(rows, key=lambda row: (-row["last_action_ms"], row["user_id"]))
    assert [pick.user for pick in picks.active] == [row["user_id"] for row in by_moment[:8]]
    tonight = [r["user_id"] for r in rows if r["embedding_date"] == manifest.day and r["user_id"] in before.users]
    moved = {user: float(plain.users[user] @ before.users[user]) for user in tonight}
    assert [pick.user for pick in picks.changed] == sorted(moved, key=lambda user: moved[user])[:8]
    frozen = set(read_table(view.root.url, manifest, "canaries")["user_id"].to_pylist())
    assert picks.canaries and {pick.user for pick in picks.canaries} <= frozen
    assert picks.compared_with == "2026-11-03" and picks.among == picks.in_all == len(rows)
    first = shelf.open("2026-11-01")
    assert shelf.before(first) is None and find_picks(first, None).changed == []
    drawn = {draw_user(view, np.random.default_rng(seed)) for seed in range(20)}
    assert len(drawn) > 5 and drawn <= set(plain.users)


def test_of_large_snapshots_only_some_buckets_are_read(shelf):
    view = shelf.open()
    assert len(sampled_parts(view)) == 2
    assert len(sampled_parts(view, most=1)) == 1
