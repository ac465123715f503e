"""The manifest: everything a release consists of, in one file that never changes."""

import dataclasses
import datetime
import hashlib
import json
import re
from typing import Any

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.names import Counter, Step
from stores.tables import NAME_TABLES, TABLES
from stores.upgrades import FILE_ENTRY, MANIFEST, MANIFEST_FORMAT, Record, fields_of, read_record, upgrade, write_record

DIGEST = "digest"  # the key, last in the file, of what the rest of it is compared with
FORMAT = MANIFEST_FORMAT  # of a manifest and of everything that it names


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One release: `ROOT/releases/<release>/manifest.json`.

    Attributes:
        release: Its id: the date, with `.2`, `.3`, ... where a date was released again.
        date: The UTC day whose logs it includes last.
        previous: The release it was built on; None for the first.
        model_digest: Of the model that made every vector in it.
        tables: Table name -> its files.
        inputs: Every log file that this release read: `path` relative to the logs, `rows`, `bytes`.
        settings: How the run was configured, as far as it affects the result.
        counters: Step -> counter -> number.
        gates: What was checked: `name`, `measured`, `threshold`, `passed`, and the reason if an operator `forced` it.
        timings: Step -> seconds of work, summed over workers.
        retry_users: Users whose inference failed, to be tried again the next night.
        dropped: Tables whose files were removed by `gc`; they are empty here. What was read, counted and checked stays.
        revision: Raised where `gc` or `erase` wrote the manifest again.
        format: `FORMAT` of the version that wrote it.
        statistics: What the next releases are compared with: distributions, name -> counts per bin; `hindsight`, the
            look back at the release before; `cannot_see`, gates that could not tell and why.
        extra: Keys that a newer version wrote and this one does not know; written again with the others.
        extra_of_files: Likewise of the files: path -> keys. They go with the file: where one is written again, its
            successor has another path.
    """

    release: str
    date: str
    previous: str | None
    model_digest: str
    tables: dict[str, list[FileEntry]]
    inputs: list[dict[str, Any]]
    settings: dict[str, Any]
    counters: dict[str, dict[str, int]]
    gates: list[dict[str, Any]]
    timings: dict[str, float]
    retry_users: list[int]
    statistics: dict[str, Any] = dataclasses.field(default_factory=dict)
    dropped: list[str] = dataclasses.field(default_factory=list)
    revision: int = 1
    format: int = FORMAT
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    extra_of_files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def parts(self, table: str) -> dict[int, list[FileEntry]]:
        """Part -> its files, in the order of the manifest; nothing of names where ids are numbers."""
        parts: dict[int, list[FileEntry]] = {}
        for entry in self.tables.get(table, ()) if table in NAME_TABLES else self.tables[table]:
            parts.setdefault(entry.part, []).append(entry)
        return parts

    def rows(self, table: str) -> int:
        """Rows of a table over all parts."""
        return sum(entry.rows for entry in self.tables[table])

    def count(self, step: Step, counter: Counter) -> int:
        """What a step counted; 0 where it did not run, or where the version that wrote this did not count it."""
        return self.counters.get(step, {}).get(counter, 0)

    @property
    def day(self) -> datetime.date:
        return datetime.date.fromisoformat(self.date)

    @property
    def data_until(self) -> datetime.datetime:
        """When the data of the release ends: the midnight, UTC, after the day whose logs it includes last."""
        return datetime.datetime.combine(self.day, datetime.time(), datetime.UTC) + datetime.timedelta(1)

    def to_json(self) -> dict[str, Any]:
        """A plain dict, keys in the order of the fields; those of a newer version after them."""
        content = write_record(self)
        of_files = content.pop("extra_of_files")
        for entries in content["tables"].values() if of_files else ():
            for entry in entries:
                entry |= of_files.get(entry["path"], {})
        return content

    @classmethod
    def from_json(cls, found: dict[str, Any], source: str) -> "Manifest":
        """Reads what `to_json` gave.

        Args:
            source: The path to name in an error.

        Raises:
            StoreError: a key is missing or of another type, or a version wrote it whose format this one does not read.
        """
        try:
            keys = fields_of(cls) - {"extra_of_files"}
            record = upgrade(MANIFEST, found, source, keys)
            if not set(record["tables"]) >= set(TABLES):
                raise ValueError(f"tables must be {list(TABLES)}, found {sorted(record['tables'])}")
            tables = {
                name: [read_entry(entry, f"{name}/") for entry in entries] for name, entries in record["tables"].items()
            }
            # Whatever a later step opens, counts or divides by: found here it names the manifest, found there it is a
            # traceback.
            _check_fields(record)
            return cls(
                **{name: record[name] for name in keys if name != "tables"},
                tables=tables,
                extra={name: value for name, value in record.items() if name not in keys},
                extra_of_files=_extra_of_files(record),
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise StoreError(f"{source}: not a manifest ({error}); restore it from a backup of the root") from error


def _extra_of_files(record: Record) -> dict[str, dict[str, Any]]:
    """Path -> the keys of a file entry that this version does not know."""
    known = fields_of(FileEntry)
    return {
        entry["path"]: {name: value for name, value in entry.items() if name not in known}
        for entries in record["tables"].values()
        for entry in entries
        if entry.keys() != known
    }


def read_entry(found: dict[str, Any], folder: str) -> FileEntry:
    """A file as a manifest names it; nothing outside its folder can be named, whoever wrote the manifest.

    Args:
        folder: What its path must begin with, with a `/` at the end.

    Raises:
        ValueError, TypeError: not an entry, or a path that leads elsewhere.
    """
    entry = read_record(FILE_ENTRY, FileEntry, found, folder)
    path = entry.path
    inside = isinstance(path, str) and path.startswith(folder) and not set(path) & set("\\\0\n")
    if not inside or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"path {path!r} is not in {folder}")
    for name in ("part", "rows", "bytes"):
        number = getattr(entry, name)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 62:
            raise ValueError(f"{path}: {name} is {number!r}")
    if not isinstance(entry.checksum, str) or not re.fullmatch(r"[0-9a-f]{64}", entry.checksum):
        raise ValueError(f"{path}: checksum is {entry.checksum!r}")
    return entry


def _check_fields(found: dict[str, Any]) -> None:
    """Raises ValueError where a field is of another type than the job relies on."""
    for name in ("release", "date", "model_digest"):
        if not isinstance(found[name], str):
            raise ValueError(f"{name} is {found[name]!r}")
    check_release_id(found["release"])
    if found["previous"] is not None:
        check_release_id(found["previous"])
    datetime.date.fromisoformat(found["date"])
    if not re.fullmatch(r"[0-9a-f]*", found["model_digest"]):
        raise ValueError(f"model_digest is {found['model_digest']!r}")
    for name in ("settings", "counters", "timings", "statistics"):
        if not isinstance(found[name], dict):
            raise ValueError(f"{name} is not an object")
    if not all(isinstance(counts, dict) for counts in found["counters"].values()):
        raise ValueError("counters are not counted by step")
    if not all(isinstance(file, dict) and isinstance(file.get("path"), str) for file in found["inputs"]):
        raise ValueError("an input has no path")
    if not all(isinstance(user, int) for user in found["retry_users"]):
        raise ValueError("retry_users are not user ids")
    if not all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in found["tables"]):
        raise ValueError(f"tables are called {sorted(found['tables'])}")
    if not set(found["dropped"]) <= set(found["tables"]) or not isinstance(found["revision"], int):
        raise ValueError("dropped or revision is not understood")


def check_release_id(release: str) -> None:
    """Raises ValueError where a release id could be read as a path."""
    if not isinstance(release, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", release):
        raise ValueError(f"{release!r} is not a release id")


def manifest_path(release: str) -> str:
    return f"releases/{release}/manifest.json"


def read_manifest(root: Root, release: str) -> Manifest:
    """The manifest of a release.

    Raises:
        StoreError: there is no such release, or its manifest is damaged.
    """
    try:
        check_release_id(release)
    except ValueError as error:
        raise StoreError(f"{root.url}: {error}; releases are called 2026-11-24 or 2026-11-24.2") from None
    relative = manifest_path(release)
    try:
        found = root.read_json(relative)
        digest = found.pop(DIGEST, "") if isinstance(found, dict) else ""
        manifest = Manifest.from_json(found, root.path(relative))
        # Files have checksums in the manifest; the manifest has nobody above it, so it carries its own.
        if digest != _digest(found):
            raise StoreError(
                f"{root.path(relative)}: not a manifest as it was written (its {DIGEST} is another); it was changed or "
                "damaged since, restore it from a backup of the root"
            )
        return manifest
    except FileNotFoundError:
        raise StoreError(f"{root.path(relative)}: no such file; is {release!r} a release of this root?") from None


def write_manifest(root: Root, manifest: Manifest) -> None:
    """Writes a manifest; until CURRENT names it, directly or through a later release, it is nobody's yet."""
    content = manifest.to_json()
    root.write_json(manifest_path(manifest.release), {**content, DIGEST: _digest(content)})


def _digest(content: dict[str, Any]) -> str:
    """Hex sha256 of a manifest's content, however it is laid out: a flipped bit in a count shows in no other way."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
