"""Nights as usual, drawn: how often a gate closes on them, at sizes that a benchmark's world does not have.

Every function takes what some real nights left of each user or pin, and draws from it with replacement: nights that are
alike but for chance. `benchmarks.bad_nights` makes the nights.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from stores.files import Root
from stores.manifests import Manifest
from stores.names import Counter, Step
from stores.tables import TABLES
from transforms.acts import ACTS_PER_USER, JUDGED_USERS
from transforms.gates import GateSpec, StagedRelease, Thresholds, blind_gates
from transforms.gates.hindsight import (
    HINDSIGHT,
    consistency,
    engaged_vectorless,
    hindsight_fall,
    new_model_hindsight,
    pins_moved,
)
from transforms.gates.rhythm import HOURS, hours_shift, rows_per_user, vocabulary_rise
from transforms.hindsight import DRAWN, describe_movements
from transforms.margins import Acts, describe

SIZES = (100, 1_000, 10_000)  # active users
HOUR_MS = 3_600_000
START = datetime.date(2026, 11, 1)
# Words that a model may not know; and a word that no row has.
UNKNOWN, NOTHING = (("action", "click"), ("action", "closeup"), ("surface", "search")), ("surface", "no such")
Draw = Callable[[int], Manifest]  # a drawn night, by its number


@dataclasses.dataclass
class Kept:
    """What the usual nights of one model left.

    Attributes:
        foresight, consistency: Of each night the margins of its users.
        acts: Of each night, users' acts.
        movements: Of each night `hindsight.pin_movements` of the pins looked at.
        pins: How many pins have an embedding.
    """

    foresight: list[np.ndarray] = dataclasses.field(default_factory=list)
    consistency: list[np.ndarray] = dataclasses.field(default_factory=list)
    acts: list[Acts] = dataclasses.field(default_factory=list)
    movements: list[np.ndarray] = dataclasses.field(default_factory=list)
    pins: int = 0


def release_stats(number: int, counters: dict[str, int], statistics: dict) -> Manifest:
    """A release that is nothing but figures."""
    date = (START + datetime.timedelta(number)).isoformat()
    tables: dict[str, list] = {name: [] for name in TABLES}
    nothing: dict = {"tables": tables, "inputs": [], "settings": {}, "gates": [], "timings": {}, "retry_users": []}
    counted = {Step.UPDATE_HISTORIES: counters}
    return Manifest(date, date, None, "", counters=counted, statistics=statistics, **nothing)


def looked_back(number: int, **found) -> Manifest:
    """A release with some figures of its look back."""
    nothing = {"judged": "before", "model": "m", "days": 1}
    nothing |= dict.fromkeys(("foresight", "consistency", "new_model", "pins", "engaged"))
    return release_stats(number, {}, {HINDSIGHT: nothing | found})


def count_closed(gate: GateSpec, draw: Draw, nights: int, trials: int) -> tuple[float, float]:
    """Of which share of the drawn nights a gate closes, and cannot see; the night of number `nights` is tonight's."""
    closed = blind = 0
    for _ in range(trials):
        newest_first = [draw(number) for number in range(nights, -1, -1)]
        staged = StagedRelease(Root("/nowhere"), newest_first[0], {}, newest_first[1:], Thresholds())
        found = gate(staged)
        closed += found is not None and not found.passed
        blind += bool(blind_gates([gate], staged))
    return closed / trials, blind / trials


def share_closed(gate: GateSpec, draw: Draw, nights: int, trials: int) -> str:
    """`count_closed` in words."""
    closed, blind = count_closed(gate, draw, nights, trials)
    return f"{closed:.1%}" + (f" ({blind:.0%} blind)" if blind else "")


def draw_margins(usual: np.ndarray, tonight: np.ndarray, nights: int, size: int, random: np.random.Generator) -> Draw:
    """Nights of `size` users' foresight margins, tonight's drawn from other users than the usual ones'."""

    def draw(number: int) -> Manifest:
        drawn = describe(random.choice(tonight if number == nights else usual, size))
        return looked_back(number, foresight={"users": size, **drawn})

    return draw


def draw_consistency(margins: np.ndarray, size: int, random: np.random.Generator) -> Draw:
    return lambda number: looked_back(number, consistency={"users": size, **describe(random.choice(margins, size))})


