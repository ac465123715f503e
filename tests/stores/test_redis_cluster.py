"""Redis Cluster: three real nodes on loopback."""

import threading
from contextlib import nullcontext

import numpy as np
import pytest
import redis
from redis.crc import key_slot

from stores.errors import OvertakenError, StoreError
from stores.kv import Current, open_store, redis_cluster
from stores.kv.redis_cluster import key_slots
from tests.redis_cluster import Cluster, running_cluster

DIGEST = "cd" * 32
CURRENT = Current("g1", "2026-11-01", DIGEST, 3)
EXTREMES = np.array([0, -1, 5, 2**63 - 1, -(2**63)], np.int64)


@pytest.fixture
def cluster(nodes) -> Cluster:
    nodes.wait_until_whole()
    nodes.empty()
    return nodes


def values_of(ids: np.ndarray) -> list[bytes]:
    return [b"value %d" % user for user in ids.tolist()]


def upload(store, ids, generation="g1", *, deletes=(), fresh=True, current=CURRENT):
    ids = np.asarray(ids, np.int64)
    return store.upload(generation, [(ids, values_of(ids))], deletes=list(deletes), fresh=fresh, current=current)


@pytest.mark.parametrize("prefix", ["pinnerformer:0123456789ab-2026-11-01:u:", "n:g:u:", "", "\u00fcber:g:u:"])
def test_slots_are_redis_own(prefix):
    ids = np.concatenate([EXTREMES, np.random.default_rng(1).integers(-(10**18), 10**18, 500), np.arange(500)])
    assert key_slots(prefix, ids).tolist() == [key_slot(f"{prefix}{user}".encode()) for user in ids.tolist()]
    assert key_slots(prefix, np.empty(0, np.int64)).tolist() == []


def test_what_goes_in_comes_out_and_lies_on_every_node(cluster):
    ids = np.concatenate([EXTREMES, np.arange(100, 45_100)])
    with open_store(cluster.url) as store:
        store.check()
        assert store.current() is None and store.get_many("g1", EXTREMES) == [None] * 5
        result = upload(store, ids)
        assert (result.sent, result.stored, result.deleted) == (len(ids), len(ids), 0)
        assert store.current() == CURRENT and store.count("g1") == len(ids)
    for port in cluster.ports:
        with redis.Redis(port=port) as client:
            assert client.dbsize() > 10_000
    with open_store(cluster.url) as store:
        asked = np.concatenate([[7, 77], ids[::-1], [5, 5]])
        assert store.get_many("g1", asked) == [None, None, *values_of(ids[::-1]), b"value 5", b"value 5"]
        assert store.get_many("g1", np.empty(0, np.int64)) == []


def test_a_daily_change_and_a_fresh_generation(cluster):
    with open_store(cluster.url) as store, open_store(cluster.url, "another") as another:
        upload(store, np.arange(3000))
        upload(another, [8])
        later = Current("g1", "2026-11-02", DIGEST, 3)
        gone = [np.arange(10), np.array([99_999])]
        result = upload(store, np.arange(2990, 3010), deletes=gone, fresh=False, current=later)
        assert (result.sent, result.stored, result.deleted) == (20, 20, 10)
        assert store.count("g1") == 3000 and store.current() == later
        upload(store, np.arange(50), "g2", current=Current("g2", "x", DIGEST, 50))
        upload(store, np.arange(40, 60), "g2", current=Current("g2", "x", DIGEST, 20))  # leftovers are removed
        assert store.count("g2") == 20 and store.get_many("g2", np.array([1, 41])) == [None, b"value 41"]
        assert store.count("g1") == 3000 and another.count("g1") == 1


def test_a_node_that_goes_down_during_an_upload(cluster, monkeypatch):
    """Current does not move, the message says which node; when it is back, the same upload completes."""
    monkeypatch.setattr(redis_cluster, "ATTEMPTS", 2)  # as if it had been waited for
    ids = np.arange(60_000)
    later = Current("g2", "2026-11-02", DIGEST, len(ids))

    def batches(kill: bool):
        yield ids[:30_000], values_of(ids[:30_000])
        if kill:
            cluster.kill(cluster.ports[1])
        yield ids[30_000:], values_of(ids[30_000:])

    with open_store(cluster.url) as store:
        upload(store, [1, 2, 3])
        with pytest.raises(StoreError, match="does not serve every slot.*bring the missing node back"):
            store.upload("g2", batches(True), deletes=[], fresh=True, current=later)
    cluster.start(cluster.ports[1])
    cluster.wait_until_whole()
    with open_store(cluster.url) as store:
        assert store.current() == CURRENT and store.get_many("g1", np.arange(1, 4)) == values_of(np.arange(1, 4))
        result = store.upload("g2", batches(False), deletes=[], fresh=True, current=later)
        assert (result.sent, result.stored) == (60_000, 60_000)
        assert store.current() == later and store.count("g2") == 60_000


def test_a_node_that_is_away_for_a_moment_is_waited_for(cluster):
    ids = np.arange(20_000)
    with open_store(cluster.url) as store:
        upload(store, [1])
        cluster.kill(cluster.ports[2])
        back = threading.Timer(1.0, cluster.start, [cluster.ports[2]])
        back.start()
        assert upload(store, ids, fresh=False).stored == 20_000
        back.join()
        assert store.get_many("g1", ids) == values_of(ids)


