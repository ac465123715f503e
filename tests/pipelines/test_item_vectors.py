"""Vector sets from logs: equal to the direct computation, blind to the future, taken by the other commands."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import item_vectors
from pipelines.cli import main
from stores.errors import InputError
from stores.files import Root
from stores.pin_topics import read_topics
from stores.pin_vectors import describe_vectors
from stores.string_ids import hash_text
from stores.timelines import read_description
from stores.vector_sets import METADATA, read_any_vectors
from stores.vector_version import read_until
from tests.worlds import day, is_valid, make_rows, midnight, write_file
from transforms.co_engagement import PairRules, count_pairs, strongest, user_pins
from transforms.item_vectors import Parts, VectorSettings, assemble, company_of, lately_of, popularity_of, taste_of

USERS, PINS, DAYS = 60, 40, 4
PAIRS = ["--window=5", "--within=6h", "--most-pairs=80", "--neighbours=10", "--least-engagements=2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("world"))
    rows = {number: make_rows(number, 300, USERS, PINS, seed=2) for number in range(DAYS)}
    for number, content in rows.items():
        write_file(f"{folder}/logs", number, content)
    return folder, rows


def run_job(folder: str, out: str, *flags: str, until: int = DAYS) -> int:
    where = [f"--logs={folder}/logs", f"--out={out}", f"--until={day(until)}", "--buckets=3", "--quiet"]
    norm = [] if any("--fold-in" in flag for flag in flags) else ["--norm=popularity"]
    return main(["item-vectors", *where, *PAIRS, *norm, *flags])


def files_of(folder: str) -> dict[str, bytes]:
    found = {}
    for name in sorted(os.listdir(folder)):
        with open(f"{folder}/{name}", "rb") as file:
            found[name] = file.read()
    return found


def manifest_of(folder: str) -> dict:
    with open(f"{folder}/version.json") as file:
        return json.load(file)


def write_content(folder: str, width: int, pins: range, topic: bool = False) -> str:
    os.makedirs(folder)
    vectors = np.random.default_rng(9).standard_normal((len(pins), width)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
    columns = {"pin_id": pa.array(pins), "vector": column}
    columns |= {"topic": pa.array([f"t{pin % 3}" for pin in pins])} if topic else {}
    pq.write_table(pa.table(columns), f"{folder}/content")
    return folder


def plain_columns(rows: dict[int, list], until: int) -> tuple[np.ndarray, ...]:
    good = [row for number in range(until) for row in rows[number] if is_valid(row, number)]
    return tuple(np.array([row[name] for row in good], np.int64) for name in ("user_id", "pin_id", "timestamp_ms"))


@pytest.mark.parametrize("method", ["ppmi-svd", "walk-svd", "als", "mix"])
def test_the_set_is_what_a_direct_computation_gives(world, tmp_path, method):
    folder, rows = world
    out = str(tmp_path / "out")
    assert run_job(folder, out, f"--method={method}", "--width=64") == 0
    user, pin, at = plain_columns(rows, DAYS)
    rules = PairRules(5, 6 * 3_600_000, 80, 3 * 86_400_000)
    counts, capped = count_pairs(user, pin, at, rules, midnight(DAYS))
    neighbours = strongest(counts, 10)
    settings = VectorSettings(method, "popularity", 64, 0, 2, 0, 3.0)
    layout, pins = settings.layout(), len(neighbours.pin)
    taste = np.zeros((pins, layout["taste"].stop - layout["taste"].start), np.float32)
    if settings.has_taste:
        taste = taste_of(*user_pins(user, pin), neighbours.pin, taste.shape[1], 0)
    length = popularity_of(neighbours.engagements, int(neighbours.engagements.max()))
    company = company_of(neighbours, settings, 10) if method != "als" else np.zeros((pins, 0), np.float32)
    lately = lately_of(neighbours.lately, int(neighbours.lately.max()))
    expected = assemble(Parts(company, np.zeros((pins, 0), np.float32), taste, length, lately), settings)
    found = read_any_vectors(out, "--pins")
    some = expected.any(axis=1)
    assert found.pin.tolist() == neighbours.pin[some].tolist() and some.sum() > 30
    np.testing.assert_array_equal(found.vectors, expected[some].astype(np.float16).astype(np.float32))
    said = manifest_of(out)["counts"]
    assert said["users_capped"] == capped > 0 and said["users"] == len(np.unique(user))
    assert said["events"] == len(user) and said["rows_dropped"] == 5 * DAYS


def test_runs_and_bucket_counts_change_no_byte(world, tmp_path):
    folder, _ = world
    for name, buckets in (("a", 3), ("b", 3), ("c", 1), ("d", 7)):
        assert run_job(folder, str(tmp_path / name), f"--buckets={buckets}") == 0
    first = files_of(str(tmp_path / "a"))
    assert len(first) == 2
    for name in "bcd":
        assert files_of(str(tmp_path / name)) == first


def test_nothing_from_until_on_is_known(world, tmp_path):
    """Neither later partitions, nor what a fast clock or another zone's day puts into an earlier one."""
    folder, rows = world
    assert run_job(folder, str(tmp_path / "all"), until=3) == 0
    shutil.copytree(f"{folder}/logs", tmp_path / "past" / "logs")
    shutil.rmtree(tmp_path / "past" / "logs" / f"ds={day(3)}")
    assert run_job(str(tmp_path / "past"), str(tmp_path / "alone"), until=3) == 0
    assert files_of(str(tmp_path / "all")) == files_of(str(tmp_path / "alone"))
    past = str(tmp_path / "past")
    assert run_job(past, str(tmp_path / "skew"), "--max-clock-skew=60", until=3) == 0
    late = [{**row, "timestamp_ms": midnight(3) + 7} for row in rows[2][:50]]
    write_file(f"{past}/logs", 2, late, "late.parquet")
    assert run_job(past, str(tmp_path / "late"), "--max-clock-skew=60", until=3) == 0
    before, after = (manifest_of(str(tmp_path / name)) for name in ("skew", "late"))
    assert after["counts"]["rows_after_until"] == 50 + before["counts"]["rows_after_until"] == 51
    assert before["pinsage_version"] == after["pinsage_version"]  # made of the vectors' content
    assert before["until"] == str(day(3)) == str(read_until(str(tmp_path / "skew")))


