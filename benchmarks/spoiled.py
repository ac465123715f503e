"""Ways to spoil a night: its rows, or the vectors of its pins."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.equal_nights import HOUR_MS
from pinnerformer_model.days import DAY_MS

Spoil = Callable[[pa.Table, np.random.Generator], pa.Table]


def replaced(rows: pa.Table, name: str, values: np.ndarray | pa.Array) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, pa.array(values))


def shuffled(name: str, share: float) -> Spoil:
    """Permutes a column among a share of the rows."""

    def spoil(rows: pa.Table, random: np.random.Generator) -> pa.Table:
        values = rows[name].to_numpy().copy()
        chosen = np.flatnonzero(random.random(len(values)) < share)
        values[chosen] = values[random.permutation(chosen)]
        return replaced(rows, name, values)

    return spoil


def next_users_rows(rows: pa.Table, random: np.random.Generator) -> pa.Table:
    users, place = np.unique(rows["user_id"].to_numpy(), return_inverse=True)
    return replaced(rows, "user_id", np.roll(users, 1)[place])


def half_missing(rows: pa.Table, random: np.random.Generator) -> pa.Table:
    return rows.filter(pa.array(random.random(rows.num_rows) < 0.5))


def moved(by_ms: int) -> Spoil:
    return lambda rows, _: replaced(rows, "timestamp_ms", rows["timestamp_ms"].to_numpy() + by_ms)


def at_midnight(rows: pa.Table, random: np.random.Generator) -> pa.Table:
    return replaced(rows, "timestamp_ms", rows["timestamp_ms"].to_numpy() // DAY_MS * DAY_MS)


def renamed(name: str, word: str) -> Spoil:
    """Another word for one action or surface."""

    def spoil(rows: pa.Table, random: np.random.Generator) -> pa.Table:
        words = rows[name].cast(pa.string())
        return replaced(rows, name, pc.if_else(pc.equal(words, word), f"{word}_2", words).combine_chunks())

    return spoil


def on_new_pins(share: float) -> Spoil:
    """A share of the rows on 50 pins that came tonight, and that nobody gave a vector."""

    def spoil(rows: pa.Table, random: np.random.Generator) -> pa.Table:
        pins = rows["pin_id"].to_numpy().copy()
        chosen = random.random(len(pins)) < share
        pins[chosen] = (1 << 50) + random.integers(0, 50, int(chosen.sum()))
        return replaced(rows, "pin_id", pins)

    return spoil


ROWS: dict[str, Spoil] = {
    "`user_id` of half of the rows shuffled": shuffled("user_id", 0.5),
    "`user_id` of all rows shuffled": shuffled("user_id", 1.0),
    "`pin_id` shuffled": shuffled("pin_id", 1.0),
    "every user the next one's rows": next_users_rows,
    "20 % of the rows on new pins without a vector": on_new_pins(0.2),
    "half of the rows missing": half_missing,
    "times cut to midnight": at_midnight,
    "times 8 hours early": moved(-8 * HOUR_MS),
    "times 1 hour early": moved(-HOUR_MS),
    "action closeup renamed": renamed("action", "closeup"),
    "action click renamed": renamed("action", "click"),
    "surface search renamed": renamed("surface", "search"),
}

OF_RHYTHM = ("half of the rows missing", "times cut to midnight", "times 8 hours early", "times 1 hour early")


def permuted(share: float) -> Callable[[pa.Table], pa.Table]:
    """The vectors of a share of the pins under one another's ids."""

    def spoil(pins: pa.Table) -> pa.Table:
        random, order = np.random.default_rng(5), np.arange(pins.num_rows)
        chosen = np.flatnonzero(random.random(pins.num_rows) < share)
        order[chosen] = chosen[random.permutation(len(chosen))]
        return pins.set_column(pins.schema.get_field_index("vector"), "vector", pins["vector"].take(pa.array(order)))

    return spoil


def alike(share: float) -> Callable[[pa.Table], pa.Table]:
    """One vector for a share of the pins."""

    def spoil(pins: pa.Table) -> pa.Table:
        order = np.arange(pins.num_rows)
        order[np.random.default_rng(5).random(pins.num_rows) < share] = 0
        return pins.set_column(pins.schema.get_field_index("vector"), "vector", pins["vector"].take(pa.array(order)))

    return spoil


PINS = {
    "10 % of pin vectors permuted": permuted(0.1),
    "20 % of pin vectors permuted": permuted(0.2),
    "10 % of the pins one vector": alike(0.1),
}
