"""The daily job end to end, against the job written as plainly as possible."""

import dataclasses
import importlib
import inspect
import pkgutil

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import ModelHandler

import transforms
from pipelines import training_data
from pipelines.backfill import finish_days
from pipelines.cli import main
from pipelines.daily_inference import finish_run
from stores.embedding_client import EmbeddingClient
from stores.errors import StoreError
from stores.files import Root
from stores.layout import Layout
from stores.manifests import Manifest
from stores.releases import read_current
from stores.retriever import Retriever
from stores.schemas import from_binary_column
from tests.pipelines.nights import (
    LENGTH,
    World,
    cosines,
    first_night,
    histories_of,
    make_world,
    read_table,
    run_night,
    vectors_of,
)
from tests.worlds import FIRST, PlainJob, day, midnight, write_file, write_model
from transforms.embed_users import UserTowerHandler
from transforms.run import Instructions, Launch, Run


def run_all(world: World, root: str, made: list[str], each: list[str], last: int = 4) -> list[Manifest]:
    """Nights 0, 1, 3 (night 2 is missed; day 1's late file has come) and, unless 3 is the last, 4."""
    manifests = [first_night(world, root, *made, *each)]
    manifests.append(run_night(world, root, 1, "--publish=none", *each))
    write_file(f"{world.folder}/logs", 1, world.late, "late.parquet")
    manifests.append(run_night(world, root, 3, "--publish=none", *each))
    if last == 4:
        manifests.append(run_night(world, root, 4, "--publish=none", *each))
    return manifests


def run_plainly(world: World) -> list[PlainJob]:
    """The plain job's state after each of the same nights."""
    job = PlainJob(f"{world.folder}/model", world.vectors, LENGTH)
    states = []
    nights = {0: [0], 1: [1], 3: [2, 3], 4: [4]}
    for number, partitions in nights.items():
        files = [(partition, world.rows[partition]) for partition in partitions]
        if number == 3:
            files.append((1, world.late))
        job.night(number, files)
        states.append(dataclasses.replace(job, histories=dict(job.histories), embeddings=dict(job.embeddings)))
    return states


def assert_equals_plain(root: str, manifest: Manifest, state: PlainJob) -> None:
    assert histories_of(root, manifest) == state.histories
    users = read_table(root, manifest, "user_embeddings")
    assert sorted(users["user_id"].to_pylist()) == sorted(state.embeddings)
    expected = [state.embeddings[user] for user in users["user_id"].to_pylist()]
    found = from_binary_column(users["embedding"])
    assert cosines(found, np.stack([vector for vector, _ in expected])).min() >= 0.9999
    assert users["embedding_date"].to_pylist() == [made for _, made in expected]
    newest = [state.histories[user][0]["timestamp_ms"] for user in users["user_id"].to_pylist()]
    assert all(got <= want for got, want in zip(users["last_action_ms"].to_pylist(), newest, strict=True))
    pins = read_table(root, manifest, "pin_embeddings")
    plain = state.pins()
    assert sorted(pins["pin_id"].to_pylist()) == sorted(plain)
    want = np.stack([plain[pin] for pin in pins["pin_id"].to_pylist()])
    assert cosines(from_binary_column(pins["embedding"]), want).min() >= 0.9999


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> list[PlainJob]:
    states = run_plainly(make_world(str(tmp_path_factory.mktemp("plain"))))
    # The case is not trivial: histories were cut, a user was carried over, a user is without a vector.
    last = states[-1]
    assert max(map(len, last.histories.values())) == LENGTH
    assert any(made != day(4) for _, made in last.embeddings.values())
    return states


WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]

# name -> (flags of the first night, flags of every night, seed of the order of the rows, the last night)
MATRIX = {
    "buckets and shards as by default": (["--user-buckets=64", "--pin-shards=4"], [], None, 4),
    "one bucket, one shard, shuffled join, tiny batches": (
        ["--user-buckets=1", "--pin-shards=1"],
        ["--join=shuffle", "--token-budget=40"],
        None,
        4,
    ),
    "more buckets than users, rows in another order": (
        ["--user-buckets=43", "--pin-shards=5"],
        ["--join=broadcast"],
        3,
        3,
    ),
    "two worker processes": (["--user-buckets=6", "--pin-shards=2"], ["--join=shuffle", *WORKERS], 4, 4),
}
SLOW = {"buckets and shards as by default", "two worker processes"}


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in MATRIX])
def test_every_night_equals_the_plain_job(case, plain, tmp_path):
    made, each, shuffle, last = MATRIX[case]
    world = make_world(str(tmp_path), shuffle)
    root = str(tmp_path / "root")
    for manifest, state in zip(run_all(world, root, made, each, last), plain[: 3 if last == 3 else 4], strict=True):
        assert_equals_plain(root, manifest, state)