def test_the_other_commands_take_it(world, tmp_path):
    folder, _ = world
    pins, out = str(tmp_path / "pins"), str(tmp_path / "timelines")
    content = write_content(str(tmp_path / "content"), 300, range(20, 60), topic=True)
    assert run_job(folder, pins, f"--content={content}", until=3) == 0
    manifest = manifest_of(pins)
    vectors = describe_vectors(pins, manifest["pinsage_version"])  # what `daily` opens
    assert vectors.dtype == "float16" and vectors.rows == 60
    schema = pq.read_schema(vectors.files[0].path)
    assert "topic" in schema.names
    said = json.loads(schema.metadata[METADATA])
    assert (said["until"], said["pinsage_version"]) == (str(day(3)), manifest["pinsage_version"])
    with open(tmp_path / "rule.json", "w") as file:
        json.dump({"surfaces": ["home", "search", "board"], "actions": {"repin": 0}}, file)
    where = [f"--logs={folder}/logs", f"--pins={pins}", f"--out={out}", f"--label-rule={tmp_path}/rule.json"]
    assert main(["training-data", *where, f"--start={day(0)}", f"--end={day(3)}", "--buckets=2", "--quiet"]) == 0
    with open(f"{out}/timelines.json") as file:
        assert json.load(file)["vectors_until"] == str(day(3))


