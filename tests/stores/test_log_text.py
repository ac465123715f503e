"""The text of log rows: what is too long or no text, by word and by row."""

import numpy as np
import pyarrow as pa
import pytest

from stores.log_text import (
    MAX_TEXT_BYTES,
    encode_text,
    is_plain,
    not_text,
    readable_text,
    too_long,
    used_text,
    words_of,
)

HALF = MAX_TEXT_BYTES // 2


def raw(*values: bytes | None) -> pa.DictionaryArray:
    """Bytes that a file says are text, as pyarrow reads them: unchecked."""
    column = pa.array(values, pa.binary())
    return encode_text(pa.Array.from_buffers(pa.string(), len(column), column.buffers()))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.null(), pa.dictionary(pa.int8(), pa.large_string())]
)
def test_every_kind_becomes_one(kind):
    values = [None, None] if kind == pa.null() else ["a", None]
    column = encode_text(pa.array(values).cast(kind))
    assert column.type == pa.dictionary(pa.int32(), pa.string()) and column.to_pylist() == values


def test_what_is_too_long_or_no_text():
    columns = [raw(b"a" * HALF, b"a" * HALF, None, b"x"), raw(b"b" * HALF, b"b" * (HALF + 1), b"b", b"\xff")]
    assert too_long(columns).tolist() == [False, True, False, False]
    assert not_text(columns).tolist() == [False, False, False, True]
    assert not is_plain(columns)
    assert is_plain([raw(b"a" * HALF, None), raw(b"b" * HALF, None)]) and is_plain([raw(), raw(None)])
    assert not is_plain([raw(b"\xc3\xa4", b"\xc3")])  # a letter of two bytes, and half of it


def test_what_is_kept_can_be_shown_and_is_short():
    shown = readable_text(raw(b"a", b"\xff\xc3\xa4", None, "ä".encode() * MAX_TEXT_BYTES))
    assert shown.to_pylist() == ["a", "�ä", None, "ä" * 1000]
    assert shown.dictionary.nbytes < 5000


def test_only_the_words_in_use_are_left():
    column = raw(b"a", b"b" * 1000, None, b"c", b"a").take(pa.array([3, 2, 4, 0]))
    assert len(column.dictionary) == 3
    used = used_text(column)
    assert used.to_pylist() == column.to_pylist() and used.dictionary.to_pylist() == ["c", "a"]
    assert used_text(column.slice(1, 1)).dictionary.to_pylist() == []
    assert words_of(raw(b"a", None, b"\xff", b"x" * (MAX_TEXT_BYTES + 1))) == {"a"}
    np.testing.assert_array_equal(used.indices.to_pylist(), [0, None, 1, 1])


@pytest.mark.parametrize("codes", [[0, 3, None], [-1, 0]])
def test_a_code_that_stands_for_no_word_is_refused(codes):
    """A damaged file has them, and pyarrow reads it without a word."""
    for kind in (pa.int32(), pa.int64()):
        column = pa.DictionaryArray.from_arrays(pa.array(codes, kind), pa.array(["a", "b"]), safe=False)
        with pytest.raises(pa.ArrowInvalid, match=r"codes from -?\d to \d for 2 words"):
            encode_text(column)
