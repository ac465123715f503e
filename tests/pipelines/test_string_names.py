"""The names of users and pins through the life of a root: runs cut off, rows that grow old, gc, erasure, repair."""

import collections
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from stores import erasure
from stores.files import Root
from stores.manifests import read_manifest
from stores.releases import chain
from stores.string_ids import hash_text
from stores.user_lists import read_erased
from tests.parts import Parts
from tests.pipelines.nights import World, first_night, make_world, read_table, run_night
from tests.pipelines.test_resume import MODULES, command, released
from tests.pipelines.test_string_ids import name_user, names_of, renamed
from tests.worlds import day
from transforms import pin_names

NIGHTS = 3
WATCHED = (*MODULES, pin_names)


@pytest.fixture(scope="module")
def named(tmp_path_factory) -> World:
    folder = str(tmp_path_factory.mktemp("named"))
    return renamed(make_world(f"{folder}/numbers"), f"{folder}/named", hashed=False)


@pytest.fixture(scope="module")
def made(named, tmp_path_factory) -> str:
    """A root of three nights."""
    root = str(tmp_path_factory.mktemp("root"))
    first_night(named, root, "--pin-shards=2")
    for number in range(1, NIGHTS):
        run_night(named, root, number, "--publish=none")
    return root


@pytest.fixture
def root(made, tmp_path) -> str:
    shutil.copytree(made, tmp_path / "root")
    return str(tmp_path / "root")


def users_in(root: str, manifest, table: str) -> set[int]:
    return set(read_table(root, manifest, table)["user_id"].to_pylist())


@pytest.fixture(scope="module")
def whole(named, tmp_path_factory) -> tuple:
    """The release of an undisturbed run, and how many parts of each step it did."""
    root, parts = str(tmp_path_factory.mktemp("undisturbed")), Parts()
    with pytest.MonkeyPatch.context() as patch:
        parts.watch(patch, WATCHED)
        assert main(command(named, root, "--publish=none")) == 0
    return released(root), parts.done


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_run_cut_off_names_what_an_undisturbed_one_does(named, whole, tmp_path, monkeypatch, share):
    release, done = whole
    assert done["name_pins"] == 2
    parts = Parts()
    parts.watch(monkeypatch, WATCHED)
    parts.stop_at = round(share * done.total())
    cut = str(tmp_path / "cut")
    assert main(command(named, cut, "--publish=none")) == 1
    first, parts.done, parts.stop_at = parts.done, collections.Counter(), None
    assert main(command(named, cut, "--publish=none")) == 0
    assert released(cut) == release
    again = +(first + parts.done - done)
    assert set(again) <= {"read_logs", "name_pins"}, "a part was done twice"
    if first["update_histories"] == done["update_histories"]:
        assert not again, "the logs were read although no bucket needs them"


def test_names_go_with_the_last_row_and_the_vector(named, root):
    before = read_manifest(Root(root), str(day(NIGHTS - 1)))
    flags = ("--max-history-days=1", "--max-idle-days=1", "--publish=none")
    limits = f"{root}/gates.yaml"
    with open(limits, "w") as file:
        file.write(
            "max_lost_share: 1\nmax_cosine_drift: 1\nmax_week_factor: 99\nmin_consistency: 0\nmax_hindsight_fall: 9\n"
        )
    night = run_night(named, root, NIGHTS, *flags, f"--gates={limits}")
    rows, known = users_in(root, night, "histories"), set(names_of(root, before, "user_names"))
    assert set(names_of(root, night, "user_names")) == rows | (known & users_in(root, before, "user_embeddings"))
    last = run_night(named, root, NIGHTS + 1, *flags, f"--gates={limits}")
    kept = set(names_of(root, last, "user_names"))
    # Whoever has neither any more has lost the name; nobody in the histories or the snapshot lacks one.
    assert kept >= users_in(root, last, "histories") | users_in(root, last, "user_embeddings")
    gone = known - users_in(root, last, "histories") - users_in(root, night, "user_embeddings")
    assert not gone & kept


def test_gc_slims_names_as_histories(root):
    assert main(["gc", f"--root={root}", "--keep=1", "--keep-snapshots=2"]) == 0
    releases = {manifest.release: manifest for manifest in chain(Root(root))}
    assert releases[str(day(2))].dropped == []
    for number in (0, 1):
        manifest = releases[str(day(number))]
        assert {"histories", "user_names", "pin_names"} <= set(manifest.dropped)
        assert manifest.tables["user_names"] == manifest.tables["pin_names"] == []
    kept = {e.path for table in ("user_names", "pin_names") for e in releases[str(day(2))].tables[table]}
    there = {
        os.path.relpath(os.path.join(where, name), root)
        for table in ("user_names", "pin_names")
        for where, _, names in os.walk(f"{root}/{table}")
        for name in names
    }
    assert there == kept
    assert main(["verify", f"--root={root}"]) == 0


def test_nothing_is_left_of_the_name_of_the_erased(named, root):
    gone = np.sort([hash_text(name_user(user)) for user in (0, 3, 7)])
    there = Root(root)
    before = {m.release: names_of(root, m, "user_names") for m in chain(there)}
    assert set(gone) & set(before[str(day(2))])
    erasure.check_known_tables(there)
    erasure.keep_out(there, gone)
    report = erasure.new_erasure_report(gone)
    erasure.erase_from_files(there, gone, report)
    erasure.erase_from_dead_letters(there, gone, report)
    assert report.rows["user_names"] and report.rows["histories"]
    for manifest in chain(there):
        expected = {user: name for user, name in before[manifest.release].items() if user not in gone}
        assert names_of(root, manifest, "user_names") == expected
    assert erasure.find_users(there, gone) == []
    night = run_night(named, root, NIGHTS, "--publish=none")
    assert night.counters["read_logs"]["rows_erased"] and list(read_erased(there)) == list(gone)
    assert not set(gone) & set(names_of(root, night, "user_names"))
    for where, _, names in os.walk(root):
        for name in names:
            if name.endswith(".parquet"):
                data = pq.read_table(os.path.join(where, name)).to_pydict().get("name", [])
                assert name_user(3) not in data


def test_a_repair_has_the_names_of_the_nights(named, root):
    before = read_manifest(Root(root), str(day(NIGHTS - 1)))
    code = main(["repair", f"--root={root}", *named.inputs, f"--partition={day(1)}", "--publish=none", "--quiet"])
    assert code == 0
    after = next(chain(Root(root)))
    assert after.release == f"{day(NIGHTS - 1)}.2"
    for table in ("user_names", "pin_names", "histories"):
        assert [e.checksum for e in after.tables[table]] == [e.checksum for e in before.tables[table]]
