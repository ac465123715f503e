"""Gates on numbers: nothing vanished between two stages, nor between two releases."""

import numpy as np

from stores.files import FileEntry, Root
from stores.manifests import Manifest
from stores.tables import read_files
from transforms.gates.gate import Gate, at_least, at_most
from transforms.gates.thresholds import Thresholds
from transforms.step_reports import StageReport


def check_counts(reports: dict[str, StageReport], staged: Manifest, thresholds: Thresholds) -> list[Gate]:
    """Every row, user and pin is accounted for; few rows were dropped; every pin is in an index and found there."""
    read = reports.get("read_logs", StageReport()).counters
    dropped = read.get("rows_dropped", 0) / max(1, read.get("rows_read", 0))
    limit = thresholds.max_dropped_share
    gates = [at_most("rows_dropped_share", dropped, limit, "share of the rows read that were dropped")]
    tried = reports.get("embed_users", StageReport()).counters
    failed = tried.get("users_failed", 0)
    share = failed / max(1, failed + tried.get("users_embedded", 0))
    reads = "share of the users tried that could not be embedded"
    gates.append(at_most("users_failed_share", share, thresholds.max_failed_share, reads))
    for name, missing, reads in unaccounted(reports, staged):
        gates.append(at_most(name, abs(missing), 0, reads))
    for table, what in (("user_embeddings", "users"), ("pin_embeddings", "pins")):
        gates.append(at_least(f"{what}_present", staged.rows(table), 1, f"{what} with a vector"))
    not_indexed = abs(staged.rows("pin_embeddings") - staged.rows("indexes"))
    gates.append(at_most("pins_not_indexed", not_indexed, 0, "pins not in an index"))
    unfindable = reports.get("build_indexes", StageReport()).counters.get("pins_unfindable", 0)
    gates.append(at_most("pins_unfindable", unfindable, 0, "pins that a search for their own vector does not find"))
    return gates


def unaccounted(reports: dict[str, StageReport], staged: Manifest) -> list[tuple[str, int, str]]:
    """What went into each stage and did not come out of it: every row, user and pin is accounted for, to the last one.

    Returns:
        (gate's name, number missing, negative if too many came out; in words).
    """

    def counted(stage: str, *names: str) -> int:
        counters = reports.get(stage, StageReport()).counters
        return sum(counters.get(name, 0) for name in names)

    routed = counted("read_logs", "rows_read") - counted("read_logs", "rows_dropped", "rows_erased", "rows_of_others")
    active = counted("update_histories", "users_active")
    embedded = counted("embed_users", "users_embedded")
    failed = counted("embed_users", "users_failed")
    carried = counted("merge_snapshot", "users_carried_over")
    return [
        (
            "rows_unaccounted",
            routed - counted("update_histories", "rows_new"),
            "valid log rows that reached no history, or twice",
        ),
        (
            "users_unaccounted",
            active - embedded - failed - counted("join_vectors", "users_without_token"),
            "active users neither embedded nor failed nor without a usable token",
        ),
        (
            "snapshot_rows_unaccounted",
            embedded + carried - staged.rows("user_embeddings"),
            "users embedded or carried over that are not in the snapshot",
        ),
        (
            "pins_unaccounted",
            counted("shard_pins", "vectors_read")
            - counted("shard_pins", "vectors_zero")
            - staged.rows("pin_embeddings"),
            "pins with a vector but without an embedding",
        ),
    ]


def check_lost(root: Root, staged: Manifest, previous: Manifest | None, thresholds: Thresholds) -> list[Gate]:
    """Users and pins of the previous release that this one lacks; a new one does not make up for a lost one."""
    if previous is None:
        return []
    gates = []
    for table, key, what in (("user_embeddings", "user_id", "users"), ("pin_embeddings", "pin_id", "pins")):
        lost = count_lost(root, previous.parts(table), staged.parts(table), key)
        expired = staged.counters.get("merge_snapshot", {}).get("users_expired", 0) if what == "users" else 0
        share = max(0, lost - expired) / max(1, previous.rows(table))
        reads = f"share of {what} lost since {previous.release}"
        gates.append(at_most(f"{what}_lost_share", share, thresholds.max_lost_share, reads))
    return gates


def count_lost(root: Root, before: dict[int, list[FileEntry]], after: dict[int, list[FileEntry]], key: str) -> int:
    """Ids that a table no longer has; reads the id column of the parts whose files differ, one part at a time."""
    lost = 0
    for part, entries in before.items():
        if after.get(part) == entries:
            continue
        ids = read_files(root, entries, [key])[key].to_numpy()
        if part not in after:
            lost += len(ids)
        else:
            lost += int((~np.isin(ids, read_files(root, after[part], [key])[key].to_numpy())).sum())
    return lost
