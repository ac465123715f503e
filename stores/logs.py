"""Engagement logs on disk: partitions by ingestion date, and which of their files a run has to read."""

import dataclasses
import datetime
import re
import time
from collections.abc import Collection, Iterable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations
from stores.errors import InputError, MissingPartitionError, UsageError
from stores.footers import check_footer
from stores.schemas import ENGAGEMENTS
from stores.tables import footer_digest

COLUMNS = tuple(ENGAGEMENTS.names)
_PARTITION = re.compile(r"ds=(\d{4}-\d{2}-\d{2})")
_FIXES = {
    "user_id": "write it as int64",
    "pin_id": "write it as int64",
    "timestamp_ms": "write it as int64 milliseconds since 1970 (UTC) or as an Arrow timestamp",
    "action": "write it as a string",
    "surface": "write it as a string",
    "duration_s": "write it as a float, in seconds, null where it was not measured",
}


@dataclasses.dataclass(frozen=True)
class LogFile:
    """One Parquet file of the logs.

    Attributes:
        path: Absolute, or a URL.
        name: Relative to the logs, `ds=2026-11-24/part-0.parquet`: how a manifest names it.
        date: Of its partition.
        rows: From its footer.
        bytes: Its size.
        version: Changes when the file is written anew: from its footer and its modification time.
    """

    path: str
    name: str
    date: datetime.date
    rows: int
    bytes: int
    version: str


@dataclasses.dataclass(frozen=True)
class ColumnNames:
    """How the logs call the columns: `names[ours] = theirs`."""

    names: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, flags: Iterable[str]) -> "ColumnNames":
        """Reads `--column pin_id=item_id` flags.

        Raises:
            UsageError: not of the form, or not one of our columns.
        """
        names = {}
        for flag in flags:
            ours, separator, theirs = flag.partition("=")
            if not separator or ours not in COLUMNS or not theirs:
                raise UsageError(f"--column {flag}: expected OURS=THEIRS with OURS one of {', '.join(COLUMNS)}")
            names[ours] = theirs
        return cls(tuple(sorted(names.items())))

    def theirs(self, ours: str) -> str:
        return dict(self.names).get(ours, ours)


def list_partitions(logs: str) -> dict[datetime.date, str]:
    """Date -> folder of every `ds=YYYY-MM-DD` partition.

    Raises:
        InputError: the folder is missing or has no partition.
    """
    try:
        folder = locations.absolute(logs)
        names = locations.list_names(folder)
    except OSError as error:
        raise InputError(
            f"--logs {logs}: {error.strerror}; expected a folder with ds=YYYY-MM-DD/*.parquet in it"
        ) from None
    found = {}
    for name in names:
        match = _PARTITION.fullmatch(name)
        if match:
            try:
                date = datetime.date.fromisoformat(match[1])
            except ValueError:
                raise InputError(f"{locations.join(folder, name)}: not a date; rename or remove the folder") from None
            found[date] = locations.join(folder, name)
    if not found:
        raise InputError(f"--logs {logs}: no ds=YYYY-MM-DD partition in it; expected ds=YYYY-MM-DD/*.parquet")
    return found


def check_complete(folder: str, min_age_s: float) -> None:
    """Refuses a partition that may still be growing.

    Raises:
        InputError: it has no `_SUCCESS`, and its newest file is younger than `min_age_s`.
    """
    if locations.exists(locations.join(folder, "_SUCCESS")):
        return
    newest = max(map(locations.modified_ns, [folder, *parquet_files(folder)])) / 1e9
    if time.time() - newest < min_age_s:
        raise InputError(
            f"{folder}: not complete yet: no _SUCCESS in it and it changed less than {min_age_s / 3600:g} h ago; "
            "wait, write _SUCCESS, or lower --min-age"
        )


def parquet_files(folder: str) -> list[str]:
    """The sorted absolute paths of a partition's `*.parquet` files."""
    return [
        locations.join(folder, name)
        for name in locations.list_names(folder)
        if name.endswith(".parquet") and not name.startswith((".", "_"))
    ]


