"""The key-value stores: a real LMDB, a real redis-server."""

import datetime
import json
import os
import stat

import lmdb
import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.errors import StoreError, UsageError
from stores.kv import Current, open_store, without_password
from stores.kv.codec import decode_values, encode_values
from tests.redis_server import free_port, running_redis
from tests.stores.stored import KINDS, Stored

DIGEST = "ab" * 32
CURRENT = Current("g1", "2026-11-01", DIGEST, 3)
EXTREMES = np.array([0, -1, 5, 2**63 - 1, -(2**63)], np.int64)


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with running_redis(str(tmp_path_factory.mktemp("redis"))) as port:
        yield port


@pytest.fixture(params=KINDS)
def stored(request) -> Stored:
    return KINDS[request.param](request)


@pytest.fixture
def url(stored) -> str:
    return stored.url


def values(*numbers: int) -> list[bytes]:
    return [f"value {number}".encode() for number in numbers]


def put(store, ids, generation="g1", *, deletes=(), fresh=True, current=CURRENT):
    ids = np.asarray(ids, np.int64)
    return store.upload(
        generation,
        [(ids, values(*ids))],
        deletes=[np.asarray(d, np.int64) for d in deletes],
        fresh=fresh,
        current=current,
    )


def test_what_goes_in_comes_out(url):
    with open_store(url) as store:
        store.check()
        assert store.current() is None and store.get_many("g1", EXTREMES) == [None] * 5
        result = put(store, EXTREMES)
        assert (result.sent, result.stored, result.deleted) == (5, 5, 0)
        assert store.current() == CURRENT and store.count("g1") == 5
    with open_store(url) as store:  # and for somebody who comes later
        asked = np.array([5, 77, -(2**63), 5], np.int64)
        assert store.get_many("g1", asked) == [b"value 5", None, values(-(2**63))[0], b"value 5"]
        assert store.get_many_then_current("g1", asked) == (store.get_many("g1", asked), CURRENT)
        assert store.get_many("g1", np.zeros(0, np.int64)) == []


def test_a_daily_change_replaces_adds_and_deletes_and_nothing_else(url):
    with open_store(url) as store:
        put(store, [1, 2, 3])
        ids = np.array([3, 4], np.int64)
        later = Current("g1", "2026-11-02", DIGEST, 3)
        result = store.upload(
            "g1", [(ids, [b"new 3", b"new 4"])], deletes=[np.array([1, 99])], fresh=False, current=later
        )
        assert (result.sent, result.stored, result.deleted) == (2, 2, 1)
        assert store.get_many("g1", np.arange(1, 5)) == [None, b"value 2", b"new 3", b"new 4"]
        assert store.current() == later


def test_a_fresh_generation_loses_its_leftovers_and_leaves_the_others(url):
    with open_store(url) as store, open_store(url, "another") as another:
        put(store, [1, 2, 3])
        put(another, [8])
        put(store, [7, 9], "g2", current=Current("g2", "x", DIGEST, 2))
        put(store, [9], "g2", current=Current("g2", "x", DIGEST, 1))
        assert (store.count("g1"), store.count("g2"), another.count("g1")) == (3, 1, 1)
        assert another.current() == CURRENT


def test_generations_are_listed_retired_and_removed(url):
    with open_store(url) as store:
        put(store, [1, 2, 3])
        assert {name: g.retired_at for name, g in store.generations().items()} == {"g1": None}
        put(store, [7, 9], "g2", current=Current("g2", "x", "cd" * 32, 2))
        held = store.generations()
        assert (held["g1"].release, held["g1"].users, held["g2"].release) == (CURRENT.release, 3, "x")
        assert held["g1"].retired_at > 1e9 and held["g2"].retired_at is None
        with pytest.raises(StoreError, match="is being served"):
            store.delete_generation("g2")
        assert store.delete_users("g1", np.array([2, 55])) == 1
        assert store.delete_generation("g1") == 2
        assert set(store.generations()) == {"g2"} and (store.count("g1"), store.count("g2")) == (0, 2)


def test_values_that_fail_to_arrive_leave_current_where_it_was(stored):
    def batches():
        yield np.array([5, 6], np.int64), values(5, 6)
        raise OSError("the disk that is read from is gone")

    with open_store(stored.url) as store:
        put(store, [1, 2, 3])
        with pytest.raises(StoreError):
            store.upload("g2", batches(), deletes=[], fresh=True, current=Current("g2", "x", DIGEST, 2))
        assert store.current() == CURRENT and store.count("g1") == 3
        if stored.all_or_nothing:
            assert set(store.generations()) == {"g1"} and store.count("g2") == 0
        else:  # what was left is listed, so that `gc` finds it
            assert store.generations()["g2"].release is None
            store.delete_generation("g2")
            assert set(store.generations()) == {"g1"} and store.count("g2") == 0


