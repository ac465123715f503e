"""Vectors in and out of binary columns."""

import numpy as np
import pyarrow as pa
import pytest

from stores.schemas import from_binary_column, to_binary_column, user_embeddings_schema


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (5, 3)])
def test_vectors_come_back_as_they_were(dtype, shape):
    vectors = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    column = to_binary_column(vectors)
    assert column.type == pa.binary(shape[1] * np.dtype(dtype).itemsize) and len(column) == shape[0]
    found = from_binary_column(column, dtype)
    assert found.shape == shape and found.dtype == dtype
    np.testing.assert_array_equal(found, vectors)


def test_a_value_is_little_endian_numbers_one_after_the_other():
    assert to_binary_column(np.array([[1.0, -2.0]], np.float16)).to_pylist() == [b"\x00\x3c\x00\xc0"]


def test_slices_transposes_and_chunks():
    vectors = np.arange(24, dtype=np.float32).reshape(6, 4)
    column = to_binary_column(vectors)
    np.testing.assert_array_equal(from_binary_column(column.slice(2, 3), np.float32), vectors[2:5])
    np.testing.assert_array_equal(from_binary_column(to_binary_column(vectors.T), np.float32), vectors.T)
    chunks = pa.chunked_array([column.slice(4), column.slice(0, 0), column.slice(0, 2)])
    np.testing.assert_array_equal(from_binary_column(chunks, np.float32), vectors[[4, 5, 0, 1]])
    none = pa.chunked_array([], pa.binary(16))
    assert from_binary_column(none, np.float32).shape == (0, 4)


def test_the_width_of_a_snapshots_vectors_is_two_bytes_a_number():
    assert user_embeddings_schema(256).field("embedding").type == pa.binary(512)