def nodes_of(cluster: Cluster, slot: int) -> tuple[dict[int, str], int, int]:
    """Port -> name of every node; the port of a slot's node, and of another."""
    names = {}
    for port in cluster.ports:
        with redis.Redis(port=port) as client:
            names[port] = client.execute_command("CLUSTER MYID").decode()
            slots = client.execute_command("CLUSTER", "SLOTS")
    owner = next(entry[2][1] for entry in slots if entry[0] <= slot <= entry[1])
    return names, owner, next(port for port in cluster.ports if port != owner)


def test_a_slot_that_moves_to_another_node_is_followed(cluster):
    ids = np.arange(20_000)
    slot = int(key_slots("pinnerformer:g1:u:", ids[:1])[0])
    with open_store(cluster.url) as store:
        upload(store, ids[1:])
        mine = ids[key_slots("pinnerformer:g1:u:", ids) == slot]
        store.upload("g1", [], deletes=[mine], fresh=False, current=CURRENT)  # an empty slot moves without a migration
        names, owner, target = nodes_of(cluster, slot)
        for port in (target, *cluster.ports):
            with redis.Redis(port=port) as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        assert upload(store, ids, fresh=False).stored == 20_000
        assert store.get_many("g1", ids) == values_of(ids)


def move(cluster: Cluster, slot: int) -> None:
    """Moves a slot with its keys to another node, as an operator does."""
    names, owner, target = nodes_of(cluster, slot)
    with redis.Redis(port=owner) as source, redis.Redis(port=target) as sink:
        sink.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[owner])
        source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        source.execute_command("MIGRATE", "127.0.0.1", target, "", 0, 5000, "KEYS", *keys)
    for port in (target, *cluster.ports):
        with redis.Redis(port=port) as client:
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])


def test_a_slot_that_moves_with_its_fence_while_a_day_is_written(cluster, monkeypatch):
    """Its command is sent again, to the other node, and no other command is; the fence is compared there too."""
    ids = np.arange(5000)
    slot = int(key_slots("pinnerformer:g1:u:", ids[2500:2501])[0])
    sent = []

    def send(self, work, send=redis_cluster.RedisClusterStore._send):
        sent.append(len(work[1]))
        return send(self, work)

    with open_store(cluster.url) as store, store.hold_writes("a test"):
        upload(store, ids)
        move(cluster, slot)
        monkeypatch.setattr(redis_cluster.RedisClusterStore, "_send", send)
        changed = [b"changed %d" % user for user in ids.tolist()]
        assert store._put("g1", ids, changed) == 5000
        assert len(sent) == 4 and sent[-1] == 1, "three nodes, then the command of one slot"
        assert store.get_many("g1", ids) == changed and store.count("g1") == 5000
        with open_store(cluster.url) as other, other.hold_writes("another"), pytest.raises(OvertakenError):
            store._put("g1", ids, values_of(ids))


@pytest.mark.parametrize(("left", "words"), [(b"1", "another command writes"), (None, "may have lost what it held")])
def test_an_error_in_the_middle_of_a_pipeline(cluster, left, words):
    """One slot's fence is another's or gone: the rest of the replies are read, and the next command gets its own."""
    ids = np.arange(2000)
    with open_store(cluster.url) as store, store.hold_writes("a test"):
        upload(store, ids)
        fence = store._fence_key(int(key_slots("pinnerformer:g1:u:", ids[1000:1001])[0]))
        if left is None:
            store._client.delete(fence)
        else:
            store._client.set(fence, left)
        with pytest.raises(StoreError, match=words):
            store._put("g1", ids, [b"x"] * 2000)
        assert store.get_many("g1", ids[1000:1001]) == values_of(ids[1000:1001])
        assert store.get_many("g1", np.array([5000])) == [None] and store.count("g1") == 2000


@pytest.mark.parametrize("guarded", [False, True])
def test_users_in_any_order_and_twice_values_of_any_width(cluster, guarded):
    ids = np.array([7, -3, 7, 2**63 - 1, 0, -(2**63), 12], np.int64)
    values = [b"early", b"", b"late", b"odd", bytes(1001), b"\r\n$3\r\n", b"x"]
    with open_store(cluster.url) as store, store.hold_writes("a test") if guarded else nullcontext():
        assert store._put("g1", ids, values) == 7
        expected = dict(zip(ids.tolist(), values, strict=True))
        assert store.get_many("g1", ids) == [expected[user] for user in ids.tolist()]
        assert store.count("g1") == 6 and store._exist("g1", np.array([7, 8, 7])) == 2
        assert store.delete_users("g1", ids) == 6 and store.count("g1") == 0


def test_a_cluster_that_is_not_there(cluster):
    with (
        pytest.raises(StoreError, match="redis\\+cluster://127.0.0.1:1"),
        open_store("redis+cluster://127.0.0.1:1") as s,
    ):
        s.check()


def test_a_generation_that_does_not_fit_is_noticed(tmp_path):
    with (
        running_cluster(str(tmp_path), "--maxmemory", "4mb", "--maxmemory-policy", "allkeys-random") as small,
        open_store(small.url) as store,
    ):
        ids = np.arange(20_000)
        with pytest.raises(StoreError, match="values were sent, .* are stored"):
            store.upload("g1", [(ids, [bytes(1000)] * len(ids))], deletes=[], fresh=True, current=CURRENT)
        assert store.current() is None
