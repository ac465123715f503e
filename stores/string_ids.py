"""Ids that are strings: the 63-bit whole number by which everything inside knows one.

XXH64 with seed 0 of the UTF-8 bytes as they are (no folding of case, no normalisation), the top bit cleared. Any
client in any language computes the same: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md.
"""

import numpy as np
import pyarrow as pa

from stores.errors import UsageError

SCHEME = "xxh64-63"  # in layout.json and in what a store says of itself; another way to hash is another name
INT64, STRING = "int64", "string"
KINDS = (INT64, STRING)  # of ids: what a log column holds

BLOCK = 1 << 15  # strings hashed at a time: their state stays in the cache

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_PRIMES, _MASK = tuple(map(int, (_P1, _P2, _P3, _P4, _P5))), (1 << 64) - 1
_WITHOUT_TOP_BIT = np.uint64((1 << 63) - 1)
_STRIPE = 32


def hash_text(text: str) -> int:
    """The id of one string, 0 <= id < 2**63. For a few, of which it is faster than `hash_strings` is.

    Raises:
        UsageError: it cannot be written as UTF-8 (a lone surrogate), so no log has it.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"id {text!r}: not a text that UTF-8 can write; give it as the logs have it") from None
    return _hash_bytes(data)


def _hash_bytes(data: bytes) -> int:
    """The same sums as `_hash`, one string in Python's own numbers: without numpy's microseconds a step."""
    p1, p2, p3, p4, p5 = _PRIMES
    at, whole = 0, len(data) // _STRIPE * _STRIPE
    state = p5
    if whole:
        lanes = [(p1 + p2) & _MASK, p2, 0, -p1 & _MASK]
        for at in range(0, whole, _STRIPE):
            words = (int.from_bytes(data[at + 8 * n : at + 8 * n + 8], "little") for n in range(4))
            lanes = [_turn(lane + word * p2, 31) * p1 & _MASK for lane, word in zip(lanes, words, strict=True)]
        state = sum(_turn(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            state = ((state ^ (_turn(lane * p2, 31) * p1 & _MASK)) * p1 + p4) & _MASK
        at = whole
    state += len(data)
    while at + 8 <= len(data):
        word = int.from_bytes(data[at : at + 8], "little")
        state = (_turn(state ^ (_turn(word * p2, 31) * p1 & _MASK), 27) * p1 + p4) & _MASK
        at += 8
    if at + 4 <= len(data):
        state = (_turn(state ^ (int.from_bytes(data[at : at + 4], "little") * p1 & _MASK), 23) * p2 + p3) & _MASK
        at += 4
    for letter in data[at:]:
        state = _turn(state ^ (letter * p5 & _MASK), 11) * p1 & _MASK
    state = (state ^ state >> 33) * p2 & _MASK
    state = (state ^ state >> 29) * p3 & _MASK
    return (state ^ state >> 32) & int(_WITHOUT_TOP_BIT)


def _turn(value: int, by: int) -> int:
    """The low 64 bits of a number, rotated."""
    value &= _MASK
    return (value << by | value >> (64 - by)) & _MASK


def hash_strings(column: pa.Array) -> np.ndarray:
    """The ids of strings, computed column-wise; of a dictionary its words are hashed, not its rows.

    Args:
        column: string or large_string [N], or a dictionary of them. The bytes are not looked at: whether they are
            UTF-8 is for the caller to say.

    Returns:
        int64 [N] in [0, 2**63); 0 where the column is null.

    Raises:
        TypeError: a column of another type.
    """
    if pa.types.is_dictionary(column.type):
        words = np.append(hash_strings(column.dictionary), 0)
        codes = column.indices.cast(pa.int64()).fill_null(len(words) - 1)
        return words[codes.to_numpy(zero_copy_only=False)]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise TypeError(f"strings expected, got a column of {column.type}")
    width = np.int32 if pa.types.is_string(column.type) else np.int64
    _, starts, letters = column.buffers()
    if not len(column):
        return np.empty(0, np.int64)
    offsets = np.frombuffer(starts, width, len(column) + 1, column.offset * np.dtype(width).itemsize)
    hashed = _hash(np.frombuffer(letters or b"", np.uint8), offsets.astype(np.int64))
    if column.null_count:
        hashed[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashed


def _hash(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64 [N]: string n is `data[offsets[n]:offsets[n + 1]]`, uint8."""
    count = len(offsets) - 1
    hashed = np.empty(count, np.uint64)
    for first in range(0, count, BLOCK):
        ends = offsets[first : first + BLOCK + 1]
        # By length, longest first: those that a round still has bytes of are then the first few, a slice.
        order = np.argsort(ends[:-1] - ends[1:], kind="stable")
        hashed[first + order] = _hash_longest_first(data, ends[:-1][order], np.diff(ends)[order])
    return (hashed & _WITHOUT_TOP_BIT).view(np.int64)


