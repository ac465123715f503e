"""Users and pins whose ids are strings, from the logs to what a person reads: nobody meets a hash."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pinnerformer import EmbeddingClient, Retriever
from pipelines.cli import main
from stores import id_columns, user_lists
from stores.errors import StoreError
from stores.files import Root
from stores.id_names import PINS, USERS, shown_ids
from stores.kv import open_store
from stores.manifests import write_manifest
from stores.releases import read_current
from stores.string_ids import hash_text
from tests.pipelines.nights import PublishedRoot, World, histories_of, run_night, vectors_of
from tests.worlds import SCHEMA, day, make_rows, make_vectors, write_model

N_USERS, N_PINS = 25, 60
NIGHTS = 2


def user_of(number: int) -> str:
    """Names that a person could take for something else, or a shell, or a screen: a number, a space, a bracket."""
    return {0: "0", 1: "a b", 2: "[red]Zoë[/red]", 3: "-3"}.get(number, f"u{number}@example.com")


def sku_of(number: int) -> str:
    return f"SKU {number}" if number % 7 == 0 else f"sku-{number:04d}"


def write_logs(logs: str, number: int, rows: list[dict]) -> None:
    fields = [
        pa.field(name, pa.string()) if name in ("user_id", "pin_id") else SCHEMA.field(name) for name in SCHEMA.names
    ]
    named = [
        {
            **row,
            "user_id": None if row["user_id"] is None else user_of(row["user_id"]),
            "pin_id": "" if row["pin_id"] < 0 else sku_of(row["pin_id"]),
        }
        for row in rows
    ]
    folder = f"{logs}/ds={day(number)}"
    os.makedirs(folder)
    pq.write_table(pa.Table.from_pylist(named, schema=pa.schema(fields)), f"{folder}/a.parquet", row_group_size=97)
    open(f"{folder}/_SUCCESS", "w").close()


def write_pins(folder: str, vectors: dict[int, np.ndarray]) -> None:
    os.makedirs(folder)
    flat = pa.array(np.concatenate([np.asarray(vector, np.float16) for vector in vectors.values()]))
    columns = {"pin_id": pa.array(map(sku_of, vectors)), "vector": pa.FixedSizeListArray.from_arrays(flat, 256)}
    pq.write_table(pa.table(columns), f"{folder}/vectors.parquet", row_group_size=31)
    with open(f"{folder}/version.json", "w") as file:
        json.dump({"pinsage_version": "v1"}, file)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> PublishedRoot:
    """A root of two nights over logs and vectors whose ids are strings, published."""
    folder = str(tmp_path_factory.mktemp("strings"))
    rows = {number: make_rows(number, 150, N_USERS, N_PINS, seed=3) for number in range(NIGHTS)}
    for number, content in rows.items():
        write_logs(f"{folder}/logs", number, content)
    vectors = make_vectors(N_PINS)
    write_pins(f"{folder}/pins", vectors)
    write_model(f"{folder}/model")
    kept = PublishedRoot(World(folder, rows, [], vectors), f"{folder}/root", f"lmdb://{folder}/kv")
    made = ["--user-buckets=2", "--pin-shards=2", "--history-length=40", f"--bootstrap-from={day(0)}"]
    for number in range(NIGHTS):
        run_night(kept.world, kept.root, number, f"--kv={kept.kv}", *(made if number == 0 else ()))
    return kept


@pytest.fixture
def copied(served, tmp_path) -> PublishedRoot:
    """A copy for a test to change."""
    shutil.copytree(served.world.folder, tmp_path / "copy")
    folder = str(tmp_path / "copy")
    world = dataclasses.replace(served.world, folder=folder)
    return PublishedRoot(world, f"{folder}/root", f"lmdb://{folder}/kv")


def names_with_vectors(kept: PublishedRoot) -> list[str]:
    manifest = read_current(Root(kept.root))
    ids = vectors_of(kept.root, manifest)
    by_hash = {hash_text(user_of(number)): user_of(number) for number in range(-5, N_USERS)}
    return [by_hash[one] for one in ids]


def test_a_client_asks_by_name_and_needs_no_table(served):
    manifest = read_current(Root(served.root))
    stored, names = vectors_of(served.root, manifest), names_with_vectors(served)
    with EmbeddingClient(served.kv) as client:
        vectors, days, found = client.get_many([*names, "nobody"])
        assert found.tolist() == [True] * len(names) + [False] and "0" in names
        assert [vector.tobytes() for vector in vectors[:-1]] == [stored[hash_text(name)] for name in names]
        with pytest.raises(TypeError, match="the ids of this store are strings"):
            client.get_many([0])


def test_a_retriever_answers_with_names(served):
    history = histories_of(served.root, read_current(Root(served.root)))
    with Retriever(served.root, served.kv) as retriever:
        found = retriever.retrieve("0", 200)
        known = {sku_of(pin) for pin, vector in served.world.vectors.items() if vector.any()}
        assert found.user_id == "0" and set(found.pin_ids.tolist()) == known and len(found.pin_ids) == len(known)
        fresh = retriever.retrieve("0", 200, exclude_engaged=True).pin_ids.tolist()
        engaged = {row["pin_id"] for row in history[hash_text("0")]}
        assert fresh == [pin for pin in found.pin_ids.tolist() if hash_text(pin) not in engaged]
        assert 0 < len(fresh) < len(known)
        with pytest.raises(TypeError, match="are strings"):
            retriever.retrieve(0, 3)


def test_a_pin_of_the_index_without_a_name_is_said(copied):
    root = Root(copied.root)
    manifest = read_current(root)
    write_manifest(root, dataclasses.replace(manifest, tables={**manifest.tables, "pin_names": []}))
    with Retriever(copied.root, copied.kv) as retriever:
        with pytest.raises(StoreError, match="pin with hash .* is in the index of .* and not in its pin_names"):
            retriever.retrieve("0", 3)
    assert copied.verify() == 1


@pytest.mark.parametrize("user", ["0", "a b", "[red]Zoë[/red]", "-3"])
def test_retrieve_prints_names(served, capsys, user):
    assert served.of_root("retrieve", f"--user={user}", "--k=60", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["user_id"] == user and {row["pin_id"][:4].lower() for row in found["pins"]} == {"sku ", "sku-"}
    assert served.of_root("retrieve", f"--user={user}", "--k=60") == 0
    printed = capsys.readouterr().out
    assert (f"user {user!r}," if " " in user else f"user {user},") in printed.splitlines()[0]
    for row in found["pins"]:
        assert row["pin_id"] in printed
    assert not any(str(hash_text(row["pin_id"])) in printed for row in found["pins"])


def test_retrieve_without_a_user_names_some(served, capsys):
    assert served.of_root("retrieve", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    names = names_with_vectors(served)
    assert found["users"] == len(names) and len(found["some_users"]) == 5 and set(found["some_users"]) <= set(names)
    assert served.of_root("retrieve", "--user=no body") == 1
    assert "user 'no body': no vector in release" in capsys.readouterr().err


def test_a_release_verifies_and_what_is_wrong_is_named(served, capsys):
    assert served.verify() == 0
    assert "names of users and pins: as it should be" in capsys.readouterr().out
    with open_store(served.kv) as store:
        generation, user = store.current().generation, np.array([hash_text("a b")])
        (value,) = store.get_many(generation, user)
        store.delete_users(generation, user)
        try:
            assert served.verify("--users=1000") == 1
            assert "user 'a b': missing" in capsys.readouterr().err
        finally:
            current = store.current()
            store.upload(generation, [(user, [value])], deletes=[], fresh=False, current=current)
    assert served.verify("--users=1000") == 0


def test_every_hash_of_a_release_has_a_name(served):
    root, manifest = Root(served.root), read_current(Root(served.root))
    users = histories_of(served.root, manifest).keys() | vectors_of(served.root, manifest).keys()
    shown = shown_ids(root, manifest, USERS, users)
    assert all(hash_text(name.strip("'")) == one for one, name in shown.items())
    pins = {row["pin_id"] for rows in histories_of(served.root, manifest).values() for row in rows}
    assert not any("hash" in name for name in shown_ids(root, manifest, PINS, pins).values())


def holding(folder: str, words: list[str]) -> list[str]:
    """Files whose bytes hold one of some words."""
    found = []
    for where, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(where, name), "rb") as file:
                data = file.read()
            if any(word.encode() in data for word in words):
                found.append(os.path.join(where, name))
    return found


GONE = ["u7@example.com", "a b", "[red]Zoë[/red]"]


def test_who_is_erased_by_name_is_nowhere_any_more(copied, tmp_path, capsys):
    leavers, root = str(tmp_path / "leavers"), Root(copied.root)
    with open(leavers, "w") as file:
        file.write("\n".join([*GONE, "U7@example.com"]) + "\n")
    before = vectors_of(copied.root, read_current(root))
    assert all(hash_text(name) in before for name in GONE) and holding(copied.root, GONE)
    assert copied.verify(f"--erased={leavers}") == 1
    capsys.readouterr()
    assert copied.of_root("erase", f"--users={leavers}") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["users"] == 4 and report["rows"]["user_names"] and report["rows"]["histories"]
    assert "1 of the 4 ids are in no release" in printed.err and "'U7@example.com'" in printed.err
    assert holding(copied.root, GONE) == [] == holding(copied.kv.removeprefix("lmdb://"), GONE)
    after = vectors_of(copied.root, read_current(root))
    assert after == {one: vector for one, vector in before.items() if one not in map(hash_text, GONE)}
    with EmbeddingClient(copied.kv) as client:
        assert client.get_many([*GONE, "0"])[2].tolist() == [False, False, False, True]
    assert copied.verify(f"--erased={leavers}", "--users=1000") == 0
    # The next delivery does not bring them back, nor their names.
    write_logs(f"{copied.world.folder}/logs", NIGHTS, make_rows(NIGHTS, 150, N_USERS, N_PINS, seed=3))
    manifest = run_night(copied.world, copied.root, NIGHTS, f"--kv={copied.kv}")
    assert manifest.counters["read_logs"]["rows_erased"] > 0
    assert copied.verify(f"--erased={leavers}") == 0 and holding(copied.root, GONE) == []


def test_a_list_of_numbers_is_of_other_people_where_ids_are_strings(copied, tmp_path, capsys):
    with open(tmp_path / "list", "w") as file:
        file.write(f"{hash_text('a b')}\n")  # what a file of inner ids would say
    assert copied.of_root("erase", f"--users={tmp_path}/list") == 0
    assert "1 of the 1 ids are in no release" in capsys.readouterr().err
    with EmbeddingClient(copied.kv) as client:
        assert client.get_many(["a b"])[2].all()


def test_an_id_with_the_hash_of_somebody_else_erases_nobody(copied, tmp_path, capsys, monkeypatch):
    hash_strings = user_lists.hash_strings

    def collide(column: pa.Array) -> np.ndarray:
        return hash_strings(pa.array(["a b" if one == "twin" else one for one in column.to_pylist()]))

    monkeypatch.setattr(user_lists, "hash_strings", collide)
    (tmp_path / "list").write_text("twin\n")
    assert copied.of_root("erase", f"--users={tmp_path}/list") == 2
    assert "'twin' has the hash of 'a b'" in capsys.readouterr().err and not os.path.exists(f"{copied.root}/erased")


def test_users_are_repaired_by_name(copied, tmp_path):
    with open(tmp_path / "list", "w") as file:
        file.write("a b\n0\n")
    before = histories_of(copied.root, read_current(Root(copied.root)))
    words = ["repair", f"--root={copied.root}", *copied.world.inputs, f"--kv={copied.kv}", "--quiet"]
    assert main([*words, f"--users={tmp_path}/list"]) == 0
    manifest = read_current(Root(copied.root))
    assert manifest.release == f"{day(NIGHTS - 1)}.2" and histories_of(copied.root, manifest) == before
    listed = [name for name in os.listdir(f"{copied.root}/staging") if name.startswith("repair-")]
    assert len(listed) == 1 and copied.verify("--users=1000") == 0


def test_a_string_whose_hash_is_anothers_is_named_in_the_morning(served, tmp_path, capsys, monkeypatch):
    twins = {user_of(8): user_of(7), sku_of(12): sku_of(11)}
    hash_strings = id_columns.hash_strings

    def collide(column: pa.Array) -> np.ndarray:
        words = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        found = hash_strings(column).copy()
        for one, other in twins.items():
            found[np.array(words.to_pylist(), object) == one] = hash_text(other)
        return found

    monkeypatch.setattr(id_columns, "hash_strings", collide)
    (tmp_path / "gates.yaml").write_text("max_dropped_share: 0.5\n")
    gates = f"--gates={tmp_path}/gates.yaml"
    words = ["daily", f"--root={tmp_path}/root", *served.world.inputs, "--publish=none", f"--date={day(0)}"]
    assert main([*words, f"--bootstrap-from={day(0)}", "--user-buckets=1", "--pin-shards=1", gates]) == 0
    said = capsys.readouterr().err
    for key, one, other in (("user_id", user_of(8), user_of(7)), ("pin_id", sku_of(12), sku_of(11))):
        assert any(f"{key}_collision: {key} {name} has the hash of another" in said for name in (one, other)), said
    dead = pq.read_table(f"{tmp_path}/root/releases/{day(0)}/dead_letters")
    lost = dead.filter(pc.equal(dead["reason"].cast(pa.string()), "user_id_collision"))["user_name"].to_pylist()
    assert lost and set(lost) in ({user_of(8)}, {user_of(7)})
