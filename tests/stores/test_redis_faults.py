"""What goes wrong with a real Redis while a release is published, and what readers see of it: nothing."""

import ssl
from contextlib import nullcontext

import numpy as np
import pytest
import redis
import trustme

from stores.errors import OvertakenError, StoreError
from stores.kv import Current, open_store, redis_store
from stores.kv.resp import raise_first
from tests.redis_server import RedisServer, TlsFront, running_redis

DIGEST = "ab" * 32
FIRST, SECOND = Current("g1", "2026-11-01", DIGEST, 3000), Current("g1", "2026-11-02", DIGEST, 3000)
USERS = np.arange(3000)


@pytest.fixture
def server(tmp_path):
    server = RedisServer(str(tmp_path))
    yield server
    server.go_on()
    server.stop()


def batches(word: bytes, between=lambda: None):
    """Three batches; something happens before the second."""
    for number, ids in enumerate(np.array_split(USERS, 3)):
        if number == 1:
            between()
        yield ids, [word + b" %d" % user for user in ids]


def restart(server: RedisServer) -> None:
    server.stop()
    server.start()


def test_restarted_while_a_new_generation_is_written(server):
    with open_store(f"redis://127.0.0.1:{server.port}/0") as store:
        with pytest.raises(StoreError, match="3000 values were sent, 2000 are stored"):
            store.upload("g1", batches(b"one", lambda: restart(server)), deletes=[], fresh=True, current=FIRST)
        assert store.current() is None
        assert store.upload("g1", batches(b"one"), deletes=[], fresh=True, current=FIRST).stored == 3000
        assert store.current() == FIRST


def test_restarted_while_a_day_is_written(server):
    """It comes back empty and takes the rest of the day without a complaint: readers must not be sent there."""
    with open_store(f"redis://127.0.0.1:{server.port}/0") as store:
        store.upload("g1", batches(b"one"), deletes=[], fresh=True, current=FIRST)
        with pytest.raises(StoreError, match="restarted meanwhile.*publish again"):
            store.upload("g1", batches(b"two", lambda: restart(server)), deletes=[], fresh=False, current=SECOND)
        assert store.current() is None  # nothing is served, so the next publish is a whole generation


def test_gone_while_a_day_is_written(server):
    with open_store(f"redis://127.0.0.1:{server.port}/0") as store:
        store.upload("g1", batches(b"one"), deletes=[], fresh=True, current=FIRST)
        with pytest.raises(StoreError, match="connection (refused|failed)"):
            store.upload("g1", batches(b"two", server.stop), deletes=[], fresh=False, current=SECOND)


def test_paused_while_a_day_is_written(server, monkeypatch):
    monkeypatch.setattr(redis_store, "ANSWER_TIMEOUT_S", 0.3)
    with open_store(f"redis://127.0.0.1:{server.port}/0") as store:
        store.upload("g1", batches(b"one"), deletes=[], fresh=True, current=FIRST)
        with pytest.raises(StoreError, match="no answer in time; is the server paused"):
            store.upload("g1", batches(b"two", server.pause), deletes=[], fresh=False, current=SECOND)
        server.go_on()
        assert store.current() == FIRST
        found = store.get_many("g1", USERS)
        assert set(found) <= {word + b" %d" % u for u in USERS for word in (b"one", b"two")}, "each value is whole"
        store.upload("g1", batches(b"two"), deletes=[], fresh=False, current=SECOND)
        assert store.get_many("g1", USERS) == [b"two %d" % user for user in USERS] and store.current() == SECOND


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_out_of_memory(tmp_path, policy):
    with (
        running_redis(str(tmp_path), "--maxmemory", "3mb", "--maxmemory-policy", policy) as port,
        open_store(f"redis://127.0.0.1:{port}/0") as store,
    ):
        large = [(np.arange(n, n + 1000), [bytes(1000)] * 1000) for n in range(0, 5000, 1000)]
        expected = "out of memory" if policy == "noeviction" else "5000 values were sent, .* are stored.*noeviction"
        with pytest.raises(StoreError, match=expected):
            store.upload("g1", large, deletes=[], fresh=True, current=FIRST)
        assert store.current() is None