def open_log_file(path: str, columns: ColumnNames) -> pq.ParquetFile:
    """Opens a file and checks the columns that are needed; others are ignored.

    Raises:
        InputError: not Parquet, truncated, a column missing or of the wrong type; says the fix.
    """
    try:
        source = locations.open_input(path)
        metadata = pq.read_metadata(source)
        check_footer(metadata)
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}); it is truncated or of another kind, "
            "write it again or remove it"
        ) from None
    for ours in COLUMNS:
        theirs = columns.theirs(ours)
        index = schema.get_field_index(theirs)
        if index < 0:
            raise InputError(
                f"{path}: no column {theirs!r} (it has {', '.join(schema.names)}); "
                f"if it has another name, say --column {ours}=NAME"
            )
        if not _type_fits(ours, schema.field(index).type):
            raise InputError(f"{path}: column {theirs!r} is {schema.field(index).type}; {_FIXES[ours]}")
    strings = [columns.theirs(name) for name in ("action", "surface")]
    return pq.ParquetFile(source, metadata=metadata, read_dictionary=strings)


def _type_fits(ours: str, found: pa.DataType) -> bool:
    if ours in ("action", "surface"):
        value = found.value_type if pa.types.is_dictionary(found) else found
        return pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_null(value)
    if ours == "duration_s":
        return pa.types.is_floating(found) or pa.types.is_integer(found) or pa.types.is_null(found)
    if ours == "timestamp_ms" and pa.types.is_timestamp(found):
        return True
    return pa.types.is_integer(found)


def describe_files(folder: str, date: datetime.date, columns: ColumnNames) -> list[LogFile]:
    """The files of a partition, each opened and its columns checked.

    Raises:
        InputError: as `open_log_file`.
    """
    files = []
    for path in parquet_files(folder):
        metadata, size = open_log_file(path, columns).metadata, locations.size_of(path) or 0
        name = f"ds={date.isoformat()}/{locations.base_name(path)}"
        version = f"{footer_digest(metadata)[:16]}-{locations.modified_ns(path)}"
        files.append(LogFile(path, name, date, metadata.num_rows, size, version))
    return files


@dataclasses.dataclass(frozen=True)
class InputSelection:
    """What a run reads: `files` in a fixed order, of which `late` lie in partitions that an earlier release read."""

    files: tuple[LogFile, ...]
    late: tuple[LogFile, ...]
    partitions: tuple[datetime.date, ...]


def select_inputs(
    logs: str,
    *,
    first: datetime.date,
    last: datetime.date,
    lookback: int,
    chain_start: datetime.date,
    already_read: Mapping[str, object],
    min_age_s: float,
    columns: ColumnNames,
    allow_missing: Collection[datetime.date] = (),
) -> InputSelection:
    """Picks the log files of a run.

    Args:
        first: The first partition that no release has read; may be after `last` (a date released again).
        last: The date of the run.
        lookback: How many partitions up to `last` are looked through for files that came late.
        chain_start: The first partition that the root's first release read; earlier ones are nobody's.
        already_read: Names of the files that the releases of the chain read.
        min_age_s: A partition without `_SUCCESS` must be older than this.
        columns: The logs' own column names.
        allow_missing: Partitions that count as empty where they are missing.

    Raises:
        InputError: a partition between `first` and `last` is missing or not complete, or a file is unusable.
    """
    partitions = list_partitions(logs)
    days = [first + datetime.timedelta(n) for n in range((last - first).days + 1)]
    days = [day for day in days if day in partitions or day not in allow_missing]
    missing = [day for day in days if day not in partitions]
    if missing:
        newest = max(partitions)
        raise MissingPartitionError(
            f"{locations.join(logs, f'ds={missing[0].isoformat()}')}: missing partition"
            f"{f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''}; "
            f"the newest there is {newest.isoformat()}; write it, an empty folder with _SUCCESS if there were no rows"
        )
    files: list[LogFile] = []
    for day in days:
        check_complete(partitions[day], min_age_s)
        files += describe_files(partitions[day], day, columns)
    late: list[LogFile] = []
    oldest = max(chain_start, last - datetime.timedelta(lookback))
    for day in sorted(partitions):
        if oldest <= day < first and day <= last:
            late += [file for file in describe_files(partitions[day], day, columns) if file.name not in already_read]
    chosen = sorted([file for file in files if file.name not in already_read] + late, key=lambda f: f.name)
    return InputSelection(tuple(chosen), tuple(late), tuple(days))
