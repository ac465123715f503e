"""Log files that were read and have changed since: found by size, time and footer, or because they are gone."""

import datetime
import os
import shutil

import pyarrow.parquet as pq
import pytest

from stores.logs import ColumnNames, LogFile, select_inputs
from stores.manifests import Manifest
from stores.partitions import list_data_files, list_partitions
from stores.rewritten import MODIFIED, RewrittenError, files_read, find_rewritten, find_rewritten_logs
from stores.tables import TABLES
from tests.worlds import day, make_rows, write_file


def release(number: int, files: list[LogFile], run: str = "daily-x", *, older: bool = False) -> Manifest:
    """A manifest that read some files; `older`: as the version before wrote it."""
    inputs = [{"path": f.name, "rows": f.rows, "bytes": f.bytes, "version": f.footer} for f in files]
    settings = {"run": run, "bootstrap_from": str(day(0)), MODIFIED: [f.modified_ns for f in files]}
    if older:
        inputs = [{name: entry[name] for name in ("path", "rows", "bytes")} for entry in inputs]
        del settings[MODIFIED]
    name = str(day(number))
    return Manifest(name, name, None, "", {t: [] for t in TABLES}, inputs, settings, {}, [], {}, [])


def read_now(logs: str, first: int, last: int, releases=(), lookback: int = 7) -> list[LogFile]:
    """The files that a run over some days would read."""
    found = select_inputs(
        logs,
        first=day(first),
        last=day(last),
        lookback=lookback,
        chain_start=day(0),
        already_read=files_read(releases),
        min_age_s=0.0,
        columns=ColumnNames(),
    )
    return list(found.files)


@pytest.fixture
def logs(tmp_path) -> str:
    """Three days, a file each, uncompressed and without a dictionary: other values give a footer of the same bytes."""
    for number in range(3):
        path = write_file(f"{tmp_path}/logs", number, make_rows(number, 20, 5, 9, seed=1))
        rewrite(path, lambda table: table)
    return f"{tmp_path}/logs"


def path_of(logs: str, number: int) -> str:
    return f"{logs}/ds={day(number)}/a.parquet"


def rewrite(path: str, change, **how) -> None:
    table = change(pq.ParquetFile(path).read())
    pq.write_table(table, path, compression="none", use_dictionary=False, **how)


def other_values(table):
    pins = table["pin_id"]
    return table.set_column(1, "pin_id", pins.take(list(range(1, len(pins))) + [0]))


def changed(logs: str, releases, **more) -> list[tuple[str, str]]:
    read = files_read(releases)
    listings = {date: list_data_files(folder) for date, folder in list_partitions(logs).items()}
    found = find_rewritten(listings, read, day(0), day(2), **more)
    return [(one.name, one.what) for one in found]


@pytest.mark.parametrize("older", [False, True])
def test_what_is_as_it_was_is_no_finding(logs, older):
    manifest = release(2, read_now(logs, 0, 2), older=older)
    assert changed(logs, [manifest]) == changed(logs, [manifest], thorough=True) == []
    assert read_now(logs, 3, 2, [manifest]) == []


def test_the_same_name_and_size_and_footer_at_another_time(logs):
    """Values moved between rows: not a byte of the footer tells."""
    manifest, path = release(2, read_now(logs, 0, 2)), path_of(logs, 1)
    before = os.path.getsize(path)
    rewrite(path, other_values)
    os.utime(path, (0, 0))
    assert os.path.getsize(path) == before
    assert changed(logs, [manifest]) == [(f"ds={day(1)}/a.parquet", "written again, 1970-01-01 00:00:00+00:00")]
    with pytest.raises(RewrittenError) as refused:
        read_now(logs, 3, 2, [manifest])
    line = str(refused.value)
    assert line.startswith(f"{path} (written again")
    assert f"repair --partition {day(1)};" in line and "--rewritten-partitions repair" in line


