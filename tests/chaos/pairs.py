"""Pairs of commands: the first is killed at an event drawn over its work, the second is whatever a person types next.

Afterwards the store is, key for key, the snapshot that CURRENT names, or the rollback, and holds nothing else.
"""

import dataclasses
import glob
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import redis

from stores.files import Root
from stores.kv import open_store
from stores.kv.base import KeyValueStore
from stores.kv.redis_cluster import RedisClusterStore
from stores.kv.redis_store import RedisStore
from stores.releases import current_release, read_current, read_hold
from stores.tables import read_files
from stores.user_lists import read_erased
from tests.chaos.events import Plan, read_log
from tests.chaos.scenarios import fork, run_daily, wait
from tests.redis_cluster import Cluster
from tests.worlds import FIRST, day
from transforms.publish import PublishTarget, publish
from transforms.publish_buckets import values_of

KINDS = ("lmdb", "redis", "cluster")
LEAVERS = (1, 4, 7)
# What is killed -> how often, in which situation. `release` takes a night from where it is staged, without Beam.
KILLED = {
    ("release", "staged"): 5,
    ("release", "staged by another model"): 4,
    ("rollback", "released"): 4,
    ("rollback", "released by another model"): 3,
    ("erase", "released"): 3,
    ("erase", "released by another model"): 1,
    ("gc", "released by another model"): 2,
    ("daily", "staged"): 1,
    ("repair", "released"): 1,
}
NEXT = {"same": 3, "rollback": 4, "release": 4, "erase": 3, "gc": 3, "repair": 1, "daily": 2}
OF_PUBLISHING = ("store", "release", "CURRENT", "manifest", "root")  # steps; all the rest is work before that


@dataclasses.dataclass
class Place:
    """Where pairs are played.

    Attributes:
        folder: Of everything; `world` and the situations lie in it.
        port: Of a Redis.
        cluster: A Redis Cluster; None: none of its pairs are drawn.
    """

    folder: str
    port: int
    cluster: Cluster | None
    events: dict[tuple[str, str], list[str]] = dataclasses.field(default_factory=dict)

    def kinds(self) -> tuple[str, ...]:
        return KINDS if self.cluster else KINDS[:2]

    def empty_store(self, kind: str, run: str) -> str:
        """The URL of a store that holds nothing."""
        if kind == "lmdb":
            return f"lmdb://{run}/kv"
        if kind == "redis":
            with redis.Redis(port=self.port) as client:
                client.flushall()
            return f"redis://127.0.0.1:{self.port}/0"
        assert self.cluster
        self.cluster.empty()
        return self.cluster.url


def small_chunks() -> None:
    """A few users a chunk, so that a publish of a small world has many."""
    RedisStore.chunk, RedisClusterStore.chunk = 3, 3


def make_situations(place: Place) -> None:
    """Roots to begin with: two nights published, a third staged or released, by the same model or another."""
    first = f"{place.folder}/two nights"
    os.makedirs(first)
    for number in (0, 1):
        _must(place, f"{first}/root", _daily(place, f"{first}/root", number, "model", "--publish=none"))
    for model, words in (("model", ""), ("other-model", " by another model")):
        folder = f"{place.folder}/staged{words}"
        shutil.copytree(first, folder)
        command = _daily(place, f"{folder}/root", 2, model, "--publish=none")
        plan = Plan(folder, f"{folder}/events", 1, "own", "release commit")
        code = wait(fork(lambda c=command, p=plan: run_daily(c, p), f"{folder}/said"), plan.log)
        assert code is not None and code < 0, f"staged{words}: it was to be killed, and ended with {code}"
        released = f"{place.folder}/released{words}"
        shutil.copytree(folder, released)
        run = _run_of_third_night(f"{released}/root")
        _must(place, f"{released}/root", ["release", f"--root={released}/root", f"--run={run}", "--publish=none"])


def _must(place: Place, root: str, command: list[str]) -> None:
    log = f"{place.folder}/events"
    code = wait(fork(lambda: run_daily(command, Plan(os.path.dirname(root), log)), f"{place.folder}/said"), log)
    with open(f"{place.folder}/said") as said:
        assert code == 0, said.read()[-3000:]


def _daily(place: Place, root: str, number: int, model: str, *more: str) -> list[str]:
    inputs = [f"--logs={place.folder}/world/logs", f"--pins={place.folder}/world/pins"]
    made = ("--user-buckets=3", "--pin-shards=2", "--history-length=40", f"--bootstrap-from={FIRST}")
    return [
        "daily",
        f"--root={root}",
        *inputs,
        f"--model={place.folder}/world/{model}",
        f"--date={day(number)}",
        *(made if number == 0 else ()),
        "--quiet",
        "--workers=1",  # the process that is to be killed is this one, however slow the nights before were
        *more,
    ]


def _run_of_third_night(root: str) -> str:
    found = sorted(glob.glob(f"{root}/staging/daily-{day(2)}-*"))
    return os.path.basename(found[0]) if found else f"daily-{day(2)}-erased"