def test_a_pin_without_engagements_has_its_content(world, tmp_path):
    folder, _ = world
    content = write_content(str(tmp_path / "content"), 8, range(50, 55))
    assert run_job(folder, str(tmp_path / "out"), f"--content={content}") == 0
    found = read_any_vectors(str(tmp_path / "out"), "--pins")
    mine = found.vectors[np.isin(found.pin, range(50, 55))]
    assert len(mine) == 5
    given = read_any_vectors(content, "--content").vectors
    given /= np.linalg.norm(given, axis=1, keepdims=True)
    near = mine @ mine.T
    expected = 0.9 * (0.2 * given @ given.T + 0.8) + 0.1  # nobody engages with them: in that they are alike
    np.testing.assert_allclose(near, expected, atol=2e-3)


def test_pins_are_folded_into_a_space_that_stands(world, tmp_path):
    folder, rows = world
    logs = str(tmp_path / "later" / "logs")
    shutil.copytree(f"{folder}/logs", logs)
    # From the last day on, pin 1000 is engaged with wherever pin 7 is.
    beside = [{**row, "pin_id": 1000, "timestamp_ms": row["timestamp_ms"] + 1} for row in rows[3] if row["pin_id"] == 7]
    beside = [row for row in beside if is_valid(row, 3)]
    write_file(logs, 3, beside, "new.parquet")
    content = write_content(str(tmp_path / "content"), 300, range(40))
    newer = write_content(str(tmp_path / "newer"), 300, range(41, 44))
    standing, out = str(tmp_path / "standing"), str(tmp_path / "out")
    later = str(tmp_path / "later")
    assert run_job(folder, standing, f"--content={content}", until=3) == 0
    assert run_job(later, out, f"--fold-in={standing}", f"--content={newer}", "--window=1") == 0
    before, after = (read_any_vectors(name, "--pins") for name in (standing, out))
    assert manifest_of(out)["pinsage_version"] == manifest_of(standing)["pinsage_version"]
    assert manifest_of(out)["until"] == str(day(4))
    kept = np.isin(after.pin, before.pin)
    np.testing.assert_array_equal(after.vectors[kept], before.vectors)
    assert set(after.pin[~kept]) == {1000, 41, 42, 43}
    (new,) = after.vectors[after.pin == 1000]
    company = before.vectors[:, :127]
    likeness = company @ new[:127] / np.linalg.norm(company, axis=1).clip(1e-9)
    assert before.pin[likeness.argmax()] == 7
    assert main(["item-vectors", f"--logs={logs}", f"--until={day(4)}", f"--out={out}", f"--fold-in={out}2"]) == 1


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> str:
    """The folder of a set by ppmi-svd that was made undisturbed; not to be changed."""
    out = str(tmp_path_factory.mktemp("whole") / "set")
    assert run_job(world[0], out, "--method=ppmi-svd") == 0
    return out


