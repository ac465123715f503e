"""The peers' nights: the same vectors as the bare model's, on a tiny world; Daft itself is not needed."""

import dataclasses
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.daily import make_model, make_root, write_vectors
from benchmarks.night_world import MEASURED, SETTLED, World, select_day, slices_of, topic_vectors
from benchmarks.nights import worst_cosine
from benchmarks.peers import plain_loop
from benchmarks.peers.daft_night import BatchEmbedder
from benchmarks.peers.tower import Embedder, VectorTable
from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder
from stores.files import Root
from stores.releases import read_current

USERS, ACTIVE, PINS, BUCKETS = 40, 6, 30, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """Yesterday's release and a log of tonight; of the settled night nothing but an empty partition."""
    folder, random = str(tmp_path_factory.mktemp("world")), np.random.default_rng(1)
    make_model(folder)
    write_vectors(folder, topic_vectors(PINS, 3, random))
    actors = make_root(folder, USERS, ACTIVE, 2000, PINS, {"user_buckets": BUCKETS}, random)
    os.makedirs(f"{folder}/logs/ds={SETTLED}")
    manifest = read_current(Root(f"{folder}/root"))
    assert manifest is not None
    world = World(folder, actors, PINS, manifest)
    world.add_night("some", ACTIVE)
    return world


@pytest.fixture(scope="module")
def bare(world) -> tuple[np.ndarray, np.ndarray]:
    """Users and vectors, as the bare model gives them in two halves."""
    encoder, users, vectors = UserEncoder(load_model(f"{world.folder}/model").user_tower), [], []
    for part in range(2):
        for sequences in slices_of(world.inputs("some"), part, parts=2):
            users.append(sequences.user_ids)
            vectors.append(encoder.encode(sequences))
    order = np.argsort(np.concatenate(users))
    return np.concatenate(users)[order], np.concatenate(vectors)[order]


def test_slices_are_of_those_who_act_with_tonights_rows_first(world, bare):
    assert bare[0].tolist() == np.sort(world.actors).tolist()
    log = pq.read_table(world.inputs("some").logs)
    for sequences in (s for part in range(2) for s in slices_of(world.inputs("some"), part, parts=2)):
        for user, start, end in zip(sequences.user_ids, sequences.offsets[:-1], sequences.offsets[1:], strict=True):
            at = sequences.timestamp_ms[start:end]
            mine = log.filter(log["user_id"].to_numpy() == user)["timestamp_ms"].to_numpy()
            assert (np.diff(at) <= 0).all() and sorted(mine)[::-1] == at[: len(mine)].tolist() and len(at) > len(mine)


def test_the_loop_replaces_the_vectors_of_those_who_act_and_keeps_the_others(world, bare, tmp_path):
    inputs = world.inputs("some")
    embedder, vectors = Embedder(inputs.model), VectorTable(inputs.vectors)
    log = pq.read_table(inputs.logs, columns=["user_id", *plain_loop.COLUMNS])
    bucket = plain_loop.bucket_of(log["user_id"].to_numpy(), BUCKETS)
    for number in range(BUCKETS):
        plain_loop.do_bucket(inputs, number, log.filter(bucket == number), embedder, vectors, str(tmp_path))
    made, before = pq.read_table(tmp_path), pa.concat_tables([pq.read_table(path) for path in inputs.snapshot])
    assert worst_cosine(bare, select_day(made, MEASURED)) > 0.9999
    others = ~np.isin(before["user_id"].to_numpy(), bare[0])
    kept = made.filter(~np.isin(made["user_id"].to_numpy(), bare[0])).sort_by("user_id")
    assert kept.equals(before.filter(others).sort_by("user_id")) and len(made) == USERS


@dataclasses.dataclass
class Series:
    """As much of Daft's as a batch method asks for."""

    values: pa.Array

    def to_arrow(self) -> pa.Array:
        return self.values


@pytest.mark.parametrize("joined", [False, True])
def test_dafts_class_embeds_lists_in_any_order(world, bare, joined):
    inputs = world.inputs("some")
    parts = [pq.read_table(path) for path in (*inputs.histories, *inputs.logs)]
    rows = pa.concat_tables(plain_loop.as_strings(part.select(["user_id", *plain_loop.COLUMNS])) for part in parts)
    rows = rows.filter(np.isin(rows["user_id"].to_numpy(), bare[0]))
    rows = rows.take(np.random.default_rng(3).permutation(len(rows)))
    columns = ["pin_id", "timestamp_ms", "action", "surface", "duration_s"]
    lists = rows.group_by("user_id", use_threads=False).aggregate([(name, "list") for name in columns])
    lists = lists.sort_by("user_id").combine_chunks()
    given = [lists[f"{name}_list"].chunk(0) for name in columns]
    if joined:
        vectors = pq.read_table(inputs.vectors)["vector"].combine_chunks()
        given[0] = pa.ListArray.from_arrays(given[0].offsets, vectors.take(given[0].values))
    embedder = BatchEmbedder(inputs.model, None if joined else inputs.vectors)
    found = embedder.embed(*map(Series, given))
    made = np.frombuffer(b"".join(found), np.float16).reshape(ACTIVE, -1)
    assert worst_cosine(bare, (lists["user_id"].to_numpy(), made)) > 0.9999


def test_two_nights_of_other_users_are_no_comparison(bare):
    with pytest.raises(ValueError, match="not the same night"):
        worst_cosine(bare, (bare[0] + 1, bare[1]))