def test_a_night_of_two_worker_processes_equals_the_plain_job(plain, tmp_path):
    """The second one: the workers read what was there before, and write what is to be."""
    world = make_world(str(tmp_path), shuffle=4)
    root = str(tmp_path / "root")
    assert_equals_plain(root, first_night(world, root, "--user-buckets=6", "--pin-shards=2"), plain[0])
    assert_equals_plain(root, run_night(world, root, 1, "--publish=none", "--join=shuffle", *WORKERS), plain[1])


def test_both_joins_agree_bit_for_bit(tmp_path):
    world = make_world(str(tmp_path))
    found = [first_night(world, str(tmp_path / join), f"--join={join}").tables for join in ("broadcast", "shuffle")]
    assert found[0] == found[1]  # names carry the digest of the content


def test_same_inputs_same_bytes_and_every_dofn_may_run_twice(tmp_path, monkeypatch):
    """Engines retry and speculate, the local runner never does: here every element is processed twice."""
    world = make_world(str(tmp_path))
    once = [m.tables for m in run_all(world, str(tmp_path / "once"), [], ["--join=shuffle"], last=3)]
    (tmp_path / "logs" / f"ds={day(1)}" / "late.parquet").unlink()
    doubled = [kind for kind in classes_of_transforms(beam.DoFn) if "process" in vars(kind)]
    for kind in doubled:
        monkeypatch.setattr(kind, "process", run_twice(kind.process))
    assert len(doubled) >= 8
    twice = [m.tables for m in run_all(world, str(tmp_path / "twice"), [], ["--join=shuffle"], last=3)]
    assert twice == once


def classes_of_transforms(base: type) -> list[type]:
    """Every class of that kind that a module of transforms/ defines."""
    names = [module.name for module in pkgutil.walk_packages(transforms.__path__, "transforms.")]
    return [
        kind
        for name in names
        for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if kind.__module__ == name and issubclass(kind, base)
    ]


class Anything:
    """Stands for whatever else a constructor takes."""

    def __getattr__(self, name):
        return self

    def __iter__(self):
        return iter(())


