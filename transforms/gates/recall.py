"""Gates on what users would be answered: recall of the index against exact search, and how many pins are answers."""

import zlib
from typing import Any

import numpy as np

from stores.files import FileEntry, Root
from stores.indexes import EF_CANDIDATES, IndexShard, load_shards, search_shards
from stores.manifests import Manifest
from stores.neighbours import Neighbours, count_found, exact_top_k, merge_top_k, tie_aware_recall
from stores.schemas import from_binary_column
from stores.tables import read_files
from transforms.gates.gate import Gate, at_least, at_most
from transforms.gates.thresholds import Thresholds
from transforms.gates.vectors import check_alike

EF_TARGET = 0.99  # of recall@10; the first width that reaches it is served
QUERIES = 100  # searched at a time


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


def coverage_pins(pin_ids: np.ndarray, share: float = 0.9) -> int:
    """Pins that make up a share of all answers, the most frequent first (paper, section 7: P90 coverage, in pins).

    Args:
        pin_ids: int64 [Q, k]; -1 where there is no answer.
    """
    counts = np.sort(np.unique(pin_ids[pin_ids >= 0], return_counts=True)[1])[::-1]
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum())) + 1 if len(counts) else 0


def search_well_enough(
    shards: list[IndexShard], queries: np.ndarray, best: Neighbours, find_ef: int
) -> tuple[Neighbours, int]:
    """Searches at the smallest `ef` of `EF_CANDIDATES` that reaches `EF_TARGET`, the largest if none does.

    A width is given up at the query with which it has missed too much: one that is too small costs a few queries.

    Args:
        best: The exact answers to the queries.
        find_ef: The smallest `ef` to try.

    Returns:
        The answers to all queries, and the `ef`.
    """
    allowed = (1.0 - EF_TARGET) * np.isfinite(best.scores).sum()
    widths = [ef for ef in EF_CANDIDATES if ef >= find_ef] or [find_ef]
    for ef in widths:
        parts, missed = [], 0
        for start in range(0, len(queries), QUERIES):
            rows = slice(start, start + QUERIES)
            parts.append(search_shards(shards, queries[rows], 10, ef))
            hits, wanted = count_found(parts[-1], best.take(rows))
            missed += wanted - hits
            if missed > allowed and ef != widths[-1]:
                break
        else:
            break
    pin_ids, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in ("pin_ids", "scores"))
    return Neighbours(pin_ids, scores), ef


def check_recall(
    root: Root, staged: Manifest, previous: Manifest | None, thresholds: Thresholds, find_ef: int
) -> tuple[list[Gate], dict[str, Any]]:
    """Measures the indexes against exact search over ALL shards, and picks the smallest `ef` that is good enough.

    Args:
        previous: The release it was built on: its answers were spread over so many pins.
        find_ef: The smallest `ef` that finds every pin by its own vector; none below it is picked.

    Returns:
        The gates; and what the manifest keeps: `ef_search`, `recall_at_10`, `recall_users`, `recall_seed`,
        `coverage_pins`, `p90_coverage_at_10`.
    """
    seed = zlib.crc32(staged.release.encode())
    pins = staged.rows("pin_embeddings")
    kept: dict[str, Any] = {"ef_search": find_ef, "recall_at_10": None, "recall_users": 0, "recall_seed": seed}
    kept |= {"coverage_pins": None, "p90_coverage_at_10": None}
    if not staged.rows("user_embeddings") or not pins:
        return [], kept
    queries = draw_users(root, staged.tables["user_embeddings"], thresholds.recall_users, seed)
    exact, total = [], np.zeros(queries.shape[1])
    for entry in staged.tables["pin_embeddings"]:
        rows = read_files(root, [entry])
        embeddings = from_binary_column(rows["embedding"])
        exact.append(exact_top_k(queries, rows["pin_id"].to_numpy(), embeddings, 10))
        total += embeddings.sum(axis=0, dtype=np.float64)
    best = merge_top_k(exact, 10)
    shards = load_shards(root, staged.tables["indexes"], queries.shape[1])
    found, ef = search_well_enough(shards, queries, best, find_ef)
    recall = tie_aware_recall(found, best)
    reads = f"recall@10 of the index at ef {ef}, {len(queries):,} users drawn with seed {seed}"
    gates = check_alike("users", queries.sum(axis=0, dtype=np.float64), len(queries), thresholds)
    gates += check_alike("pins", total, pins, thresholds)
    gates.append(at_least("index_recall_at_10", recall, thresholds.min_recall_at_10, reads))
    gates += check_coverage(found, pins, previous, thresholds)
    covering = coverage_pins(found.pin_ids)
    return gates, {
        "ef_search": ef,
        "recall_at_10": recall,
        "recall_users": len(queries),
        "recall_seed": seed,
        "coverage_pins": covering,
        "p90_coverage_at_10": covering / pins,
    }


def check_coverage(found: Neighbours, pins: int, previous: Manifest | None, thresholds: Thresholds) -> list[Gate]:
    """Popularity collapse: a handful of pins is everybody's answer, or many fewer pins than the release before.

    Args:
        found: The top 10 of users drawn at random.
        pins: In the index; of fewer than twenty, or of one user, nothing can be said.
    """
    users = len(found.pin_ids)
    if users < 2 or pins < 20:
        return []
    covering = coverage_pins(found.pin_ids)
    reads = f"pins that make up 90 % of the top 10 of {users:,} users (P90 coverage@10 {covering / pins:.4f})"
    gates = [at_least("coverage_pins", covering, thresholds.min_coverage_pins, reads)]
    before = previous.settings.get("index", {}) if previous else {}
    if before.get("coverage_pins") and before["recall_users"] <= users:
        fall = before["coverage_pins"] / covering
        reads = f"such pins in {previous.release}: {before['coverage_pins']:,}, now {covering:,}, as a factor"  # type: ignore[union-attr]
        gates.append(at_most("coverage_fall", fall, thresholds.max_coverage_fall, reads))
    return gates
