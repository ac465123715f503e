"""What the pin branch keeps of the release before: files of shards that did not change, rows of pins that did not."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from stores.errors import StoreError
from stores.files import FileEntry, Root
from stores.ids import find_sorted
from stores.names import Counter, Step
from stores.schemas import VECTOR_DIGEST, from_binary_column
from stores.tables import read_files
from transforms.step_reports import StepReport

# Counters that say what a shard has in it, and not what was done tonight.
_OF_CONTENT = (Counter.PINS_INDEXED, Counter.TWINS, Counter.PINS_UNFINDABLE)
# What a night counts as 0 that keeps all pins.
_NOTHING = {
    Step.EMBED_PINS: (Counter.PINS_EMBEDDED,),
    Step.BUILD_INDEXES: (Counter.REBUILDS, Counter.SHARDS_GROWN, Counter.SHARDS_DAMAGED),
}


@dataclasses.dataclass(frozen=True)
class KnownPins:
    """Pins of the release before, with what their vectors were.

    Attributes:
        ids: int64 [P], ascending.
        digests: int64 [P], of their vectors, as `digest_rows` gives them.
        embeddings: float16 [P, d].
    """

    ids: np.ndarray
    digests: np.ndarray
    embeddings: np.ndarray


def nothing_known(dim: int) -> KnownPins:
    """No pins, of embeddings of a width."""
    return KnownPins(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, dim), np.float16))


def read_known(root: Root, entry: FileEntry) -> KnownPins | None:
    """A file of pin_embeddings of the release before; None where it is damaged or gone."""
    try:
        rows = read_files(root, [entry], verify=True)
        return KnownPins(
            rows["pin_id"].to_numpy(), rows[VECTOR_DIGEST].to_numpy(), from_binary_column(rows["embedding"])
        )
    except (StoreError, OSError, KeyError, pa.ArrowException):
        return None


def embed_changed(
    ids: np.ndarray, digests: np.ndarray, known: KnownPins, embed: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings of a shard's pins: copied where a pin had the same vector before, made where not.

    Args:
        ids: int64 [N], ascending.
        digests: int64 [N], of their vectors.
        embed: Rows, int64 [C], ascending -> their embeddings, float16 [C, d]; not called for none.

    Returns:
        Embeddings, float16 [N, d]; the rows that `embed` was asked for.
    """
    at, same = find_sorted(known.ids, ids)
    same[same] = known.digests[at[same]] == digests[same]
    changed = np.flatnonzero(~same)
    embeddings = np.empty((len(ids), known.embeddings.shape[1]), np.float16)
    embeddings[same] = known.embeddings[at[same]]
    if len(changed):
        embeddings[changed] = embed(changed)
    return embeddings, changed


def kept_whole(reports: Mapping[Step, StepReport]) -> dict[Step, StepReport]:
    """What the pin branch of a night would report whose vectors are those of the release before, from the reports of
    that release's own."""
    found = dict(reports)
    pins = sum(entry.rows for entry in reports[Step.EMBED_PINS].files["pin_embeddings"])
    for step in _NOTHING:
        report = reports[step]
        kept: dict[str, int] = {Counter.PINS_REUSED: pins, Counter.SHARDS_REUSED: report.tasks}
        of_content = {name: number for name, number in report.counters.items() if name in _OF_CONTENT}
        counters = dict.fromkeys(_NOTHING[step], 0) | of_content | kept
        highest = report.highest if step == Step.BUILD_INDEXES else {}
        found[step] = dataclasses.replace(report, counters=counters, lowest={}, highest=highest)
    return found
