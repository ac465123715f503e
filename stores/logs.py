"""Engagement logs on disk: partitions by ingestion date, and which of their files a run has to read."""

import dataclasses
import datetime
from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations
from stores.column_names import LOG_COLUMNS, MAY_BE_ABSENT, TEXT_COLUMNS, ColumnNames
from stores.errors import InputError, MissingPartitionError
from stores.footers import check_footer, find_unreadable, footer_mark, rows_before, why_unreadable
from stores.id_columns import OTHER_KIND, id_kind
from stores.page_headers import column_chunks
from stores.partitions import (
    LEAVE_ALONE,
    DataFile,
    PartitionDays,
    check_complete,
    list_data_files,
    list_partitions,
)
from stores.rewritten import FileRead, Rewritten, find_rewritten, refuse_rewritten
from stores.string_ids import INT64, STRING
from stores.tables import footer_digest

COLUMNS = LOG_COLUMNS
ID_COLUMNS = ("user_id", "pin_id")
DICTIONARY_BYTES = 8  # a value of an id column that takes less in its file is a code, and read as one
DEFAULT_DAYS = PartitionDays()
_FIXES = {
    "user_id": OTHER_KIND,
    "pin_id": OTHER_KIND,
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
        version: Changes when the file is written again: from its footer and its modification time.
        footer: As `footer_mark` gives it; a manifest keeps it.
        modified_ns: When it was written, in ns since 1970; a manifest keeps it.
        days: Which moments the days of the partitions have.
        lacking: Our columns that it does not have, of those that logs may lack.
        user_ids, pin_ids: What its ids are, "int64" or "string".
    """

    path: str
    name: str
    date: datetime.date
    rows: int
    bytes: int
    version: str
    footer: str = ""
    modified_ns: int = 0
    days: PartitionDays = DEFAULT_DAYS
    lacking: tuple[str, ...] = ()
    user_ids: str = INT64
    pin_ids: str = INT64


def open_log_file(path: str, columns: ColumnNames, *, dictionaries: bool = True) -> pq.ParquetFile:
    """Opens a file and checks the columns that are needed; others are ignored. Checksums of pages are compared.

    Args:
        dictionaries: Read the text columns, and ids of few strings, as dictionaries, which is faster and which pyarrow
            cannot do of every encoding.

    Raises:
        InputError: not Parquet, truncated, a column missing, there twice or of the wrong type; says the fix.
    """
    try:
        source = locations.open_input(path)
        metadata = pq.read_metadata(source)
        check_footer(metadata)
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({why_unreadable(path, error)}); it is truncated or of another kind, "
            f"write it again or remove it, or {LEAVE_ALONE}"
        ) from None
    for ours in COLUMNS:
        _check_column(path, schema, ours, columns)
    try:
        read_dictionary = _dictionary_columns(metadata, schema, columns) if dictionaries else None
    except ValueError as error:
        raise InputError(f"{path}: {error}; it is damaged, write it again or remove it, or {LEAVE_ALONE}") from None
    return pq.ParquetFile(
        source,
        metadata=metadata,
        read_dictionary=read_dictionary,
        page_checksum_verification=True,
        coerce_int96_timestamp_unit="ms",  # in ns, which is the default, the years after 2262 come out as others
    )


def _dictionary_columns(metadata: pq.FileMetaData, schema: pa.Schema, columns: ColumnNames) -> list[str]:
    """The columns to be read as dictionaries: of text, and of ids those that the file has as codes.

    Codes are read ten times as fast as the strings; but where the file has the strings, as it has of many distinct
    ones, making a dictionary of them while they are read is slower than afterwards.
    """
    found = [columns.theirs(name) for name in TEXT_COLUMNS if columns.theirs(name) in schema.names]
    for name in (columns.theirs(name) for name in ID_COLUMNS):
        if id_kind(schema.field(name).type) == STRING:
            at = [n for n in range(metadata.num_columns) if metadata.schema.column(n).path == name]
            size = sum(chunk.unpacked for n in at for chunk in column_chunks(metadata, n))
            if size < DICTIONARY_BYTES * metadata.num_rows:
                found.append(name)
    return found


def _check_column(path: str, schema: pa.Schema, ours: str, columns: ColumnNames) -> None:
    """Raises InputError where a column that must be there is not, is there twice, or of a type that cannot be read."""
    theirs = columns.theirs(ours)
    found = schema.get_all_field_indices(theirs)
    if not found and f"/{theirs}=" in path:
        raise InputError(
            f"{path}: no column {theirs!r} but in the name of its folder; write the column into the file as well"
        )
    if not found and columns.may_lack(ours):
        return
    if not found:
        way_out = f"; if the logs have none, --absent {ours}" if ours in MAY_BE_ABSENT else ""
        raise InputError(
            f"{path}: no column {theirs!r} (it has {', '.join(schema.names)}); "
            f"if it has another name, say --column {ours}=NAME{way_out}"
        )
    if len(found) > 1:
        raise InputError(f"{path}: {len(found)} columns are called {theirs!r}; write one of them, under that name")
    kind = schema.field(found[0]).type
    if not _type_fits(ours, kind):
        raise InputError(f"{path}: column {theirs!r} is {kind}; {_FIXES[ours]}")


def _type_fits(ours: str, found: pa.DataType) -> bool:
    if ours in TEXT_COLUMNS:
        value = found.value_type if pa.types.is_dictionary(found) else found
        text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        return any(is_kind(value) for is_kind in text)
    if ours == "duration_s":
        return pa.types.is_floating(found) or pa.types.is_integer(found) or pa.types.is_null(found)
    if ours in ID_COLUMNS:
        return id_kind(found) is not None
    if ours == "timestamp_ms" and pa.types.is_timestamp(found):
        return True
    return pa.types.is_integer(found)


def read_row_group(
    path: str, index: int, columns: ColumnNames, wanted: Collection[str] = COLUMNS, *, batch_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields (number of its first row in the file, batch) of some of our columns, under the logs' own names.

    A column that the file may lack and does is in no batch.

    Args:
        index: Of the row group.
        wanted: Of `COLUMNS`.
        batch_rows: At most so many rows per batch.

    Raises:
        InputError: as `open_log_file`; or pages that cannot be read: names the column and the rows.
    """
    names, done, first = [columns.theirs(name) for name in wanted], 0, 0
    for dictionaries in (True, False):
        skip = done
        try:
            with open_log_file(path, columns, dictionaries=dictionaries) as source:
                if columns.absent:
                    names = [name for name in names if name in source.schema_arrow.names]
                first = rows_before(source.metadata, index)
                for batch in source.iter_batches(batch_rows, row_groups=[index], columns=names, use_threads=False):
                    dropped = min(skip, batch.num_rows)  # yielded before pyarrow came to an encoding without dictionary
                    skip -= dropped
                    if dropped < batch.num_rows:
                        rows = batch.slice(dropped)
                        yield first + done, rows
                        done += rows.num_rows
            return
        except (pa.ArrowException, OSError) as error:
            if dictionaries:
                continue  # what is damaged fails again
            why = find_unreadable(lambda: open_log_file(path, columns, dictionaries=False), index, names, error)
            raise InputError(
                f"{path}: row group {index} cannot be read ({why}); the file is damaged, or of a kind that pyarrow "
                "does not read: write it again or remove it"
            ) from error


def describe_files(
    folder: str, date: datetime.date, columns: ColumnNames, days: PartitionDays = DEFAULT_DAYS
) -> list[LogFile]:
    """The files of a partition, each opened and its columns checked.

    Raises:
        InputError: as `list_data_files` and `open_log_file`.
    """
    return [describe_file(file, date, columns, days) for file in list_data_files(folder)]


def describe_file(file: DataFile, date: datetime.date, columns: ColumnNames, days: PartitionDays) -> LogFile:
    """A file of a partition, opened and its columns checked.

    Raises:
        InputError: as `open_log_file`.
    """
    opened = open_log_file(file.path, columns)
    metadata, schema = opened.metadata, opened.schema_arrow
    lacking = tuple(ours for ours, _ in columns.absent if columns.theirs(ours) not in schema.names)
    kinds = {name: id_kind(schema.field(columns.theirs(name)).type) or INT64 for name in ID_COLUMNS}
    with locations.open_input(file.path) as source:
        footer = footer_mark(source)
    version = f"{footer_digest(metadata)[:16]}-{file.modified_ns}"
    name = f"ds={date.isoformat()}/{file.name}"
    return LogFile(
        file.path,
        name,
        date,
        metadata.num_rows,
        file.bytes,
        version,
        footer,
        file.modified_ns,
        days,
        lacking,
        kinds["user_id"],
        kinds["pin_id"],
    )


def _refuse_missing(logs: str, partitions: Collection[datetime.date], wanted: Collection[datetime.date]) -> None:
    """Raises MissingPartitionError where a day has no partition."""
    missing = [day for day in wanted if day not in partitions]
    if missing:
        raise MissingPartitionError(
            f"{locations.join(logs, f'ds={missing[0].isoformat()}')}: missing partition"
            f"{f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''}; the newest there is "
            f"{max(partitions).isoformat()}; write it, an empty folder with _SUCCESS if there were no rows"
        )


@dataclasses.dataclass(frozen=True)
class InputSelection:
    """What a run reads: `files` in a fixed order, of which `late` lie in partitions that an earlier release read.

    Attributes:
        rewritten: Files that an earlier release read and that are not what they were; empty unless they are tolerated.
    """

    files: tuple[LogFile, ...]
    late: tuple[LogFile, ...]
    partitions: tuple[datetime.date, ...]
    rewritten: tuple[Rewritten, ...] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def lacking(self) -> list[str]:
        """Our columns that some file does not have, sorted."""
        return sorted({name for file in self.files for name in file.lacking})


def select_inputs(
    logs: str,
    *,
    first: datetime.date,
    last: datetime.date,
    lookback: int,
    chain_start: datetime.date,
    already_read: Mapping[str, FileRead],
    min_age_s: float,
    columns: ColumnNames,
    allow_missing: Collection[datetime.date] = (),
    days: PartitionDays = DEFAULT_DAYS,
    tolerate_rewritten: bool = False,
) -> InputSelection:
    """Picks the log files of a run.

    Of the partitions that earlier releases read, only files that nobody has read are opened: the others are known by
    what their folder lists.

    Args:
        first: The first partition that no release has read; may be after `last` (a date released again).
        last: The date of the run.
        lookback: How many partitions up to `last` are looked through for files that came late or changed.
        chain_start: The first partition that the root's first release read; earlier ones are nobody's.
        already_read: The files that the releases of the chain read, by name, as `files_read` gives them.
        min_age_s: A partition without `_SUCCESS` must be older than this.
        columns: The logs' own column names.
        allow_missing: Partitions that count as empty where they are missing.
        days: Which moments the days of the partitions have.
        tolerate_rewritten: Hand on what changed, for a caller who does something about it; of a partition that is
            gone nobody can.

    Raises:
        RewrittenError: a file of the lookback that was read has changed or gone since.
        InputError: a partition between `first` and `last` is missing or not complete, or a file is unusable.
    """
    partitions = list_partitions(logs)
    new = [first + datetime.timedelta(n) for n in range((last - first).days + 1)]
    new = [day for day in new if day in partitions or day not in allow_missing]
    _refuse_missing(logs, partitions, new)
    oldest = max(chain_start, last - datetime.timedelta(lookback))
    looked_back = [day for day in sorted(partitions) if oldest <= day < first and day <= last]
    listings = {day: list_data_files(partitions[day]) for day in [*looked_back, *new]}
    rewritten = find_rewritten(
        {**dict.fromkeys(partitions, ()), **listings}, already_read, oldest, min(last, first - datetime.timedelta(1))
    )
    if not tolerate_rewritten or any(one.partition_gone for one in rewritten):
        refuse_rewritten(logs, rewritten)

    def unread(day: datetime.date) -> list[LogFile]:
        names = {f"ds={day.isoformat()}/{file.name}": file for file in listings[day]}
        return [describe_file(file, day, columns, days) for name, file in names.items() if name not in already_read]

    files: list[LogFile] = []
    for day in new:
        check_complete(partitions[day], listings[day], min_age_s)
        files += unread(day)
    late = [file for day in looked_back for file in unread(day)]
    chosen = sorted([*files, *late], key=lambda f: f.name)
    return InputSelection(tuple(chosen), tuple(late), tuple(new), tuple(rewritten))
