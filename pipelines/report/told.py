"""What a report's page says besides its manifest: how the run ended, and what is read from files that lie beside it."""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pinnerformer_model.days import midnight_ms
from stores.errors import InputError, StoreError
from stores.files import Root
from stores.id_names import PINS, shown_ids
from stores.manifests import Manifest, manifest_path
from transforms.release import FAILED, REFUSED

SAMPLE = 3  # dead letters shown of each reason
FILES_LOOKED_AT = 50  # for that sample; the counts are those of the whole run
MOST = 10  # pins shown of those that were acted on most
SHOWN = ("file", "row", "user_id", "pin_id", "timestamp_ms", "action", "surface", "duration_s")


@dataclasses.dataclass(frozen=True)
class Told:
    """What a page says that no manifest does.

    Attributes:
        root: Its URL.
        ended: How the run ended, as `outcome.json` says it: committed, refused or failed.
        finished: When it ended: ISO 8601, UTC.
        ran: Step -> when its first task began and its last one ended, seconds since 1970; empty where nobody knows.
        published: Counters of the publishing; None where nothing was published, or nobody knows any more.
        error: Why it failed; None if it did not.
        dead: Reason -> some of its dead letters, column -> text.
        bucket: What the histories of one bucket say.
        names: Pins that the page shows -> what they are called; empty where nobody said.
        program: The version that writes the page.
    """

    root: str
    ended: str
    finished: str
    ran: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    published: dict[str, Any] | None = None
    error: str | None = None
    dead: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)
    bucket: "BucketSample" = dataclasses.field(default_factory=lambda: BucketSample())
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    program: str = ""

    @property
    def when(self) -> str:
        """When the run ended, to the minute."""
        return self.finished[:16].replace("T", " ")

    @property
    def outcome(self) -> dict[str, Any]:
        """What of it the page keeps for whoever writes it again when the run's folder is gone."""
        return {
            "outcome": self.ended,
            "finished": self.finished,
            "publish": self.published,
            "error": self.error,
            "ran": self.ran,
        }


@dataclasses.dataclass(frozen=True)
class BucketSample:
    """What the histories of one bucket say, which are a sample of all users by hash.

    Attributes:
        lengths: Rows of each of its users; empty where the files are gone.
        most: (pin, rows of the day): those that were acted on most that day, as the logs call them.
    """

    lengths: Sequence[int] = ()
    most: Sequence[tuple[str, int]] = ()


def tell(
    root: Root, manifest: Manifest, outcome: dict[str, Any] | None, program: str, names: str | None = None
) -> Told:
    """Reads what a page says besides its manifest: a sample of the dead letters, one bucket's histories, names.

    Args:
        outcome: As `transforms.release.write_outcome` gave it; None: of a release whose run is gone.
        names: As `read_names` takes it; None: pins are not named.

    Raises:
        InputError: as `read_names`.
    """
    ended = outcome or {"outcome": "committed", "publish": None, "error": None, "finished": None}
    dead = sample_dead_letters(root, dead_folder(manifest, ended["outcome"]))
    bucket = sample_bucket(root, manifest)
    shown = {pin for pin, _ in bucket.most} | {row["pin_id"] for rows in dead.values() for row in rows}
    return Told(
        root=root.url,
        ended=ended["outcome"],
        finished=ended["finished"] or _stamp(root.modified(manifest_path(manifest.release))),
        ran=ended.get("ran") or {},
        published=ended["publish"],
        error=ended["error"] if ended["outcome"] == FAILED else None,
        dead=dead,
        bucket=bucket,
        names=read_names(names, shown) if names else {},
        program=program,
    )


def _stamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def dead_folder(manifest: Manifest, ended: str) -> str:
    """Where a run's dead letters are, relative to the root: a refused one's are still its own."""
    folder = f"staging/{manifest.settings['run']}" if ended == REFUSED else f"releases/{manifest.release}"
    return f"{folder}/dead_letters"


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


def sample_bucket(root: Root, manifest: Manifest) -> BucketSample:
    """What one bucket's histories say: of those that have rows, the one in the middle by size.

    Three columns of it are read. Files that are gone or damaged are passed over: it is shown to help.
    """
    sizes = sorted((sum(e.rows for e in entries), part) for part, entries in manifest.parts("histories").items())
    filled = [part for rows, part in sizes if rows]
    if not filled:
        return BucketSample()
    entries = manifest.parts("histories")[filled[len(filled) // 2]]
    tables = []
    try:
        for entry in entries:
            with root.open_input(entry.path) as source, pq.ParquetFile(source) as file:
                tables.append(file.read(columns=["user_id", "pin_id", "timestamp_ms"]))
        rows = pa.concat_tables(tables)
        today = rows.filter(pc.greater_equal(rows["timestamp_ms"], midnight_ms(manifest.day)))
        return BucketSample(
            np.unique(rows["user_id"].to_numpy(), return_counts=True)[1].tolist(),
            most_acted_on(root, manifest, today["pin_id"].to_numpy()),
        )
    except (pa.ArrowException, OSError, StoreError):
        return BucketSample()


def most_acted_on(root: Root, manifest: Manifest, pins: np.ndarray) -> list[tuple[str, int]]:
    """The most frequent of some pins, int64 [N], as the logs call them, and how often; of equals the lowest first."""
    ids, counts = np.unique(pins, return_counts=True)
    first = np.lexsort((ids, -counts))[:MOST]
    shown = shown_ids(root, manifest, PINS, ids[first].tolist())
    return [(shown[pin], count) for pin, count in zip(ids[first].tolist(), counts[first].tolist(), strict=True)]


def read_names(path: str, pins: Iterable[str]) -> dict[str, str]:
    """What some pins are called; of a pin with several rows the last counts, one without a row is left out.

    Args:
        path: A local Parquet file with columns `pin_id`, as the logs have it, and `name`.

    Raises:
        InputError: it is not there, not readable, or lacks a column.
    """
    try:
        if lacking := {"pin_id", "name"} - set(pq.read_schema(path).names):
            raise InputError(
                f"--names {path}: no column {' and no column '.join(sorted(lacking))}; call the columns so"
            )
        table = pq.read_table(path, columns=["pin_id", "name"])
    except FileNotFoundError:
        raise InputError(f"--names {path}: no such file; give a Parquet file with columns pin_id and name") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"--names {path}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    ids = table["pin_id"].cast(pa.string())
    found = table.filter(pc.is_in(ids, pa.array(sorted(pins), pa.string())))
    named = zip(found["pin_id"].cast(pa.string()).to_pylist(), found["name"].cast(pa.string()).to_pylist(), strict=True)
    return {pin: name for pin, name in named if name}