@pytest.mark.parametrize("step", ["read_neighbours", "write_vector_files", "write_manifest"])
def test_a_run_that_ends_early_leaves_no_half_set(world, whole, tmp_path, monkeypatch, step):
    folder, _ = world
    out = str(tmp_path / "out")

    def fail(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(item_vectors, step, fail)
        assert run_job(folder, out, "--method=ppmi-svd") == 1
    assert os.listdir(out) == []
    # And where not even that is cleared away, as after kill -9:
    with monkeypatch.context() as patched:
        patched.setattr(item_vectors, step, fail)
        patched.setattr(item_vectors, "remove_leftovers", lambda root: None)
        assert run_job(folder, out, "--method=ppmi-svd") == 1
    assert "version.json" not in os.listdir(out)
    assert run_job(folder, out, "--method=ppmi-svd") == 0
    assert files_of(out) == files_of(whole)


def test_a_set_is_made_once_and_never_another_in_its_place(world, whole, tmp_path, monkeypatch, capsys):
    folder, _ = world
    out = shutil.copytree(whole, str(tmp_path / "out"))
    before = files_of(out)
    monkeypatch.setattr(item_vectors, "run_pipeline", None)  # nothing is computed again
    assert run_job(folder, out, "--method=ppmi-svd") == 0
    assert run_job(folder, out, "--method=ppmi-svd", "--seed=1") == 2
    assert "holds a vector set already, made otherwise (settings)" in capsys.readouterr().err
    assert files_of(out) == before
    os.makedirs(tmp_path / "mine")
    (tmp_path / "mine" / "vectors-00000.parquet").write_text("somebody's")
    assert run_job(folder, str(tmp_path / "mine")) == 2
    assert "holds vectors-00000.parquet, which is no vector set of ours" in capsys.readouterr().err
    assert os.listdir(tmp_path / "mine") == ["vectors-00000.parquet"]


def refuse(capsys, code: int, words: str, folder: str, out: str, *flags: str, until: int = DAYS) -> None:
    assert run_job(folder, out, *flags, until=until) == code
    said = capsys.readouterr().err
    assert words in said, said
    assert not os.path.exists(out) or os.listdir(out) == []


def test_what_cannot_be_made_is_refused(world, tmp_path, capsys):
    folder, _ = world
    out = str(tmp_path / "out")
    refuse(capsys, 2, f"--until {day(-1)}: the first partition of {folder}/logs is {day(0)}", folder, out, until=-1)
    refuse(capsys, 1, f"ds={day(4)}: missing partition", folder, out, until=5)
    alone = str(tmp_path / "alone")
    row = make_rows(0, 1, USERS, PINS, seed=2)[0]
    write_file(f"{alone}/logs", 0, [{**row, "user_id": number} for number in range(9)])
    refuse(capsys, 1, "no co-engagement at all: 9 engagements of 9 users", alone, out, until=1)
    refuse(capsys, 2, "--width 8: at least 16", folder, out, "--width=8")
    refuse(capsys, 1, "no vector set of `pinnerformer item-vectors`", folder, out, f"--fold-in={folder}/none")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "version.json").write_text('{"pinsage_version": "v1"}')
    refuse(capsys, 1, "`import --vectors FILE --replace", folder, out, f"--fold-in={tmp_path}/theirs")
    empty = str(tmp_path / "empty")
    write_file(f"{empty}/logs", 0, [])
    refuse(capsys, 1, f"no engagement before {day(1)}: 0 rows read", empty, out, until=1)


def test_content_of_another_width_is_refused(world, tmp_path, capsys):
    folder, _ = world
    out = str(tmp_path / "out")
    mixed = write_content(str(tmp_path / "mixed"), 12, range(5))
    other = write_content(str(tmp_path / "other"), 20, range(5, 9))
    set_of = str(tmp_path / "set")
    assert run_job(folder, set_of, f"--content={mixed}", "--method=ppmi-svd", until=2) == 0
    refuse(capsys, 1, "vectors are 20 wide", folder, out, f"--fold-in={set_of}", f"--content={other}")
    os.rename(f"{other}/content", f"{mixed}/more")
    refuse(capsys, 1, "more: vectors are 20 wide, those of content 12", folder, out, f"--content={mixed}")
    refuse(capsys, 2, "know what was before", folder, out, f"--fold-in={set_of}", until=1)
    refuse(capsys, 2, "--seed: the vectors of --fold-in", folder, out, f"--fold-in={set_of}", "--seed=3")


