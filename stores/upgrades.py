"""The one door for what another version wrote: a record comes in as it was written and leaves in today's form.

A root outlives the version that made it; and while machines are upgraded one by one, two versions read the same files.
Manifests, layouts, holds, the records of a key-value store and the reports of runs are read through here, so that
nothing else has to know what they once were. Three rules keep both versions going:

- A new fact stands under a key of its own. A version that does not know the key reads past it, and keeps it where it
  writes the record again. The version in which the key is new finds it missing in older records: a step below says what
  that means.
- What an older version would MISREAD raises the record's `format` instead: that version then says so and stops. A
  change below brings the older format into the new one. (Another table of a release is no such change: servers and
  nights read past it, and `erase`, which would pass its users by, refuses.)
- `format` is the name of that number in every record, and of nothing else.

To change a record: write its `Change`, raise its `format` if the second rule says so, and put a small root of the
version before into `tests/old_roots`. (The lease lives for minutes, and completion markers for one run: they are read
as they are, and count for nothing where they cannot be.)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from stores.errors import StoreError
from stores.files import Root

Record = dict[str, Any]  # a JSON object
T = TypeVar("T")

EXTRA = "extra"  # the field of a record's class that keeps what a newer version wrote beside


@dataclasses.dataclass(frozen=True)
class Change:
    """One change of a kind of record.

    Attributes:
        of_format: Records of this format may be from before the change, those of older ones are.
        apply: Record -> record after the change. It changes nothing of a record that has been changed already, and
            never the record that it is given.
    """

    of_format: int
    apply: Callable[[Record], Record]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of record.

    Attributes:
        name: In messages.
        changes: From the oldest form to today's, in the order in which the form changed.
        format: Of today's form; None for what stands inside another record, whose format speaks for it.
        oldest: The oldest format that the changes start from.
        unmarked: The format of a record that names none.
        always: A key of every format; a record that lacks it and names no format is damaged, not old.
        keys: Of today's form, where no class says them.
        way_out: For whoever has a record that is too old.
    """

    name: str
    changes: tuple[Change, ...] = ()
    format: int | None = 1
    oldest: int = 1
    unmarked: int = 1
    always: str = ""
    keys: frozenset[str] = frozenset()
    way_out: str = "make it again"


def complete_layout(layout: Record) -> Record:
    """A layout may leave out what never was another: 256 engagements a user, vectors of float16, ids of int64."""
    never_another = {"history_length": 256, "embedding_dtype": "float16", "user_ids": "int64", "pin_ids": "int64"}
    return {**never_another, **layout}


def complete_generation(generation: Record) -> Record:
    """A generation that does not say when it was retired is served, or unfinished."""
    return {"retired_at": None, **generation}


def count_tasks(report: Record) -> Record:
    """The tasks of a step were called its parts."""
    if "parts" not in report:
        return report
    return {"tasks" if name == "parts" else name: value for name, value in report.items()}


def complete_report(report: Record) -> Record:
    """A report that says nothing of what parts were made of, or of when it was done, has nothing to say."""
    return {"facts": {}, "began": None, "ended": None, **report}


NEW_ROOT = "make a new root with `pinnerformer backfill`"
MANIFEST_FORMAT = 1  # manifests from before it name none, and cannot be brought into it
MANIFEST = Kind("manifest", format=MANIFEST_FORMAT, unmarked=0, always="release", way_out=NEW_ROOT)
FILE_ENTRY = Kind("file", format=None)
LAYOUT = Kind("layout", changes=(Change(1, complete_layout),), way_out=NEW_ROOT)
HOLD = Kind("hold", way_out="lift it with `pinnerformer rollback --lift-hold`")
MOVE = Kind("move", way_out="lift it with `pinnerformer rollback --lift-hold`")
STORE_CURRENT = Kind("`current`", way_out="publish a release again")
STORE_GENERATION = Kind("generation", changes=(Change(1, complete_generation),), way_out="publish a release again")
STAGED_RUN = Kind("staged run", keys=frozenset({"manifest", "reports"}), way_out="start the run again")
REPORT = Kind("report", changes=(Change(1, count_tasks), Change(1, complete_report)), format=None)
GATE = Kind("gate", format=None)
RUN_OUTCOME = Kind(
    "outcome",
    keys=frozenset({"outcome", "release", "refused", "publish", "error"}),
    way_out="start the run again, or remove its folder",
)
SUBMITTED_RUN = Kind("submitted run", keys=frozenset({"engine", "job", "submitted"}), way_out="start the run again")
TIMELINES = Kind(
    "timelines",
    keys=frozenset(
        {"start", "end", "pinsage_version", "action_vocabulary", "surface_vocabulary", "label_rule"}
        | {"evaluation_share", "split_salt", "pins", "counts", "events", "files"}
    ),
    way_out="make them again with `pinnerformer training-data`",
)


