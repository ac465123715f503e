"""A small world of five days, nights of the daily job on it, and what they made; roots that many tests start from."""

import dataclasses
import os
import shutil

import numpy as np
import pyarrow as pa

from pipelines.cli import main
from stores.files import Root
from stores.manifests import Manifest
from stores.releases import chain, read_current
from stores.tables import read_files
from tests.once import make_once
from tests.worlds import FIRST, day, make_rows, make_vectors, write_file, write_model, write_vectors

USERS, PINS, ROWS, LENGTH = 40, 90, 260, 40


@dataclasses.dataclass
class World:
    folder: str
    rows: dict[int, list]
    late: list
    vectors: dict[int, np.ndarray]

    @property
    def inputs(self) -> list[str]:
        return [f"--{name}={self.folder}/{name}" for name in ("logs", "pins", "model")]


def make_world(folder: str, shuffle: int | None = None) -> World:
    """Five days; the late file belongs to day 1 and is not there yet."""
    rows = {number: make_rows(number, ROWS, USERS, PINS, seed=8) for number in range(5)}
    late = make_rows(1, 30, USERS, PINS, seed=9)
    for number, content in rows.items():
        if shuffle is not None:
            content = [content[i] for i in np.random.default_rng(shuffle).permutation(len(content))]
        write_file(f"{folder}/logs", number, content[:150], "a.parquet")
        write_file(f"{folder}/logs", number, content[150:], "b.parquet")
    vectors = make_vectors(PINS)
    write_vectors(f"{folder}/pins", vectors)
    write_model(f"{folder}/model")
    return World(folder, rows, late, vectors)


def run_night(world: World, root: str, number: int, *more: str) -> Manifest:
    arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(number)}", "--quiet", *more]
    assert main(arguments) == 0
    manifest = read_current(Root(root))
    assert manifest is not None and manifest.day == day(number)
    return manifest


def first_night(world: World, root: str, *more: str) -> Manifest:
    """Makes a root of four buckets unless asked otherwise: of the default's 64 most are empty and cost as much."""
    made = () if any(flag.startswith("--user-buckets") for flag in more) else ("--user-buckets=4",)
    made = (*made, f"--history-length={LENGTH}", f"--bootstrap-from={FIRST}")
    return run_night(world, root, 0, *made, "--publish=none", *more)


def read_table(root: str, manifest: Manifest, table: str) -> pa.Table:
    return pa.concat_tables(
        [read_files(Root(root), entries) for _, entries in sorted(manifest.parts(table).items())],
        promote_options="default",
    )


def histories_of(root: str, manifest: Manifest) -> dict[int, list[dict]]:
    histories: dict[int, list[dict]] = {}
    for entries in manifest.parts("histories").values():
        for row in read_files(Root(root), entries).to_pylist():
            histories.setdefault(row["user_id"], []).append(row)
    return histories


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def vectors_of(root: str, manifest: Manifest) -> dict[int, bytes]:
    rows = read_table(root, manifest, "user_embeddings")
    return dict(zip(rows["user_id"].to_pylist(), rows["embedding"].to_pylist(), strict=True))


class KeptNights:
    """Folders of a world and its root after one night, after two, ...: each is made once, and copied for who asks.

    The root has four buckets and two shards, and was not published.
    """

    def __init__(self, base: str):
        """`base` is the folder of all processes of the session: see `tests.once`."""
        self._base = base

    def copy(self, nights: int, folder: str) -> tuple[World, str]:
        """A world under `folder` and its root, at `folder`/root, after some nights; a test may change both."""
        made, world = make_once(self._base, f"kept-{nights}", lambda empty: self._make(nights, empty))
        shutil.copytree(made, folder, dirs_exist_ok=True)
        return dataclasses.replace(world, folder=folder), f"{folder}/root"

    def _make(self, nights: int, folder: str) -> World:
        if nights == 1:
            world = make_world(folder)
            first_night(world, f"{folder}/root", "--pin-shards=2")
            return world
        world, root = self.copy(nights - 1, folder)
        run_night(world, root, nights - 1, "--publish=none")
        return world


@dataclasses.dataclass
class PublishedRoot:
    """A root of some nights whose newest release a store serves, and the commands that are given both.

    Attributes:
        kv: URL of the store.
    """

    world: World
    root: str
    kv: str

    def of_root(self, command: str, *more: str) -> int:
        return main([command, f"--root={self.root}", f"--kv={self.kv}", *more])

    def verify(self, *more: str) -> int:
        folder = self.world.folder
        return self.of_root("verify", f"--model={folder}/model", f"--pins={folder}/pins", "--users=15", *more)


def files_under(folder: str) -> dict[str, int]:
    """Path -> bytes of every file but those that runs keep each other out by."""
    return {
        os.path.relpath(os.path.join(where, name), folder): os.path.getsize(os.path.join(where, name))
        for where, _, names in os.walk(folder)
        for name in names
        if name != "lease.json" and not name.startswith(".lock")
    }


def named(root: str) -> set[str]:
    """The files that some release of the chain names."""
    releases = [m for m in chain(Root(root))]
    return {entry.path for m in releases for entries in m.tables.values() for entry in entries}
