"""layout.json: what is fixed when a root is made."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.upgrades import LAYOUT, read_record


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a root is cut up.

    Attributes:
        user_buckets: Parts of `histories` and `user_embeddings`.
        pin_shards: Parts of `pin_embeddings` and `indexes`.
        history_length: Engagements kept per user; at least the model's `max_sequence_length`.
        embedding_dtype: Of the stored vectors; float16 is the only one.
    """

    user_buckets: int = 64
    pin_shards: int = 4
    history_length: int = 256
    embedding_dtype: str = "float16"

    def __post_init__(self):
        for name in ("user_buckets", "pin_shards", "history_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} must be a positive whole number, got {value!r}")
        if self.embedding_dtype != "float16":
            raise UsageError(f"embedding_dtype must be float16, got {self.embedding_dtype!r}")


BUCKET_DAY_BYTES = 32 << 20  # of new rows per bucket: engines keep a key's values together, and sort them on their heap
BUCKET_HISTORY_ROWS = 4_000_000  # a merge holds a bucket about four times: 0.6 GB
ROW_BYTES = 36  # of a log row in the shuffle: three int64, two dictionary codes, a float


def advise_buckets(history_rows: int, rows_a_day: int, least: int = 64) -> int:
    """How many user buckets a root should be made with: a power of two, so that none is too large.

    Args:
        history_rows: Engagements that the histories will hold in all, once grown: users x kept per user.
        rows_a_day: New log rows of the heaviest run: a day's, or all of a bootstrap's.
        least: Room to grow: never fewer than these.
    """
    # Whatever asks for most buckets decides: the merge's memory, the shuffle's largest key, or room to grow.
    needed = max(history_rows / BUCKET_HISTORY_ROWS, rows_a_day * ROW_BYTES / BUCKET_DAY_BYTES, least)
    return 1 << math.ceil(math.log2(needed))


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
        return read_record(LAYOUT, Layout, found, root.path("layout.json"))
    except (ValueError, TypeError, UsageError) as error:
        raise StoreError(f"{root.path('layout.json')}: {error}; restore it from a backup of the root") from error


def check_layout(root: Root, layout: Layout, made_with: Mapping[str, Any], release: str) -> None:
    """Compares the layout of a root with the one that a release was made with: a flipped bit shows in no other way.

    Args:
        made_with: The release's settings.

    Raises:
        StoreError: they differ.
    """
    made = {**dataclasses.asdict(layout), **made_with.get("layout", {})}
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


def open_layout(root: Root, asked: dict[str, Any]) -> Layout:
    """The layout of a root, written on first use.

    Args:
        asked: What the flags say, by field name; what they leave out is taken from the root, or from the defaults.

    Raises:
        UsageError: the root was made with other values; they cannot change in place.
    """
    found = read_layout(root)
    if found is None:
        layout = Layout(**asked)
        root.write_json("layout.json", dataclasses.asdict(layout))
        return layout
    for name, value in asked.items():
        if value != getattr(found, name):
            raise UsageError(
                f"--{name.replace('_', '-')} {value}: {root.path('layout.json')} says {getattr(found, name)}, "
                "and it is fixed when a root is made; leave the flag out, or start a new root"
            )
    return found
