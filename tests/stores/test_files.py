"""Files of a root: what a second process and a kill may not break."""

import multiprocessing
import os

import pytest

from stores.errors import StoreError, UsageError
from stores.files import Root, replace_atomically
from stores.layout import open_layout, read_layout
from stores.manifests import read_manifest


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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"release": 1}'])
def test_a_manifest_that_is_none(tmp_path, content):
    os.makedirs(tmp_path / "releases" / "x")
    (tmp_path / "releases" / "x" / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match="releases/x/manifest.json"):
        read_manifest(Root(str(tmp_path)), "x")


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
