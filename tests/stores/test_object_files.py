"""A root on S3: the same promises as a local one, kept by conditional puts; a real endpoint on loopback."""

import os
import threading
import time

import boto3
import obstore
import pytest

from stores import locations
from stores.errors import StoreError, UsageError
from stores.files import Root
from stores.lease import LEASE, hold_lease
from stores.object_files import KEPT_S, cache_folder
from stores.object_stores import bucket_client
from stores.partitions import list_data_files
from stores.releases import current_release, move_current
from tests.s3_server import running_s3
from tests.warm import run_python, run_together


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, running_s3(patch) as url:
        yield url


@pytest.fixture
def root(bucket, request, tmp_path, monkeypatch):
    monkeypatch.setenv("PINNERFORMER_CACHE", str(tmp_path / "cache"))
    return Root(f"{bucket}/{request.node.name}/root/")


def write(root: Root, content: bytes):
    def to(path: str) -> None:
        with open(path, "wb") as file:
            file.write(content)

    return root.write_named_by_content("table/day", "part-00000", ".bin", 3, 1, to)


def test_files_are_written_listed_read_and_removed(root, tmp_path):
    assert root.list("") == root.list("table") == [] and root.size("a/b") is None and not root.exists("a/b")
    with pytest.raises(FileNotFoundError):
        root.read_bytes("a/b")
    root.write_bytes("a/b", b"one")
    root.write_json("a/c/d", {"x": 1})
    assert root.list("a") == ["b", "c"] and root.exists("a") and root.exists("a/b")
    assert root.read_bytes("a/b") == b"one" and root.size("a/b") == 3 and root.read_json("a/c/d") == {"x": 1}
    assert abs(root.modified("a/b") - time.time()) < 60
    root.write_bytes("ab", b"a name that begins like the folder")
    root.remove("a")
    assert root.list("") == ["ab"]
    root.remove("ab")
    root.remove("ab")
    assert root.list("") == [] and not root.exists("ab")


def test_an_object_that_another_removed_first_is_removed(root, monkeypatch):
    """S3 removes what is not there; Google Cloud Storage says that it is not there, and stops."""
    delete = obstore.delete

    def as_google_does(client, keys):
        for key in [keys] if isinstance(keys, str) else keys:
            obstore.head(client, key)
            delete(client, key)

    root.write_bytes("a/b", b"one")
    root.write_bytes("a/c", b"two")
    pages = [[{"path": f"{key(root)}/a/{name}"} for name in ("b", "gone", "c")]]
    monkeypatch.setattr(obstore, "delete", as_google_does)
    with monkeypatch.context() as patch:
        patch.setattr(obstore, "list", lambda client, prefix: pages)
        root.remove("a")
    assert root.list("") == []


def test_folders_are_not_listed_by_pyarrow(root, monkeypatch):
    """On Google Cloud Storage it lists no folder but those that it made itself."""
    root.write_bytes("a/b/c", b"one")
    monkeypatch.setattr(locations, "file_system", None)
    assert root.list("a") == ["b"] and root.list("a/b") == ["c"]


def key(root: Root) -> str:
    return bucket_client(root.url)[1]


def test_a_name_carries_its_contents_digest_and_nothing_stays_behind(root, tmp_path):
    first, again, other = write(root, b"same"), write(root, b"same"), write(root, b"other")
    assert first == again and first.path != other.path and len(root.list("table/day")) == 2
    assert root.read_bytes(other.path) == b"other" and root.checksum(other.path) == other.checksum
    large = os.urandom(40 << 20)  # in parts
    entry = write(root, large)
    assert root.size(entry.path) == entry.bytes == len(large) and root.checksum(entry.path) == entry.checksum
    with root.open_input(entry.path) as source:
        source.seek(33 << 20)
        assert source.read(100) == large[33 << 20 :][:100]
    assert os.listdir(cache_folder("writing")) == []


def test_a_copy_is_made_once_and_checked(root, tmp_path):
    entry = write(root, b"content")
    copy = root.local_copy(entry)
    with open(copy, "rb") as file:
        assert file.read() == b"content"
    root.remove(entry.path)
    assert root.local_copy(entry) == copy  # no second download
    old = cache_folder("copies", "old")
    open(old, "w").close()
    os.utime(old, (0, time.time() - KEPT_S - 60))
    other = write(root, b"other")
    root.write_bytes(other.path, b"changed")
    with pytest.raises(StoreError, match="its manifest says"):
        root.local_copy(other)
    gone = write(root, b"gone")
    root.remove(gone.path)
    with pytest.raises(StoreError, match=r"s3://.*No such file"):
        root.local_copy(gone)
    left = [name for name in os.listdir(os.path.dirname(copy)) if not name.endswith(".lock")]
    assert left == [os.path.basename(copy)]


def race(root: Root, start: threading.Barrier, round_: int, writer: int, wins: list) -> None:
    start.wait()
    if root.compare_and_swap(f"create/{round_}", None, f"{writer}".encode()):
        wins.append(("create", round_, writer))
    start.wait()
    expected = root.read_bytes(f"create/{round_}")
    start.wait()
    if root.compare_and_swap(f"create/{round_}", expected, f"swapped by {writer}".encode()):
        wins.append(("swap", round_, writer))


