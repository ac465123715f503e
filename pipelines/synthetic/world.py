"""`pinnerformer synth`: a made-up world to try the job on, of any size, from a seed."""

import dataclasses
import datetime
import json
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from pinnerformer_model.days import DAY_MS, midnight_ms
from pipelines.arguments import Parser, date, positive, share
from stores.errors import UsageError
from stores.files import replace_atomically
from stores.ids import splitmix64
from stores.schemas import ENGAGEMENTS

DESCRIPTION = """\
Writes a Pinterest-like world: topics, pins of Zipf popularity that appear over time, users whose interests drift,
sessions of actions on surfaces, durations on some rows, and detours: sessions that rush through a topic that is not the
user's own. Logs go to WORLD/logs/ds=.../, PinSage-like vectors to WORLD/pins/, what the generator knows and the job
does not (topics, interests) to WORLD/truth/.

The same flags give the same bytes. Memory does not grow with --days.
"""

ACTIONS = ("closeup", "repin", "click", "hide", "comment")
ACTION_SHARES = (0.62, 0.20, 0.12, 0.04, 0.02)
SURFACES = ("homefeed", "search", "related_pins", "board")
SURFACE_SHARES = (0.5, 0.2, 0.2, 0.1)
TIMED = (0, 2)  # closeup and click have a duration
TOPIC_SKEW = 1.6  # of a uniform draw, the power that makes low topics popular
INTERESTS = 4  # topics a user is interested in at a time
FIRST_SHARE = 0.5  # of the engagements with interests: the first has it, each later one as much of what is left
STRAY_SHARE = 0.1  # of the engagements, those with a pin of any topic
SESSIONS = 3  # a day at most
PACE_MS = 8 * 60_000  # mean time from a session's begin to an action of it
DETOUR_PACE_MS = 20_000
PINSAGE_VERSION = "synth-1"
WIDTH = 256  # numbers of a vector, as PinSage has them
_USERS_AT_ONCE = 200_000
_PINS_AT_ONCE = 100_000


@dataclasses.dataclass(frozen=True)
class World:
    """What a world is made of; equal worlds are equal in every byte.

    Attributes:
        users: User ids are spread over [0, 2^40), without repeats.
        pins: Pin ids likewise.
        start: The first day.
        days: How many.
        seed: Of everything.
        topics: Each a direction in the space of the vectors.
        active_share: Of the users, the mean share that acts on a day.
        rows_per_active: Median engagements of an active user's day; lognormal.
        vectorless_share: Of the pins, those without a vector.
        late_share: Of the rows, those that arrive a day late.
        repeated_share: Of the rows, those that are written twice.
        untaught_share: Of the rows, those whose action the model may not know (`share_sheet`).
        detour_share: Of the sessions, those spent on one topic that is not of the user's interests and tells nothing of
            what comes next; seconds between its actions, not minutes, are all that sets it apart.
        width: Numbers of a vector.
    """

    users: int
    pins: int
    start: datetime.date
    days: int
    seed: int = 0
    topics: int = 350
    active_share: float = 0.25
    rows_per_active: float = 8.0
    vectorless_share: float = 0.01
    late_share: float = 0.01
    repeated_share: float = 0.002
    untaught_share: float = 0.0
    detour_share: float = 0.3
    width: int = WIDTH

    def to_json(self) -> dict[str, Any]:
        """As `world.json` has it, which says the width where it is not PinSage's."""
        found = dataclasses.asdict(self)
        if self.width == WIDTH:
            del found["width"]
        return found

    def random(self, *purpose: int) -> np.random.Generator:
        """A generator of its own for every purpose, so that one part can be made without the others."""
        return np.random.default_rng([self.seed, *purpose])


@dataclasses.dataclass(frozen=True)
class Pins:
    """The catalogue, sorted by topic; within a topic the most popular first.

    Attributes:
        pin_id: int64 [P].
        topic: int32 [P].
        born: int32 [P], the day it appears, counted from the start; two thirds are there from the first day.
        first: int64 [T + 1], where each topic begins.
    """

    pin_id: np.ndarray
    topic: np.ndarray
    born: np.ndarray
    first: np.ndarray