@pytest.fixture
def authority(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


def test_tls_with_a_password(tmp_path, authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with running_redis(str(tmp_path), password="sesame") as port:
        front = TlsFront(port, context)
        url = f"rediss://:sesame@127.0.0.1:{front.port}/0?ssl_ca_certs={tmp_path}/ca.pem"
        with open_store(url) as store:
            store.check()
            store.upload("g1", batches(b"one"), deletes=[], fresh=True, current=FIRST)
            assert store.current() == FIRST and store.count("g1") == 3000
        with redis.Redis(port=port, password="sesame") as plain:
            assert plain.get("pinnerformer:g1:u:7") == b"one 7"
        for scheme, words in (("rediss", "does not trust the server's certificate"), ("redis", "connection failed")):
            wrong = f"{scheme}://:sesame@127.0.0.1:{front.port}/0"
            with open_store(wrong) as store, pytest.raises(StoreError, match=words) as info:
                store.check()
            assert "sesame" not in str(info.value) and str(front.port) in str(info.value)
        front.close()


def held(store):
    return store.hold_writes("a test")


@pytest.mark.parametrize("guarded", [False, True])
def test_users_in_any_order_and_twice_values_of_any_width(server, guarded):
    ids = np.array([7, -3, 7, 2**63 - 1, 0, -(2**63), 12], np.int64)
    values = [b"early", b"", b"late", b"odd", bytes(1001), b"\r\n$3\r\n", b"x"]
    with open_store(f"redis://127.0.0.1:{server.port}/0") as store, held(store) if guarded else nullcontext():
        assert store._put("g1", ids, values) == 7  # as EXISTS counts, which counts a key as often as it is named
        expected = dict(zip(ids.tolist(), values, strict=True))
        assert expected[7] == b"late"
        assert store.get_many("g1", ids) == [expected[user] for user in ids.tolist()]
        assert store.count("g1") == 6 and store._exist("g1", np.array([7, 8, 7])) == 2
        assert store.delete_users("g1", ids) == 6 and store.count("g1") == 0


@pytest.mark.parametrize(("guarded", "left"), [(False, 1000), (True, 0)])
def test_an_error_in_the_middle_of_a_pipeline(server, guarded, left):
    """MSET is allowed and EXISTS is not: the error is the server's own, and the next command gets its own reply."""
    with redis.Redis(port=server.port) as client:
        client.acl_setuser("writer", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-exists"])
    with open_store(f"redis://writer:x@127.0.0.1:{server.port}/0") as store, held(store) if guarded else nullcontext():
        with pytest.raises(StoreError, match="no permissions to run the 'exists' command"):
            store.upload("g1", batches(b"one"), deletes=[], fresh=False, current=FIRST)
        assert store.get_many("g1", np.array([5000])) == [None] and store.current() is None
        assert store.count("g1") == left, "a chunk that is a transaction is there as a whole or not at all"


def test_out_of_memory_while_the_writes_are_held(tmp_path):
    with (
        running_redis(str(tmp_path), "--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as port,
        open_store(f"redis://127.0.0.1:{port}/0") as store,
    ):
        large = [(np.arange(n, n + 1000), [bytes(1000)] * 1000) for n in range(0, 5000, 1000)]
        with held(store), pytest.raises(StoreError, match="out of memory"):
            store.upload("g1", large, deletes=[], fresh=True, current=FIRST)
        assert store.current() is None and store.count("g1") % 1000 == 0, "a chunk is there as a whole or not at all"


@pytest.mark.parametrize("guarded", [False, True])
def test_connections_that_the_server_ends_are_made_again(server, guarded):
    def end() -> None:
        with redis.Redis(port=server.port) as client:
            client.client_kill_filter(_type="normal", skipme=True)

    with open_store(f"redis://127.0.0.1:{server.port}/0") as store, held(store) if guarded else nullcontext():
        assert store.upload("g1", batches(b"one", end), deletes=[], fresh=True, current=FIRST).stored == 3000
        assert store.get_many("g1", USERS) == [b"one %d" % user for user in USERS] and store.current() == FIRST


def test_a_health_check_is_no_part_of_a_transaction(server):
    """redis-py asks PING before it sends, when the last answer is long ago: here it always is."""
    url = f"redis://127.0.0.1:{server.port}/0?health_check_interval=1"
    with open_store(url) as store, held(store):
        pool = store._client.connection_pool
        connection = pool.get_connection()
        send = connection.send_packed_command

        def late(command, check_health=True):
            connection.next_health_check = 0
            send(command, check_health)

        connection.send_packed_command = late
        pool.release(connection)
        assert store.upload("g1", batches(b"one"), deletes=[], fresh=True, current=FIRST).stored == 3000


@pytest.mark.parametrize("guarded", [False, True])
def test_cut_off_in_the_middle_of_a_chunk_and_run_again(server, guarded, monkeypatch):
    """The process is interrupted between what it sent and the answer; the connection with that answer is not used."""
    with open_store(f"redis://127.0.0.1:{server.port}/0") as store, held(store) if guarded else nullcontext():

        def interrupted(connection, count):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(redis_store, "read_replies", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.upload("g1", batches(b"one"), deletes=[], fresh=False, current=FIRST)
        assert store.current() is None
        assert store.upload("g1", batches(b"two"), deletes=[], fresh=True, current=SECOND).stored == 3000
        assert store.get_many("g1", USERS) == [b"two %d" % user for user in USERS] and store.current() == SECOND


def test_writes_that_are_taken_between_the_question_and_the_transaction(server, monkeypatch):
    """Another handle raises the fence after this one saw its own number: the transaction does not happen."""
    url = f"redis://127.0.0.1:{server.port}/0"
    with open_store(url) as store, open_store(url) as other:

        def raised(replies):
            monkeypatch.setattr(redis_store, "raise_first", raise_first)
            other._raise_fence()
            raise_first(replies)

        with held(store):
            monkeypatch.setattr(redis_store, "raise_first", raised)
            with pytest.raises(OvertakenError, match="another command writes"):
                store._put("g1", np.arange(3), [b"a", b"b", b"c"])
        assert store.get_many("g1", np.arange(3)) == [None] * 3
