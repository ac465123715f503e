"""Gates on numbers: nothing vanished between two steps of a run, nor between two releases."""

import numpy as np

from stores.files import FileEntry, Root
from stores.index_files import count_indexed
from stores.names import Counter, Step
from stores.tables import read_files
from transforms.gates.gate import Measured, at_least, at_most
from transforms.gates.staged import StagedRelease
from transforms.gates.thresholds import Threshold

MAX_DROPPED_SHARE = Threshold("max_dropped_share", 0.05, "share of the rows read that may go to the dead letters")
MAX_FAILED_SHARE = Threshold(
    "max_failed_share", 0.01, "share of the users tried that may raise or give NaN or infinity"
)
MAX_LOST_SHARE = Threshold(
    "max_lost_share", 0.05, "share of the previous release's users, or pins, that may be missing"
)
LOST = "lost"  # of the figures that are kept with a run: table -> ids that it no longer has
JOB_AT_FAULT = "a fault of the job: keep the run's folder, report it"


@at_most(MAX_DROPPED_SHARE, advice="the dead letters, reason by reason, in the run's folder")
def rows_dropped_share(staged: StagedRelease) -> Measured:
    """Too many of the log rows read went to the dead letters."""
    dropped, read = staged.count(Step.READ_LOGS, Counter.ROWS_DROPPED), staged.count(Step.READ_LOGS, Counter.ROWS_READ)
    dropped += staged.count(Step.UPDATE_HISTORIES, Counter.ROWS_COLLIDED)
    return Measured(dropped / max(1, read), "share of the rows read that were dropped")


@at_most(MAX_FAILED_SHARE, advice="why users failed: the staged manifest says it of each")
def users_failed_share(staged: StagedRelease) -> Measured:
    """Too many of the users tried raised, or gave NaN, at inference."""
    failed, embedded = (
        staged.count(Step.EMBED_USERS, Counter.USERS_FAILED),
        staged.count(Step.EMBED_USERS, Counter.USERS_EMBEDDED),
    )
    return Measured(failed / max(1, failed + embedded), "share of the users tried that could not be embedded")


# What went into a step and did not come out of it: every row, user and pin is accounted for, to the last one. Too many
# that come out are as wrong as too few.


@at_most(0, advice=JOB_AT_FAULT)
def rows_unaccounted(staged: StagedRelease) -> Measured:
    """A valid log row reached no history, or two."""
    valid = staged.count(Step.READ_LOGS, Counter.ROWS_READ)
    valid -= staged.count(Step.READ_LOGS, Counter.ROWS_DROPPED, Counter.ROWS_ERASED, Counter.ROWS_OF_OTHERS)
    missing = valid - staged.count(Step.UPDATE_HISTORIES, Counter.ROWS_NEW, Counter.ROWS_COLLIDED)
    return Measured(abs(missing), "valid log rows that reached no history, or twice")


@at_most(0, advice=JOB_AT_FAULT)
def users_unaccounted(staged: StagedRelease) -> Measured:
    """An active user was neither embedded nor failed nor is without a usable token."""
    active = staged.count(Step.UPDATE_HISTORIES, Counter.USERS_ACTIVE)
    tried = staged.count(Step.EMBED_USERS, Counter.USERS_EMBEDDED, Counter.USERS_FAILED)
    missing = active - tried - staged.count(Step.JOIN_VECTORS, Counter.USERS_WITHOUT_TOKEN)
    return Measured(abs(missing), "active users neither embedded nor failed nor without a usable token")


@at_most(0, advice=JOB_AT_FAULT)
def snapshot_rows_unaccounted(staged: StagedRelease) -> Measured:
    """A user embedded or carried over is not in the snapshot."""
    made = staged.count(Step.EMBED_USERS, Counter.USERS_EMBEDDED) + staged.count(
        Step.MERGE_SNAPSHOT, Counter.USERS_CARRIED_OVER
    )
    missing = made - staged.manifest.rows("user_embeddings")
    return Measured(abs(missing), "users embedded or carried over that are not in the snapshot")


