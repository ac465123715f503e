"""The join, written out: which tokens of a history the tower sees, in what order, and who is left without any."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest

from pinnerformer_model.config import ModelConfig, preset
from stores.schemas import ENGAGEMENTS
from transforms.batches import to_ipc
from transforms.sequences import ask_for_pins, assemble, model_codes, unpack_slice

NONE = None
MODEL = dataclasses.replace(
    preset("tiny", action_vocabulary=("save", "click"), surface_vocabulary=("home", "search"), pinsage_version="v1"),
    max_sequence_length=3,
)
# The pins 10 to 19 have vectors, of one number each: the pin's own, so that a token shows whose vector it got.
WITH_VECTOR = range(10, 20)

Row = tuple[int, int, int, str, str, float | None]  # user, pin, milliseconds, action, surface, seconds
Token = tuple[int, int, int, int, float | None]  # pin, milliseconds, code of the action, of the surface, seconds


def table_of(rows: list[Row]) -> pa.Table:
    """Histories as a bucket's files hold them."""
    users, pins, times, actions, surfaces, seconds = zip(*rows, strict=True) if rows else ((),) * 6
    columns = [
        pa.array(users, pa.int64()),
        pa.array(pins, pa.int64()),
        pa.array(times, pa.int64()),
        pa.array(actions, pa.string()).dictionary_encode(),
        pa.array(surfaces, pa.string()).dictionary_encode(),
        pa.array(seconds, pa.float32()),
    ]
    return pa.table([column.cast(kind.type) for column, kind in zip(columns, ENGAGEMENTS, strict=True)], ENGAGEMENTS)


