"""What a report's page says besides its manifest: how the run ended, and what is read from files that lie beside it."""

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stores.errors import StoreError
from stores.files import Root
from stores.manifests import Manifest, manifest_path
from transforms.release import FAILED, REFUSED

SAMPLE = 3  # dead letters shown of each reason
FILES_LOOKED_AT = 50  # for that sample; the counts are those of the whole run
SHOWN = ("file", "row", "user_id", "pin_id", "timestamp_ms", "action", "surface", "duration_s")


@dataclasses.dataclass(frozen=True)
class Told:
    """What a page says that no manifest does.

    Attributes:
        root: Its URL.
        ended: How the run ended, as `outcome.json` says it: committed, refused or failed.
        when: When it ended, UTC.
        published: Counters of the publishing; None where nothing was published, or nobody knows any more.
        error: Why it failed; None if it did not.
        dead: Reason -> some of its dead letters, column -> text.
        lengths: Rows in the histories of users of one bucket, an entry per user; empty where the files are gone.
        program: The version that writes the page.
    """

    root: str
    ended: str
    when: str
    published: dict[str, Any] | None = None
    error: str | None = None
    dead: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)
    lengths: Sequence[int] = ()
    program: str = ""

    @property
    def outcome(self) -> dict[str, Any]:
        """What of it the page keeps for whoever writes it again when the run's folder is gone."""
        return {"outcome": self.ended, "finished": self.when, "publish": self.published, "error": self.error}


def tell(root: Root, manifest: Manifest, outcome: dict[str, Any] | None, program: str) -> Told:
    """Reads what a page says besides its manifest: a sample of the dead letters, and one bucket's user ids.

    Args:
        outcome: As `transforms.release.write_outcome` gave it; None: of a release whose run is gone.
    """
    ended = outcome or {"outcome": "committed", "publish": None, "error": None, "finished": None}
    refused = ended["outcome"] == REFUSED
    folder = f"staging/{manifest.settings['run']}" if refused else f"releases/{manifest.release}"
    when = ended["finished"] or _stamp(root.modified(manifest_path(manifest.release)))
    return Told(
        root=root.url,
        ended=ended["outcome"],
        when=when[:16].replace("T", " "),
        published=ended["publish"],
        error=ended["error"] if ended["outcome"] == FAILED else None,
        dead=sample_dead_letters(root, f"{folder}/dead_letters"),
        lengths=history_lengths(root, manifest),
        program=program,
    )


def _stamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def sample_dead_letters(root: Root, folder: str) -> dict[str, list[dict[str, str]]]:
    """Reason -> its first dead letters, by file and row; column -> what stands there, as text.

    Args:
        folder: Relative to the root; of many files the first `FILES_LOOKED_AT` are read. One that cannot be read is
            passed over: it is shown to help.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for name in root.list(folder)[:FILES_LOOKED_AT]:
        try:
            with root.open_input(f"{folder}/{name}") as source, pq.ParquetFile(source) as file:
                column = file.read(columns=["reason"])["reason"].cast(pa.string()).combine_chunks().dictionary_encode()
                # The others only where a reason has room: a bad night's dead letters are many.
                places = [
                    (reason, np.flatnonzero(column.indices.to_numpy() == code)[: SAMPLE - len(found.get(reason, ()))])
                    for code, reason in enumerate(column.dictionary.to_pylist())
                ]
                wanted: list[str] | None = None if any(len(indices) for _, indices in places) else []
                rows = file.read(columns=wanted)
        except (pa.ArrowException, OSError, StoreError):
            continue
        for reason, indices in places:
            for row in rows.take(indices).to_pylist():
                found.setdefault(reason, []).append({name: _text(row.get(name)) for name in SHOWN})
    return found


def _text(value: Any) -> str:
    """A cell as text; ids whole, so that an erasure finds them."""
    return "" if value is None else str(value)


def history_lengths(root: Root, manifest: Manifest) -> list[int]:
    """Rows of each user in one bucket, which is a sample of all users by hash; of the smallest that has any.

    Only the column of ids is read.
    """
    sizes = {part: sum(e.rows for e in entries) for part, entries in manifest.parts("histories").items()}
    filled = [part for part, rows in sizes.items() if rows]
    if not filled:
        return []
    entries = manifest.parts("histories")[min(filled, key=lambda part: (sizes[part], part))]
    columns = []
    try:
        for entry in entries:
            with root.open_input(entry.path) as source, pq.ParquetFile(source) as file:
                columns += file.read(columns=["user_id"])["user_id"].chunks
    except (pa.ArrowException, OSError, StoreError):
        return []
    users = np.concatenate([chunk.to_numpy() for chunk in columns])
    return np.unique(users, return_counts=True)[1].tolist()