@at_most(0, advice=JOB_AT_FAULT)
def pins_unaccounted(staged: StagedRelease) -> Measured:
    """A pin with a vector has no embedding."""
    usable = staged.count(Step.SHARD_PINS, Counter.VECTORS_READ)
    usable -= staged.count(Step.SHARD_PINS, Counter.VECTORS_ZERO, Counter.VECTORS_COLLIDED)
    missing = usable - staged.manifest.rows("pin_embeddings")
    return Measured(abs(missing), "pins with a vector but without an embedding")


@at_least(1, advice="--logs, and the model's vocabularies: nobody has a usable token")
def users_present(staged: StagedRelease) -> Measured:
    """Nobody has a vector."""
    return Measured(staged.manifest.rows("user_embeddings"), "users with a vector")


@at_least(1, advice="--pins: no vector in it")
def pins_present(staged: StagedRelease) -> Measured:
    """No pin has a vector."""
    return Measured(staged.manifest.rows("pin_embeddings"), "pins with a vector")


@at_most(0, advice=JOB_AT_FAULT)
def pins_not_indexed(staged: StagedRelease) -> Measured:
    """A pin is in no index."""
    missing = staged.manifest.rows("pin_embeddings") - count_indexed(staged.manifest.tables["indexes"])
    return Measured(abs(missing), "pins not in an index")


@at_most(0, advice="--pins: crowds of nearly equal vectors? try a larger --index-m")
def pins_unfindable(staged: StagedRelease) -> Measured:
    """A search for a pin's own vector does not find the pin."""
    unfindable = staged.count(Step.BUILD_INDEXES, Counter.PINS_UNFINDABLE)
    return Measured(unfindable, "pins that a search for their own vector does not find")


# By id and not by count: a new user or pin does not make up for a lost one.


@at_most(MAX_LOST_SHARE, advice="the model's vocabularies and --pins: who has no usable token any more?")
def users_lost_share(staged: StagedRelease) -> Measured | None:
    """Users of the previous release are missing, beyond those that `--max-idle-days` removed."""
    return lost_share(
        staged, "user_embeddings", "user_id", "users", staged.count(Step.MERGE_SNAPSHOT, Counter.USERS_EXPIRED)
    )


@at_most(MAX_LOST_SHARE, advice="--pins: is the export whole?")
def pins_lost_share(staged: StagedRelease) -> Measured | None:
    """Pins of the previous release are missing."""
    return lost_share(staged, "pin_embeddings", "pin_id", "pins", 0)


def lost_share(staged: StagedRelease, table: str, key: str, what: str, expected: int) -> Measured | None:
    """Share of a table's ids in the previous release that this one lacks.

    Args:
        key: The table's id column.
        what: `users` or `pins`.
        expected: Ids that were to go.
    """
    before = staged.previous
    if before is None:
        return None
    lost = staged.figures.get(LOST, {}).get(table)
    if lost is None:
        lost = count_lost(staged.root, before.parts(table), staged.manifest.parts(table), key)
    share = max(0, lost - expected) / max(1, before.rows(table))
    return Measured(share, f"share of {what} lost since {before.release}")


def count_lost(root: Root, before: dict[int, list[FileEntry]], after: dict[int, list[FileEntry]], key: str) -> int:
    """Ids that a table no longer has; reads the id column of the parts whose files differ, one part at a time."""
    lost = 0
    for part, entries in before.items():
        if after.get(part) == entries:
            continue
        rows = sum(entry.rows for entry in entries)
        if part not in after:
            lost += rows
            continue
        if any(root.size(entry.path) != entry.bytes for entry in entries):
            # Gone or cut off since, and made again for this release: there is nothing but a count to compare with.
            lost += max(0, rows - sum(entry.rows for entry in after[part]))
            continue
        ids = read_files(root, entries, [key])[key].to_numpy()
        lost += int((~np.isin(ids, read_files(root, after[part], [key])[key].to_numpy())).sum())
    return lost
