"""Ids as callers give them: whole numbers stay what they are, everything else is refused."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from stores.embedding_client import EmbeddingClient
from stores.ids import as_ids
from stores.kv import open_store
from stores.kv.base import Current
from stores.kv.codec import encode_values

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