def look_up(pin_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = np.isin(pin_ids, WITH_VECTOR)
    return found, pin_ids[found].astype(np.float16)[:, None]


def joined(rows: pa.Table, config: ModelConfig = MODEL) -> tuple[dict[int, tuple[int, list[Token]]], tuple[int, ...]]:
    """User -> (last_action_ms, tokens) in the order of the users, and the four counters."""
    sequences, last_action_ms, counters = assemble(rows, config, look_up)
    columns = (
        sequences.pin_vectors[:, 0].astype(int).tolist() if len(sequences.pin_vectors) else [],
        sequences.timestamp_ms.tolist(),
        sequences.action.tolist(),
        sequences.surface.tolist(),
        [None if math.isnan(seconds) else seconds for seconds in sequences.duration_s.tolist()],
    )
    tokens = list(zip(*columns, strict=True))
    edges = sequences.offsets.tolist()
    found = {
        user: (last, tokens[start:end])
        for user, last, start, end in zip(
            sequences.user_ids.tolist(), last_action_ms.tolist(), edges[:-1], edges[1:], strict=True
        )
    }
    assert edges[0] == 0 and edges[-1] == len(tokens) and len(found) == len(sequences.user_ids)
    names = ("tokens", "tokens_out_of_vocabulary", "tokens_without_vector", "users_without_token")
    assert counters.keys() == set(names)
    return found, tuple(counters[name] for name in names)


# name -> (histories; user -> (newest engagement, tokens); (tokens, out of vocabulary, without vector, users without))
TABLE: dict[str, tuple[list[Row], dict[int, tuple[int, list[Token]]], tuple[int, int, int, int]]] = {
    "nobody": ([], {}, (0, 0, 0, 0)),
    "one user, one token": (
        [(7, 12, 500, "save", "home", 2.5)],
        {7: (500, [(12, 500, 0, 0, 2.5)])},
        (1, 0, 0, 0),
    ),
    "codes are places in the model's vocabularies": (
        [(7, 12, 500, "click", "home", NONE), (7, 12, 400, "save", "search", 0.0)],
        {7: (500, [(12, 500, 1, 0, NONE), (12, 400, 0, 1, 0.0)])},
        (2, 0, 0, 0),
    ),
    "an action that the model does not know": (
        [(7, 12, 500, "hide", "home", NONE), (7, 13, 400, "save", "home", NONE)],
        {7: (500, [(13, 400, 0, 0, NONE)])},  # the engagement that is no token is the newest all the same
        (1, 1, 0, 0),
    ),
    "a surface that the model does not know": (
        [(7, 12, 500, "save", "home", NONE), (7, 13, 400, "save", "news", NONE)],
        {7: (500, [(12, 500, 0, 0, NONE)])},
        (1, 1, 0, 0),
    ),
    "both unknown: counted once": (
        [(7, 12, 500, "hide", "news", NONE), (7, 13, 400, "save", "home", NONE)],
        {7: (500, [(13, 400, 0, 0, NONE)])},
        (1, 1, 0, 0),
    ),
    "pins without a vector": (
        [(7, 1, 500, "save", "home", NONE), (7, 13, 400, "save", "home", NONE), (7, 99, 300, "save", "home", NONE)],
        {7: (500, [(13, 400, 0, 0, NONE)])},
        (1, 0, 2, 0),
    ),
    "an unknown action on a pin without a vector is out of vocabulary": (
        [(7, 1, 500, "hide", "home", NONE), (7, 13, 400, "save", "home", NONE)],
        {7: (500, [(13, 400, 0, 0, NONE)])},
        (1, 1, 0, 0),
    ),
    "a user all of whose tokens are out of vocabulary": (
        [(3, 12, 500, "hide", "home", NONE), (3, 12, 400, "hide", "home", NONE), (7, 13, 300, "save", "home", NONE)],
        {7: (300, [(13, 300, 0, 0, NONE)])},
        (1, 2, 0, 1),
    ),
    "a user none of whose pins has a vector": (
        [(3, 12, 500, "save", "home", NONE), (7, 1, 300, "save", "home", NONE)],
        {3: (500, [(12, 500, 0, 0, NONE)])},
        (1, 0, 1, 1),
    ),
    "nobody has a token": (
        [(3, 12, 500, "hide", "home", NONE), (7, 1, 300, "save", "home", NONE)],
        {},
        (0, 1, 1, 2),
    ),
    "the newest three are kept": (
        [(7, 10 + n, 900 - n, "save", "home", float(n)) for n in range(5)],
        {7: (900, [(10, 900, 0, 0, 0.0), (11, 899, 0, 0, 1.0), (12, 898, 0, 0, 2.0)])},
        (3, 0, 0, 0),
    ),
    "the newest three USABLE ones are kept": (
        [
            (7, 10, 900, "hide", "home", NONE),
            (7, 11, 800, "save", "home", NONE),
            (7, 1, 700, "save", "home", NONE),
            (7, 12, 600, "save", "home", NONE),
            (7, 13, 500, "save", "news", NONE),
            (7, 14, 400, "save", "home", NONE),
            (7, 15, 300, "save", "home", NONE),
        ],
        {7: (900, [(11, 800, 0, 0, NONE), (12, 600, 0, 0, NONE), (14, 400, 0, 0, NONE)])},
        (3, 2, 1, 0),  # the fourth usable one is cut, and counts for nothing
    ),
    "each user is cut alone": (
        [
            *((2, 10 + n, 900 - n, "save", "home", NONE) for n in range(4)),
            (5, 19, 100, "save", "home", NONE),
            *((8, 15 + n, 700 - n, "save", "home", NONE) for n in range(4)),
        ],
        {
            2: (900, [(10, 900, 0, 0, NONE), (11, 899, 0, 0, NONE), (12, 898, 0, 0, NONE)]),
            5: (100, [(19, 100, 0, 0, NONE)]),
            8: (700, [(15, 700, 0, 0, NONE), (16, 699, 0, 0, NONE), (17, 698, 0, 0, NONE)]),
        },
        (7, 0, 0, 0),
    ),
    # Equal times stand in the order of the histories: by pin, action, surface, duration, null last.
    "ties keep the order of the histories, at the cut too": (
        [
            (7, 11, 500, "click", "home", NONE),
            (7, 11, 500, "save", "home", 1.0),
            (7, 11, 500, "save", "home", NONE),
            (7, 14, 500, "save", "home", NONE),
        ],
        {7: (500, [(11, 500, 1, 0, NONE), (11, 500, 0, 0, 1.0), (11, 500, 0, 0, NONE)])},
        (3, 0, 0, 0),
    ),
    "users by id, also negative ones; the same pin for two of them": (
        [(-4, 12, 500, "save", "home", NONE), (0, 12, 600, "click", "search", NONE)],
        {-4: (500, [(12, 500, 0, 0, NONE)]), 0: (600, [(12, 600, 1, 1, NONE)])},
        (2, 0, 0, 0),
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_assemble(case):
    rows, expected, counters = TABLE[case]
    found, counted = joined(table_of(rows))
    assert found == expected and list(found) == sorted(found)
    assert counted == counters


def test_no_rows_give_arrays_that_the_tower_takes():
    """Empty, and of the types of those that are not."""
    sequences, last_action_ms, _ = assemble(table_of([]), MODEL, look_up)
    whole, times, _ = assemble(table_of([(7, 12, 500, "save", "home", 1.0)]), MODEL, look_up)
    assert sequences.offsets.tolist() == [0] and len(last_action_ms) == 0 == len(sequences.user_ids)
    for field in dataclasses.fields(whole):
        assert getattr(sequences, field.name).dtype == getattr(whole, field.name).dtype, field.name
    assert last_action_ms.dtype == times.dtype == np.int64


def test_it_does_not_matter_in_what_chunks_the_rows_lie_or_what_else_is_in_the_dictionaries():
    """Every file of a bucket has dictionaries of its own: the same word has another code in each."""
    rows = TABLE["the newest three USABLE ones are kept"][0] + [(9, 16, 5, "click", "search", 1.5)]
    whole = joined(table_of(rows))
    pieces = [table_of(rows[:1]), table_of([]), table_of(rows[1:4]), table_of(rows[4:])]
    assert joined(pa.concat_tables(pieces)) == whole
    words = pa.chunked_array([pa.array(["home", "save", "click"])]).combine_chunks().dictionary_encode().dictionary
    unused = pa.DictionaryArray.from_arrays(
        pa.array([["home", "save", "click"].index(word) for word in ("save", "click")], pa.int32()), words
    )
    assert model_codes(pa.chunked_array([unused]), MODEL.action_vocabulary).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], []),
        ([[]], []),
        ([["save", "click", "save"]], [0, 1, 0]),
        ([["hide", "save"], [], ["click", "hide"]], [-1, 0, 1, -1]),
        ([["Save", " save", ""]], [-1, -1, -1]),  # a word is itself, and no other
    ],
)
def test_words_that_the_model_does_not_know_are_minus_one(chunks, expected):
    column = pa.chunked_array(
        [pa.array(chunk, pa.string()).dictionary_encode() for chunk in chunks], pa.dictionary(pa.int32(), pa.string())
    )
    codes = model_codes(column, ("save", "click"))
    assert codes.tolist() == expected and codes.dtype == np.int32