def _hash_longest_first(data: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """uint64 [N]: XXH64 of strings by length, longest first; rounds go over columns, strings that ended drop out."""
    done = np.zeros(len(start), np.int64)  # bytes of each string that are in its hash
    state = np.full(len(start), _P5, np.uint64)
    _take_stripes(data, start, length, done, state)
    state += length.astype(np.uint64)
    while count := int((length - done >= 8).sum()):
        rest = np.flatnonzero(length - done >= 8) if count < len(start) else slice(None)
        word = _words(data, "<u8")[start[rest] + done[rest]]
        state[rest] = _rotate(state[rest] ^ _round(np.uint64(0), word), 27) * _P1 + _P4
        done[rest] += 8
    rest = np.flatnonzero(length - done >= 4)
    word = _words(data, "<u4")[start[rest] + done[rest]].astype(np.uint64)
    state[rest] = _rotate(state[rest] ^ (word * _P1), 23) * _P2 + _P3
    done[rest] += 4
    while len(rest := np.flatnonzero(done < length)):
        letter = data[start[rest] + done[rest]].astype(np.uint64)
        state[rest] = _rotate(state[rest] ^ (letter * _P5), 11) * _P1
        done[rest] += 1
    state = (state ^ (state >> np.uint64(33))) * _P2
    state = (state ^ (state >> np.uint64(29))) * _P3
    return state ^ (state >> np.uint64(32))


def _take_stripes(data: np.ndarray, start: np.ndarray, length: np.ndarray, done: np.ndarray, state: np.ndarray) -> None:
    """The rounds over 32 bytes each, of strings that have them; changes `done` and `state`."""
    stripes = length // _STRIPE
    count = int((stripes > 0).sum())
    if not count:
        return
    with np.errstate(over="ignore"):
        seeds = (_P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1)
    lanes = [np.full(count, seed, np.uint64) for seed in seeds]
    words = _words(data, "<u8")
    for number in range(int(stripes[0])):
        some = slice(0, int((stripes[:count] > number).sum()))
        at = start[some] + number * _STRIPE
        for index, lane in enumerate(lanes):
            lane[some] = _round(lane[some], words[at + 8 * index])
    merged = sum((_rotate(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)), np.uint64(0))
    for lane in lanes:
        merged = (merged ^ _round(np.uint64(0), lane)) * _P1 + _P4
    state[:count] = merged
    done[:count] = stripes[:count] * _STRIPE


def _words(data: np.ndarray, dtype: str) -> np.ndarray:
    """Every word of a byte array, one at each byte: a view, whose n-th word begins at byte n."""
    width = np.dtype(dtype).itemsize
    return np.ndarray((max(len(data) - width + 1, 0),), dtype, data, strides=(1,))


def _round(lane: np.ndarray | np.uint64, word: np.ndarray) -> np.ndarray:
    return _rotate(lane + word * _P2, 31) * _P1


def _rotate(value: np.ndarray, by: int) -> np.ndarray:
    return (value << np.uint64(by)) | (value >> np.uint64(64 - by))
