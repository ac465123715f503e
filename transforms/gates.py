"""What a staged release must pass before anybody can see it."""

import dataclasses
import zlib
from typing import Any

import numpy as np

from stores.files import FileEntry, Root
from stores.indexes import EF_CANDIDATES, load_shards, search_shards
from stores.manifests import Manifest
from stores.neighbours import exact_top_k, merge_top_k, tie_aware_recall
from stores.schemas import from_binary_column
from stores.tables import read_files
from transforms.run import StageReport


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Where the gates close.

    Attributes:
        norm_tolerance: How far a stored float16 vector's L2 norm may be from 1.
        max_lost_share: Share of the previous release's users, or pins, that may be missing.
        max_dropped_share: Share of the rows read that may go to the dead letters.
        max_failed_share: Share of the users tried that may raise or give NaN or infinity.
        min_recall_at_10: Of the index against exact search over all shards.
        recall_users: Users drawn for it; all, if there are fewer.
    """

    norm_tolerance: float = 2e-3
    max_lost_share: float = 0.05
    max_dropped_share: float = 0.05
    max_failed_share: float = 0.01
    min_recall_at_10: float = 0.95
    recall_users: int = 1000


@dataclasses.dataclass(frozen=True)
class Gate:
    """One check: `passed` says whether `measured` is on the right side of `threshold`; `reads` says it in words."""

    name: str
    measured: float
    threshold: float
    passed: bool
    reads: str


def _at_most(name: str, measured: float, threshold: float, reads: str) -> Gate:
    return Gate(name, float(measured), float(threshold), bool(measured <= threshold), reads)


def check_vectors(reports: dict[str, StageReport], thresholds: Thresholds) -> list[Gate]:
    """Unit norms and finite numbers, over every vector that this run computed."""
    gates = []
    for stage, what in (("embed_users", "users"), ("embed_pins", "pins")):
        report = reports.get(stage, StageReport())
        gates.append(
            _at_most(
                f"{what}_not_finite", report.counters.get(f"{what}_not_finite", 0), 0, f"{what} with NaN or infinity"
            )
        )
        off = max((abs(norm - 1.0) for norm in (*report.lowest.values(), *report.highest.values())), default=0.0)
        gates.append(
            _at_most(f"{what}_norm", off, thresholds.norm_tolerance, f"largest distance of a norm from 1, {what}")
        )
    return gates


def check_counts(
    reports: dict[str, StageReport], staged: Manifest, previous: Manifest | None, thresholds: Thresholds
) -> list[Gate]:
    """Nothing vanished: users and pins against the previous release, rows against the dead letters."""
    read = reports.get("read_logs", StageReport()).counters
    dropped = read.get("rows_dropped", 0) / max(1, read.get("rows_read", 0))
    gates = [
        _at_most(
            "rows_dropped_share", dropped, thresholds.max_dropped_share, "share of the rows read that were dropped"
        )
    ]
    tried = reports.get("embed_users", StageReport()).counters
    failed = tried.get("users_failed", 0)
    share = failed / max(1, failed + tried.get("users_embedded", 0))
    reads = "share of the users tried that could not be embedded"
    gates.append(_at_most("users_failed_share", share, thresholds.max_failed_share, reads))
    for name, missing, reads in unaccounted(reports, staged):
        gates.append(_at_most(name, abs(missing), 0, reads))
    for table, what in (("user_embeddings", "users"), ("pin_embeddings", "pins")):
        rows = staged.rows(table)
        gates.append(Gate(f"{what}_present", rows, 1, rows >= 1, f"{what} with a vector"))
        if previous is not None:
            before = previous.rows(table)
            lost = max(0, before - rows) / max(1, before)
            gates.append(
                _at_most(
                    f"{what}_lost_share",
                    lost,
                    thresholds.max_lost_share,
                    f"share of {what} lost since {previous.release}",
                )
            )
    indexed = staged.rows("indexes")
    gates.append(_at_most("pins_not_indexed", abs(staged.rows("pin_embeddings") - indexed), 0, "pins not in an index"))
    unfindable = reports.get("build_indexes", StageReport()).counters.get("pins_unfindable", 0)
    gates.append(_at_most("pins_unfindable", unfindable, 0, "pins that a search for their own vector does not find"))
    return gates


def unaccounted(reports: dict[str, StageReport], staged: Manifest) -> list[tuple[str, int, str]]:
    """What went into each stage and did not come out of it: every row, user and pin is accounted for, to the last one.

    Returns:
        (gate's name, number missing, negative if too many came out; in words).
    """

    def counted(stage: str, *names: str) -> int:
        counters = reports.get(stage, StageReport()).counters
        return sum(counters.get(name, 0) for name in names)

    routed = counted("read_logs", "rows_read") - counted("read_logs", "rows_dropped", "rows_erased")
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


def draw_users(root: Root, entries: list[FileEntry], count: int, seed: int) -> np.ndarray:
    """Draws users of a snapshot at random, without repeats.

    Returns:
        float32 [min(count, users), d]: their embeddings.
    """
    total = sum(entry.rows for entry in entries)
    chosen = np.sort(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False))
    drawn, start = [], 0
    for entry in sorted(entries, key=lambda e: e.part):
        rows = chosen[(chosen >= start) & (chosen < start + entry.rows)] - start
        if len(rows):
            drawn.append(from_binary_column(read_files(root, [entry], ["embedding"])["embedding"])[rows])
        start += entry.rows
    return np.concatenate(drawn).astype(np.float32)


def check_recall(
    root: Root, staged: Manifest, thresholds: Thresholds, find_ef: int
) -> tuple[list[Gate], dict[str, Any]]:
    """Measures the indexes against exact search over ALL shards, and picks the smallest `ef` that is good enough.

    Args:
        find_ef: The smallest `ef` that finds every pin by its own vector; none below it is picked.

    Returns:
        The gate; and what the manifest keeps: `ef_search`, `recall_at_10`, `recall_users`, `recall_seed`.
    """
    seed = zlib.crc32(staged.release.encode())
    if not staged.rows("user_embeddings") or not staged.rows("pin_embeddings"):
        return [], {"ef_search": find_ef, "recall_at_10": None, "recall_users": 0, "recall_seed": seed}
    queries = draw_users(root, staged.tables["user_embeddings"], thresholds.recall_users, seed)
    exact = []
    for entry in staged.tables["pin_embeddings"]:
        rows = read_files(root, [entry])
        exact.append(exact_top_k(queries, rows["pin_id"].to_numpy(), from_binary_column(rows["embedding"]), 10))
    best = merge_top_k(exact, 10)
    shards = load_shards(root, staged.tables["indexes"], queries.shape[1])
    recall, ef = 0.0, find_ef
    for ef in (candidate for candidate in EF_CANDIDATES if candidate >= find_ef):
        recall = tie_aware_recall(search_shards(shards, queries, 10, ef), best)
        if recall >= EF_TARGET:
            break
    gate = Gate(
        "index_recall_at_10",
        recall,
        thresholds.min_recall_at_10,
        recall >= thresholds.min_recall_at_10,
        f"recall@10 of the index at ef {ef}, {len(queries)} users drawn with seed {seed}",
    )
    return [gate], {"ef_search": ef, "recall_at_10": recall, "recall_users": len(queries), "recall_seed": seed}


EF_TARGET = 0.99  # of recall@10; the first width that reaches it is served
