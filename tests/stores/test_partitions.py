"""Whatever lies in a folder of the logs is read, known to hold no rows, or refused by name."""

import datetime
import os

import pytest

from pinnerformer_model.days import midnight_ms
from stores.errors import InputError
from stores.partitions import DAY_MS, PartitionDays, is_hidden, list_data_files, list_partitions

DAY = datetime.date(2026, 11, 6)


def put(folder, *names: str, content: bytes = b"x") -> str:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def test_every_file_is_listed_whatever_it_is_called(tmp_path):
    """Trino, Hive and Athena write no suffix; others write their own, or an hour's folder."""
    names = ["000001_0", "20261106_1234_abcde_0f1e", "a.parquet", "b.parq", "c.PARQUET", "d.parquet.gz", "notes.txt"]
    nested = ["_hour=18/part-0", "hour=17/minute=5/part-0.parquet"]
    folder = put(tmp_path, *names, *nested)
    found = list_data_files(folder)
    assert [file.name for file in found] == sorted(names + nested)
    assert [file.path for file in found] == [os.path.join(folder, file.name) for file in found]
    assert {file.bytes for file in found} == {1} and all(
        file.modified_ns == os.stat(file.path).st_mtime_ns for file in found
    )


def test_what_writers_leave_beside_their_rows_is_left_alone(tmp_path):
    hidden = ["_SUCCESS", "_metadata", "_committed_123", "_temporary/0/part-0", ".part-0.crc", ".hive-staging/part-0"]
    put(tmp_path, "a", *hidden)
    put(tmp_path, "hour=18_$folder$", content=b"")
    (tmp_path / "hour=19").mkdir()
    assert [file.name for file in list_data_files(str(tmp_path))] == ["a"]
    assert not is_hidden("_hour=18") and is_hidden("_hour") and is_hidden(".hour=18")


@pytest.mark.parametrize("name", ["old/part-0.parquet", "1/000000_0", "delta_0000002_0000002/bucket_0"])
def test_a_folder_that_is_not_read_is_refused(tmp_path, name):
    folder = put(tmp_path, "a.parquet", name)
    with pytest.raises(InputError, match="not NAME=VALUE.*begin its name with _") as refused:
        list_data_files(folder)
    assert str(refused.value).startswith(f"{folder}/{name.split('/')[0]}:")


def test_links_that_lead_nowhere_or_round_and_pipes_are_refused(tmp_path):
    for name, make in {
        "link": lambda path: os.symlink(tmp_path / "nothing", path),
        "pipe": os.mkfifo,
        "hour=0": lambda path: os.symlink(os.path.dirname(path), path),
    }.items():
        folder = tmp_path / f"of-{name}"
        folder.mkdir()
        make(str(folder / name))
        with pytest.raises(InputError, match=f"{folder}/{name}"):
            list_data_files(str(folder))


def test_a_marker_with_content_is_no_marker(tmp_path):
    assert [file.name for file in list_data_files(put(tmp_path, "hour=18_$folder$"))] == ["hour=18_$folder$"]


@pytest.mark.parametrize(
    "name",
    [
        "part-0.parquet",
        "part-0.PARQ",
        "ds=20261106/a.parquet",
        "ds=2026-11-06T18/a.parquet",
        "DS=2026-11-06/a.parquet",
        "ds=__HIVE_DEFAULT_PARTITION__/a.parquet",
        "ds=2026-11-08",
        "region=eu/ds=2026-11-06/a.parquet",
    ],
)
def test_rows_beside_the_partitions_are_refused(tmp_path, name):
    put(tmp_path, "ds=2026-11-06/a.parquet")
    folder = put(tmp_path, name)
    with pytest.raises(InputError, match="beside the ds=YYYY-MM-DD folders") as refused:
        list_partitions(folder)
    assert str(refused.value).startswith(f"{folder}/{name.split('/')[0]}:")


def test_what_holds_no_rows_may_lie_beside_the_partitions(tmp_path):
    put(tmp_path, "ds=2026-11-06/a.parquet", "README.md", "_tmp/a.parquet", "scripts/run.sh", ".x.parquet")
    put(tmp_path, "ds=2026-11-06_$folder$", content=b"")
    assert list_partitions(str(tmp_path)) == {DAY: f"{tmp_path}/ds=2026-11-06"}


def test_which_moments_a_day_has():
    midnight = (DAY - datetime.date(1970, 1, 1)).days * DAY_MS
    assert PartitionDays().start_ms(DAY) == midnight_ms(DAY)
    assert (PartitionDays().start_ms(DAY), PartitionDays().end_ms(DAY)) == (midnight, midnight + DAY_MS)
    west = PartitionDays(max_clock_skew_s=90, day_offset_s=-8 * 3600)  # UTC-8: from 08:00 UTC on
    assert west.start_ms(DAY) == midnight + 8 * 3_600_000
    assert west.end_ms(DAY) == midnight + DAY_MS + 8 * 3_600_000 + 90_000
    assert PartitionDays().to_json() == {} and west.to_json() == {"max_clock_skew_s": 90, "day_offset_s": -28800}