def spread_ids(count: int, offset: int) -> np.ndarray:
    """Distinct ids in [0, 2^40) that look random: an odd multiplier modulo a power of two is a bijection."""
    numbers = np.arange(count, dtype=np.uint64) + np.uint64(offset)
    return ((numbers * np.uint64(0x9E3779B1) + np.uint64(0x85EBCA77)) % np.uint64(1 << 40)).astype(np.int64)


def make_pins(world: World) -> Pins:
    """Draws the catalogue."""
    random = world.random(1)
    weight = 1 / np.arange(1, world.topics + 1) ** 0.7
    topic = np.sort(random.choice(world.topics, world.pins, p=weight / weight.sum())).astype(np.int32)
    born = np.where(random.random(world.pins) < 2 / 3, 0, random.integers(0, world.days, world.pins)).astype(np.int32)
    ids = random.permutation(spread_ids(world.pins, 1 << 20))
    return Pins(ids, topic, born, np.searchsorted(topic, np.arange(world.topics + 1)))


def topic_directions(world: World) -> np.ndarray:
    """float32 [T, width], unit norm: topics lie in groups of about seven, as interests do."""
    random, width = world.random(2), world.width
    groups = random.standard_normal((max(1, world.topics // 7), width))
    own = groups[random.integers(0, len(groups), world.topics)] + 0.8 * random.standard_normal((world.topics, width))
    return (own / np.linalg.norm(own, axis=1, keepdims=True)).astype(np.float32)


def write_vectors(world: World, pins: Pins, folder: str) -> None:
    """Writes the vectors in files of at most 100,000 pins: the topic's direction and the pin's own part."""
    os.makedirs(folder, exist_ok=True)
    directions = topic_directions(world)
    for number, start in enumerate(range(0, world.pins, _PINS_AT_ONCE)):
        random = world.random(3, number)
        chosen = np.arange(start, min(world.pins, start + _PINS_AT_ONCE))
        vectors = random.standard_normal((len(chosen), world.width), np.float32)
        vectors *= 0.7 / np.sqrt(world.width)
        vectors += directions[pins.topic[chosen]]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        keep = random.random(len(chosen)) >= world.vectorless_share
        table = pa.table(
            {
                "pin_id": pins.pin_id[chosen][keep],
                "vector": pa.FixedSizeListArray.from_arrays(
                    pa.array(vectors[keep].astype(np.float16).reshape(-1)), world.width
                ),
                "topic": pins.topic[chosen][keep],
            }
        )
        with replace_atomically(os.path.join(folder, f"vectors-{number:05d}.parquet")) as path:
            pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=20_000)
    write_json(os.path.join(folder, "version.json"), {"pinsage_version": PINSAGE_VERSION})


def interests_on(world: World, users: np.ndarray, day: int) -> np.ndarray:
    """The topics users care about on a day, the most important first; one of the four changes every 30 to 120 days.

    Args:
        users: int64 [N], indices of users (not ids).

    Returns:
        int32 [N, 4]; a function of (world, user, day) alone, so that no state is held over days.
    """
    slots = np.arange(INTERESTS, dtype=np.uint64)
    period = 30 + _hash(world.seed, 11, users[:, None], slots) % np.uint64(91)
    phase = _hash(world.seed, 12, users[:, None], slots) % np.uint64(120)
    # Each user and slot changes on days of its own: were all to change at once, one night would embed everybody.
    epoch = (np.uint64(day) + phase) // period
    draw = _hash(world.seed, 13, users[:, None] * 8 + slots.astype(np.int64), epoch)
    uniform = (draw >> np.uint64(11)).astype(np.float64) / 2**53
    return popular_topics(world, uniform)


def popular_topics(world: World, uniform: np.ndarray) -> np.ndarray:
    """int32, the topic of every draw in [0, 1): popular by rank, as pins are, by the inverse of a power law's sums."""
    return np.minimum((world.topics * uniform**TOPIC_SKEW).astype(np.int32), world.topics - 1)


def topic_shares(world: World) -> np.ndarray:
    """float64 [T], the distribution of `popular_topics`."""
    return np.diff((np.arange(world.topics + 1) / world.topics) ** (1 / TOPIC_SKEW))


def engagement_shares(world: World) -> tuple[np.ndarray, np.ndarray]:
    """What `engagements_of` draws topics by, as shares of a user's engagements: the oracle's half of one rule.

    Returns:
        float64 [INTERESTS], of each interest as one, the most important first; float64 [T], of each topic besides, for
        everybody. They sum to 1.
    """
    slot = FIRST_SHARE * (1 - FIRST_SHARE) ** np.arange(INTERESTS)
    slot[-1] = (1 - FIRST_SHARE) ** (INTERESTS - 1)  # the last has all that is left
    of_interests = (1 - STRAY_SHARE) * (1 - world.detour_share)
    anybody = STRAY_SHARE / world.topics + (1 - STRAY_SHARE) * world.detour_share * topic_shares(world)
    return of_interests * slot, anybody


def _hash(seed: int, purpose: int, *parts: np.ndarray) -> np.ndarray:
    """uint64 of the broadcast shape: splitmix64 folded over the parts."""
    state = splitmix64(np.array([seed * 1_000_003 + purpose], np.int64))
    for part in parts:
        state = splitmix64(state ^ np.asarray(part).astype(np.uint64))
    return state


def draw_pins(pins: Pins, topic: np.ndarray, day: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pins of the topics asked, by Zipf popularity; a pin not yet born is drawn again, four times at most.

    Returns:
        int64 [N], indices of pins; bool [N], whether the pin is of the topic and born by that day.
    """
    chosen = np.zeros(len(topic), np.int64)
    pending = np.flatnonzero(pins.first[topic + 1] > pins.first[topic])
    good = np.zeros(len(topic), bool)
    for _ in range(5):
        first = pins.first[topic[pending]]
        size = pins.first[topic[pending] + 1] - first
        # The rank by inverse transform of 1/x on [1, size + 1): size^u - 1.
        rank = ((size + 1.0) ** random.random(len(pending)) - 1).astype(np.int64)
        chosen[pending] = first + np.minimum(rank, size - 1)
        born = pins.born[chosen[pending]] <= day
        good[pending[born]] = True
        pending = pending[~born]
    return chosen, good


def engagements_of(world: World, pins: Pins, day: int, chunk: int) -> dict[str, np.ndarray]:
    """One day of one chunk of users, in order of time; strings as codes."""
    random = world.random(4, day, chunk)
    users = np.arange(chunk * _USERS_AT_ONCE, min(world.users, (chunk + 1) * _USERS_AT_ONCE))
    # Some act daily, most now and then: each user's own rate, a power of a uniform draw, of the asked mean.
    draw = _hash(world.seed, 21, users) >> np.uint64(11)
    # The mean of u^k is 1 / (k + 1): this exponent gives the share asked for, and most users far below it.
    rate = (draw.astype(np.float64) / 2**53) ** ((1 - world.active_share) / world.active_share)
    acting = users[random.random(len(users)) < rate]
    rows_each = np.ceil(random.lognormal(np.log(world.rows_per_active), 0.8, len(acting))).astype(np.int64)
    rows_each = np.minimum(rows_each, 400)
    row = np.repeat(np.arange(len(acting)), rows_each)
    session = random.integers(0, SESSIONS, len(row))
    slot = np.minimum(random.geometric(FIRST_SHARE, len(row)) - 1, INTERESTS - 1)
    detour = (random.random((len(acting), SESSIONS)) < world.detour_share)[row, session]
    anybodys = popular_topics(world, random.random((len(acting), SESSIONS)))[row, session]
    topic = np.where(detour, anybodys, interests_on(world, acting, day)[row, slot])
    stray = random.random(len(row)) < STRAY_SHARE
    topic[stray] = random.integers(0, world.topics, int(stray.sum()))
    pin, good = draw_pins(pins, topic, day, random)
    row, session, pin, detour = row[good], session[good], pin[good], detour[good]  # a topic may have no pin born yet
    n = len(row)
    user = acting[row]
    begin = random.random((len(acting), SESSIONS))[row, session] * 0.93 * DAY_MS
    pace = np.where(detour, DETOUR_PACE_MS, PACE_MS)
    moment = np.minimum((begin + random.exponential(1, n) * pace).astype(np.int64), DAY_MS - 1)
    action = random.choice(len(ACTIONS), n, p=ACTION_SHARES).astype(np.int32)
    surface = random.choice(len(SURFACES), n, p=SURFACE_SHARES).astype(np.int32)
    if world.untaught_share:
        action[random.random(n) < world.untaught_share] = len(ACTIONS)
    duration = random.lognormal(2.3, 1.0, n).astype(np.float32)
    duration[~np.isin(action, TIMED) | (random.random(n) < 0.1)] = np.nan
    midnight = midnight_ms(world.start) + day * DAY_MS
    order = np.argsort(moment, kind="stable")
    columns = (user, pin, midnight + moment, action, surface, duration)
    names = ("user", "pin", "timestamp_ms", "action", "surface", "duration_s")
    return {name: column[order] for name, column in zip(names, columns, strict=True)}


def write_day(world: World, pins: Pins, user_ids: np.ndarray, day: int, folder: str) -> int:
    """Writes one partition: one file a chunk of users, then the rows that come a day late, then `_SUCCESS`."""
    partition = os.path.join(folder, f"ds={world.start + datetime.timedelta(day)}")
    os.makedirs(partition, exist_ok=True)
    chunks = -(-world.users // _USERS_AT_ONCE)
    written, late = 0, []
    for chunk in range(chunks):
        rows = engagements_of(world, pins, day, chunk)
        # A generator of their own: whoever draws the day again, for its late rows, gets the same marks.
        marks = world.random(5, day, chunk).random((2, len(rows["user"])))
        on_time = np.flatnonzero(marks[0] >= world.late_share) if day + 1 < world.days else np.arange(len(rows["user"]))
        twice = on_time[marks[1][on_time] < world.repeated_share]
        kept = np.concatenate([on_time, twice])
        written += _write_rows(pins, user_ids, rows, kept, os.path.join(partition, f"part-{chunk:05d}.parquet"))
        if day:
            # Drawn once more in place of kept: a day is a function of its number, so that no state goes from day to
            # day.
            before = engagements_of(world, pins, day - 1, chunk)
            marks = world.random(5, day - 1, chunk).random((2, len(before["user"])))
            late.append({name: column[marks[0] < world.late_share] for name, column in before.items()})
    if late:
        rows = {name: np.concatenate([part[name] for part in late]) for name in late[0]}
        kept = np.arange(len(rows["user"]))
        written += _write_rows(pins, user_ids, rows, kept, os.path.join(partition, "part-late.parquet"))
    with replace_atomically(os.path.join(partition, "_SUCCESS")):
        pass
    return written


def _write_rows(pins: Pins, user_ids: np.ndarray, rows: dict[str, np.ndarray], kept: np.ndarray, target: str) -> int:
    actions = pa.array([*ACTIONS, "share_sheet"])
    duration = rows["duration_s"][kept]
    table = pa.table(
        [
            pa.array(user_ids[rows["user"][kept]]),
            pa.array(pins.pin_id[rows["pin"][kept]]),
            pa.array(rows["timestamp_ms"][kept]),
            pa.DictionaryArray.from_arrays(pa.array(rows["action"][kept]), actions),
            pa.DictionaryArray.from_arrays(pa.array(rows["surface"][kept]), pa.array(SURFACES)),
            pa.array(duration, mask=np.isnan(duration)),
        ],
        schema=ENGAGEMENTS,
    )
    with replace_atomically(target) as path:
        pq.write_table(table, path, compression="none", row_group_size=1 << 18, write_statistics=False)
    return len(kept)


def write_truth(world: World, pins: Pins, user_ids: np.ndarray, folder: str) -> None:
    """Writes the pins' topics and the users' interests on the last day."""
    os.makedirs(folder, exist_ok=True)
    with replace_atomically(os.path.join(folder, "pins.parquet")) as path:
        pq.write_table(pa.table({"pin_id": pins.pin_id, "topic": pins.topic, "born_day": pins.born}), path)
    schema = pa.schema([("user_id", pa.int64()), ("interests", pa.list_(pa.int32(), INTERESTS))])
    with replace_atomically(os.path.join(folder, "users.parquet")) as path, pq.ParquetWriter(path, schema) as writer:
        for start in range(0, world.users, _USERS_AT_ONCE):
            users = np.arange(start, min(world.users, start + _USERS_AT_ONCE))
            flat = pa.array(interests_on(world, users, world.days - 1).reshape(-1))
            interests = pa.FixedSizeListArray.from_arrays(flat, INTERESTS)
            writer.write_table(pa.table([pa.array(user_ids[users]), interests], schema=schema))


def write_json(path: str, value: dict) -> None:
    with replace_atomically(path) as temporary, open(temporary, "w") as file:
        json.dump(value, file, indent=1, default=str)
        file.write("\n")


def write_world(world: World, out: str, show_progress: bool) -> int:
    """Writes everything; returns the number of log rows."""
    pins = make_pins(world)
    user_ids = spread_ids(world.users, 0)
    write_vectors(world, pins, os.path.join(out, "pins"))
    rows = 0
    console = Console(stderr=True)
    for day in track(range(world.days), "writing days", console=console, disable=not show_progress, transient=True):
        rows += write_day(world, pins, user_ids, day, os.path.join(out, "logs"))
    write_truth(world, pins, user_ids, os.path.join(out, "truth"))
    write_json(os.path.join(out, "world.json"), {**world.to_json(), "rows": rows})
    return rows


@dataclasses.dataclass(frozen=True)
class SynthRequest:
    """What `pinnerformer synth` is asked for: a world, and a folder that is empty or does not exist."""

    world: World
    out: str


def make_parser() -> Parser:
    """The flags of `pinnerformer synth`."""
    defaults = {field.name: field.default for field in dataclasses.fields(World)}
    parser = Parser(prog="pinnerformer synth", description=DESCRIPTION, own=("pins",))
    parser.add_argument("--out", required=True, metavar="WORLD", help="a folder that is empty or does not exist")
    parser.add_argument("--users", required=True, type=positive, metavar="N", help="how many there are")
    parser.add_argument("--pins", required=True, type=positive, metavar="P", help="how many there are")
    parser.add_argument("--start", required=True, type=date, metavar="DATE", help="the first day")
    parser.add_argument("--days", required=True, type=positive, metavar="D", help="how many days of logs")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of everything drawn")
    for name, kind, metavar, text in (
        ("topics", positive, "T", "of the pins"),
        ("width", positive, "N", "numbers of a vector"),
        ("rows_per_active", float, "R", "of an active user, the median per day"),
    ):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=defaults[name], metavar=metavar, help=text)
    for name, text in (
        ("active_share", "of the users, acting on a mean day"),
        ("vectorless_share", "of the pins, without a vector"),
        ("late_share", "of the rows, a day late"),
        ("repeated_share", "of the rows, written twice"),
        ("untaught_share", "of the rows, with the action share_sheet"),
        ("detour_share", "of the sessions, rushed through a topic that is not the user's"),
    ):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=share, default=defaults[name], metavar="SHARE", help=text)
    return parser


def parse(argv: list[str]) -> SynthRequest:
    """Reads the flags of `pinnerformer synth`.

    Raises:
        UsageError: with the line to show.
    """
    found = make_parser().parse_args(argv)
    if found.active_share <= 0 or found.rows_per_active <= 0:
        raise UsageError("--active-share and --rows-per-active must be positive")
    return SynthRequest(
        World(**{field.name: getattr(found, field.name) for field in dataclasses.fields(World)}), found.out
    )


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    request = parse(argv)
    world, out = request.world, request.out
    if os.path.isdir(out) and os.listdir(out):
        raise UsageError(f"--out {out}: is not empty; name a new folder, or remove this one")
    rows = write_world(world, out, show_progress=True)
    print(f"{rows:,} engagements of {world.users:,} users with {world.pins:,} pins on {world.days} days")
    print(f"logs     {os.path.join(out, 'logs')}\nvectors  {os.path.join(out, 'pins')}")
    return 0