def test_a_user_sent_twice_is_not_two_users(stored):
    with open_store(stored.url) as store:
        put(store, [1, 2, 3])
        if stored.all_or_nothing:
            with pytest.raises(StoreError, match="3 values were sent, 2 are stored"):
                put(store, [4, 4, 5], "g2", current=Current("g2", "x", DIGEST, 3))
            assert store.current() == CURRENT
            assert store.count("g2") == 0  # one transaction: nothing of it stays


def test_the_current_of_somebody_else_is_not_guessed_at(stored):
    stored.put_current(b'{"generation": 1}')
    with open_store(stored.url) as store, pytest.raises(StoreError, match="`current` is not understood"):
        store.current()


def put_records(stored: Stored, current: dict, **generations: dict) -> None:
    """Writes both as another version may."""
    stored.put_current(json.dumps(current).encode())
    stored.put_generations(generations)


def test_what_a_newer_version_wrote_beside_is_read_past_and_stays_with_its_generation(stored):
    with open_store(stored.url) as store:
        put(store, [1, 2, 3])
        put(store, [7, 9], "g2", current=Current("g2", "x", "cd" * 32, 2))
    found = stored.records()
    put_records(stored, found["current"] | {"ids": "x"}, g1=found["g1"] | {"ids": "a"}, g2=found["g2"] | {"ids": "b"})
    with open_store(stored.url) as store:
        assert store.current() == Current("g2", "x", "cd" * 32, 2, extra={"ids": "x"})
        assert {name: entry.extra for name, entry in store.generations().items()} == {
            "g1": {"ids": "a"},
            "g2": {"ids": "b"},
        }
        assert hash(store.current()) == hash(Current("g2", "x", "cd" * 32, 2))
        put(store, [7], "g2", fresh=False, current=Current("g2", "y", "cd" * 32, 2))  # the next night
        assert store.generations()["g2"].release == "y" and store.current().extra == {}
        put(store, [1], "g1", fresh=False, current=Current("g1", "z", DIGEST, 3))  # and a rollback to the other
    after = stored.records()
    assert (after["g1"]["ids"], after["g2"]["ids"]) == ("a", "b") and after["g2"]["retired_at"] > 1e9
    with open_store(stored.url) as store:
        put(store, [5], "g2", current=Current("g2", "w", "cd" * 32, 1))  # made again: another one of that name
    assert "ids" not in stored.records()["g2"] and stored.records()["g1"]["ids"] == "a"


@pytest.mark.parametrize("entry", [{"release": "x"}, [], {"release": "x", "model_digest": "ab", "user": 3}])
def test_generations_that_are_damaged_are_said_to_be(stored, entry):
    with open_store(stored.url) as store:
        put(store, [1])
    put_records(stored, stored.records()["current"], g1=entry)
    with open_store(stored.url) as store, pytest.raises(StoreError, match="the list of generations is not understood"):
        store.generations()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=64), max_size=40))
def test_any_ids_and_any_values(url, content):
    ids = np.array(list(content), np.int64)
    with open_store(url, "any") as store:
        result = store.upload("g", [(ids, list(content.values()))], deletes=[], fresh=True, current=CURRENT)
        assert result.stored == len(content) == store.count("g")
        assert store.get_many("g", ids) == list(content.values())


@given(
    days=st.lists(st.dates(datetime.date(1970, 1, 1), datetime.date(2100, 1, 1)), min_size=1, max_size=5),
    dim=st.sampled_from([1, 32, 256]),
)
def test_values_carry_the_vector_its_day_and_its_model(days, dim):
    vectors = np.random.default_rng(dim).standard_normal((len(days), dim)).astype(np.float16)
    numbers = np.array(days, "datetime64[D]").astype(np.int32)
    encoded = encode_values(vectors, numbers, DIGEST)
    assert {len(value) for value in encoded} == {16 + 2 * dim}
    found, found_days = decode_values(encoded, DIGEST)
    np.testing.assert_array_equal(found, vectors)
    np.testing.assert_array_equal(np.asarray(found_days).astype("datetime64[D]"), numbers.astype("datetime64[D]"))
    with pytest.raises(StoreError, match="model"):
        decode_values(encoded, "cd" * 32)


def test_redis_keys_are_the_ones_that_are_documented(port):
    with open_store(f"redis://127.0.0.1:{port}/0", "documented") as store:
        put(store, [-7])
    with redis.Redis(port=port) as client:
        assert client.get("documented:g1:u:-7") == b"value -7"
        keys = [b"documented:current", b"documented:g1:u:-7", b"documented:generations"]
        assert sorted(client.keys("documented:*")) == keys


