"""What `pinnerformer init` finds by looking at logs and vectors: first and last day, names of columns, widths.

Only names, footers and one schema of each are read: seconds, whatever the size.
"""

import dataclasses
import datetime
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations
from stores.column_names import LOG_COLUMNS, MAY_BE_ABSENT
from stores.errors import InputError
from stores.partitions import list_data_files, list_partitions
from stores.pin_vectors import list_vector_files
from stores.vector_version import VERSION_FILE

# What others call our columns, without `_` and case, the likeliest first. Only names whose unit is ours: what is in
# milliseconds is no `duration_s`.
KNOWN_AS = {
    "user_id": "user userid uid customerid customer memberid accountid visitorid householdid viewerid",
    "pin_id": "item itemid sku productid product articleid contentid movieid trackid songid postid videoid venueid",
    "timestamp_ms": "timestamp ts time eventtime eventtimestamp createdat occurredat",
    "action": "event eventtype eventname actiontype verb",
    "surface": "page placement channel screen",
    "duration_s": "duration durationsec durationseconds dwellseconds dwelltime dwell",
}
VECTOR_AS = "embedding emb vec features itemembedding"


@dataclasses.dataclass(frozen=True)
class LogsFound:
    """What the logs look like.

    Attributes:
        first, last: Days of the oldest and the newest partition.
        partitions: How many days are there.
        unmarked: Of these, how many have no `_SUCCESS`.
        columns: Names in a file of the newest partition, as they are.
        named: Ours -> theirs, where theirs is another name that was recognised.
        missing: Of our columns, those that no column was recognised for.
    """

    first: datetime.date
    last: datetime.date
    partitions: int
    unmarked: int
    columns: tuple[str, ...]
    named: dict[str, str]
    missing: tuple[str, ...]

    @property
    def may_be_absent(self) -> list[str]:
        return [name for name in self.missing if name in MAY_BE_ABSENT]


@dataclasses.dataclass(frozen=True)
class VectorsFound:
    """What a vector set looks like: its version as `version.json` has it, empty without one, and its columns."""

    version: str
    columns: tuple[str, ...]
    pin: str
    vector: str


def look_at_logs(logs: str) -> LogsFound:
    """Looks at the logs.

    Raises:
        InputError: there are no partitions, or no file in the newest.
    """
    partitions = list_partitions(logs)
    columns: tuple[str, ...] = ()
    for day in sorted(partitions, reverse=True):  # the newest may be empty
        if files := list_data_files(partitions[day]):
            columns = _columns_of(files[0].path)
            break
    named = recognise(columns)
    return LogsFound(
        first=min(partitions),
        last=max(partitions),
        partitions=len(partitions),
        unmarked=sum(not locations.exists(locations.join(folder, "_SUCCESS")) for folder in partitions.values()),
        columns=columns,
        named={ours: theirs for ours, theirs in named.items() if ours != theirs},
        missing=tuple(name for name in LOG_COLUMNS if name not in named),
    )


def look_at_vectors(pins: str) -> VectorsFound:
    """Looks at a vector set.

    Raises:
        InputError: there is no folder, or no Parquet file in it.
    """
    files = list_vector_files(pins)
    if not files:
        raise InputError(f"--pins {pins}: no file in it; expected Parquet files")
    columns = _columns_of(files[0].path)
    try:
        version = str(json.loads(locations.read_bytes(locations.join(pins, VERSION_FILE)))["pinsage_version"])
    except (OSError, ValueError, KeyError, TypeError):
        version = ""
    pin = _first_of(columns, "pin_id", KNOWN_AS["pin_id"].split()) or "pin_id"
    return VectorsFound(version, columns, pin, _first_of(columns, "vector", VECTOR_AS.split()) or "vector")


def recognise(columns: tuple[str, ...]) -> dict[str, str]:
    """Ours -> theirs of the columns whose name says what they are; each of theirs is taken for one of ours."""
    found = {ours: ours for ours in LOG_COLUMNS if ours in columns}
    for ours in LOG_COLUMNS:
        left = tuple(name for name in columns if name not in found.values())
        theirs = found.get(ours) or _first_of(left, ours, KNOWN_AS[ours].split())
        if theirs:
            found[ours] = theirs
    return found


def _first_of(columns: tuple[str, ...], ours: str, others: list[str]) -> str | None:
    """Our own name if it is there, else the first that is known for ours, the likeliest first."""
    plain = {re.sub(r"[\W_]", "", name).lower(): name for name in reversed(columns)}
    return next((plain[name] for name in (ours.replace("_", ""), *others) if name in plain), None)


def _columns_of(path: str) -> tuple[str, ...]:
    try:
        with locations.open_input(path) as source:
            return tuple(pq.read_schema(source).names)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}; expected a Parquet file") from None
