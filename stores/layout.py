"""layout.json: what is fixed when a root is made."""

import dataclasses
import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping
from typing import Any

from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.local_files import use_file_mode
from stores.string_ids import INT64, KINDS, SCHEME, STRING
from stores.upgrades import LAYOUT, read_record

ID_FIELDS = ("user_ids", "pin_ids")
ID_SCHEME = "id_scheme"  # in layout.json, where ids are strings: how they are hashed


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a root is cut up.

    Attributes:
        user_buckets: Parts of `histories` and `user_embeddings`; a job that is not told takes `choose_counts`.
        pin_shards: Parts of `pin_embeddings` and `indexes`; likewise.
        history_length: Engagements kept per user; at least the model's `max_sequence_length`.
        embedding_dtype: Of the stored vectors; float16 is the only one.
        user_ids, pin_ids: What ids are outside: "int64", or "string", which inside are the numbers of
            `stores.string_ids`. What the first logs have.
    """

    user_buckets: int = 64
    pin_shards: int = 4
    history_length: int = 256
    embedding_dtype: str = "float16"
    user_ids: str = INT64
    pin_ids: str = INT64

    def __post_init__(self):
        for name in ("user_buckets", "pin_shards", "history_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} must be a positive whole number, got {value!r}")
        if self.embedding_dtype != "float16":
            raise UsageError(f"embedding_dtype must be float16, got {self.embedding_dtype!r}")
        for name in ID_FIELDS:
            if getattr(self, name) not in KINDS:
                raise UsageError(f"{name} must be one of {', '.join(KINDS)}, got {getattr(self, name)!r}")

    @property
    def has_strings(self) -> bool:
        """Whether users or pins have names: then releases have tables of them."""
        return STRING in (self.user_ids, self.pin_ids)

    def to_json(self) -> dict[str, Any]:
        """What layout.json, manifests and names of runs have of it: of ids nothing where all are int64."""
        fields = dataclasses.asdict(self)
        if self.has_strings:
            return {**fields, ID_SCHEME: SCHEME}
        return {name: value for name, value in fields.items() if name not in ID_FIELDS}


BUCKET_DAY_BYTES = 32 << 20  # of new rows per bucket: engines keep a key's values together, and sort them on their heap
BUCKET_HISTORY_ROWS = 4_000_000  # a merge holds a bucket about four times: 0.6 GB
ROW_BYTES = 36  # of a log row in the shuffle: three int64, two dictionary codes, a float


FIRST_BUCKET_ROWS = 1 << 18  # of the first release's log rows: histories may grow 15 times before a bucket is large
FIRST_SHARD_PINS = 1 << 20  # indexed by one thread: 17 minutes; five times as many would take two hours
# Of fewer rows or pins there are enough parts to be spread over a few workers, where each is worth a task.
SPREAD_BUCKETS, SPREAD_BUCKET_ROWS = 8, 1 << 12
SPREAD_SHARDS, SPREAD_SHARD_PINS = 4, 1 << 15
MOST_PARTS = 1 << 15


def choose_counts(first_rows: int, pins: int) -> dict[str, int]:
    """How many buckets and shards a root gets that is told nothing; docs/design.md says what was measured.

    A bucket is a few files and tasks of every night, however few rows it has, and every shard is searched for every
    user. Too large, one is too much for a worker's memory or for one thread, and there are too few to be spread.

    Args:
        first_rows: Log rows that the chain's first release reads, whoever makes it.
        pins: Vectors given with it.

    Returns:
        Powers of two by field of `Layout`: `user_buckets` of at most `FIRST_BUCKET_ROWS` and `pin_shards` of at most
        `FIRST_SHARD_PINS`; `SPREAD_BUCKETS` and `SPREAD_SHARDS` of them as soon as each gets more than half of
        `SPREAD_BUCKET_ROWS` and `SPREAD_SHARD_PINS`; at most `MOST_PARTS`.
    """
    buckets = max(first_rows / FIRST_BUCKET_ROWS, min(SPREAD_BUCKETS, first_rows / SPREAD_BUCKET_ROWS))
    shards = max(pins / FIRST_SHARD_PINS, min(SPREAD_SHARDS, pins / SPREAD_SHARD_PINS))
    return {"user_buckets": _power_of_two(buckets), "pin_shards": _power_of_two(shards)}


def _power_of_two(least: float) -> int:
    """The smallest power of two that is no less, from 1 to `MOST_PARTS`."""
    return min(MOST_PARTS, 1 << math.ceil(math.log2(max(1.0, least))))


def advise_buckets(history_rows: int, rows_a_day: int) -> int:
    """How many user buckets a root has to have at least: a power of two, so that none is too large.

    Args:
        history_rows: Engagements that the histories will hold in all, once grown: users x kept per user.
        rows_a_day: New log rows of the heaviest run: a day's, or all of a bootstrap's.
    """
    # Whatever asks for most buckets decides: the merge's memory, or the shuffle's largest key.
    needed = max(history_rows / BUCKET_HISTORY_ROWS, rows_a_day * ROW_BYTES / BUCKET_DAY_BYTES, 1)
    return 1 << math.ceil(math.log2(needed))


FILE_MODE = "file_mode"  # in layout.json: octal digits, where the root was made with `--file-mode`
ROOT_ID = "root_id"  # in layout.json, beside the layout: tells two roots with releases of the same names apart


def read_layout(root: Root) -> Layout | None:
    """The layout of a root; None where no root has been made yet.

    Raises:
        StoreError: layout.json is damaged, or of a format that this version does not read.
    """
    try:
        found = root.read_json("layout.json")
    except FileNotFoundError:
        return None
    try:
        known = (
            {name: value for name, value in found.items() if name not in (ROOT_ID, FILE_MODE, ID_SCHEME)}
            if isinstance(found, dict)
            else found
        )
        if isinstance(found, dict):
            _check_ids(found, root.path("layout.json"))
            known = {**dict.fromkeys(ID_FIELDS, INT64), **known}
        layout = read_record(LAYOUT, Layout, known, root.path("layout.json"))
        _check_root_id(found)
        use_file_mode(_file_mode_of(found))
        return layout
    except (ValueError, TypeError, UsageError) as error:
        raise StoreError(f"{root.path('layout.json')}: {error}; restore it from a backup of the root") from error


def _check_ids(found: dict[str, Any], path: str) -> None:
    """Raises ValueError where keys of string ids are missing, StoreError where they are hashed in a way not known."""
    there = [name for name in (*ID_FIELDS, ID_SCHEME) if name in found]
    if len(there) not in (0, len(ID_FIELDS) + 1):
        raise ValueError(f"keys missing or unknown: of {', '.join((*ID_FIELDS, ID_SCHEME))} it has {', '.join(there)}")
    if there and found[ID_SCHEME] != SCHEME:
        raise StoreError(
            f"{path}: {ID_SCHEME} is {found[ID_SCHEME]!r}, and this version hashes ids by {SCHEME!r} alone; it was "
            "made by a newer version, upgrade pinnerformer, or was damaged, restore it from a backup of the root"
        )


def _file_mode_of(found: dict[str, Any]) -> int | None:
    """The mode that the root's files have; None where it was made without one. Raises ValueError where it is none."""
    text = found.get(FILE_MODE)
    if text is None:
        return None
    if not isinstance(text, str) or not re.fullmatch(r"0[46][0-7]{2}", text):
        raise ValueError(f"{FILE_MODE} is {text!r}")
    return int(text, 8)


