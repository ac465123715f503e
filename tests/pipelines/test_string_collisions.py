"""Two strings of one hash, with a hash that was weakened: the first keeps the id, nothing of the other is near it."""

import glob
import json
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from stores import id_columns
from stores.files import Root
from stores.releases import chain
from stores.string_ids import hash_strings
from tests.pipelines.nights import World, first_night, make_world, run_night
from tests.pipelines.test_string_ids import INNER, checksums, name_pin, name_user, renamed
from tests.worlds import FIRST, day

RIVAL = "rival of "  # such a string has the hash of what follows
NIGHTS = 3


def weak_hash(column: pa.Array):
    """As `hash_strings`, but for rivals."""
    words = column.dictionary if pa.types.is_dictionary(column.type) else column
    words = pc.replace_substring_regex(words, f"^{RIVAL}", "")
    whole = pa.types.is_dictionary(column.type)
    return hash_strings(pa.DictionaryArray.from_arrays(column.indices, words) if whole else words)


@pytest.fixture(autouse=True)
def weakened(monkeypatch):
    monkeypatch.setattr(id_columns, "hash_strings", weak_hash)


def add_rows(path: str, key: str, rows: list[int], *, first: bool) -> None:
    """Copies some rows of a log file, whose user or pin is a rival of the one that was copied; before all or after."""
    table = pq.read_table(path)
    more = table.take(pa.array(rows))
    at, times = more.schema.get_field_index(key), more.schema.get_field_index("timestamp_ms")
    more = more.set_column(at, key, pa.array([RIVAL + name for name in more[key].to_pylist()]))
    more = more.set_column(times, "timestamp_ms", pc.subtract(more["timestamp_ms"], 1))
    pq.write_table(pa.concat_tables([more, table] if first else [table, more]), path, row_group_size=97)


def good_rows(path: str, count: int, *, from_row: int = 10) -> list[int]:
    rows = pq.read_table(path).slice(from_row, count)
    assert not rows["user_id"].null_count and "" not in rows["pin_id"].to_pylist()
    return list(range(from_row, from_row + count))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> tuple[World, World]:
    """A world, and the same with rivals in it."""
    folder = str(tmp_path_factory.mktemp("collisions"))
    plain = renamed(make_world(f"{folder}/numbers"), f"{folder}/plain", hashed=False)
    shutil.copytree(plain.folder, f"{folder}/rivals")
    for number in range(NIGHTS):
        for name, first in (("a", number > 0), ("b", number == 1)):
            # The first night's stand behind whom they are rivals of, in the same batch and in later ones; those of the
            # next nights before: there it is the names of the release before that tell.
            path = f"{folder}/rivals/logs/ds={day(number)}/{name}.parquet"
            add_rows(path, "user_id", good_rows(path, 2), first=first)
            add_rows(path, "pin_id", good_rows(path, 2, from_row=20), first=first)
    return plain, World(f"{folder}/rivals", plain.rows, plain.late, plain.vectors)


