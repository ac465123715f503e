"""The look back: how last night's vectors had foreseen tonight's acts. Measured once, and kept.

What is looked at: what the night left of its asked users (`transforms.acts`), and of the pin embeddings of the previous
release and of tonight those of the pins that these users took and of `DRAWN` pins drawn by a seed, as shards picked
them (`transforms.shard_measures`).
"""

import dataclasses
import datetime
import time
import zlib
from typing import Any

import numpy as np
import pyarrow as pa

from pinnerformer_model.config import ModelConfig
from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.isolation import encode_healthy
from stores.files import FileEntry
from stores.ids import find_sorted, uniform_of
from stores.names import Counter
from stores.pin_vectors import VectorTable
from stores.schemas import from_binary_column
from transforms.acts import JUDGED_USERS, draw_asked
from transforms.gates.hindsight import HINDSIGHT
from transforms.margins import (
    FEWEST,
    Acts,
    Ranks,
    describe,
    describe_ranks,
    draw_ring,
    rank_acts,
    rank_by_popularity,
)
from transforms.model import ModelReference
from transforms.run import Run
from transforms.sequences import assemble
from transforms.step_reports import StepReport, task_report

DRAWN = 1_000
MOVED = 0.1  # 1 - cosine, beyond what half of the pins moved, from which on a pin has moved


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Vectors by id: int64 [N], sorted, distinct; float16 [N, d]."""

    ids: np.ndarray
    vectors: np.ndarray

    @staticmethod
    def of(ids: np.ndarray, vectors: np.ndarray) -> "Vectors":
        """Vectors by distinct ids in any order."""
        order = np.argsort(ids)
        return Vectors(ids[order], vectors[order])

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """int64 [K]: where ids stand; -1 where they have no vector."""
        at, there = find_sorted(self.ids, ids)
        return np.where(there, at, -1)


def seed_of(date: datetime.date) -> int:
    """What pins and partners are drawn with: the same whenever a night is measured again."""
    return zlib.crc32(f"{HINDSIGHT} {date}".encode())


def vectors_of(rows: pa.Table | None, name: str, key: str = "user_id") -> Vectors:
    """One of the two vector columns of the asked users, or of the pins picked, without nulls."""
    if rows is None or not pa.types.is_fixed_size_binary(rows.schema.field(name).type):
        return Vectors(np.empty(0, np.int64), np.empty((0, 1), np.float16))
    rows = rows.filter(rows[name].is_valid()).combine_chunks()
    return Vectors.of(rows[key].to_numpy(), from_binary_column(rows[name]))


@dataclasses.dataclass(frozen=True)
class Measurable:
    """The users, acts and pins that some vectors can be measured on, rows instead of ids throughout."""

    users: np.ndarray
    acts: Acts
    pins: np.ndarray
    drawn: np.ndarray
    ring: np.ndarray

    def rank(self) -> Ranks:
        return rank_acts(self.users, self.acts, self.pins, self.drawn, self.ring)


def measurable(acts: Acts, users: Vectors, pins: Vectors, drawn: np.ndarray, seed: int) -> Measurable | None:
    """Leaves out users, acts and drawn pins without a vector; None where too few users are left.

    Args:
        acts: `pins` are ids.
        drawn: Ids of the drawn pins.
    """
    has = (users.rows(acts.user_ids) >= 0)[acts.owner] & (pins.rows(acts.pins) >= 0)
    kept = acts.only(has)
    rivals = pins.rows(drawn)
    rivals = rivals[rivals >= 0]
    if len(kept) < FEWEST or not len(rivals):
        return None
    in_rows = dataclasses.replace(kept, pins=pins.rows(kept.pins))
    ring = draw_ring(len(kept), seed)
    return Measurable(users.vectors[users.rows(kept.user_ids)], in_rows, pins.vectors, rivals, ring)


def foresee(
    acts: Acts, users: Vectors, pins: Vectors, drawn: np.ndarray, seed: int, *, popularity: bool
) -> dict[str, Any] | None:
    """The margin of vectors on acts; None where too few users are left.

    Args:
        popularity: Whether popularity's mean rank of the same acts is given too.
    """
    found = measurable(acts, users, pins, drawn, seed)
    if found is None:
        return None
    figures = describe_ranks(found.rank(), found.acts, len(found.drawn))
    if popularity:
        by_others = rank_by_popularity(found.acts, len(found.pins), found.drawn)
        figures["popularity"] = round(float(by_others.mean()), 6)
    return figures


def pin_movements(before: Vectors, tonight: Vectors) -> np.ndarray | None:
    """1 - cosine of the pins in both, float32 [N], by id; None without one, or in spaces of different widths."""
    common, at, now = np.intersect1d(before.ids, tonight.ids, assume_unique=True, return_indices=True)
    if not len(common) or before.vectors.shape[1] != tonight.vectors.shape[1]:
        return None
    a, b = before.vectors[at].astype(np.float32), tonight.vectors[now].astype(np.float32)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return 1.0 - np.einsum("nd,nd->n", a, b) / np.where(lengths > 0, lengths, 1.0)


def describe_movements(way: np.ndarray) -> dict[str, Any]:
    """How many pins moved while others did not, of `pin_movements` of at least one.

    A pin has moved if 1 - cosine is more than `MOVED` above the median pin's: a set of vectors that is made again as a
    whole moves all pins alike.
    """
    median = np.median(way)
    return {
        "pins": len(way),
        "moved": int((way > median + MOVED).sum()),
        "median_cosine": round(1.0 - float(median), 6),
    }


def pins_moved(before: Vectors, tonight: Vectors) -> dict[str, Any] | None:
    """The share of pins that moved while others did not; None without a pin in both."""
    way = pin_movements(before, tonight)
    return None if way is None else describe_movements(way)


def engaged(acts: Acts, pins: Vectors) -> dict[str, int] | None:
    """How many of the acts, and of their distinct pins, are without a vector; None without an act.

    Args:
        acts: `pins` are ids.
        pins: Tonight's embeddings, of these pins as far as there are any.
    """
    if not len(acts.pins):
        return None
    without = pins.rows(acts.pins) < 0
    return {
        "users": len(acts),
        "acts": len(acts.pins),
        "acts_without_vector": int(without.sum()),
        "pins": len(np.unique(acts.pins)),
        "pins_without_vector": len(np.unique(acts.pins[without])),
    }


def judge(
    acts: Acts, served: tuple[Vectors, Vectors], new: tuple[Vectors, Vectors], drawn: np.ndarray, seed: int
) -> dict[str, Any] | None:
    """Two models on the same users, acts and drawn pins; None where too few users are left.

    Args:
        served, new: Vectors of users and of pins, each pair in a space of its own.

    Returns:
        `margin`, `spread`, `error` of what the new model loses: the served one's margin less its own, per user.
    """
    drawn = drawn[(served[1].rows(drawn) >= 0) & (new[1].rows(drawn) >= 0)]
    has = (served[0].rows(acts.user_ids) >= 0) & (new[0].rows(acts.user_ids) >= 0)
    kept = acts.only(has[acts.owner] & (served[1].rows(acts.pins) >= 0) & (new[1].rows(acts.pins) >= 0))
    found = [measurable(kept, *vectors, drawn, seed) for vectors in (served, new)]
    if found[0] is None or found[1] is None:
        return None
    ranks = [side.rank().margin for side in found if side is not None]
    means = {"served": round(float(ranks[0].mean()), 6), "new": round(float(ranks[1].mean()), 6)}
    return {"users": len(kept), "acts": len(kept.pins), **describe(ranks[0] - ranks[1]), **means}


def unseen_users(users: np.ndarray, config: ModelConfig, first_day: str) -> np.ndarray:
    """Which users a model can be judged on by acts of `first_day` on: bool [N].

    All of them where its training ended before; those that it held out where not.
    """
    if config.until <= first_day:
        return np.ones(len(users), bool)
    if config.split_salt is None:
        return np.zeros(len(users), bool)
    return uniform_of(users, config.split_salt) < config.evaluation_share


@dataclasses.dataclass(frozen=True)
class Previous:
    """The release that is looked back at: its day, and the model that made its vectors."""

    day: datetime.date
    model_digest: str


@dataclasses.dataclass(frozen=True)
class Left:
    """What a night left to be looked back on.

    Attributes:
        acts: Rows `user_id`, `pin_id` of the asked users; None if there are none.
        asked: Their vectors, `before` and `tonight`.
        histories: Of some of them, as they stood last night, where the model changes.
        drawn: Sorted ids of the pins drawn.
        before, tonight: Embeddings of these and of the pins acted on, in the previous release and in this one.
    """

    acts: pa.Table | None
    asked: pa.Table | None
    histories: pa.Table | None
    drawn: np.ndarray
    before: Vectors
    tonight: Vectors


@dataclasses.dataclass(frozen=True)
class HindsightCheck:
    """Looks back from a run to the release before it; small and picklable."""

    model: ModelReference
    dtype: str
    token_budget: int

    def measure(
        self, run: Run, previous: Previous | None, left: Left, tables: list[FileEntry]
    ) -> tuple[StepReport, dict[str, Any]]:
        """What it took, and the figures for the manifest.

        Args:
            previous: The release that the run's is built on; None for a first one.
            tables: Tonight's pin vectors, one table per shard.

        Returns:
            The report; `seed`, `judged` (the date looked back at), `model` (its), `days` (since it), and
            `foresight`, `consistency`, `new_model`, `pins`, `engaged`: None where there is nothing to measure.
        """
        started, seed = time.perf_counter(), seed_of(run.date)
        acts, drawn = acts_of(left.acts), left.drawn
        found: dict[str, Any] = {"seed": seed, "judged": None, "model": None, "days": 0}
        found |= {"foresight": None, "new_model": None, "pins": None}
        found["engaged"] = engaged(acts, left.tonight)
        mine = vectors_of(left.asked, "tonight")
        found["consistency"] = foresee(acts, mine, left.tonight, drawn, seed, popularity=False)
        if previous is not None:
            days, served = (run.date - previous.day).days, vectors_of(left.asked, "before")
            found |= {"judged": previous.day.isoformat(), "model": previous.model_digest, "days": days}
            if days > 0:
                found["foresight"] = foresee(acts, served, left.before, drawn, seed, popularity=True)
            if run.instructions.everyone_active and days > 0:
                found["new_model"] = self._judge_model(run, tables, left, acts, served, seed)
            if not run.instructions.everyone_active:
                found["pins"] = pins_moved(left.before, left.tonight)
        counters: dict[str, int] = {Counter.ACTS: len(acts.pins)}
        for name, counter in (("foresight", Counter.USERS_FORESIGHT), ("consistency", Counter.USERS_CONSISTENCY)):
            if found[name]:
                counters[counter] = found[name]["users"]
        return task_report(started, counters), found

    def _judge_model(
        self, run: Run, tables: list[FileEntry], left: Left, acts: Acts, served: Vectors, seed: int
    ) -> dict[str, Any]:
        """The new model on histories as they stood last night, against what was served."""
        model = self.model.load()
        assert run.after is not None
        first_day = (np.datetime64(run.after) + 1).astype(str)
        rows = left.histories
        users = np.unique(rows["user_id"].to_numpy()) if rows is not None else np.empty(0, np.int64)
        users = draw_asked(users[unseen_users(users, model.config, first_day)], JUDGED_USERS)
        found = {"until": model.config.until, "saw_tonight": model.config.until > first_day, "judged": None}
        if rows is None or not len(users):
            return found
        rows = rows.filter(pa.array(np.isin(rows["user_id"].to_numpy(), users)))
        look_up = VectorTable.open(run.root, tables, self.dtype).look_up
        sequences, _, _ = assemble(rows, model.config, look_up)
        encoded = encode_healthy(UserEncoder(model.user_tower, self.token_budget, self.model.device), sequences)
        healthy = np.delete(np.arange(len(sequences.user_ids)), list(encoded.failures))
        new = Vectors.of(sequences.user_ids[healthy], encoded.embeddings[healthy])  # they stand bucket by bucket
        mine = acts.only(np.isin(acts.user_ids, users)[acts.owner])
        judged = judge(mine, (served, left.before), (new, left.tonight), left.drawn, seed)
        return {**found, "judged": judged}


def acts_of(rows: pa.Table | None) -> Acts:
    """Staged rows `user_id`, `pin_id` of all buckets as acts, users sorted."""
    if rows is None:
        return Acts(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int64))
    users, pins = rows["user_id"].to_numpy(), rows["pin_id"].to_numpy()
    order = np.argsort(users, kind="stable")
    return Acts.of(users[order], pins[order])
