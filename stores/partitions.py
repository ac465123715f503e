"""What lies in a folder that somebody else writes: every entry is data, known to be none, or refused by name."""

import dataclasses
import datetime
import re
import time

from stores import locations
from stores.errors import InputError
from stores.locations import Listed

DAY_MS = 86_400_000  # of `pinnerformer_model.days` too, which nothing in stores/ imports
MAX_DEPTH = 8  # of folders in a partition: a link that leads back into it would never end
_PARTITION = re.compile(r"ds=(\d{4}-\d{2}-\d{2})")
_PARQUET_NAMES = (".parquet", ".parq", ".pq")
LEAVE_ALONE = "begin its name with _ if it holds no rows"


@dataclasses.dataclass(frozen=True)
class PartitionDays:
    """Which moments a partition's day has.

    Attributes:
        max_clock_skew_s: A row so many seconds past the end of its partition's day is still taken: clocks differ.
        day_offset_s: How far ahead of UTC the days of the partitions are: -28800 where they are days of UTC-8, which
            begin at 08:00 UTC.
    """

    max_clock_skew_s: int = 0
    day_offset_s: int = 0

    def start_ms(self, date: datetime.date) -> int:
        """The first moment of a partition's day, in ms since 1970."""
        return (date - datetime.date(1970, 1, 1)).days * DAY_MS - self.day_offset_s * 1000

    def end_ms(self, date: datetime.date) -> int:
        """The moment that every row of a partition must be earlier than, in ms since 1970."""
        return self.start_ms(date) + DAY_MS + self.max_clock_skew_s * 1000

    def to_json(self) -> dict[str, int]:
        """What differs from the default, so that the settings of a run that is given nothing stay what they were."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


@dataclasses.dataclass(frozen=True)
class DataFile:
    """A file that holds rows, as its folder lists it.

    Attributes:
        path: Its location.
        name: Relative to the folder that was asked for, with `/`.
        bytes: Size.
        modified_ns: When it was written last, in ns since 1970.
        stamp: As `Listed` has it.
    """

    path: str
    name: str
    bytes: int
    modified_ns: int
    stamp: str = ""


def is_hidden(name: str) -> bool:
    """Whether writers and readers of tables leave a name alone: `_SUCCESS`, `_temporary`, `.x.crc`; `_hour=18` is data.

    That is the rule of Hive, Spark and Trino.
    """
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def is_marker(entry: Listed) -> bool:
    """Whether it is the empty object by which Hadoop marks a folder of an object store: `hour=18_$folder$`."""
    return entry.kind == "file" and entry.bytes == 0 and entry.name.endswith("_$folder$")


def list_visible(folder: str) -> list[Listed]:
    """What a folder holds beside hidden names and markers, sorted by name.

    Raises:
        OSError: it cannot be listed.
    """
    return [entry for entry in locations.list_entries(folder) if not is_hidden(entry.name) and not is_marker(entry)]


def list_data_files(folder: str, depth: int = 0) -> list[DataFile]:
    """The files of a partition, those in `hour=18/` folders too, sorted by name; whatever they are called.

    Some writers give no suffix (Trino, Hive, Athena, BigQuery), others one of their own: what a file is shows when it
    is opened.

    Raises:
        InputError: an entry that is neither a file nor a NAME=VALUE folder: its rows would not be read; or the folder
            cannot be listed.
    """
    found = []
    try:
        entries = list_visible(folder)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected a folder that this user may list") from None
    for entry in entries:
        path = locations.join(folder, entry.name)
        if entry.kind == "file":
            found.append(DataFile(path, entry.name, entry.bytes, entry.modified_ns, entry.stamp))
        elif entry.kind == "folder" and "=" in entry.name and depth < MAX_DEPTH:
            inner = list_data_files(path, depth + 1)
            found += [dataclasses.replace(file, name=f"{entry.name}/{file.name}") for file in inner]
        else:
            raise InputError(f"{path}: {_why_not_read(entry, depth)}; move its files up, or {LEAVE_ALONE}")
    return found


def _why_not_read(entry: Listed, depth: int) -> str:
    if entry.kind == "other":
        return "neither a file nor a folder, or a link that leads nowhere"
    if depth >= MAX_DEPTH:
        return f"more than {MAX_DEPTH} folders deep in a partition"
    return "a folder in a partition that is not NAME=VALUE, whose files would not be read"


def list_partitions(logs: str) -> dict[datetime.date, str]:
    """Date -> folder of every `ds=YYYY-MM-DD` partition.

    Raises:
        InputError: the folder is missing, has no partition, or has something with rows in it that is none.
    """
    folder = locations.absolute(logs)
    try:
        entries = locations.list_entries(folder)
    except OSError as error:
        raise InputError(
            f"--logs {logs}: {error.strerror}; expected a folder with ds=YYYY-MM-DD/*.parquet in it"
        ) from None
    found = {}
    for entry in entries:
        match = _PARTITION.fullmatch(entry.name)
        if match and entry.kind == "folder":
            try:
                date = datetime.date.fromisoformat(match[1])
            except ValueError:
                path = locations.join(folder, entry.name)
                raise InputError(f"{path}: not a date; rename or remove the folder") from None
            found[date] = locations.join(folder, entry.name)
    if not found:
        raise InputError(f"--logs {logs}: no ds=YYYY-MM-DD partition in it; expected ds=YYYY-MM-DD/*.parquet")
    for entry in entries:
        path = locations.join(folder, entry.name)
        if path not in found.values() and _holds_rows(entry):
            raise InputError(
                f"{path}: beside the ds=YYYY-MM-DD folders, where its rows would not be read; move it into the "
                f"partition that it belongs to, or {LEAVE_ALONE}"
            )
    return found


def _holds_rows(entry: Listed) -> bool:
    """Whether something beside the partitions looks like rows that belong into one: `ds=20261106`, `a.parquet`."""
    if is_hidden(entry.name) or is_marker(entry):
        return False
    if entry.name.lower().startswith("ds="):
        return True
    return "=" in entry.name if entry.kind == "folder" else entry.name.lower().endswith(_PARQUET_NAMES)


def complete_at(folder: str, files: list[DataFile], min_age_s: float) -> float:
    """When a partition counts as complete, if nothing more is written to it: seconds since 1970; 0 with `_SUCCESS`.

    Args:
        files: Of the partition.
    """
    if locations.exists(locations.join(folder, "_SUCCESS")):
        return 0.0
    return max([locations.modified_ns(folder), *(file.modified_ns for file in files)]) / 1e9 + min_age_s


def check_complete(folder: str, files: list[DataFile], min_age_s: float) -> None:
    """Refuses a partition that may still be growing.

    Args:
        files: Of the partition.

    Raises:
        InputError: it has no `_SUCCESS`, and its newest file is younger than `min_age_s`.
    """
    if time.time() < complete_at(folder, files, min_age_s):
        raise InputError(
            f"{folder}: not complete yet: no _SUCCESS in it and it changed less than {min_age_s / 3600:g} h ago; "
            "wait (daily --wait 8h does), write _SUCCESS, or lower --min-age"
        )