@pytest.mark.parametrize("rounds", [40, pytest.param(150, marks=pytest.mark.slow)])
def test_of_two_racing_writers_exactly_one_wins_every_round(root, rounds):
    wins: list[tuple[str, int, int]] = []
    start = threading.Barrier(2)

    def run(writer: int) -> None:
        for number in range(rounds):
            race(root, start, number, writer, wins)

    threads = [threading.Thread(target=run, args=(writer,)) for writer in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((kind, number) for kind, number, _ in wins) == sorted(
        (kind, number) for kind in ("create", "swap") for number in range(rounds)
    )
    winners = {number: writer for kind, number, writer in wins if kind == "swap"}
    assert all(root.read_bytes(f"create/{n}") == f"swapped by {w}".encode() for n, w in winners.items())
    assert set(winners.values()) == {1, 2}  # it was a race


INCREMENT = """
import sys
from stores.files import Root

root = Root(sys.argv[1])
for _ in range(int(sys.argv[2])):
    while True:
        found = root.read_bytes("counter")
        if root.compare_and_swap("counter", found, str(int(found) + 1).encode()):
            break
"""


def test_no_swap_is_lost_between_processes(root):
    root.write_bytes("counter", b"0")
    for done in run_together([INCREMENT] * 2, root.url, "60", envs=[{}, {}]):
        assert done.returncode == 0, done.stderr
    assert root.read_bytes("counter") == b"120"


def test_a_swap_from_something_else_changes_nothing(root):
    assert not root.compare_and_swap("file", b"never", b"new") and not root.exists("file")
    assert root.compare_and_swap("file", None, b"one")
    assert not root.compare_and_swap("file", None, b"two") and not root.compare_and_swap("file", b"zero", b"two")
    assert root.read_bytes("file") == b"one"


def test_current_moves_from_what_the_run_was_built_on_only(root):
    move_current(root, None, "a")
    move_current(root, None, "a")
    move_current(root, "a", "b")
    with pytest.raises(StoreError, match="names b, this run was built on a; another run committed"):
        move_current(root, "a", "c")
    assert current_release(root) == "b"


def test_the_lease(root):
    with (
        hold_lease(root, "first"),
        pytest.raises(StoreError, match="run first holds this root"),
        hold_lease(root, "second"),
    ):
        pass
    assert root.read_bytes(LEASE) == b""  # given back
    with hold_lease(root, "third", seconds=0.3):
        first = root.read_json(LEASE)
        deadline = time.monotonic() + 30
        while root.read_json(LEASE)["expires"] == first["expires"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    code = (
        "import os, signal; from stores.files import Root; from stores.lease import hold_lease\n"
        f"with hold_lease(Root({root.url!r}), 'killed'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run_python(code).returncode == -9
    assert root.read_json(LEASE)["run"] == "killed"
    with hold_lease(root, "next"):
        pass


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/root", "expected a local path"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/root", "credentials do not belong into a URL"),
        ("hdfs://host/root", "HDFS has no conditional put"),
    ],
)
def test_urls_that_can_be_no_root(url, message):
    with pytest.raises(UsageError, match=message) as refused:
        Root(url)
    assert "secret" not in str(refused.value)


def test_what_is_wrong_with_the_endpoint_is_said_without_the_secret(bucket, monkeypatch):
    with pytest.raises(StoreError, match=r"s3://no-such-bucket-here/root/CURRENT") as missing:
        Root("s3://no-such-bucket-here/root").write_bytes("CURRENT", b"x")
    assert "never shown" not in str(missing.value)
    with pytest.raises(FileNotFoundError) as missing_folder:
        locations.list_names(f"{bucket}/no/such/folder")
    assert missing_folder.value.filename == f"{bucket}/no/such/folder"


def test_what_a_folder_lists_and_names_with_any_letter(root):
    """A key may hold `#`, `?` and `%`; a writer marks an empty folder by an object that is called like it."""
    strange = ["a#1.parquet", "b?c=d.parquet", "e%20f.parquet", "g h+i.parquet"]
    for name in (*strange, "hour=18/x", "hour=19_$folder$"):
        root.write_bytes(f"day/{name}", b"" if name.endswith("$") else name.encode())
    bucket, _, key = root.path("day").removeprefix("s3://").partition("/")
    for name in ("", "hour=20/"):
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{key}/{name}", Body=b"")  # obstore takes no such key
    listed = locations.list_entries(root.path("day"))
    assert [(one.name, one.kind, one.bytes) for one in listed] == [
        *((name, "file", len(name)) for name in strange),
        ("hour=18", "folder", 0),
        ("hour=19_$folder$", "file", 0),
        ("hour=20", "folder", 0),
    ]
    for one in listed[:4]:
        path = root.path(f"day/{one.name}")
        assert locations.read_bytes(path) == one.name.encode() and locations.modified_ns(path) == one.modified_ns
    found = list_data_files(root.path("day"))
    assert [file.name for file in found] == [*strange, "hour=18/x"]
    with pytest.raises(FileNotFoundError):
        locations.list_entries(root.path("night"))
    assert locations.list_entries(root.path("day/hour=20")) == []