def _new_root_id() -> str:
    """24 hex digits drawn, and 8 that are computed from them: a flipped bit shows."""
    drawn = uuid.uuid4().hex[:24]
    return drawn + hashlib.sha256(drawn.encode()).hexdigest()[:8]


def _check_root_id(found: dict[str, Any]) -> None:
    """Raises ValueError where the id is not as it was written, or its name: then the key that is there is unknown."""
    root_id = found.get(ROOT_ID)
    damaged = [name for name in found if sum(a != b for a, b in zip(name, ROOT_ID, strict=False)) == 1]
    if root_id is None and any(len(name) == len(ROOT_ID) for name in damaged):
        raise ValueError(f"keys missing or unknown: {[ROOT_ID, *damaged]}")
    sound = isinstance(root_id, str) and root_id[24:] == hashlib.sha256(root_id[:24].encode()).hexdigest()[:8]
    if root_id is not None and not sound:
        raise ValueError(f"{ROOT_ID} is {root_id!r}")


def check_layout(root: Root, layout: Layout, made_with: Mapping[str, Any], release: str) -> None:
    """Compares the layout of a root with the one that a release was made with: a flipped bit shows in no other way.

    Args:
        made_with: The release's settings.

    Raises:
        StoreError: they differ.
    """
    made = {**dataclasses.asdict(layout), **dict.fromkeys(ID_FIELDS, INT64), **made_with.get("layout", {})}
    for name, value in dataclasses.asdict(layout).items():
        if made[name] != value:
            raise StoreError(
                f"{root.path('layout.json')}: {name} is {value!r}, {release} was made with {made[name]!r}; it was "
                "changed or damaged since, restore it from a backup of the root"
            )


