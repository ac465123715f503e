"""Files, CURRENT, the lease, the layout: what a second process and a kill may not break."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from stores.errors import StoreError, UsageError
from stores.files import Root, replace_atomically
from stores.layout import open_layout, read_layout
from stores.lease import LEASE, hold_lease
from stores.manifests import Manifest, read_manifest, write_manifest
from stores.releases import chain, current_release, move_current, next_release_id
from stores.tables import TABLES
from tests.worlds import day


def manifest_of(release: str, previous: str | None) -> Manifest:
    tables: dict = {name: [] for name in TABLES}
    return Manifest(release, "2026-11-01", previous, "ab", tables, [], {}, {}, [], {}, [])


def increment(path: str, times: int) -> None:
    root = Root(path)
    for _ in range(times):
        while True:
            found = root.read_bytes("counter")
            if root.compare_and_swap("counter", found, str(int(found) + 1).encode()):
                break


def test_no_swap_is_lost_between_processes(tmp_path):
    Root(str(tmp_path)).write_bytes("counter", b"0")
    processes = [multiprocessing.Process(target=increment, args=(str(tmp_path), 50)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "counter").read_bytes() == b"150"


def test_a_swap_from_something_else_changes_nothing(tmp_path):
    root = Root(str(tmp_path))
    assert not root.compare_and_swap("file", b"never", b"new") and not root.exists("file")
    assert root.compare_and_swap("file", None, b"one")
    assert not root.compare_and_swap("file", None, b"two")
    assert root.read_bytes("file") == b"one"


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replace_atomically(str(path)) as temporary:
        with open(temporary, "w") as file:
            file.write("ne")
        raise RuntimeError("killed")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_name_carries_its_contents_digest(tmp_path):
    root = Root(str(tmp_path))

    def write(content: bytes):
        def to(path: str) -> None:
            with open(path, "wb") as file:
                file.write(content)

        return root.write_named_by_content("table/day", "part-00000", ".bin", 0, 1, to)

    first, again, other = write(b"same"), write(b"same"), write(b"other")
    assert first == again and first.path != other.path and len(os.listdir(tmp_path / "table/day")) == 2
    assert root.read_bytes(first.path) == b"same" and root.read_bytes(other.path) == b"other"


def test_current_moves_from_what_the_run_was_built_on_only(tmp_path):
    root = Root(str(tmp_path))
    move_current(root, None, "a")
    move_current(root, None, "a")  # a second attempt of the same run
    move_current(root, "a", "b")
    with pytest.raises(StoreError, match="names b, this run was built on a; another run committed"):
        move_current(root, "a", "c")
    assert current_release(root) == "b"


def test_the_chain_and_the_next_id(tmp_path):
    root = Root(str(tmp_path))
    write_manifest(root, manifest_of("2026-11-01", None))
    assert next_release_id(root, day(0)) == "2026-11-01"  # written and never committed
    move_current(root, None, "2026-11-01")
    assert next_release_id(root, day(0)) == "2026-11-01.2" and next_release_id(root, day(1)) == "2026-11-02"
    write_manifest(root, manifest_of("2026-11-01.2", "2026-11-01"))
    move_current(root, "2026-11-01", "2026-11-01.2")
    assert [m.release for m in chain(root)] == ["2026-11-01.2", "2026-11-01"]
    assert next_release_id(root, day(0)) == "2026-11-01.3"


def test_a_chain_that_runs_in_a_circle(tmp_path):
    root = Root(str(tmp_path))
    write_manifest(root, manifest_of("a", "b"))
    write_manifest(root, manifest_of("b", "a"))
    with pytest.raises(StoreError, match="is its own ancestor"):
        list(chain(root, "a"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"release": 1}'])
def test_a_manifest_that_is_none(tmp_path, content):
    os.makedirs(tmp_path / "releases" / "x")
    (tmp_path / "releases" / "x" / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match="releases/x/manifest.json"):
        read_manifest(Root(str(tmp_path)), "x")


def test_a_second_run_is_refused_and_a_third_is_not(tmp_path):
    root = Root(str(tmp_path))
    with (
        hold_lease(root, "first"),
        pytest.raises(StoreError, match="run first holds this root"),
        hold_lease(root, "2nd"),
    ):
        pass
    with hold_lease(root, "third"):
        assert json.loads(root.read_bytes(LEASE))["run"] == "third"
    assert not root.exists(LEASE)


def test_the_lease_is_renewed_while_the_run_lasts(tmp_path):
    root = Root(str(tmp_path))
    with hold_lease(root, "long", seconds=0.3):
        first = json.loads(root.read_bytes(LEASE))["expires"]
        deadline = time.monotonic() + 20
        while json.loads(root.read_bytes(LEASE))["expires"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_run_that_was_killed_holds_nothing(tmp_path):
    code = (
        "import os, signal; from stores.files import Root; from stores.lease import hold_lease\n"
        f"with hold_lease(Root({str(tmp_path)!r}), 'killed'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    root = Root(str(tmp_path))
    assert root.exists(LEASE)
    with hold_lease(root, "next"):
        pass


def test_a_lease_of_another_machine_runs_out(tmp_path):
    root = Root(str(tmp_path))
    lease = {"run": "far", "host": "another", "pid": 1, "process_start": "", "expires": time.time() + 100}
    root.write_bytes(LEASE, json.dumps(lease).encode())
    with pytest.raises(StoreError, match="on another.*in (100|9.) s"), hold_lease(root, "mine"):
        pass
    root.write_bytes(LEASE, json.dumps({**lease, "expires": time.time() - 1}).encode())
    with hold_lease(root, "mine"):
        pass


def test_a_layout_is_fixed_once(tmp_path):
    root = Root(str(tmp_path))
    assert read_layout(root) is None
    made = open_layout(root, {"user_buckets": 8})
    assert open_layout(root, {}) == made == open_layout(root, {"user_buckets": 8}) and made.user_buckets == 8
    with pytest.raises(UsageError, match="--pin-shards 9: .*layout.json says 4"):
        open_layout(root, {"pin_shards": 9})
    (tmp_path / "layout.json").write_text('{"user_buckets": "many"}')
    with pytest.raises(StoreError, match="layout.json"):
        read_layout(root)