def made_for(kind: type, run: Run):
    """An instance that works for a run; that it takes one, as `run` or `runs`, is part of the test."""
    names = [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs")]
    assert {"run", "runs"} & set(names), f"{kind.__name__} is not given the run whose root it has to find"
    given = {"run": run, "runs": [run], "dim": 4}
    return kind(**{name: given.get(name, Anything()) for name in names})


@pytest.mark.parametrize("kind", [*classes_of_transforms(beam.DoFn), *classes_of_transforms(ModelHandler)])
def test_every_dofn_makes_sure_of_the_launchers_root_before_anything_else(kind, tmp_path):
    set_up = getattr(made_for(kind, run_elsewhere(tmp_path)), "load_model" if kind is UserTowerHandler else "setup")
    with pytest.raises(StoreError, match="does not see the launcher's --root"):
        set_up()
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("last", [finish_run, finish_days, training_data.finish])
def test_so_does_the_last_step(last, tmp_path):
    run = run_elsewhere(tmp_path)
    given = {"run": run, "runs": [run]}
    names = inspect.signature(last).parameters
    plan = dataclasses.make_dataclass("Plan", ["run"])(run) if last is training_data.finish else Anything()
    with pytest.raises(StoreError, match="does not see the launcher's --root"):
        last(**{name: plan if name == "plan" else given.get(name, Anything()) for name in names})
    assert not (tmp_path / "root").exists()


def run_elsewhere(tmp_path) -> Run:
    """A run as a worker knows it to which --root is another folder, an empty one of the same name."""
    root = Root(str(tmp_path / "root"))
    launch = Launch(root_sentinel="left by the launcher")
    return Run(root, "a-run", day(0), "r", None, Layout(), Instructions(everyone_active=True), launch=launch)


def run_twice(process):
    def twice(self, element, *arguments, **named):
        list(process(self, element, *arguments, **named) or ())
        return process(self, element, *arguments, **named)

    return twice


def test_equal_histories_give_equal_vectors_and_a_changed_row_changes_one_user(tmp_path):
    world = make_world(str(tmp_path))
    twin = [{**row, "user_id": 1000} for row in world.rows[0] if row["user_id"] == 7]
    assert len(twin) > 2
    write_file(f"{tmp_path}/logs", 0, twin, "twin.parquet")
    before = vectors_of(str(tmp_path / "a"), first_night(world, str(tmp_path / "a")))
    assert before[1000] == before[7]
    write_file(f"{tmp_path}/logs", 0, [{**twin[0], "pin_id": 1}, *twin[1:]], "twin.parquet")
    after = vectors_of(str(tmp_path / "b"), first_night(world, str(tmp_path / "b")))
    assert {user for user in before if before[user] != after[user]} == {1000}


def test_what_is_published_is_what_was_made_and_retrieve_is_exact_search(tmp_path):
    world = make_world(str(tmp_path))
    root, kv = str(tmp_path / "root"), f"lmdb://{tmp_path}/kv"
    arguments = ["--publish=store", f"--kv={kv}"]
    run_night(world, root, 0, f"--bootstrap-from={FIRST}", *arguments)
    manifest = run_night(world, root, 1, *arguments)
    made = vectors_of(root, manifest)
    client = EmbeddingClient(kv)
    vectors, days, found = client.get_many([*made, 424242])
    client.close()
    assert found.tolist() == [True] * len(made) + [False]
    assert [v.tobytes() for v in vectors[:-1]] == list(made.values())
    assert set(days[:-1].tolist()) == {day(0), day(1)}  # both carried over and fresh
    pins = read_table(root, manifest, "pin_embeddings")
    table = from_binary_column(pins["embedding"]).astype(np.float32)
    retriever = Retriever(root, kv)
    for user, vector in list(made.items())[:10]:
        scores = table @ np.frombuffer(vector, np.float16).astype(np.float32)
        got = retriever.retrieve(user, 5)
        np.testing.assert_allclose(got.scores, np.sort(scores)[::-1][:5], atol=1e-5)
        engaged = {row["pin_id"] for row in histories_of(root, manifest)[user]}
        assert not engaged & set(retriever.retrieve(user, 5, exclude_engaged=True).pin_ids.tolist())
    retriever.close()


def test_a_new_model_embeds_everybody_and_serves_a_new_generation(tmp_path):
    world = make_world(str(tmp_path))
    root, kv = str(tmp_path / "root"), f"lmdb://{tmp_path}/kv"
    run_night(world, root, 0, f"--bootstrap-from={FIRST}", f"--kv={kv}")
    client = EmbeddingClient(kv)
    old = client.current
    client.close()
    write_model(f"{tmp_path}/model2", seed=2)
    world.folder, folder = str(tmp_path), world.folder
    inputs = [f"--logs={folder}/logs", f"--pins={folder}/pins", f"--model={tmp_path}/model2"]
    assert main(["daily", f"--root={root}", *inputs, f"--date={day(1)}", f"--kv={kv}", "--quiet"]) == 0
    manifest = read_current(Root(root))
    rows = read_table(root, manifest, "user_embeddings")
    assert set(rows["embedding_date"].to_pylist()) == {day(1)}
    client = EmbeddingClient(kv)
    new = client.current
    assert new.generation != old.generation and new.model_digest == manifest.model_digest
    assert client.get_many(rows["user_id"].to_numpy())[2].all()
    client.close()


def test_a_night_without_rows_carries_everybody_over(one_night, tmp_path):
    world, root = one_night
    before = read_current(Root(root))
    assert before is not None
    for name in ("a.parquet", "b.parquet"):
        write_file(f"{tmp_path}/logs", 1, [], name)
    after = run_night(world, root, 1, "--publish=none")
    assert after.tables["user_embeddings"] == before.tables["user_embeddings"]
    assert after.tables["histories"] == before.tables["histories"]


def test_lengths_far_apart_and_a_user_without_a_usable_token(tmp_path):
    world = make_world(str(tmp_path))
    lonely = {**world.rows[0][0], "user_id": 555, "action": "unheard_of", "timestamp_ms": midnight(0)}
    write_file(f"{tmp_path}/logs", 0, [lonely], "lonely.parquet")
    root = str(tmp_path / "root")
    manifest = first_night(world, root)
    assert 555 not in vectors_of(root, manifest) and 555 in histories_of(root, manifest)
    assert manifest.counters["join_vectors"]["users_without_token"] >= 1