def rewrite(folder: str, out: str, hashed: bool) -> str:
    """Logs and content again, with strings for ids, or with the hashes of those; returns where."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(out, os.path.relpath(os.path.join(where, name), folder))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if name == "_SUCCESS":
                open(path, "w").close()
                continue
            rows = pq.read_table(os.path.join(where, name), partitioning=None)
            for key, stem in (("user_id", "u"), ("pin_id", "sku ")):
                if key in rows.schema.names:
                    ids = [None if one is None else f"{stem}{one}" for one in rows[key].to_pylist()]
                    column = pa.array([None if one is None else hash_text(one) for one in ids] if hashed else ids)
                    rows = rows.set_column(rows.schema.get_field_index(key), key, column)
            pq.write_table(rows, path)
    return out


def test_pins_that_are_strings_have_the_vectors_of_their_hashes_and_their_names(world, tmp_path):
    given = f"{tmp_path}/given"
    shutil.copytree(f"{world[0]}/logs", f"{given}/logs")
    write_content(f"{given}/content", 12, range(5, PINS + 8), topic=True)
    made = {}
    for kind, hashed in (("strings", False), ("hashes", True)):
        folder = rewrite(given, f"{tmp_path}/{kind}", hashed)
        out, more = f"{tmp_path}/{kind}-out", f"{tmp_path}/{kind}-folded"
        assert run_job(folder, out, f"--content={folder}/content", until=2) == 0
        assert run_job(folder, more, f"--fold-in={out}", f"--content={folder}/content") == 0
        made[kind] = [read_any_vectors(name, "--pins") for name in (out, more)]
        assert (
            main(
                [
                    "training-data",
                    f"--logs={folder}/logs",
                    f"--pins={more}",
                    f"--out={folder}/timelines",
                    f"--start={day(0)}",
                    f"--end={day(3)}",
                    f"--label-rule={label_rule(tmp_path)}",
                    "--quiet",
                ]
            )
            == 0
        )
    for named, numbers in zip(made["strings"], made["hashes"], strict=True):
        assert [hash_text(name) for name in named.names.to_pylist()] == named.pin.tolist() == numbers.pin.tolist()
        assert numbers.names is None and named.topic.to_pylist() == numbers.topic.to_pylist()
        np.testing.assert_array_equal(named.vectors, numbers.vectors)
    assert f"sku {PINS + 5}" in made["strings"][0].names.to_pylist()  # of the content alone
    assert [read_topics(f"{tmp_path}/{kind}-folded", made["hashes"][1].pin).tolist() for kind in made] == [
        read_topics(f"{tmp_path}/hashes-folded", made["hashes"][1].pin).tolist()
    ] * 2
    told = [read_description(f"{tmp_path}/{kind}/timelines")[0]["counts"] for kind in made]
    assert told[0] == told[1] and told[0]["positives"] > 0


def label_rule(folder) -> str:
    path = f"{folder}/rule.json"
    with open(path, "w") as file:
        json.dump({"surfaces": ["home"], "actions": {"click": 0}}, file)
    return path


def test_ids_of_another_kind_than_the_logs_are_refused(world, tmp_path, capsys):
    folder = rewrite(world[0], f"{tmp_path}/strings", hashed=False)
    content = write_content(f"{tmp_path}/content", 12, range(PINS))
    assert run_job(folder, f"{tmp_path}/out", f"--content={content}") == 1
    said = capsys.readouterr().err
    assert f"--content {content}: its pin_id is of int64, and the pins of the logs are of string" in said
    Root(f"{tmp_path}/root").write_json("layout.json", {"user_buckets": 2, "pin_shards": 1})
    assert run_job(folder, f"{tmp_path}/out", f"--root={tmp_path}/root") == 1  # its erased users are numbers
    assert "column 'user_id' is of string" in capsys.readouterr().err
    write_content(f"{tmp_path}/mixed", 12, range(PINS, PINS + 9))
    rows = pq.read_table(f"{tmp_path}/mixed/content")
    pq.write_table(rows.set_column(0, "pin_id", pa.array([f"sku {n}" for n in range(9)])), f"{tmp_path}/mixed/other")
    with pytest.raises(InputError, match="other: ids are strings, and of content they are not"):
        read_any_vectors(f"{tmp_path}/mixed", "--content")
    pq.write_table(rows.set_column(0, "pin_id", pa.array(["a"] * 9)), f"{tmp_path}/mixed/content")
    os.remove(f"{tmp_path}/mixed/other")
    with pytest.raises(InputError, match="pin_id 'a' is there twice"):
        read_any_vectors(f"{tmp_path}/mixed", "--content")
    pq.write_table(rows.set_column(0, "pin_id", pa.array([*"abcdefgh", ""])), f"{tmp_path}/mixed/content")
    with pytest.raises(InputError, match="content: row 8: pin_id is an empty string"):
        read_any_vectors(f"{tmp_path}/mixed", "--content")
