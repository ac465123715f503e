"""Dead letters, shown to a person: how many of which reason, and where the first of each stands."""

import pyarrow as pa
import pyarrow.parquet as pq

from stores.dead_letters import describe_collisions, describe_dead_letters, find_first
from stores.files import Root


def write(folder, name: str, **columns) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, "reason": pa.array(columns["reason"]).dictionary_encode()}), folder / name)


def test_reasons_with_counts_and_the_first_of_each(tmp_path):
    folder = tmp_path / "run" / "dead_letters"
    write(folder, "1.parquet", reason=["late", "late", "null"], row=[40, 50, 60], file=["ds=2/b"] * 3)
    write(folder, "2.parquet", reason=["late", "bad"], row=[7, 9], file=["ds=2/a"] * 2)
    root = Root(str(tmp_path))
    assert find_first(root, "run/dead_letters") == {"late": ("ds=2/a", 7), "null": ("ds=2/b", 60), "bad": ("ds=2/a", 9)}
    counters = {"rows_read": 100, "rows_dropped": 9, "dropped_null": 1, "dropped_late": 6, "dropped_bad": 1}
    assert describe_dead_letters(root, "run/dead_letters", {**counters, "dropped_x": 0, "dropped_erased": 1}) == [
        f"The 9 rows that were dropped, each with its file, row and reason: {folder}",
        "  6 late, the first in ds=2/a, row 7",
        "  1 bad, the first in ds=2/a, row 9",
        "  1 erased",
        "  1 null, the first in ds=2/b, row 60",
    ]
    assert describe_dead_letters(root, "run/dead_letters", {"rows_read": 5, "dropped_late": 0}) == []


def test_dead_letters_of_an_older_version_and_damaged_ones(tmp_path):
    folder = tmp_path / "dead_letters"
    write(folder, "1.parquet", reason=["late"], file=["ds=2/a"])
    (folder / "2.parquet").write_bytes(b"damaged")
    root = Root(str(tmp_path))
    assert describe_dead_letters(root, "dead_letters", {"dropped_late": 1})[1:] == ["  1 late, the first in ds=2/a"]
    assert find_first(root, "nowhere") == {}


def test_a_string_that_lost_its_hash_to_another_is_named(tmp_path):
    names = {"user_name": [None, "two words", "u-9"], "pin_name": ["sku-1", "sku-2", "sku-3"]}
    reasons = ["pin_id_collision", "user_id_collision", "late"]
    write(tmp_path / "dead_letters", "1.parquet", reason=reasons, row=[None, None, 7], file=["ds=2/a"] * 3, **names)
    counters = {"dropped_pin_id_collision": 1, "dropped_user_id_collision": 1, "dropped_late": 1}
    assert describe_dead_letters(Root(str(tmp_path)), "dead_letters", counters)[1:] == [
        "  1 late, the first in ds=2/a, row 7",
        "  1 pin_id_collision, the first in ds=2/a: pin_id sku-1 has the hash of another",
        "  1 user_id_collision, the first in ds=2/a: user_id 'two words' has the hash of another",
    ]
    assert describe_collisions(Root(str(tmp_path)), "dead_letters") == [
        f"{who} has the hash of another, and its rows are left out; the first in ds=2/a"
        for who in ("pin_id_collision: pin_id sku-1", "user_id_collision: user_id 'two words'")
    ]
