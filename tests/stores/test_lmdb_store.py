"""What is LMDB's own: appending, which drops keys without a word where it is not allowed, and its one transaction."""

import numpy as np
import pytest

from stores.errors import StoreError
from stores.kv import Current, lmdb_store, open_store
from stores.kv.lmdb_append import put_sorted

DIGEST = "ab" * 32
USERS = 3000


def current(generation: str) -> Current:
    return Current(generation, "2026-11-01", DIGEST, USERS)


def buckets(seed: int, count: int = 7):
    """Users from all over the ids, negative ones too, in batches that each go through all of them."""
    ids = np.random.default_rng(seed).choice(2**40, USERS, replace=False).astype(np.int64) - 2**39
    return [(part, [b"%d of %d" % (seed, user) + bytes(500) for user in part]) for part in np.array_split(ids, count)]


def fill(store, generation: str, seed: int):
    return store.upload(generation, buckets(seed), deletes=[], fresh=True, current=current(generation))


def check(store, generation: str, seed: int) -> None:
    assert store.count(generation) == USERS
    for ids, values in buckets(seed):
        assert store.get_many(generation, ids) == values


@pytest.fixture
def url(tmp_path) -> str:
    return f"lmdb://{tmp_path}/kv"


def leaf_pages(store) -> int:
    with store._reading() as transaction:
        return transaction.stat()["leaf_pages"]


def test_a_fresh_generation_is_appended_after_an_older_one_in_front_of_records(url):
    """Its pages are full, seven values a page: `current`, `generations` and a namespace of records are in the way."""
    for generation in ("a1", "b2", "c3"):
        with open_store(url) as store, open_store(url, "with-little") as little:
            little.upload("g", [(np.arange(2), [b"x", b"y"])], deletes=[], fresh=True, current=current("g"))
            before = leaf_pages(store)
            fill(store, generation, 1)
            assert leaf_pages(store) - before <= USERS / 7 + 4
    with open_store(url) as store, open_store(url, "with-little") as little:
        for generation in ("a1", "b2", "c3"):
            check(store, generation, 1)
        assert set(store.generations()) == {"a1", "b2", "c3"} and store.current() == current("c3")
        assert little.current() == current("g") and little.get_many("g", np.arange(3)) == [b"x", b"y", None]


@pytest.mark.parametrize("held_bytes", [1 << 20, 200_000], ids=["in memory", "by way of a file"])
def test_in_front_of_other_generations_and_between_them_nothing_is_dropped(url, held_bytes, monkeypatch):
    monkeypatch.setattr(lmdb_store, "_held_bytes", lambda: held_bytes)
    order = [("m5", 5), ("a1", 1), ("z9", 9), ("c3", 3), ("m4", 4)]
    with open_store(url) as store, open_store(url, "z-another") as another:
        fill(another, "g", 8)
        for generation, seed in order:
            assert fill(store, generation, seed).stored == USERS
        assert fill(store, "m5", 55).stored == USERS  # over what was left of it
        for generation, seed in [*order[1:], ("m5", 55)]:
            check(store, generation, seed)
        check(another, "g", 8)
        assert set(store.generations()) == {"a1", "c3", "m4", "m5", "z9"} and another.current() == current("g")


def test_a_night_that_is_sorted_by_way_of_a_file(url, monkeypatch):
    monkeypatch.setattr(lmdb_store, "_held_bytes", lambda: 100_000)
    with open_store(url) as store:
        fill(store, "a1", 1)
        ids = np.concatenate([part for part, _ in buckets(1)])
        changed = [(ids[::3], [b"changed"] * len(ids[::3])), (np.arange(2**41, 2**41 + 400), [b"new"] * 400)]
        result = store.upload("a1", changed, deletes=[ids[1::3]], fresh=False, current=current("a1"))
        assert (result.sent, result.deleted) == (1400, 1000)
        assert store.count("a1") == USERS - 1000 + 400
        assert store.get_many("a1", ids[:3])[:2] == [b"changed", None]
        assert store.get_many("a1", ids[2:3]) == [buckets(1)[0][1][2]]


@pytest.mark.parametrize("held_bytes", [1 << 20, 200_000], ids=["in memory", "by way of a file"])
def test_a_user_in_two_batches_is_noticed_and_nothing_stays(url, held_bytes, monkeypatch):
    """Other than appending, which would keep one of the two and say nothing."""
    monkeypatch.setattr(lmdb_store, "_held_bytes", lambda: held_bytes)
    with open_store(url) as store:
        fill(store, "a1", 1)
        twice = [*buckets(2), (buckets(2)[0][0][:1], [b"again"])]
        with pytest.raises(StoreError, match="3001 values were sent, 3000 are stored"):
            store.upload("b2", twice, deletes=[], fresh=True, current=current("b2"))
        assert store.current() == current("a1") and store.count("b2") == 0 and set(store.generations()) == {"a1"}
        assert fill(store, "b2", 2).stored == USERS
        check(store, "b2", 2)


@pytest.mark.parametrize("held_bytes", [1 << 20, 200_000], ids=["in memory", "by way of a file"])
def test_an_interrupted_first_night_and_run_again(url, held_bytes, tmp_path, monkeypatch):
    """Cut off while batches are read, and while they are put: the records that were in the way are there again."""
    monkeypatch.setattr(lmdb_store, "_held_bytes", lambda: held_bytes)

    def cut_off(*_):
        raise KeyboardInterrupt

    def batches():
        yield from buckets(2)[:5]
        cut_off()

    with open_store(url) as store:
        fill(store, "a1", 1)
        with pytest.raises(KeyboardInterrupt):
            store.upload("b2", batches(), deletes=[], fresh=True, current=current("b2"))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(lmdb_store, "put_sorted", cut_off)
            fill(store, "b2", 2)
        assert store.current() == current("a1") and set(store.generations()) == {"a1"} and store.count("b2") == 0
        fill(store, "b2", 2)
        check(store, "a1", 1)
        check(store, "b2", 2)
    assert sorted(path.name for path in (tmp_path / "kv").iterdir()) == ["data.mdb", "lock.mdb", "publish.lock"]


def test_keys_that_are_not_ascending_are_not_appended(url):
    with open_store(url) as store, store._writing("a test") as transaction, transaction.cursor() as cursor:
        put_sorted(cursor, [b"b", b"d"], [b"1", b"2"])
        put_sorted(cursor, [b"a", b"c", b"c"], [b"3", b"4", b"5"])
        put_sorted(cursor, [b"f", b"e"], [b"6", b"7"])
        put_sorted(cursor, [b"f", b"g"], [b"8", b"9"])
        found = [(bytes(key), bytes(value)) for key, value in transaction.cursor()]
    assert found == [(b"a", b"3"), (b"b", b"1"), (b"c", b"5"), (b"d", b"2"), (b"e", b"7"), (b"f", b"8"), (b"g", b"9")]