def dead_letters(root: str, release: str) -> list[dict]:
    paths = sorted(glob.glob(f"{root}/releases/{release}/dead_letters/*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    return [row for row in rows if row["reason"].endswith("_collision")]


def check_dead_letters(rows: list[dict]) -> None:
    """Two of each kind and file, by name."""
    assert len(rows) == 8
    for row in rows:
        key = row["reason"].removesuffix("_collision")
        name = row[key.replace("_id", "_name")]
        assert name.startswith(RIVAL) and row["file"].endswith(("/a.parquet", "/b.parquet"))
        assert hash_strings(pa.array([name.removeprefix(RIVAL)]))[0] == row[key]
        other = row["user_name" if key == "pin_id" else "pin_name"]
        assert other is None or not other.startswith(RIVAL)


def nights_of(world: World, root: str) -> list:
    made = [first_night(world, root, "--pin-shards=2")]
    return made + [run_night(world, root, number, "--publish=none") for number in range(1, NIGHTS)]


def test_releases_are_those_of_a_world_without_rivals(worlds, tmp_path):
    plain, rivals = worlds
    expected, found = (nights_of(world, str(tmp_path / name)) for name, world in zip("pr", worlds, strict=True))
    for one, other in zip(expected, found, strict=True):
        tables = (*INNER, "user_names", "pin_names")
        assert checksums(one, tables) == checksums(other, tables)
        check_dead_letters(dead_letters(str(tmp_path / "r"), other.release))
        counters = other.counters["update_histories"]
        assert counters["rows_collided"] == 8
        assert counters["dropped_user_id_collision"] == counters["dropped_pin_id_collision"] == 4
    assert dead_letters(str(tmp_path / "p"), str(day(0))) == []
    # The same of a backfill, dead letters too.
    root = str(tmp_path / "filled")
    flags = [f"--start={FIRST}", f"--end={day(NIGHTS - 1)}", f"--bootstrap-from={FIRST}", "--user-buckets=4"]
    flags += ["--pin-shards=2", "--history-length=40", "--publish=none", "--quiet"]
    assert main(["backfill", f"--root={root}", *rivals.inputs, *flags]) == 0
    for night, again in zip(found, reversed(list(chain(Root(root)))), strict=True):
        tables = ("histories", "user_embeddings", "user_names", "pin_names")
        assert checksums(night, tables) == checksums(again, tables)
        assert night.counters["update_histories"] == again.counters["update_histories"]

        def sorted_letters(where: str) -> list[str]:
            return sorted(json.dumps(row) for row in dead_letters(where, night.release))  # noqa: B023

        assert sorted_letters(str(tmp_path / "r")) == sorted_letters(root)


def test_a_vector_of_a_rival_is_left_out_and_nothing_else(worlds, tmp_path):
    plain, _ = worlds
    expected = nights_of(plain, str(tmp_path / "plain"))
    shutil.copytree(plain.folder, tmp_path / "world")
    world = World(str(tmp_path / "world"), plain.rows, plain.late, plain.vectors)
    root = str(tmp_path / "root")
    assert first_night(world, root, "--pin-shards=2").release == expected[0].release
    path = f"{world.folder}/pins/vectors.parquet"
    table = pq.read_table(path)
    known = table["pin_id"].to_pylist()
    # In a row group of its own pin, and before all: the name is known from the night before.
    more = table.take(pa.array([40, 50])).set_column(0, "pin_id", pa.array([RIVAL + known[n] for n in (40, 50)]))
    pq.write_table(pa.concat_tables([more, table]), path, row_group_size=31)
    night = run_night(world, root, 1, "--publish=none")
    tables = (*INNER, "user_names", "pin_names")
    assert checksums(night, tables) == checksums(expected[1], tables)
    assert night.counters["shard_pins"]["vectors_collided"] == 2
    rows = dead_letters(root, night.release)
    assert {(row["pin_name"], row["file"], row["user_id"]) for row in rows} == {
        (RIVAL + known[40], "--pins", None),
        (RIVAL + known[50], "--pins", None),
    }
    # A pin that is there twice by the same string is an error as ever, named by its string.
    pq.write_table(pa.concat_tables([table.slice(0, 1), table]), path, row_group_size=31)
    flags = [f"--root={root}", f"--date={day(2)}", "--publish=none", "--quiet"]
    assert main(["daily", *flags, *world.inputs]) == 1


def test_a_rival_among_pins_that_came_on_one_night(tmp_path):
    """Neither has a vector, nor a name yet: the batch that comes first by file and row keeps the id."""
    world = renamed(make_world(str(tmp_path / "numbers")), str(tmp_path / "world"), hashed=False)
    a, b = (f"{world.folder}/logs/ds={day(0)}/{name}.parquet" for name in "ab")
    for path, name in ((a, "new pin"), (b, f"{RIVAL}new pin")):
        table = pq.read_table(path)
        pins = table["pin_id"].to_pylist()
        pins[30] = name
        pq.write_table(table.set_column(1, "pin_id", pa.array(pins)), path, row_group_size=97)
    release = first_night(world, str(tmp_path / "root"), "--pin-shards=2")
    (row,) = dead_letters(str(tmp_path / "root"), release.release)
    assert (row["pin_name"], row["file"]) == (f"{RIVAL}new pin", f"ds={day(0)}/b.parquet")
    assert row["user_name"] in map(name_user, range(-5, 50)) and name_pin(1) != row["pin_name"]
    names = pa.concat_tables([pq.read_table(f"{tmp_path}/root/{e.path}") for e in release.tables["pin_names"]])
    assert "new pin" in names["name"].to_pylist() and f"{RIVAL}new pin" not in names["name"].to_pylist()