def command_of(name: str, place: Place, root: str, kv: str, situation: str) -> list[str]:
    """What is typed."""
    model = "other-model" if "another" in situation else "model"
    where = [f"--root={root}", f"--kv={kv}"]
    if name == "release":
        return ["release", *where, f"--run={_run_of_third_night(root)}"]
    if name == "rollback":
        return ["rollback", *where, "--reason=it was bad"]
    if name == "erase":
        return ["erase", *where, f"--users={place.folder}/leavers"]
    if name == "gc":
        return ["gc", *where, "--keep=2", "--keep-snapshots=2", "--keep-generation=0s", "--grace=0s"]
    if name == "repair":
        users = f"--users={place.folder}/repaired"
        daily = _daily(place, root, 2, model)
        return ["repair", *where, *[w for w in daily[2:] if "--date" not in w], users]
    return _daily(place, root, 2 if name == "daily, killed" else 3, model, f"--kv={kv}")


@dataclasses.dataclass(frozen=True)
class Pair:
    """What is played: who is killed, in which situation, on which store, when, and what is typed next."""

    killed: str
    situation: str
    kind: str
    instant: float
    following: str

    def __str__(self) -> str:
        return f"{self.killed} on a root {self.situation}, {self.kind}, killed at {self.instant:.3f}; {self.following}"


def draw_pairs(count: int, seed: int, kinds: tuple[str, ...]) -> list[Pair]:
    """Pairs by the weights above; the stores in turn."""
    dice = random.Random(f"pairs {seed}")
    drawn = []
    for number in range(count):
        killed, situation = dice.choices([*KILLED], [*KILLED.values()])[0]
        following = dice.choices([*NEXT], [*NEXT.values()])[0]
        drawn.append(Pair(killed, situation, kinds[number % len(kinds)], dice.random(), following))
    return drawn


def play(pair: Pair, place: Place) -> tuple[str, list[str]]:
    """Plays a pair; returns where the kill hit, and what was wrong afterwards."""
    run = f"{place.folder}/run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(f"{place.folder}/{pair.situation}", run)
    kv, root = place.empty_store(pair.kind, run), f"{run}/root"
    releases = [str(day(0)), str(day(1)), *([str(day(2))] if pair.situation.startswith("released") else [])]
    for release in releases:
        publish(Root(root), release, PublishTarget(kv, "pinnerformer"))
    name = "daily, killed" if pair.killed == "daily" else pair.killed
    first = command_of(name, place, root, kv, pair.situation)
    events = _events_of(pair, place, first, kv, run)
    number = _number(events, pair.instant)
    code, said, happened = _type(first, run, "first", number)
    hit = happened[number - 1] if len(happened) >= number else "not reached"
    wrong = [f"it ended with {code}, and not by the kill: {said[-800:]}"] if hit != "not reached" and code == 0 else []
    second = first if pair.following == "same" else command_of(pair.following, place, root, kv, pair.situation)
    code, said, _ = _type(second, run, "second", 0)
    # CURRENT may not have moved to the other model before the kill: then a repair with it is refused, as wrong use.
    other_model = code == 2 and "repair with the same model" in said
    if (code not in (0, 1, 3) and not other_model) or "Traceback" in said:
        wrong.append(f"the next command ended with {code}: {said[-3000:]}")
    if code or second[0] in ("gc", "erase"):
        erased = second[0] == "erase" and code == 0
        wrong += _settle(place, pair, Root(root), kv, run)
    else:
        erased = first[0] == "erase" and pair.following == "same"
    return hit, wrong + differences(Root(root), kv, erased)


def _events_of(pair: Pair, place: Place, command: list[str], kv: str, run: str) -> list[str]:
    """The events of the command undisturbed, from a copy; the same for every store but for the number of chunks."""
    key = (pair.killed, pair.situation + pair.kind * (pair.killed not in ("daily", "repair")))
    if key not in place.events:
        kept = f"{place.folder}/kept"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(run, kept)
        code, said, place.events[key] = _type(command, run, "reference", 0)
        assert code == 0, f"{pair.killed}, undisturbed, ended with {code}: {said[-3000:]}"
        shutil.rmtree(run)
        os.rename(kept, run)
        fresh = place.empty_store(pair.kind, run)
        if pair.kind != "lmdb":
            released = pair.situation.startswith("released")
            for number in range(3 if released else 2):
                publish(Root(f"{run}/root"), str(day(number)), PublishTarget(fresh, "pinnerformer"))
    return place.events[key]


def _number(events: list[str], instant: float) -> int:
    """The event, from 1, at an instant from 0 to 1; those of publishing count twenty times."""
    weights = np.array([20.0 if event.split()[0].strip(",") in OF_PUBLISHING else 1.0 for event in events])
    return 1 + int(np.searchsorted(np.cumsum(weights), instant * weights.sum(), side="right").clip(0, len(events) - 1))


def _type(command: list[str], run: str, name: str, kill_at: int) -> tuple[int | None, str, list[str]]:
    """Runs a command in a fork; returns its exit code, what it said, and its events."""

    def body() -> int:
        small_chunks()
        return run_daily(command, Plan(run, f"{run}/events-{name}", kill_at))

    code = wait(fork(body, f"{run}/said-{name}"), f"{run}/events-{name}")
    with open(f"{run}/said-{name}") as file:
        said = file.read()
    return code, said, read_log(f"{run}/events-{name}") if os.path.exists(f"{run}/events-{name}") else []


