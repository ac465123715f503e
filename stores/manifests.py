"""The manifest: everything a release consists of, in one file that never changes."""

import dataclasses
import datetime
from typing import Any

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.tables import TABLES


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
        settings: What the run was told, as far as it bears on the result.
        counters: Stage -> counter -> number.
        gates: What was checked: `name`, `measured`, `threshold`, `passed`, and the reason if an operator `forced` it.
        timings: Stage -> seconds of work, summed over workers.
        retry_users: Users whose inference failed, to be tried again the next night.
        statistics: Distributions that the next releases are compared with: name -> counts a bin.
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
    statistics: dict[str, list[int]] = dataclasses.field(default_factory=dict)

    def parts(self, table: str) -> dict[int, list[FileEntry]]:
        """Part -> its files, in the order of the manifest."""
        parts: dict[int, list[FileEntry]] = {}
        for entry in self.tables[table]:
            parts.setdefault(entry.part, []).append(entry)
        return parts

    def rows(self, table: str) -> int:
        """Rows of a table over all parts."""
        return sum(entry.rows for entry in self.tables[table])

    @property
    def day(self) -> datetime.date:
        return datetime.date.fromisoformat(self.date)

    def to_json(self) -> dict[str, Any]:
        """A plain dict, keys in the order of the fields."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any], source: str) -> "Manifest":
        """Reads what `to_json` gave.

        Args:
            source: The path to name in an error.

        Raises:
            StoreError: a key is missing, unknown or of another type.
        """
        try:
            expected = {f.name for f in dataclasses.fields(cls)}
            if set(found) != expected:
                raise ValueError(f"keys missing or unknown: {sorted(expected ^ set(found))}")
            if set(found["tables"]) != set(TABLES):
                raise ValueError(f"tables must be {list(TABLES)}, found {sorted(found['tables'])}")
            tables = {name: [FileEntry(**entry) for entry in entries] for name, entries in found["tables"].items()}
            datetime.date.fromisoformat(found["date"])
            return cls(**{**found, "tables": tables})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise StoreError(f"{source}: not a manifest ({error}); restore it from a backup of the root") from error


def manifest_path(release: str) -> str:
    return f"releases/{release}/manifest.json"


def read_manifest(root: Root, release: str) -> Manifest:
    """The manifest of a release.

    Raises:
        StoreError: there is no such release, or its manifest is damaged.
    """
    relative = manifest_path(release)
    try:
        return Manifest.from_json(root.read_json(relative), root.path(relative))
    except FileNotFoundError:
        raise StoreError(f"{root.path(relative)}: no such file; is {release!r} a release of this root?") from None


def write_manifest(root: Root, manifest: Manifest) -> None:
    """Writes a manifest; until CURRENT names it, directly or through a later release, it is nobody's yet."""
    root.write_json(manifest_path(manifest.release), manifest.to_json())