def test_only_pins_of_known_tokens_are_looked_up():
    asked = []

    def watched(pin_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(pin_ids.tolist())
        return look_up(pin_ids)

    rows = [
        (7, 12, 900, "save", "home", NONE),
        (7, 13, 800, "hide", "home", NONE),
        (7, 1, 700, "save", "home", NONE),
        (7, 12, 600, "save", "home", NONE),
    ]
    assemble(table_of(rows), MODEL, watched)
    assert asked == [[12, 1, 12]]  # once, in the order of the rows, repeats too


def packed(rows: list[Row]) -> list[bytes]:
    return [chunk for batch in table_of(rows).to_batches() for chunk in to_ipc(batch)]


def test_a_slice_is_put_back_in_the_order_of_its_chunks():
    rows = [(n, 12, 500, "save", "home", NONE) for n in range(5)]
    chunks = [(number, packed([row])[0]) for number, row in enumerate(rows)]
    found = unpack_slice(iter([chunks[3], chunks[0], chunks[4], chunks[2], chunks[1]]))
    assert found["user_id"].to_pylist() == [0, 1, 2, 3, 4]


def test_a_slice_asks_every_shard_for_its_distinct_pins():
    """Pins 10 to 13 and 1 among 2 shards, as splitmix64 deals them; a pin of an unknown action is not asked for."""
    rows = [(7, pin, 500, "save", "home", NONE) for pin in (13, 10, 13, 1, 12, 10)]
    rows += [(7, 11, 400, "hide", "home", NONE), (7, 14, 300, "save", "news", NONE)]
    element = ((3, 0), [(0, packed(rows)[0])])
    found = {shard: (key, pins.tolist()) for shard, (key, pins) in ask_for_pins(element, MODEL, 2)}
    assert found == {0: ((3, 0), [10]), 1: ((3, 0), [1, 12, 13])}
    assert {shard: pins.tolist() for shard, (_, pins) in ask_for_pins(element, MODEL, 1)} == {0: [1, 10, 12, 13]}
