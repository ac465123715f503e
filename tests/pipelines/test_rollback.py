"""Rollback: CURRENT and the store go back together, the next night knows, and nothing it should read is lost."""

import os

import numpy as np

from pipelines.cli import main
from pipelines.operations import rollback
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.kv import open_store
from stores.manifests import read_manifest
from stores.releases import current_release, read_current, read_hold
from stores.retriever import Retriever
from tests.pipelines.nights import histories_of, run_night, vectors_of
from tests.worlds import day, write_model
from transforms.publish import PublishTarget, publish


def served(kv: str) -> tuple[str, dict[int, bytes]]:
    """The release the store serves, and every vector it answers with."""
    ids = np.arange(-10, 60)
    with EmbeddingClient(kv) as client:
        release = client.current.release
        vectors, _, found = client.get_many(ids)
    return release, {int(u): v.tobytes() for u, v, f in zip(ids, vectors, found, strict=True) if f}


def test_back_held_lifted_and_on(one_night, kv, capsys):
    world, root = one_night
    before = vectors_of(root, read_current(Root(root)))
    bad = run_night(world, root, 1, f"--kv={kv}")
    histories = histories_of(root, bad)
    assert served(kv) == (str(day(1)), vectors_of(root, bad)) and vectors_of(root, bad) != before
    rollback = ["rollback", f"--root={root}", f"--kv={kv}"]
    assert main(rollback) == 2  # no reason
    assert current_release(Root(root)) == str(day(1))
    assert main([*rollback, "--reason=half a log"]) == 0
    assert current_release(Root(root)) == str(day(0))
    assert served(kv) == (str(day(0)), before)
    with Retriever(root, kv) as retriever:
        assert retriever.retrieve(0, 3).release == str(day(0))
    assert main(rollback) == 0  # again: it stays where it is
    assert served(kv) == (str(day(0)), before)
    capsys.readouterr()
    arguments = ["daily", f"--root={root}", *world.inputs, f"--date={day(1)}", f"--kv={kv}", "--quiet"]
    assert main(arguments) == 1
    line = capsys.readouterr().err.splitlines()[0]
    assert "half a log" in line and f"rollback --root {root} --lift-hold" in line
    assert main(["rollback", f"--root={root}", "--lift-hold"]) == 0
    assert main(arguments) == 0
    again = read_current(Root(root))
    assert (again.release, again.previous) == (f"{day(1)}.2", str(day(0)))  # the bad one keeps its name
    assert again.inputs == bad.inputs and histories_of(root, again) == histories
    assert served(kv) == (again.release, vectors_of(root, bad))
    with open_store(kv) as store:
        assert len(store.generations()) == 1


def test_stopped_on_the_way_and_started_again(one_night, tmp_path, monkeypatch):
    kv = f"lmdb://{tmp_path}/kv"
    world, root = one_night
    first = read_current(Root(root))
    run_night(world, root, 1, f"--kv={kv}")
    for broken in ("move_current", "publish"):
        with monkeypatch.context() as patched:
            patched.setattr(rollback, broken, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
            assert main(["rollback", f"--root={root}", f"--kv={kv}", "--reason=x"]) == 1
        assert read_hold(Root(root)).release == str(day(0))
    assert main(["rollback", f"--root={root}", f"--kv={kv}"]) == 0
    assert served(kv) == (str(day(0)), vectors_of(root, first))


def test_to_an_older_model_whose_generation_is_still_there(one_night, tmp_path, kv):
    world, root = one_night
    old = run_night(world, root, 1, f"--kv={kv}")
    with open_store(kv) as store:
        before = store.current()
    write_model(f"{tmp_path}/other", seed=2)
    run_night(world, root, 2, f"--kv={kv}", f"--model={tmp_path}/other")
    with open_store(kv) as store:
        assert set(store.generations()) == {before.generation, store.current().generation}
        assert store.generations()[before.generation].retired_at is not None
    assert main(["rollback", f"--root={root}", f"--kv={kv}", "--reason=worse", f"--to={day(0)}"]) == 0
    first = vectors_of(root, read_current(Root(root)))
    assert served(kv) == (str(day(0)), first)
    with open_store(kv) as store:
        assert store.current().generation == before.generation  # nothing was written again
        now = store.current().generation
        for name in set(store.generations()) - {now}:
            store.delete_generation(name)
        assert set(store.generations()) == {now}
    # Without it, it is written again, and never into the generation that is read.
    assert main(["rollback", f"--root={root}", f"--kv={kv}", "--reason=better", f"--to={day(2)}"]) == 0
    assert served(kv)[0] == str(day(2))
    os.rename(f"{root}/releases/{day(2)}", f"{root}/releases/gone")  # whose snapshot it holds is not known any more
    os.rename(f"{root}/releases/gone", f"{root}/releases/{day(2)}")
    assert main(["rollback", f"--root={root}", f"--kv={kv}", "--reason=worse", f"--to={day(1)}"]) == 0
    assert served(kv) == (str(day(1)), vectors_of(root, old))


def test_a_fresh_generation_never_has_the_name_of_one_that_is_held(one_night, tmp_path):
    """The release it was named after is published again after gc forgot what the generation holds now."""
    kv = f"lmdb://{tmp_path}/kv"
    world, root = one_night[0], Root(one_night[1])
    first = read_current(root)
    publish(root, first.release, PublishTarget(kv, "pinnerformer"))
    second = run_night(world, root.url, 1, f"--kv={kv}")
    with open_store(kv) as store:
        generation = store.current().generation
    root.remove(f"releases/{second.release}/manifest.json")
    publish(root, first.release, PublishTarget(kv, "pinnerformer"))
    with open_store(kv) as store:
        assert store.current().generation == f"{generation}.2" and store.current().release == first.release
    assert served(kv) == (first.release, vectors_of(root.url, first))


def test_a_release_that_lacks_a_file_is_not_rolled_back_to(two_nights, capsys):
    _, root = two_nights
    first = read_manifest(Root(root), str(day(0)))
    path = f"{root}/{first.tables['user_embeddings'][0].path}"
    os.unlink(path)
    rollback = ["rollback", f"--root={root}", "--publish=none", "--reason=x"]
    assert main(rollback) == 1
    assert path in capsys.readouterr().err
    assert main([*rollback, "--to=2020-01-01"]) == 1 and main([*rollback, "--to=../x"]) == 1
    assert current_release(Root(root)) == str(day(1)) and read_hold(Root(root)) is None