def _settle(place: Place, pair: Pair, root: Root, kv: str, run: str) -> list[str]:
    """After a command that publishes nothing, or was refused: what brings the store to CURRENT, and must succeed."""
    held, newest = read_hold(root), read_current(root)
    assert newest is not None
    made_by = newest.settings["run"]
    if held is not None:
        command = ["rollback", f"--root={root.url}", f"--kv={kv}"]
    elif root.exists(f"staging/{made_by}/staged.json"):
        command = ["release", f"--root={root.url}", f"--kv={kv}", f"--run={made_by}"]
    else:
        command = command_of("daily", place, root.url, kv, pair.situation)
    code, said, _ = _type(command, run, "settle", 0)
    return [] if code == 0 else [f"{' '.join(command[:1])}, to settle it, ended with {code}: {said[-3000:]}"]


def differences(root: Root, kv: str, erased: bool) -> list[str]:
    """How the store differs from the snapshot that CURRENT names, and what it holds beside it.

    Args:
        erased: An erasure came to its end; after one that was cut off, its users may be there or not.
    """
    with open_store(kv) as store:
        current, newest = store.current(), read_current(root)
        if current is None or newest is None or current.release != current_release(root):
            return [f"the store serves {current and current.release}, CURRENT is {current_release(root)}"]
        found = held_by(store)
        problems = [f"a publish is noted: {store.note()}"] if store.note() else []
        generations = store.generations()
    served = found.pop(current.generation, {})
    wanted: dict[int, bytes] = {}
    for entry in newest.tables["user_embeddings"]:
        rows = read_files(root, [entry])
        wanted |= dict(zip(rows["user_id"].to_pylist(), values_of(rows, newest), strict=True))
    leavers = set(read_erased(root).tolist())
    for user in sorted(served.keys() | wanted.keys()):
        if served.get(user) == wanted.get(user) or (user in leavers and not erased and user not in served):
            continue
        what = "missing" if user not in served else "of no user" if user not in wanted else "another's vector"
        problems.append(f"user {user} of {newest.release}: {what}")
    if erased and leavers & (wanted.keys() | served.keys() | {user for other in found.values() for user in other}):
        problems.append("an erased user is there")
    for name, other in found.items():
        if name not in generations or generations[name].retired_at is None:
            problems.append(f"generation {name} holds {len(other)} users and is nobody's: {generations.get(name)}")
    return problems[:5]


def held_by(store: KeyValueStore) -> dict[str, dict[int, bytes]]:
    """Everything under the namespace: generation -> user -> value."""
    found: dict[str, dict[int, bytes]] = {}
    if isinstance(store, RedisStore):
        keys = [bytes(key) for key in store._client.scan_iter(match=f"{store.namespace}:*:u:*", count=5000)]
        pairs = [(key, store._client.get(key)) for key in keys]
        split = [(key.split(b":"), value) for key, value in pairs]
        for (_, generation, _, user), value in split:
            found.setdefault(generation.decode(), {})[int(user)] = value
        return found
    with store._reading() as transaction:  # type: ignore[attr-defined]
        for key, value in transaction.cursor():
            parts = bytes(key).split(b":", 3)
            if len(parts) == 4 and parts[2] == b"u":
                user = int.from_bytes(parts[3], "big", signed=True)
                found.setdefault(parts[1].decode(), {})[user] = bytes(value)
    return found


def play_all(place: Place, count: int, seed: int, seconds: float, keep: bool, say: Callable[[str], None]) -> int:
    """Plays pairs one after another, for `seconds` at most; returns the exit code."""
    with open(f"{place.folder}/leavers", "w") as file:
        file.write("".join(f"{user}\n" for user in LEAVERS))
    with open(f"{place.folder}/repaired", "w") as file:
        file.write("0\n2\n")
    began, hits, wrong, played = time.monotonic(), Counter[str](), 0, 0
    combinations: Counter[str] = Counter()
    for number, pair in enumerate(draw_pairs(count, seed, place.kinds())):
        if time.monotonic() - began > seconds:
            break
        hit, problems = play(pair, place)
        played += 1
        hits[hit] += 1
        combinations[f"{pair.killed}, then {pair.following}"] += 1
        if problems:
            wrong += 1
            say(f"{number}: {pair} ({hit})\n  " + "\n  ".join(problems))
            if keep:
                shutil.copytree(f"{place.folder}/run", f"{place.folder}/differs-{number}")
        if played % 20 == 0:
            say(f"[{time.monotonic() - began:5.0f} s] {played} pairs, {wrong} wrong")
    say(f"killed in: {json.dumps(dict(sorted(hits.items())))}")
    say(f"{played} pairs of {len(combinations)} kinds, {wrong} wrong, {time.monotonic() - began:.0f} s, seed {seed}")
    return 1 if wrong or not played else 0
