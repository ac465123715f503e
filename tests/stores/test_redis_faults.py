"""What goes wrong with a real Redis while a release is published, and what readers see of it: nothing."""

import ssl

import numpy as np
import pytest
import redis
import trustme

from stores.errors import StoreError
from stores.kv import Current, open_store, redis_store
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
