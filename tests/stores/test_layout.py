"""How a root should be cut up."""

import json

import pytest

from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.layout import (
    BUCKET_DAY_BYTES,
    BUCKET_HISTORY_ROWS,
    ROW_BYTES,
    SPREAD_BUCKET_ROWS,
    SPREAD_SHARD_PINS,
    Layout,
    advise_buckets,
    check_layout,
    choose_counts,
    open_layout,
    read_layout,
)
from stores.layout import FIRST_BUCKET_ROWS as ROOM


def test_buckets_keep_a_bucket_small_in_the_shuffle_and_in_memory():
    assert advise_buckets(0, 0) == 1
    assert advise_buckets(75_000_000_000, 2_000_000_000) == 32_768  # docs/scale.md
    for history_rows, rows_a_day in ((10**9, 10**6), (10**6, 10**10), (3 * 10**8, 10**8)):
        buckets = advise_buckets(history_rows, rows_a_day)
        assert history_rows / buckets <= BUCKET_HISTORY_ROWS
        assert rows_a_day * ROW_BYTES / buckets <= BUCKET_DAY_BYTES
        half = buckets / 2  # fewer would not do
        assert history_rows / half > BUCKET_HISTORY_ROWS or rows_a_day * ROW_BYTES / half > BUCKET_DAY_BYTES


def test_counts_follow_the_rows_and_pins_of_the_first_release():
    chosen = {
        (0, 0): (1, 1),
        (SPREAD_BUCKET_ROWS, SPREAD_SHARD_PINS): (1, 1),
        (SPREAD_BUCKET_ROWS + 1, SPREAD_SHARD_PINS + 1): (2, 2),
        (7 * SPREAD_BUCKET_ROWS, 3 * SPREAD_SHARD_PINS): (8, 4),
        (8 * ROOM, 4 << 20): (8, 4),
        (8 * ROOM + 1, (4 << 20) + 1): (16, 8),
        (8_500_000, 200_000): (64, 4),
        (75_000_000_000, 5_000_000_000): (32_768, 8_192),
    }
    for (rows, pins), (buckets, shards) in chosen.items():
        assert choose_counts(rows, pins) == {"user_buckets": buckets, "pin_shards": shards}, (rows, pins)
    # A night of that size alone never asks for more, so that `plan` does not advise against its own choice.
    for rows in (1, ROOM, 10**7, 10**9, 4 * 10**9):
        assert advise_buckets(rows, rows) <= choose_counts(rows, 0)["user_buckets"]


def test_a_layout_of_int64_ids_is_written_as_before_there_were_others(tmp_path):
    root = Root(str(tmp_path))
    open_layout(root, {"user_buckets": 3, "pin_shards": 2})
    before = {"user_buckets": 3, "pin_shards": 2, "history_length": 256, "embedding_dtype": "float16"}
    root_id = root.read_json("layout.json")["root_id"]
    assert root.read_bytes("layout.json") == (json.dumps({**before, "root_id": root_id}, indent=1) + "\n").encode()
    assert Layout(3, 2).to_json() == before
    assert read_layout(root) == Layout(3, 2, 256, "float16", "int64", "int64")


def test_string_ids_are_kept_with_the_way_they_are_hashed(tmp_path):
    root = Root(str(tmp_path))
    layout = open_layout(root, {"user_ids": "string"})
    found = root.read_json("layout.json")
    assert (found["user_ids"], found["pin_ids"], found["id_scheme"]) == ("string", "int64", "xxh64-63")
    assert read_layout(root) == layout == Layout(user_ids="string") and layout.has_strings
    check_layout(root, layout, {"layout": layout.to_json()}, "2026-11-01")
    for made_with in ({}, {"layout": Layout().to_json()}):
        with pytest.raises(StoreError, match="user_ids is 'string', 2026-11-01 was made with 'int64'"):
            check_layout(root, layout, made_with, "2026-11-01")
    with pytest.raises(StoreError, match="user_ids is 'int64', 2026-11-01 was made with 'string'"):
        check_layout(root, Layout(), {"layout": layout.to_json()}, "2026-11-01")
    with pytest.raises(UsageError, match="user_ids must be one of int64, string, got 'text'"):
        Layout(user_ids="text")
    for damaged in ({"id_scheme": "xxh64-64"}, {"user_ids": "strong"}):
        root.write_json("layout.json", {**found, **damaged})
        with pytest.raises(StoreError, match="layout.json"):
            read_layout(root)
    for lost in ("user_ids", "pin_ids", "id_scheme"):
        root.write_json("layout.json", {name: value for name, value in found.items() if name != lost})
        with pytest.raises(StoreError, match="keys missing or unknown"):
            read_layout(root)
