"""What may not change because a real Redis is sent a chunk while the next one is read and packed."""

import numpy as np
import pytest
import redis
from redis import exceptions

from stores.errors import OvertakenError, StoreError
from stores.kv import Current, open_store
from stores.kv.redis_store import RedisStore
from tests.redis_server import running_redis

USERS = np.arange(3000)
FIRST = Current("g1", "2026-11-01", "ab" * 32, 3000)


@pytest.fixture
def url(tmp_path):
    with running_redis(str(tmp_path)) as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def store(url):
    with open_store(url) as store, store.hold_writes("a test"):
        yield store


def batches(between):
    """Three batches; something happens before the second, when the first is sent and its answer is not read."""
    for number, ids in enumerate(np.array_split(USERS, 3)):
        if number == 1:
            between()
        yield ids, [b"value %d" % user for user in ids]


def upload(store, between, deletes=()):
    return store.upload("g1", batches(between), deletes=deletes, fresh=True, current=FIRST)


def only_connection(store):
    """The one that everything goes through; it tries again, which one that is made of a URL does not."""
    pool = store._client.connection_pool
    connection = pool.get_connection()
    pool.release(connection)
    connection.retry.update_retries(3)
    return connection


def test_the_next_chunk_is_packed_before_the_answer_is_read_and_sent_after_it(store, monkeypatch):
    connection, log = only_connection(store), []
    send, read, pack = connection.send_packed_command, connection.read_response, RedisStore._pack_put

    def sent(command, check_health=True):
        log.extend(word for word in ("MSET", "EXEC") if b"$4\r\n%b\r\n" % word.encode() in b"".join(command)[:200])
        send(command, check_health)

    def answered(*arguments, **named):
        reply = read(*arguments, **named)
        if isinstance(reply, list) and len(reply) == 2:  # of MSET and EXISTS; no other transaction has two commands
            log.append(reply[1])
        return reply

    def packed(self, generation, ids, values):
        log.append("packed")
        return pack(self, generation, ids, values)

    monkeypatch.setattr(RedisStore, "_pack_put", packed)
    connection.send_packed_command, connection.read_response = sent, answered
    assert upload(store, lambda: None).stored == 3000
    start, chunk = log.index("packed"), ["MSET", "EXEC"]
    assert log[start : start + 12] == ["packed", *(chunk + ["packed", 1000]) * 2, *chunk, 1000]


def test_writes_that_are_taken_while_the_next_chunk_is_packed(store, url):
    """The chunk that was sent is there; the one that is packed is not sent, and nothing after it."""
    with open_store(url) as other, pytest.raises(OvertakenError, match="nothing more was written"):
        upload(store, other._raise_fence, deletes=[USERS[:1]])
    assert store.get_many("g1", USERS) == [b"value %d" % user for user in USERS[:1000]] + [None] * 2000
    assert store.current() is None


def test_cut_off_before_the_answer_a_chunk_is_sent_again_and_counted_once(store, url):
    connection = only_connection(store)
    read = connection.read_response

    def lost(*_, **__):
        connection.read_response = read
        connection.disconnect()
        raise exceptions.ConnectionError("cut")

    def cut():
        connection.read_response = lost

    result = upload(store, cut)
    assert (result.sent, result.stored) == (3000, 3000) and store.current() == FIRST
    assert store.get_many("g1", USERS) == [b"value %d" % user for user in USERS]
    with redis.Redis.from_url(url) as plain:
        assert plain.info("commandstats")["cmdstat_mset"]["calls"] == 4, "the first twice"


@pytest.mark.parametrize("error", [TimeoutError, exceptions.ConnectionError, ValueError])
def test_a_batch_that_cannot_be_read_is_no_fault_of_the_connection(store, url, error):
    """redis-py would take two of them for its own, and send again; of the batches nothing more would come."""

    def fail():
        raise error("a batch")

    only_connection(store)
    with pytest.raises(ValueError if error is ValueError else StoreError):
        upload(store, fail, deletes=[USERS[:1]])
    assert store.get_many("g1", USERS[:2]) == [b"value 0", b"value 1"] and store.current() is None
    with redis.Redis.from_url(url) as plain:
        assert plain.info("commandstats")["cmdstat_mset"]["calls"] == 1
    assert upload(store, lambda: None).stored == 3000, "no reply was left on a connection"


def test_interrupted_while_the_next_chunk_is_packed_the_connection_is_not_used_again(store):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload(store, interrupt)
    assert store.current() is None
    assert upload(store, lambda: None).stored == 3000 and store.current() == FIRST