def test_another_size_or_footer_at_the_same_time(logs):
    manifest = release(2, read_now(logs, 0, 2))
    times = [os.stat(path_of(logs, n)).st_mtime_ns for n in range(3)]
    rewrite(path_of(logs, 0), lambda table: table.slice(0, 5))
    rewrite(path_of(logs, 2), other_values, version="1.0")  # the footer says another version of the format
    assert len(pq.ParquetFile(path_of(logs, 2)).read())
    for number in (0, 2):
        os.utime(path_of(logs, number), ns=(times[number], times[number]))
    found = changed(logs, [manifest])
    assert [name for name, _ in found] == [f"ds={day(n)}/a.parquet" for n in (0, 2)]
    assert "bytes" in found[0][1] and found[1][1] == "its footer is another"


def test_an_older_manifest_knows_sizes_and_rows_only(logs):
    manifest = release(2, read_now(logs, 0, 2), older=True)
    os.utime(path_of(logs, 0))
    assert changed(logs, [manifest]) == []
    rewrite(path_of(logs, 0), lambda table: table.slice(0, 5))
    assert [name for name, _ in changed(logs, [manifest])] == [f"ds={day(0)}/a.parquet"]


def test_files_and_partitions_that_are_gone(logs):
    manifest = release(2, read_now(logs, 0, 2))
    shutil.rmtree(f"{logs}/ds={day(0)}")  # no older one is there: the logs do not reach back so far any more
    assert changed(logs, [manifest]) == []
    os.rename(path_of(logs, 1), f"{logs}/ds={day(1)}/b.parquet")  # as Spark writes a partition again
    assert changed(logs, [manifest]) == [(f"ds={day(1)}/a.parquet", "gone")]
    shutil.rmtree(f"{logs}/ds={day(2)}")
    assert changed(logs, [manifest])[1:] == [(f"ds={day(2)}/a.parquet", "gone, with its partition")]
    with pytest.raises(RewrittenError, match=rf"restore ds={day(2)}.*--partition {day(1)} --partition {day(2)}"):
        read_now(logs, 3, 2, [manifest])


def test_only_the_lookback_is_looked_at(logs):
    manifest = release(2, read_now(logs, 0, 2))
    os.unlink(path_of(logs, 0))
    assert read_now(logs, 3, 2, [manifest], lookback=1) == []
    assert [one.name for one in find_rewritten_logs(logs, [manifest], 3)] == [f"ds={day(0)}/a.parquet"]
    assert find_rewritten_logs(logs, [manifest], 2) == find_rewritten_logs(logs, [], 7) == []


def test_older_days_may_have_been_copied(logs):
    manifest = release(2, read_now(logs, 0, 2))
    os.utime(path_of(logs, 0), (0, 0))
    assert changed(logs, [manifest]) and changed(logs, [manifest], times_from=day(1)) == []
    rewrite(path_of(logs, 0), lambda table: table.slice(0, 5))
    assert changed(logs, [manifest], times_from=day(1))


def test_the_newest_release_that_read_a_file_counts_and_a_repair_counts_for_all(logs):
    first = release(0, read_now(logs, 0, 0))
    late = read_now(logs, 1, 2, [first])
    second = release(2, late)
    read = files_read([second, first])
    assert {name: one.release for name, one in read.items()} == {
        f"ds={day(n)}/a.parquet": str(day(0 if n == 0 else 2)) for n in range(3)
    }
    os.rename(path_of(logs, 1), f"{logs}/ds={day(1)}/b.parquet")
    assert changed(logs, [second, first])
    repair = release(2, read_now(logs, 0, 2), run="repair-2026-11-03-x")
    read = files_read([repair, second, first])
    assert f"ds={day(1)}/b.parquet" in read and f"ds={day(1)}/a.parquet" not in read
    assert changed(logs, [repair, second, first]) == []
    assert files_read([release(2, [], run="repair-y"), second, first]).keys() == files_read([second, first]).keys()


def test_files_that_were_read_are_not_opened_again(logs, monkeypatch):
    """A partition of thousands of files that was read long ago costs its listing."""
    manifest = release(2, read_now(logs, 0, 2))
    monkeypatch.setattr("stores.logs.open_log_file", lambda *_, **__: pytest.fail("opened"))
    assert read_now(logs, 3, 2, [manifest]) == []


def test_names_of_other_tables_are_nobodys():
    files = [LogFile("x", "elsewhere/a.parquet", datetime.date(2026, 1, 1), 1, 1, "")]
    assert find_rewritten({day(0): []}, files_read([release(0, files)]), day(0), day(2)) == []