def test_lmdb_keys_are_in_the_order_of_the_ids(tmp_path):
    with open_store(f"lmdb://{tmp_path}/kv") as store:
        put(store, [3, 1, 2])
    with lmdb.open(f"{tmp_path}/kv", readonly=True) as environment, environment.begin() as transaction:
        users = [bytes(k) for k, _ in transaction.cursor() if b":u:" in bytes(k)]
    assert users == [b"pinnerformer:g1:u:" + (i).to_bytes(8, "big") for i in (1, 2, 3)]


def test_a_reader_and_a_writer_in_one_process(url):
    with open_store(url) as writer:
        put(writer, [1])
    with open_store(url) as reader:
        assert reader.count("g1") == 1
        with open_store(url) as writer:
            put(writer, [1, 2])
            assert reader.count("g1") == 2
        assert reader.get_many("g1", np.array([2])) == [b"value 2"]


def test_redis_password(tmp_path):
    with running_redis(str(tmp_path), password="sesame") as port:
        with open_store(f"redis://:sesame@127.0.0.1:{port}/0") as store:
            store.check()
        for given_url in (f"redis://:s3same@127.0.0.1:{port}/0", f"redis://127.0.0.1:{port}/0"):
            with (
                open_store(given_url) as store,
                pytest.raises(StoreError, match="refuses the user or password") as info,
            ):
                store.check()
            assert "s3same" not in str(info.value) and str(port) in str(info.value)


def test_redis_that_is_down():
    port = free_port()
    with open_store(f"redis://:s3cret@127.0.0.1:{port}/0") as store, pytest.raises(StoreError) as info:
        store.check()
    assert f"127.0.0.1:{port}/0: connection refused; start the server or correct the URL" in str(info.value)
    assert "s3cret" not in str(info.value)


def test_redis_that_evicts_does_not_move_current(tmp_path):
    with (
        running_redis(str(tmp_path), "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-random") as port,
        open_store(f"redis://127.0.0.1:{port}/0") as store,
    ):
        batches = [(np.arange(n, n + 1000), [bytes(1000)] * 1000) for n in range(0, 5000, 1000)]
        with pytest.raises(StoreError, match="5000 values were sent, .* are stored.*noeviction"):
            store.upload("g1", batches, deletes=[], fresh=True, current=CURRENT)
        assert store.current() is None


def test_redis_that_is_full(tmp_path):
    with (
        running_redis(str(tmp_path), "--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as port,
        open_store(f"redis://127.0.0.1:{port}/0") as store,
    ):
        batches = [(np.arange(n, n + 1000), [bytes(1000)] * 1000) for n in range(0, 5000, 1000)]
        with pytest.raises(StoreError, match="out of memory"):
            store.upload("g1", batches, deletes=[], fresh=True, current=CURRENT)
        assert store.current() is None


def test_a_replica_is_not_written_to(tmp_path):
    with running_redis(str(tmp_path)) as port:
        with redis.Redis(port=port) as client:
            client.replicaof("127.0.0.1", str(free_port()))
        with open_store(f"redis://127.0.0.1:{port}/0") as store, pytest.raises(StoreError, match="read-only replica"):
            store.check()


def test_lmdb_where_it_cannot_be(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with (
        open_store(f"lmdb://{tmp_path}/file") as store,
        pytest.raises(StoreError, match="is a file; LMDB needs a folder"),
    ):
        store.check()
    os.makedirs(tmp_path / "junk")
    (tmp_path / "junk" / "data.mdb").write_bytes(os.urandom(20_000))
    with open_store(f"lmdb://{tmp_path}/junk") as store, pytest.raises(StoreError, match="not an LMDB environment"):
        store.check()
    if os.geteuid() != 0:
        os.makedirs(tmp_path / "shut")
        os.chmod(tmp_path / "shut", stat.S_IRUSR | stat.S_IXUSR)
        with open_store(f"lmdb://{tmp_path}/shut") as store, pytest.raises(StoreError, match="not writable"):
            store.check()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", "expected lmdb:///DIR, redis://"),
        ("lmdb://relative/path", "absolute path"),
        ("redis://host:notaport/0", "--kv redis://host:notaport/0"),
        ("/var/lib/kv", "expected lmdb:///DIR"),
    ],
)
def test_urls_that_name_no_store(url, message):
    with pytest.raises(UsageError, match=message):
        open_store(url)


def test_a_namespace_that_would_match_another(tmp_path):
    for namespace in ("a:b", "a*", "", "a b"):
        with pytest.raises(UsageError, match="--namespace"):
            open_store(f"lmdb://{tmp_path}/kv", namespace)


def test_urls_are_shown_without_the_password():
    assert without_password("redis://user:p/a@s:s@host:1/0") == "redis://user:***@host:1/0"
    assert without_password("rediss://:secret@host") == "rediss://:***@host"
    assert without_password("redis://host:6379/0") == "redis://host:6379/0"
