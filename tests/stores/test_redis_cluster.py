"""Redis Cluster: three real nodes on loopback."""

import threading

import numpy as np
import pytest
import redis
from redis.crc import key_slot

from stores.errors import StoreError
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


def test_a_slot_that_moves_to_another_node_is_followed(cluster):
    ids = np.arange(20_000)
    slot = int(key_slots("pinnerformer:g1:u:", ids[:1])[0])
    with open_store(cluster.url) as store:
        upload(store, ids[1:])
        mine = ids[key_slots("pinnerformer:g1:u:", ids) == slot]
        store.upload("g1", [], deletes=[mine], fresh=False, current=CURRENT)  # an empty slot moves without a migration
        names = {}
        for port in cluster.ports:
            with redis.Redis(port=port) as client:
                names[port] = client.execute_command("CLUSTER MYID").decode()
                slots = client.execute_command("CLUSTER", "SLOTS")
        owner = next(entry[2][1] for entry in slots if entry[0] <= slot <= entry[1])
        target = next(port for port in cluster.ports if port != owner)
        for port in (target, *cluster.ports):
            with redis.Redis(port=port) as client:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        assert upload(store, ids, fresh=False).stored == 20_000
        assert store.get_many("g1", ids) == values_of(ids)


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
