"""Log files that a release has read and that are not what they were: written again, or gone."""

import dataclasses
import datetime
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from stores import locations
from stores.errors import InputError
from stores.footers import footer_mark
from stores.manifests import Manifest
from stores.object_stores import is_url
from stores.partitions import DataFile, list_data_files, list_partitions

MODIFIED = "inputs_modified_ns"  # the key of a manifest's settings: when each of its inputs had been written
SHOWN = 3


class RewrittenError(InputError):
    """Log files that were read have changed since, and nobody said what to do."""


@dataclasses.dataclass(frozen=True)
class FileRead:
    """A log file as it was when it was read; None where an older manifest does not say.

    Attributes:
        release: That read it, the last of them if several did.
        footer: As `footer_mark` gives it.
        modified_ns: When it had been written, in ns since 1970.
    """

    release: str
    rows: int | None
    bytes: int | None
    footer: str | None
    modified_ns: int | None


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """A log file that was read and is not what it was.

    Attributes:
        name: As a manifest has it.
        date: Of its partition.
        what: How it differs, in words.
        partition_gone: Whether its whole partition is missing, so that there is nothing to read in its place.
    """

    name: str
    date: datetime.date
    what: str
    partition_gone: bool = False


def date_of(name: str) -> datetime.date | None:
    """The date of the partition that a manifest's name of a log file lies in; None if it is no such name."""
    try:
        return datetime.date.fromisoformat(name.removeprefix("ds=").partition("/")[0])
    except ValueError:
        return None


def files_read(releases: Iterable[Manifest]) -> dict[str, FileRead]:
    """Name -> how it was when it was last read, of every log file that a chain stands on.

    A repair reads every partition that is still there again: what older releases say of these no longer counts.

    Args:
        releases: Newest first.
    """
    found: dict[str, FileRead] = {}
    replaced_from: datetime.date | None = None
    for manifest in releases:
        written = manifest.settings.get(MODIFIED)
        written = written if isinstance(written, list) else []  # an older manifest has none
        for number, entry in enumerate(manifest.inputs):
            date = date_of(entry["path"])
            if entry["path"] in found or (replaced_from and date and date >= replaced_from):
                continue
            modified = written[number] if number < len(written) else None
            numbers = (entry.get("rows"), entry.get("bytes"), entry.get("version"))
            found[entry["path"]] = FileRead(manifest.release, *numbers, modified)
        if str(manifest.settings.get("run", "")).startswith("repair-"):
            dates = [date for entry in manifest.inputs if (date := date_of(entry["path"]))]
            replaced_from = min([*dates, replaced_from or datetime.date.max])
    return found


def find_rewritten(
    listings: Mapping[datetime.date, Collection[DataFile]],
    read: Mapping[str, FileRead],
    first: datetime.date,
    last: datetime.date,
    *,
    thorough: bool = False,
    times_from: datetime.date = datetime.date.min,
) -> list[Rewritten]:
    """The files of some days that were read and have changed or gone since.

    Size and time come with the listing; a footer is looked at where that is cheap, which is on local files. A day
    without a partition is no finding if there is no older one either: the logs do not reach back so far any more.

    Args:
        listings: Partition -> its files as they are now; days in between that are missing are gone.
        read: As `files_read` gives it.
        first, last: The days to look at, inclusive.
        thorough: Look at every footer.
        times_from: Of older days, a file that was only touched, or copied, is what it was: its footer says so.
    """
    oldest = min(listings, default=datetime.date.max)
    by_day: dict[datetime.date, list[str]] = {}
    for name in read:
        date = date_of(name)
        if date and first <= date <= last:
            by_day.setdefault(date, []).append(name)
    found = []
    for date, names in sorted(by_day.items()):
        if date not in listings:
            if date > oldest:
                found += [Rewritten(name, date, "gone, with its partition", True) for name in sorted(names)]
            continue
        there = {f"ds={date.isoformat()}/{file.name}": file for file in listings[date]}
        for name in sorted(names):
            before = read[name] if date >= times_from else dataclasses.replace(read[name], modified_ns=None)
            what = _difference(there[name], before, thorough) if name in there else "gone"
            if what:
                found.append(Rewritten(name, date, what))
    return found


def _difference(file: DataFile, before: FileRead, thorough: bool) -> str | None:
    if before.bytes is not None and file.bytes != before.bytes:
        return f"{file.bytes:,} bytes, {before.bytes:,} when {before.release} read it"
    if before.modified_ns is not None and file.modified_ns != before.modified_ns:
        stamp = datetime.datetime.fromtimestamp(file.modified_ns / 1e9, datetime.UTC)
        return f"written again, {stamp.isoformat(sep=' ', timespec='seconds')}"
    if before.modified_ns is not None and not thorough and is_url(file.path):
        return None  # size and time have to do: a footer costs a request
    if before.footer is None and before.rows is None:
        return None
    try:
        with locations.open_input(file.path) as source:
            if before.footer is not None:
                return "its footer is another" if footer_mark(source) != before.footer else None
            rows = pq.read_metadata(source).num_rows
    except (pa.ArrowException, OSError, ValueError):
        return "not readable any more"
    return f"{rows:,} rows, {before.rows:,} when {before.release} read it" if rows != before.rows else None


def find_rewritten_logs(
    logs: str, releases: Sequence[Manifest], lookback: int, *, thorough: bool = False
) -> list[Rewritten]:
    """What the night after the newest release would find changed in its lookback.

    Args:
        releases: The chain, newest first; none, nothing was read.
        lookback: As `daily --lookback`.

    Raises:
        InputError: the logs cannot be listed.
    """
    if not releases:
        return []
    last = releases[0].day
    start = datetime.date.fromisoformat(releases[-1].settings["bootstrap_from"])
    first = max(start, last + datetime.timedelta(1) - datetime.timedelta(lookback))
    partitions = list_partitions(logs)
    listings = {d: list_data_files(folder) if first <= d <= last else [] for d, folder in partitions.items()}
    return find_rewritten(listings, files_read(releases), first, last, thorough=thorough)


def describe_rewritten(logs: str, found: Collection[Rewritten]) -> str:
    """One line on what changed: the first files by name, and how many more."""
    shown = [f"{locations.join(logs, *one.name.split('/'))} ({one.what})" for one in list(found)[:SHOWN]]
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return f"{', '.join(shown)}{more}"


def repair_flags(found: Iterable[Rewritten]) -> str:
    """The flags of `repair` that name the partitions of what changed."""
    return " ".join(f"--partition {date}" for date in sorted({one.date for one in found}))


def advise(found: Collection[Rewritten]) -> str:
    """What to type about what changed."""
    gone = sorted({one.date for one in found if one.partition_gone})
    if gone:
        return (
            f"restore ds={gone[0]}, or write an empty folder with _SUCCESS if its rows are to go; then, with the flags "
            f"of this command: pinnerformer repair {repair_flags(found)}"
        )
    return (
        f"do again what they touched, with the flags of this command: pinnerformer repair {repair_flags(found)}; or "
        "let the night do so: --rewritten-partitions repair"
    )


def refuse_rewritten(logs: str, found: Collection[Rewritten]) -> None:
    """Refuses a run whose logs are not those that its histories were built from.

    Raises:
        RewrittenError: names the files, how they differ, and what to type.
    """
    if found:
        count = f"{len(found):,} log file{'s'[: len(found) > 1]} that a release has read"
        verb = "have" if len(found) > 1 else "has"
        raise RewrittenError(f"{describe_rewritten(logs, found)}: {count} {verb} changed since; {advise(found)}")