def require_layout(root: Root) -> Layout:
    """The layout of a root that a job has run on.

    Raises:
        StoreError: there is none; the path is not a root, or nothing has run there yet.
    """
    layout = read_layout(root)
    if layout is None:
        raise StoreError(f"--root {root.url}: no layout.json in it; no daily job has run there yet")
    return layout


def check_asked(root: Root, found: Layout, asked: Mapping[str, Any], file_mode: str | None = None) -> None:
    """Refuses flags that say otherwise than a root was made.

    Args:
        found: The root's layout.
        asked, file_mode: As `open_layout` takes them.

    Raises:
        UsageError: the root was made with other values; they cannot change in place.
    """
    own = root.read_json("layout.json").get(FILE_MODE)
    if file_mode is not None and file_mode != own:
        raise UsageError(
            f"--file-mode {file_mode}: {root.path('layout.json')} says {own or 'nothing, so the umask decides'}, and "
            "it is fixed when a root is made; leave the flag out, or start a new root"
        )
    for name, value in asked.items():
        if value != getattr(found, name):
            raise UsageError(
                f"--{name.replace('_', '-')} {value}: {root.path('layout.json')} says {getattr(found, name)}, "
                "and it is fixed when a root is made; leave the flag out, or start a new root"
            )


def open_layout(root: Root, asked: dict[str, Any], file_mode: str | None = None) -> Layout:
    """The layout of a root, written on first use; its files get their mode from here on.

    Args:
        asked: What the flags say, by field name; what they leave out is taken from the root, or from the defaults.
        file_mode: Of every file under a local root, octal digits as `--file-mode` takes them; None: the root's own.

    Raises:
        UsageError: the root was made with other values; they cannot change in place.
    """
    found = read_layout(root)
    if found is None:
        layout, more = Layout(**asked), {ROOT_ID: _new_root_id()}
        if file_mode is not None:
            more[FILE_MODE] = file_mode
        use_file_mode(_file_mode_of(more))
        root.write_json("layout.json", {**layout.to_json(), **more})
        return layout
    check_asked(root, found, asked, file_mode)
    return found


def set_ids(root: Root, layout: Layout, kinds: Mapping[str, str]) -> None:
    """Says what the ids of a root without a release are; writes nothing where it says so already.

    Args:
        layout: As it is.
        kinds: By field name.
    """
    settled = Layout(**{**vars(layout), **kinds})
    if settled != layout:
        found = root.read_json("layout.json")
        others = {name: value for name, value in found.items() if name not in (*ID_FIELDS, ID_SCHEME)}
        root.write_json("layout.json", {**others, **settled.to_json()})


def find_root_id(root: Root) -> str | None:
    """The id of a root; None where there is none yet, as on a root that an older version made."""
    try:
        found = root.read_json("layout.json").get(ROOT_ID)
    except (FileNotFoundError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def read_root_id(root: Root) -> str:
    """The id of a root, 32 hex digits, made with it; a root that an older version made gets one on the first call.

    Raises:
        StoreError: nothing has run on the root, or layout.json is damaged.
    """
    require_layout(root)
    while True:
        data = root.read_bytes("layout.json")
        found = json.loads(data)
        if isinstance(found.get(ROOT_ID), str):
            return found[ROOT_ID]
        new = json.dumps({**found, ROOT_ID: _new_root_id()}, indent=1) + "\n"
        root.compare_and_swap("layout.json", data, new.encode())  # whoever is first; then it is read again
