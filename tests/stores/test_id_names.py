"""Ids as people and clients have them, and the names of ids of a release."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from stores.embedding_client import EmbeddingClient
from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.id_names import FEW, PINS, USERS, Names, inner_ids, names_of, parse_id, quoted, shown_ids, typed_id, visible
from stores.kv import Current, open_store
from stores.kv.base import facts_of_ids
from stores.kv.codec import encode_values
from stores.string_ids import INT64, STRING, hash_text
from tests.stores.snapshots import named_release, release

DIGEST = "ab" * 32


def test_what_is_typed_at_a_root_of_int64():
    assert [parse_id(text, INT64) for text in ("17", "-5", str((1 << 63) - 1), str(-(1 << 63)))][:2] == [17, -5]
    for text in ("", "1_000", "17.9", str(1 << 63), "9" * 5000, "١٧", " 5", "u-17"):
        assert parse_id(text, INT64) is None
        with pytest.raises(UsageError, match="is not a user id; the user ids of this root are whole numbers"):
            typed_id("--user", text, INT64)


def test_what_is_typed_at_a_root_of_strings_is_a_string_whatever_it_looks_like():
    for text in ("u-17", "17", " 5", "Ü", "a\nb", "-5"):
        assert typed_id("--user", text, STRING) == hash_text(text)
    assert typed_id("--user", "\u00e9", STRING) != typed_id("--user", "e\u0301", STRING)  # nothing is normalised
    with pytest.raises(UsageError, match="--user: an empty string is no user id"):
        typed_id("--user", "", STRING)


WORDS = ["u-17", "17", "", "Ü"]


@pytest.mark.parametrize(
    "values",
    [
        WORDS,
        tuple(WORDS),
        np.array(WORDS),
        np.array(WORDS, object),
        pa.array(WORDS),
        pa.array(WORDS, pa.large_string()),
        pa.array(WORDS).dictionary_encode(),
        pa.chunked_array([WORDS[:1], WORDS[1:]]),
        pd.Series(WORDS),
        pd.Series(WORDS, dtype="category"),
    ],
)
def test_strings_of_a_client_are_hashed_as_they_are(values):
    assert inner_ids(values, STRING).tolist() == [hash_text(word) for word in WORDS]


def test_few_and_many_strings_are_hashed_alike():
    for count in (1, FEW, FEW + 1, 1000):
        words = [f"u-{n}" for n in range(count)]
        assert inner_ids(words, STRING).tolist() == [hash_text(word) for word in words]


@pytest.mark.parametrize(
    "values", [[17], np.array([17]), [17, "u"], ["u", 17], ["u", None], [None], [b"u"], [1.5], pd.Series(["u", np.nan])]
)
def test_what_is_no_string_is_refused_where_ids_are_strings(values):
    with pytest.raises(TypeError, match="ids must be strings.*give them as the logs have them"):
        inner_ids(values, STRING)


def test_lists_that_are_none_and_text_that_is_none():
    assert inner_ids([], STRING).tolist() == inner_ids([], INT64).tolist() == []
    for kind in (STRING, INT64):
        for values in ("u-17", [["u"]], 5):
            with pytest.raises(ValueError, match="one-dimensional"):
                inner_ids(values, kind)
    with pytest.raises(ValueError, match="UTF-8"):
        inner_ids(["\ud800"], STRING)
    with pytest.raises(TypeError, match="ids must be integers, got 'u-17'; the ids here are whole numbers"):
        inner_ids(["u-17"], INT64)


@pytest.mark.parametrize(
    ("name", "in_a_sentence", "alone"),
    [
        ("u-17", "u-17", "u-17"),
        ("a b", "'a b'", "a b"),
        (" a", "' a'", "' a'"),
        ("a\nb", r"'a\nb'", r"'a\nb'"),
        ("", "''", "''"),
        ("Ü", "Ü", "Ü"),
    ],
)
def test_names_for_a_person(name, in_a_sentence, alone):
    assert (quoted(name), visible(name)) == (in_a_sentence, alone)


def put(url: str, ids: np.ndarray, user_ids: str) -> None:
    """A store whose users have the vectors 0, 1, 2, ..."""
    vectors = np.repeat(np.arange(len(ids), dtype=np.float16)[:, None], 4, axis=1)
    current = Current("g", "2026-11-05", DIGEST, len(ids), extra=facts_of_ids(user_ids))
    with open_store(url) as store:
        values = encode_values(vectors, np.ones(len(ids), np.int32), DIGEST)
        store.upload(
            "g", [(np.sort(ids), [values[i] for i in np.argsort(ids)])], deletes=[], fresh=True, current=current
        )


def test_a_client_hashes_strings_and_refuses_ids_of_the_other_kind(tmp_path):
    put(f"lmdb://{tmp_path}/strings", np.array([hash_text(word) for word in WORDS]), STRING)
    with EmbeddingClient(f"lmdb://{tmp_path}/strings") as client:
        vectors, days, found = client.get_many(["17", "nobody", "u-17", "17"])
        assert client.current.user_ids == STRING
        assert vectors[:, 0].tolist() == [1, 0, 0, 1] and found.tolist() == [True, False, True, True]
        assert days[0] == np.datetime64("1970-01-02") and np.isnat(days[1])
        with pytest.raises(TypeError, match="the ids of this store are strings: .* 17 as '17'"):
            client.get_many([17])
        assert client.get_many([])[2].tolist() == []
    put(f"lmdb://{tmp_path}/numbers", np.array([5, 17]), INT64)
    with EmbeddingClient(f"lmdb://{tmp_path}/numbers") as client:
        assert client.current.user_ids == INT64 and client.get_many([17])[2].all()
        with pytest.raises(TypeError, match="ids must be integers, got '17'"):
            client.get_many(["17"])


def test_a_store_of_int64_says_of_ids_what_it_always_said():
    assert b"user_ids" not in Current("g", "r", DIGEST, 3, extra=facts_of_ids(INT64)).to_bytes()
    record = Current("g", "r", DIGEST, 3, extra=facts_of_ids(STRING)).to_bytes()
    assert b'"user_ids": "string", "id_scheme": "xxh64-63"' in record
    for strange in (record.replace(b"xxh64-63", b"siphash"), record.replace(b'"string"', b'"uuid"')):
        with pytest.raises(StoreError, match="the store: user ids are .* upgrade pinnerformer"):
            Current.from_bytes(strange, "the store")


USER_NAMES, PIN_NAMES = [f"u-{n}" for n in range(50)], [f"sku {n}" for n in range(30)]


def test_names_of_a_few_ids_of_a_release(tmp_path):
    manifest = named_release(Root(str(tmp_path)), USER_NAMES, PIN_NAMES)
    root, asked = Root(str(tmp_path)), [hash_text("u-3"), hash_text("u-44"), 7, hash_text("u-3")]
    assert names_of(root, manifest, USERS, asked) == {hash_text("u-3"): "u-3", hash_text("u-44"): "u-44"}
    assert names_of(root, manifest, USERS, []) == {}
    assert shown_ids(root, manifest, USERS, asked[1:3]) == {hash_text("u-44"): "u-44", 7: "with hash 7"}
    assert shown_ids(root, manifest, PINS, [hash_text("sku 1")]) == {hash_text("sku 1"): "'sku 1'"}
    emptied = dataclasses.replace(manifest, tables={**manifest.tables, "user_names": []})  # as `gc` leaves it
    assert names_of(root, emptied, USERS, asked) == {}


def test_ids_of_int64_have_no_names(tmp_path):
    manifest = release(Root(str(tmp_path)), "2026-11-01", {})
    assert names_of(Root(str(tmp_path)), manifest, USERS, [5]) == {} and USERS.kind(manifest) == INT64
    assert shown_ids(Root(str(tmp_path)), manifest, USERS, [5, -7]) == {5: "5", -7: "-7"}
    assert Names.load(Root(str(tmp_path)), manifest, PINS) is None


def test_all_names_in_memory(tmp_path):
    root = Root(str(tmp_path))
    manifest = named_release(root, USER_NAMES, PIN_NAMES)
    names = Names.load(root, manifest, PINS)
    assert names is not None
    asked = np.array([hash_text("sku 9"), 7, hash_text("sku 0"), hash_text("sku 9")])
    assert names.of(asked) == ["sku 9", None, "sku 0", "sku 9"]
    assert names.of(np.empty(0, np.int64)) == []
    tables = {name: entries for name, entries in manifest.tables.items() if name != "pin_names"}
    with pytest.raises(StoreError, match="no table pin_names, and its pin ids are strings"):
        Names.load(root, dataclasses.replace(manifest, tables=tables), PINS)
