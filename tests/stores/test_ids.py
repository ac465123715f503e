"""Ids: where each belongs, the same everywhere and always; and as callers give them, whole numbers or refused."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from stores.embedding_client import EmbeddingClient
from stores.ids import as_ids, bucket_of, splitmix64, uniform_of
from stores.kv import open_store
from stores.kv.base import Current
from stores.kv.codec import encode_values


def test_the_split_is_independent_of_the_bucket():
    ids = np.arange(20_000)
    held_out = uniform_of(ids, 1) < 0.1
    assert 1_800 < held_out.sum() < 2_200
    share = np.bincount(bucket_of(ids, 16)[held_out], minlength=16) / held_out.sum()
    assert share.max() < 0.085
    assert (held_out & (uniform_of(ids, 2) < 0.1)).sum() < 300  # another salt is another split


def plain_splitmix64(id_: int) -> int:
    """Steele, Lea and Flood (2014), figure 13, in whole numbers: what every other implementation must agree with."""
    word = (1 << 64) - 1
    z = (id_ + 0x9E3779B97F4A7C15) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return z ^ (z >> 31)


BUCKETS_OF_64 = [29, 33, 32, 47, 1, 14, 45, 10, 26, 0, 23, 54, 36]  # of ids -3 to 9
IDS = [0, 1, 2, 12345, 2**40, 2**63 - 1, -1, -2, -(2**63)]


def test_the_hash_is_splitmix64():
    assert plain_splitmix64(0) == 0xE220A8397B1DCDAF  # the first number of the generator seeded with 0
    assert splitmix64(np.array(IDS, np.int64)).tolist() == [plain_splitmix64(i % (1 << 64)) for i in IDS]
    assert splitmix64(np.array([1 << 63], np.uint64)).tolist() == [plain_splitmix64(1 << 63)]


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65_536, 1_000_003])
def test_an_id_is_in_the_bucket_of_its_hash(count):
    found = bucket_of(np.array(IDS, np.int64), count)
    assert found.tolist() == [plain_splitmix64(i % (1 << 64)) % count for i in IDS] and found.dtype == np.int32


def test_buckets_never_move():
    """Written out: a root's files are named by them."""
    assert bucket_of(np.arange(-3, 10), 64).tolist() == BUCKETS_OF_64
    assert bucket_of(np.empty(0, np.int64), 5).tolist() == []


@pytest.mark.parametrize("count", [0, -1])
def test_there_is_a_bucket(count):
    with pytest.raises(ValueError, match=f"count must be positive, got {count}"):
        bucket_of(np.arange(3), count)


@pytest.mark.parametrize("salt", [0, 1, -7])
def test_a_number_of_an_id_is_within_zero_and_one_and_its_own(salt):
    found = uniform_of(np.array(IDS, np.int64), salt)
    assert (found >= 0).all() and (found < 1).all() and len(set(found.tolist())) == len(IDS)
    key = plain_splitmix64(salt % (1 << 64))
    plain = [plain_splitmix64(plain_splitmix64(i % (1 << 64)) ^ key) >> 11 for i in IDS]
    assert found.tolist() == [number / 2**53 for number in plain]


LARGE = (1 << 60) + 1


@pytest.mark.parametrize(
    "values",
    [
        [5, -7, LARGE],
        (5, -7, LARGE),
        np.array([5, -7, LARGE]),
        np.array([5, -7, LARGE], object),
        [np.int64(5), -7, LARGE],
        pa.array([5, -7, LARGE]),
    ],
)
def test_whole_numbers(values):
    found = as_ids(values)
    assert found.dtype == np.int64 and found.tolist() == [5, -7, LARGE]


@pytest.mark.parametrize("values", [[], (), np.array([]), np.array([], np.uint64), pa.array([], pa.int64())])
def test_none(values):
    assert as_ids(values).tolist() == [] and as_ids(values).dtype == np.int64


@pytest.mark.parametrize(
    "values",
    [
        [float(LARGE)],
        [LARGE, 17.9],
        np.array([17.0]),
        [np.nan],
        [None],
        [LARGE, None],
        pa.array([LARGE, None]),
        ["17"],
        [True],
        np.array([5, True], object),
        np.array(["2026-11-06"], "datetime64[D]"),
        np.array([17], "timedelta64[s]"),
        [datetime.date(2026, 11, 6)],
    ],
)
def test_anything_else(values):
    with pytest.raises(TypeError, match="ids must be integers, got "):
        as_ids(values)


@pytest.mark.parametrize("values", [[1 << 63], np.array([1 << 63], np.uint64), [1 << 70, 1], [-(1 << 63) - 1]])
def test_what_no_int64_holds(values):
    with pytest.raises(ValueError, match="ids must fit int64"):
        as_ids(values)
    assert as_ids([-(1 << 63), (1 << 63) - 1]).tolist() == [-(1 << 63), (1 << 63) - 1]


@pytest.mark.parametrize("values", [5, [[1, 2]]])
def test_what_is_no_list(values):
    with pytest.raises(ValueError, match="one-dimensional"):
        as_ids(values)


def test_a_float_column_gets_nobodys_vector(tmp_path):
    """2**60 and 2**60 + 1 are one number in float64: what a join makes of int64 in pandas."""
    url, ids = f"lmdb://{tmp_path}", np.array([LARGE - 1, LARGE])
    with open_store(url) as store:
        values = encode_values(np.array([[1] * 4, [2] * 4], np.float16), np.ones(2, np.int32), "ab" * 32)
        current = Current("g", "2026-11-05", "ab" * 32, 2)
        store.upload("g", [(ids, values)], deletes=[], fresh=True, current=current)
    with EmbeddingClient(url) as client:
        for asked in (ids.astype(np.float64), [float(LARGE)], np.array([17.9]), [None]):
            with pytest.raises(TypeError):
                client.get_many(asked)
        with pytest.raises(ValueError):
            client.get_many(np.array([LARGE], np.uint64) + np.uint64(1 << 63))
        found, _, known = client.get_many([LARGE, LARGE - 1, 3])
        assert found[:, 0].tolist() == [2, 1, 0] and known.tolist() == [True, True, False]
        assert client.get_many([])[2].tolist() == []
