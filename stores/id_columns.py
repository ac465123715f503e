"""Columns of ids as logs and vectors have them: whole numbers, or strings that are hashed while they are read."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stores.log_text import encode_text, is_text
from stores.string_ids import INT64, STRING, hash_strings

MAX_NAME_BYTES = 1 << 12  # of an id that is a string
SHOWN_BYTES = 200
OTHER_KIND = "write it as int64, or as a string"


def id_kind(column: pa.DataType) -> str | None:
    """What a column of ids holds: "int64" or "string"; None where it can hold no ids."""
    value = column.value_type if pa.types.is_dictionary(column) else column
    if pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value):
        return STRING
    return INT64 if pa.types.is_integer(column) else None


def encode_names(column: pa.Array) -> tuple[np.ndarray, pa.DictionaryArray]:
    """Strings as ids, and as a dictionary of the distinct ones.

    Args:
        column: Strings [N] of any of Arrow's types, with nulls.

    Returns:
        int64 [N], 0 where null; the strings with int32 codes.

    Raises:
        pa.ArrowInvalid: a code that stands for no word.
    """
    names = encode_text(column)
    if names.dictionary.null_count:
        names = encode_text(names.dictionary_decode())
    used = np.zeros(len(names.dictionary), bool)
    used[names.indices.drop_null().to_numpy()] = True
    if not used.all():  # of a row group's dictionary a batch may use little
        place = np.cumsum(used, dtype=np.int32) - 1
        codes = place[names.indices.fill_null(0).to_numpy()] if len(place) else np.empty(0, np.int32)
        codes = pa.array(codes, mask=_nulls(names)) if len(place) else pa.nulls(len(names), pa.int32())
        names = pa.DictionaryArray.from_arrays(codes, names.dictionary.filter(pa.array(used)))
    return hash_strings(names), names


def inner_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of ids as int64: of strings the hashes."""
    if id_kind(column.type) != STRING:
        return column.cast(pa.int64())
    return pa.chunked_array([encode_names(chunk)[0] for chunk in column.chunks], pa.int64())


def _nulls(column: pa.Array) -> np.ndarray:
    return column.is_null().to_numpy(zero_copy_only=False)


def distinct_names(ids: np.ndarray, names: pa.DictionaryArray) -> tuple[np.ndarray, pa.Array]:
    """The distinct (id, string) pairs of some rows.

    Args:
        ids: int64 [N], as `encode_names` gave them for the very strings of `names`.
        names: [N], without nulls; words that no row uses are left out.

    Returns:
        int64 [U], strings [U].
    """
    codes = names.indices.to_numpy()
    used = np.zeros(len(names.dictionary), bool)
    used[codes] = True
    id_of_word = np.zeros(len(used), np.int64)
    id_of_word[codes] = ids
    words = names.dictionary
    return (id_of_word, words) if used.all() else (id_of_word[used], words.filter(pa.array(used)))


def of_words(names: pa.DictionaryArray, words: np.ndarray) -> np.ndarray:
    """bool [N]: what holds of a row's word, False where it is null.

    Args:
        words: bool, of every word of the dictionary.
    """
    codes = names.indices.fill_null(len(words)).to_numpy()
    return np.append(words, False)[codes]


def find_empty(names: pa.DictionaryArray) -> np.ndarray:
    """bool [N]: whether a row's string is the empty one."""
    return of_words(names, _lengths(names.dictionary) == 0)


def find_unusable(names: pa.DictionaryArray) -> tuple[np.ndarray, np.ndarray]:
    """Two bool [N]: whether a row's string is longer than `MAX_NAME_BYTES`; whether it is no UTF-8."""
    words = names.dictionary
    too_long, not_text = _lengths(words) > MAX_NAME_BYTES, np.zeros(len(words), bool)
    try:
        words.validate(full=True)
    except pa.ArrowInvalid:
        not_text = np.array([not is_text(word) for word in words.cast(pa.binary()).to_pylist()], bool)
    return of_words(names, too_long), of_words(names, not_text)


def _lengths(words: pa.Array) -> np.ndarray:
    return pc.binary_length(words).to_numpy(zero_copy_only=False)


def find_collisions(ids: np.ndarray, names: pa.DictionaryArray) -> np.ndarray:
    """bool [N]: rows whose string is another than that of the first row of the same id.

    Args:
        ids: int64 [N].
        names: [N], without nulls.
    """
    found = np.zeros(len(ids), bool)
    of_words, words = distinct_names(ids, names)
    in_order = np.sort(of_words)
    twice = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    if not len(twice):
        return found
    for one in twice.tolist():
        rows = np.flatnonzero(ids == one)
        strings = names.take(pa.array(rows)).dictionary_decode()
        found[rows] = pc.not_equal(strings, strings[0]).to_numpy(zero_copy_only=False)
    return found


def shown_id(value: pa.Scalar) -> str:
    """An id for a message, also where it is no text."""
    if id_kind(value.type) != STRING:
        return str(value.as_py())
    value = value.value if isinstance(value, pa.DictionaryScalar) else value
    return value.cast(pa.binary()).as_py()[:SHOWN_BYTES].decode(errors="replace")


def read_pin_ids(column: pa.Array, refuse: Callable[[np.ndarray, str], None]) -> np.ndarray:
    """The ids of a column `pin_id` of vectors, of which every row has to be one.

    Args:
        refuse: Raises where one of its rows, a bool [N], is true; is told what is wrong.

    Returns:
        int64 [N].
    """
    refuse(_nulls(column), "pin_id is null")
    if id_kind(column.type) == STRING:
        ids, names = encode_names(column)
        refuse(find_empty(names), "pin_id is an empty string")
        too_long, not_text = find_unusable(names)
        refuse(too_long, f"pin_id is longer than {MAX_NAME_BYTES} bytes")
        refuse(not_text, "pin_id is not UTF-8")
        return ids
    refuse(column.to_numpy() > np.iinfo(np.int64).max, "pin_id does not fit int64")
    ids = column.cast(pa.int64()).to_numpy()
    refuse(ids < 0, "pin_id is negative")
    return ids
