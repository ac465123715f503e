"""An erasure against a dict without the keys."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.erasure import (
    erase_from_dead_letters,
    erase_from_files,
    find_users,
    keep_out,
    names_known,
    new_erasure_report,
    rows_of_users,
)
from stores.files import Root
from stores.id_names import PINS, USERS, names_of
from stores.manifests import Manifest, read_manifest
from stores.schemas import from_binary_column
from stores.string_ids import hash_text
from stores.tables import read_files
from stores.user_lists import read_erased
from tests.stores.snapshots import IDS, SNAPSHOT, named_release, release


def of_release(root: Root, manifest: Manifest) -> dict[int, float]:
    found: dict[int, float] = {}
    for entry in manifest.tables["user_embeddings"]:
        rows = read_files(root, [entry])
        numbers = from_binary_column(rows["embedding"])[:, 0].tolist()
        found |= dict(zip(rows["user_id"].to_pylist(), numbers, strict=True))
    return found


@given(st.lists(SNAPSHOT, min_size=1, max_size=3), st.sets(IDS, min_size=1, max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_erasure_is_a_dict_without_keys(tmp_path_factory, snapshots, gone):
    root = Root(str(tmp_path_factory.mktemp("erased")))
    for number, snapshot in enumerate(snapshots):
        release(root, f"r{number}", snapshot)
    users = np.array(sorted(gone), np.int64)
    for _ in range(2):
        erase_from_files(root, users, new_erasure_report(users))
        for number, snapshot in enumerate(snapshots):
            left = {user: value for user, value in snapshot.items() if user not in gone}
            assert of_release(root, read_manifest(root, f"r{number}")) == left


USER_NAMES = [f"person-{n}@example.com" for n in range(40)]
LEAVERS = ["person-3@example.com", "person-17@example.com"]


def bytes_under(folder: str) -> dict[str, bytes]:
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(where, name), "rb") as file:
                found[os.path.join(where, name)] = file.read()
    return found


def write_dead_letters(root: Root, name: str, user_id: pa.Array, names: list[str | None]) -> None:
    rows = pa.table(
        {"user_id": user_id, "user_name": pa.array(names).dictionary_encode(), "reason": ["x"] * len(names)}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    root.write_bytes(f"releases/r1/dead_letters/{name}.parquet", sink.getvalue().to_pybytes())


def test_who_is_erased_leaves_the_names_too_and_no_file_keeps_the_string(tmp_path):
    root, gone = Root(str(tmp_path)), np.sort([hash_text(name) for name in LEAVERS])
    for number in (0, 1):
        named_release(root, USER_NAMES[: 20 + 20 * number], ["sku-1"], f"r{number}")
    names = [*LEAVERS, "person-1@example.com", None]
    write_dead_letters(root, "hashes", pa.array([None if n is None else hash_text(n) for n in names]), names)
    write_dead_letters(root, "strings", pa.array(names, pa.string()), names)
    assert {path.split("/")[0] for path in find_users(root, gone)} == {"user_names", "user_embeddings", "releases"}
    assert any(LEAVERS[0].encode() in data for data in bytes_under(root.url).values())
    keep_out(root, gone)
    report = new_erasure_report(gone)
    erase_from_files(root, gone, report)
    erase_from_dead_letters(root, gone, report)
    assert find_users(root, gone) == [] and report.dead_letters == 4
    assert report.rows["user_names"] == report.rows["user_embeddings"] == 4
    assert [path for path, data in bytes_under(root.url).items() if any(n.encode() in data for n in LEAVERS)] == []
    manifest = read_manifest(root, "r1")
    left = {hash_text(name): name for name in USER_NAMES if name not in LEAVERS}
    assert names_of(root, manifest, USERS, [*left, *gone.tolist()]) == left
    assert names_of(root, manifest, PINS, [hash_text("sku-1")]) == {hash_text("sku-1"): "sku-1"}
    assert read_erased(root).tolist() == gone.tolist()  # the hashes: no string


def test_a_root_of_int64_has_no_word_of_names_in_its_report(tmp_path):
    root = Root(str(tmp_path))
    release(root, "r1", {5: 1, 6: 2})
    report = new_erasure_report(np.array([5]))
    erase_from_files(root, np.array([5]), report)
    assert report.rows == {"histories": 0, "user_embeddings": 1, "canaries": 0}


def test_names_that_some_release_has(tmp_path):
    root = Root(str(tmp_path))
    named_release(root, USER_NAMES[:10], [], "r0")
    named_release(root, USER_NAMES[10:], [], "r1")
    asked = np.sort([hash_text(name) for name in [*USER_NAMES, "Person-3@example.com", "person-3@example.com "]])
    assert names_known(root, asked) == {hash_text(name): name for name in USER_NAMES}


def test_user_columns_of_any_kind():
    users = np.array([0, 3, hash_text("u")])
    for column, hit in (
        (pa.array([3, None, 4]), [True, False, False]),
        (pa.array([3.0, None, 4.5]), [True, False, False]),
        (pa.array(["u", None, "v"]), [True, False, False]),
        (pa.array(["u", None, "v"], pa.large_string()), [True, False, False]),
        (pa.array(["u", None, "v"]).dictionary_encode(), [True, False, False]),
        (pa.array([[3], None, [4]]), [False, False, False]),
    ):
        assert rows_of_users(pa.chunked_array([column]), users).tolist() == hit