def draw_judged(lost: np.ndarray, size: int, random: np.random.Generator) -> Draw:
    """Nights on which a new model is judged that is as good as the one before: users' differences less their mean."""
    lost = lost - lost.mean()
    size = min(size, JUDGED_USERS)

    def draw(number: int) -> Manifest:
        judged = {**describe(random.choice(lost, size)), "users": size, "served": 0.0, "new": 0.0}
        return looked_back(number, new_model={"saw_tonight": False, "judged": judged})

    return draw


def count_looked_at(acts: Acts, pins: int, size: int, random: np.random.Generator) -> int:
    """How many pins a night of `size` users looks at: those of their acts, and of `DRAWN` pins those that are not."""
    users = random.integers(0, len(acts), size)
    taken = [acts.pins[acts.offsets[user] : acts.offsets[user + 1]] for user in users]
    distinct = len(np.unique(np.concatenate(taken)))
    return distinct + round(min(DRAWN, pins) * max(0.0, 1 - distinct / pins))


def draw_movements(looked_at: int, movements: np.ndarray, random: np.random.Generator) -> Draw:
    return lambda number: looked_back(number, pins=describe_movements(random.choice(movements, looked_at)))


def rows_by_hour(rows: pa.Table, midnight: int) -> np.ndarray:
    """int64 [users, 26]: each user's rows per hour of the partition's day, which begins at `midnight` (ms)."""
    users, place = np.unique(rows["user_id"].to_numpy(), return_inverse=True)
    hours = np.zeros((len(users), 26), np.int64)
    hour = np.clip((rows["timestamp_ms"].to_numpy() - midnight) // HOUR_MS, -1, 24) + 1
    np.add.at(hours, (place, hour), 1)
    return hours


def draw_hours(usual: np.ndarray, tonight: np.ndarray, nights: int, size: int, random: np.random.Generator) -> Draw:
    """Nights of `size` users, each with all of his rows, `rows_by_hour`."""

    def draw(number: int) -> Manifest:
        source = tonight if number == nights else usual
        drawn = random.multinomial(size, np.full(len(source), 1 / len(source))) @ source
        counters: dict[str, int] = {Counter.ROWS_NEW: int(drawn.sum()), Counter.USERS_CHANGED: size}
        return release_stats(number, counters, {HOURS: drawn.tolist()})

    return draw


def unknown_by_user(rows: pa.Table, name: str, word: str) -> np.ndarray:
    """int64 [users, 2]: each user's rows, and those with a word that a model may not know."""
    users, place = np.unique(rows["user_id"].to_numpy(), return_inverse=True)
    unknown = np.asarray(rows[name].cast(pa.string()).to_pylist()) == word
    return np.stack([np.bincount(place, minlength=len(users)), np.bincount(place[unknown], minlength=len(users))], 1)


def all_of_some(rows: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """The same for users of whom a share has nothing but unknown words, the others none: as dense as it can be.

    Args:
        rows: int64 [users].
    """
    return np.stack([rows, rows * (random.random(len(rows)) < share)], 1)


def draw_vocabulary(
    usual: np.ndarray, tonight: np.ndarray, nights: int, size: int, random: np.random.Generator
) -> Draw:
    """Nights of `size` users, each with all of his rows, `unknown_by_user`."""

    def draw(number: int) -> Manifest:
        source = tonight if number == nights else usual
        rows, unknown = random.multinomial(size, np.full(len(source), 1 / len(source))) @ source
        counters: dict[str, int] = {Counter.ROWS_ADDED: int(rows), Counter.ROWS_OUT_OF_VOCABULARY: int(unknown)}
        return release_stats(number, counters | {Counter.USERS_CHANGED: size}, {})

    return draw


def draw_engaged(usual: np.ndarray, tonight: np.ndarray, nights: int, size: int, random: np.random.Generator) -> Draw:
    """Nights of `size` users' acts: int64 [users, 2], each user's acts and those on pins without a vector."""

    def draw(number: int) -> Manifest:
        source = tonight if number == nights else usual
        acts, without = random.multinomial(size, np.full(len(source), 1 / len(source))) @ source
        found = {"users": size, "acts": int(acts), "acts_without_vector": int(without)}
        return looked_back(number, engaged=found | {"pins": 0, "pins_without_vector": 0})

    return draw


Row = tuple[str, GateSpec, int, Callable[[int, np.random.Generator], Draw]]  # label, gate, usual nights, by size


def look_back_rows(kept: Kept, lost: np.ndarray, remade: np.ndarray) -> Iterator[Row]:
    """The rows of the gates that look back.

    Args:
        lost: Of a new model as good, what each user loses.
        remade: `pin_movements` between two exports of vectors that were computed again.
    """
    foresight, consistent = np.concatenate(kept.foresight), np.concatenate(kept.consistency)
    for nights in (1, 6):
        yield (
            "margins of equal nights",
            hindsight_fall,
            nights,
            lambda size, random, nights=nights: draw_margins(foresight, foresight, nights, size, random),
        )
    yield "margins of equal nights", consistency, 0, lambda size, random: draw_consistency(consistent, size, random)
    yield "a new model as good", new_model_hindsight, 0, lambda size, random: draw_judged(lost, size, random)
    acts = kept.acts[-1]

    def movements(of: np.ndarray) -> Callable[[int, np.random.Generator], Draw]:
        return lambda size, random: draw_movements(count_looked_at(acts, kept.pins, size, random), of, random)

    same, share = np.concatenate(kept.movements), describe_movements(remade)["moved"] / len(remade)
    for nights in (1, 7):
        yield f"one export of vectors: at most {same.max():.4f} apart", pins_moved, nights, movements(same)
        yield f"vectors made again every night: {share:.1%} of the pins move", pins_moved, nights, movements(remade)


def rhythm_rows(rows: pa.Table, midnight: int) -> Iterator[Row]:
    """The rows of the gates on the rhythm of a night's rows."""
    hours = rows_by_hour(rows, midnight)
    for gate in (rows_per_user, hours_shift):
        yield "users' rows", gate, 8, lambda size, random: draw_hours(hours, hours, 8, size, random)
    random = np.random.default_rng(3)
    kinds = {f"{name} {word} unknown": unknown_by_user(rows, name, word) for name, word in (*UNKNOWN, NOTHING)}
    for share in (0.02, 0.2, 0.5):
        kinds[f"all words of {share:.0%} of the users unknown"] = all_of_some(hours.sum(axis=1), share, random)
    for name, counts in kinds.items():
        unknown = counts[:, 1].sum() / counts[:, 0].sum()
        for nights in (1, 8):
            yield (
                f"{name}: {unknown:.1%} of the rows",
                vocabulary_rise,
                nights,
                lambda size, random, counts=counts, nights=nights: draw_vocabulary(
                    counts, counts, nights, size, random
                ),
            )


def without_by_user(rows: pa.Table, with_vector: np.ndarray) -> np.ndarray:
    """int64 [users, 2]: of each user's distinct pins, `ACTS_PER_USER` at most, how many there are and are not in
    `with_vector`, sorted int64 ids.
    """
    pairs = np.unique(np.stack([rows["user_id"].to_numpy(), rows["pin_id"].to_numpy()], 1), axis=0)
    users, first, place = np.unique(pairs[:, 0], return_index=True, return_inverse=True)
    kept = np.arange(len(pairs)) - first[place] < ACTS_PER_USER
    without = kept & ~np.isin(pairs[:, 1], with_vector)
    return np.stack([np.bincount(place[found], minlength=len(users)) for found in (kept, without)], 1)


def engaged_rows(rows: pa.Table, with_vector: np.ndarray) -> Iterator[Row]:
    """The rows of the gate on pins without a vector: those of the world, and users all of whose acts are on such pins.

    Args:
        rows: Of a usual night.
        with_vector: Sorted int64 ids of the pins that have one.
    """
    counts = without_by_user(rows, with_vector)
    number, kinds = counts[:, 0], {"as the world has them": counts}
    random = np.random.default_rng(3)
    for share in (0.02, 0.2, 0.5):
        kinds[f"all acts of {share:.0%} of the users"] = all_of_some(number, share, random)
    for name, counts in kinds.items():
        share = counts[:, 1].sum() / counts[:, 0].sum()
        for nights in (1, 8):
            yield (
                f"acts on pins without a vector, {name}: {share:.1%}",
                engaged_vectorless,
                nights,
                lambda size, random, counts=counts, nights=nights: draw_engaged(counts, counts, nights, size, random),
            )


def print_table(rows: Iterator[Row], trials: int) -> None:
    """How often gates close on equal nights, at every size."""
    print("\n| gate | usual nights | equal nights of | 100 users | 1,000 | 10,000 |\n|" + "---|" * 6, flush=True)
    for label, gate, nights, draw in rows:
        random = np.random.default_rng(3)
        shares = [share_closed(gate, draw(size, random), nights, trials) for size in SIZES]
        print(f"| `{gate.name}` | {nights} | {label} | {' | '.join(shares)} |", flush=True)
