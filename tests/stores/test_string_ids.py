"""Strings as ids: published test vectors, and every length and form of column against the `xxhash` package."""

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from stores.errors import UsageError
from stores.string_ids import BLOCK, SCHEME, hash_strings, hash_text

WITHOUT_TOP_BIT = (1 << 63) - 1
# XXH64 with seed 0, as xxHash's and other implementations' tests have it.
PUBLISHED = {
    "": 0xEF46DB3751D8E999,
    "a": 0xD24EC4F1A98C6E5B,
    "abc": 0x44BC2CF5AD770999,
    "xxhash": 0x32DD38952C4BC720,
    "Call me Ishmael. Some years ago--never mind how long precisely-": 0x02A2E85470D6FD96,
    "Nobody inspects the spammish repetition": 0xFBCEA83C8A378BF1,
}


def expected(text: str) -> int:
    return xxhash.xxh64_intdigest(text.encode(), seed=0) & WITHOUT_TOP_BIT


def test_published_vectors():
    assert SCHEME == "xxh64-63"
    for text, digest in PUBLISHED.items():
        assert hash_text(text) == digest & WITHOUT_TOP_BIT
    assert hash_strings(pa.array(list(PUBLISHED))).tolist() == [d & WITHOUT_TOP_BIT for d in PUBLISHED.values()]


def test_every_length_alone_and_in_a_column():
    texts = ["ab\N{SNOWMAN}"[n % 3] * n for n in range(200)] + ["x" * 100_000, "Ä" * 33, "A", "a", "A\u0308"]
    wanted = [expected(text) for text in texts]
    assert [hash_text(text) for text in texts] == wanted
    for shuffled in (np.arange(len(texts)), np.random.default_rng(1).permutation(len(texts))):
        column = pa.array([texts[n] for n in shuffled])
        assert hash_strings(column).tolist() == [wanted[n] for n in shuffled]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_slices_nulls_and_dictionaries(kind):
    texts = [None, "u-1", "", None, "u-2", "u-1", "ü" * 40]
    wanted = [0 if text is None else expected(text) for text in texts]
    column = pa.array(texts, kind)
    codes = pa.DictionaryArray.from_arrays(pa.array([2, None, 0], pa.int8()), pa.array(["u-1", None, "u-2"], kind))
    for start in range(len(texts) + 1):
        assert hash_strings(column.slice(start)).tolist() == wanted[start:]
        assert hash_strings(column.dictionary_encode().slice(start)).tolist() == wanted[start:]
    assert hash_strings(codes).tolist() == [expected("u-2"), 0, expected("u-1")]
    assert hash_strings(pa.array([], kind)).tolist() == []
    assert hash_strings(column).dtype == np.int64


def test_more_than_one_block():
    texts = [f"user-{n * n}" for n in range(BLOCK + 100)]
    assert hash_strings(pa.array(texts)).tolist() == [expected(text) for text in texts]


@given(st.lists(st.text(max_size=80)))
def test_any_texts(texts):
    assert hash_strings(pa.array(texts, pa.string())).tolist() == [expected(text) for text in texts]


def test_what_is_no_text_is_refused():
    with pytest.raises(UsageError, match="not a text that UTF-8 can write"):
        hash_text("\ud800")
    for column in (pa.array([1]), pa.array([b"a"]), pa.array([1]).dictionary_encode()):
        with pytest.raises(TypeError, match="strings expected"):
            hash_strings(column)
