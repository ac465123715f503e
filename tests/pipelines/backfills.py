"""What the tests of the backfill share: a small world, the two ways to take it through its days, and what is equal."""

import shutil

from pipelines.cli import main
from stores.files import Root
from stores.manifests import Manifest
from stores.releases import chain
from tests.worlds import day, make_rows, make_vectors, midnight, write_file, write_model, write_vectors

USERS, PINS, ROWS, LENGTH = 30, 60, 90, 34
EMPTY, NEWCOMER, VISITOR = 2, 7001, 7002
INPUTS = ("logs", "pins", "model", "gates")


def make_world(folder: str, days: int) -> list[str]:
    """Logs of some days, vectors and a model; returns the flags that name them.

    Day 2 has no rows. Rows of the day before come late in a file of their own every day. One user appears on day 3
    and stays, one comes on day 1 only.
    """
    for number in range(days):
        rows = [] if number == EMPTY else make_rows(number, ROWS, USERS, PINS, seed=8)
        if number >= 3:
            rows.append({**rows[0], "user_id": NEWCOMER, "timestamp_ms": midnight(number) + 5})
        if number == 1:
            rows.append({**rows[0], "user_id": VISITOR})
        write_file(f"{folder}/logs", number, rows[:50], "a.parquet")
        late = [] if number in (0, EMPTY) else make_rows(number - 1, 12, USERS, PINS, seed=9)[:12]
        write_file(f"{folder}/logs", number, rows[50:] + late, "b.parquet")
    write_vectors(f"{folder}/pins", make_vectors(PINS))
    write_model(f"{folder}/model")
    with open(f"{folder}/gates", "w") as file:  # an empty day in so small a world is like no other
        file.write("max_week_factor: 1000000\nmax_weekday_factor: 1000000\nmax_failed_share: 1\n")
    return [f"--{name}={folder}/{name}" for name in INPUTS]


def layout(buckets: int) -> list[str]:
    return [f"--user-buckets={buckets}", "--pin-shards=2", f"--history-length={LENGTH}", "--publish=none"]


def run_daily(inputs: list[str], root: str, numbers: list[int], *more: str) -> None:
    for number in numbers:
        dates = [f"--date={day(number)}", f"--bootstrap-from={day(0)}"]
        assert main(["daily", f"--root={root}", *inputs, *dates, "--quiet", *more]) == 0


def backfill(inputs: list[str], root: str, first: int, last: int, *more: str) -> int:
    dates = [f"--start={day(first)}", f"--end={day(last)}", f"--bootstrap-from={day(0)}"]
    return main(["backfill", f"--root={root}", *inputs, *dates, "--quiet", *more])


def releases(root: str) -> list[Manifest]:
    """Oldest first."""
    return list(chain(Root(root)))[::-1]


def assert_same_tables(found: Manifest, expected: Manifest) -> None:
    """Byte for byte; the files of pins lie in the folder of another day, their content is the same."""
    assert found.date == expected.date and found.model_digest == expected.model_digest
    for table in ("histories", "user_embeddings"):
        assert found.tables[table] == expected.tables[table], (found.date, table)  # the name carries the content
    for table in ("pin_embeddings", "indexes"):
        content = [[(e.part, e.rows, e.checksum) for e in manifest.tables[table]] for manifest in (found, expected)]
        assert content[0] == content[1], (found.date, table)
    assert found.inputs == expected.inputs and found.statistics == expected.statistics
    assert [e.checksum for e in found.tables["canaries"]] == [e.checksum for e in expected.tables["canaries"]]
    assert without_shuffle(found) == without_shuffle(expected)
    # What is counted as nothing, too: a backfill that goes on where it was killed ends as a night does.
    for step in ("embed_pins", "build_indexes"):
        assert found.counters[step].keys() == expected.counters[step].keys(), (found.date, step)


def without_shuffle(manifest: Manifest) -> dict:
    counters = {step: dict(found) for step, found in manifest.counters.items()}
    counters["read_logs"].pop("bytes_shuffled", None)
    return {
        step: {name: n for name, n in found.items() if n} for step, found in counters.items() if any(found.values())
    }


def assert_same_chain(found: str, expected: str) -> None:
    pairs = list(zip(releases(found), releases(expected), strict=True))
    assert pairs
    for one, other in pairs:
        assert_same_tables(one, other)


def copy_world(world: list[str], folder) -> list[str]:
    """A copy of a world that a test may change; returns the flags that name it."""
    shutil.copytree(world[0].removeprefix("--logs=").removesuffix("/logs"), f"{folder}/world")
    return [f"--{name}={folder}/world/{name}" for name in INPUTS]
