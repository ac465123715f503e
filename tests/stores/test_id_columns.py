"""Columns of ids: which kinds there are, strings of every type as ids, what is unfit, two strings of one id."""

import numpy as np
import pyarrow as pa
import pytest

from stores.id_columns import (
    MAX_NAME_BYTES,
    distinct_names,
    encode_names,
    find_collisions,
    find_empty,
    find_unusable,
    id_kind,
    shown_id,
)
from stores.string_ids import hash_strings

TEXTS = ["b", None, "a", "", "b", "x" * (MAX_NAME_BYTES + 1)]


def test_kinds():
    numbers, strings = (pa.int64(), pa.int32(), pa.uint64()), (pa.string(), pa.large_string(), pa.string_view())
    assert {id_kind(kind) for kind in numbers} == {"int64"}
    assert {id_kind(kind) for kind in (*strings, pa.dictionary(pa.int8(), pa.large_string()))} == {"string"}
    others = (pa.float64(), pa.binary(), pa.null(), pa.dictionary(pa.int8(), pa.int64()), pa.list_(pa.string()))
    assert {id_kind(kind) for kind in others} == {None}


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string())]
)
def test_strings_of_every_type(kind):
    column = pa.array(TEXTS, pa.string()).cast(kind)
    for part in (column, column.slice(2), column.slice(1, 1), column.slice(0, 0)):
        ids, names = encode_names(part)
        assert names.to_pylist() == part.to_pylist() and names.type == pa.dictionary(pa.int32(), pa.string())
        assert len(names.dictionary) == len(set(part.to_pylist()) - {None}), "words that no row uses"
        assert ids.tolist() == hash_strings(pa.array(part.to_pylist(), pa.string())).tolist()


def test_what_is_unfit():
    ids, names = encode_names(pa.array(TEXTS))
    too_long, not_text = find_unusable(names)
    assert find_empty(names).tolist() == [False, False, False, True, False, False]
    assert too_long.tolist() == [False] * 5 + [True] and not not_text.any()
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")]
    )
    assert find_unusable(encode_names(broken)[1])[1].tolist() == [False, True]
    assert shown_id(broken[1]) == "\N{REPLACEMENT CHARACTER}" * 2 and shown_id(pa.scalar(7)) == "7"


def test_distinct_pairs_are_those_that_rows_use():
    ids, names = encode_names(pa.array(["a", "b", "a", "c"]))
    rows = np.array([0, 2, 3])
    found, words = distinct_names(ids[rows], names.take(pa.array(rows)))
    assert dict(zip(words.to_pylist(), found.tolist(), strict=True)) == {"a": ids[0], "c": ids[3]}


def test_of_two_strings_of_one_id_the_first_keeps_it():
    names = pa.array(["a", "b", "a", "c", "b", "d"]).dictionary_encode()
    assert find_collisions(np.array([1, 2, 1, 1, 2, 3]), names).tolist() == [False, False, False, True, False, False]
    assert not find_collisions(np.array([1, 2, 1, 3, 2, 4]), names).any()