def upgrade(kind: Kind, found: Any, source: str, keys: frozenset[str] | None = None) -> Record:
    """A record in today's form; keys that this version does not know are still in it.

    Args:
        found: As it was read; it is not changed.
        source: What to name in an error: the path, or the store.
        keys: Of today's form; None: those of the kind.

    Raises:
        StoreError: it has a format that this version does not read.
        ValueError: it is no such record; it was damaged, or is something else.
    """
    keys = kind.keys if keys is None else keys
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    version = check_format(kind, found, source)
    missing, unknown = keys - found.keys(), found.keys() - keys - {"format"}
    if missing and unknown and version is not None and version == kind.format:
        # Either is another version's; both are one name, damaged.
        raise ValueError(f"keys missing or unknown: {sorted(missing | unknown)}")
    for change in kind.changes:
        if version is None or version <= change.of_format:
            found = change.apply(found)
    if missing := keys - found.keys():
        raise ValueError(f"keys missing or unknown: {sorted(missing)}")
    return found


def format_of(kind: Kind, found: Record) -> int:
    """The format that a record is of.

    Raises:
        ValueError: it names something that is no format.
    """
    version = found.get("format", kind.unmarked)
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError(f"format is {version!r}")
    return version


def check_format(kind: Kind, found: Record, source: str) -> int | None:
    """Tells a record of another version from a damaged one; returns its format.

    Raises:
        StoreError: this version does not read that format; says which does, and what to do.
        ValueError: it names something that is no format.
    """
    if kind.format is None or ("format" not in found and kind.always and kind.always not in found):
        return kind.format
    version = format_of(kind, found)
    if kind.oldest <= version <= kind.format:
        return version
    age, way_out = ("a newer", "upgrade pinnerformer") if version > kind.format else ("an older", kind.way_out)
    reads = f"format {kind.format}" if kind.oldest == kind.format else f"formats {kind.oldest} to {kind.format}"
    raise StoreError(
        f"{source}: {kind.name} format {version}, made by {age} version; this one reads {reads}: run the version that "
        f"made it, or {way_out}"
    )


def fields_of(cls: Any) -> frozenset[str]:
    """The keys that a record's class stands for."""
    return _fields_of(cls)


@functools.cache
def _fields_of(cls: Any) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(cls)) - {EXTRA}


def read_record(kind: Kind, cls: type[T], found: Any, source: str) -> T:
    """An instance of a dataclass from the record that stands for it.

    What a newer version wrote beside goes into the class's field `extra`, if it has one: for what is written again.

    Raises:
        StoreError, ValueError: As `upgrade`. TypeError, or whatever the class itself raises: a value is not one.
    """
    keys = fields_of(cls)
    if kind.format is None and isinstance(found, dict) and found.keys() == keys:
        return cls(**found)  # the file entries of a manifest are many
    record = upgrade(kind, found, source, keys)
    known = {name: record[name] for name in keys}
    if any(field.name == EXTRA for field in dataclasses.fields(cls)):  # type: ignore[arg-type]
        known[EXTRA] = {name: value for name, value in record.items() if name not in keys}
    return cls(**known)


def write_record(instance: Any) -> Record:
    """The record of a dataclass's instance: its fields in their order, then what a newer version wrote beside."""
    record = dataclasses.asdict(instance)
    return record | record.pop(EXTRA, {})


def read_settings(cls: type[T], found: Record) -> T:
    """Settings of a run, as far as this version has them; those that it has and the run had not are at their defaults.

    Raises:
        TypeError: a value is not one.
    """
    return cls(**{name: value for name, value in found.items() if name in fields_of(cls)})


def read_json_record(root: Root, relative: str, kind: Kind) -> Record:
    """A JSON file under a root that a kind names the keys of.

    Raises:
        FileNotFoundError: no such file.
        StoreError: it is damaged, or of a format that this version does not read.
    """
    path = root.path(relative)
    try:
        return upgrade(kind, root.read_json(relative), path)
    except ValueError as error:
        raise StoreError(f"{path}: not understood ({error}); {kind.way_out}") from None
