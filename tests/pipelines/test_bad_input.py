"""Bad input, nothing lost: each case exits 1-3, names the culprit and the fix, and leaves what was served alone."""

import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import daily_inference
from pipelines.cli import main
from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.lease import hold_lease
from stores.releases import current_release, read_current
from tests.pipelines.nights import World
from tests.redis_server import free_port, running_redis
from tests.worlds import SCHEMA, day, write_model, write_vectors


@dataclasses.dataclass
class Served:
    """A root with one committed and published release, and the next night's input."""

    world: World
    root: str
    kv: str

    @property
    def tonight(self) -> str:
        return os.path.join(self.world.folder, "logs", f"ds={day(1)}")

    def arguments(self, *more: str) -> list[str]:
        return [
            "daily",
            f"--root={self.root}",
            *self.world.inputs,
            f"--date={day(1)}",
            f"--kv={self.kv}",
            "--quiet",
            *more,
        ]


@pytest.fixture(scope="module")
def first(kept_nights, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("first"))
    kept_nights.copy(1, folder)
    manifest = read_current(Root(f"{folder}/root"))
    code = main(["release", f"--root={folder}/root", f"--run={run_of(folder)}", f"--kv=lmdb://{folder}/kv"])
    assert code == 0 and manifest is not None
    return folder


def run_of(folder: str) -> str:
    (run,) = [name for name in os.listdir(f"{folder}/root/staging") if name.startswith("daily-")]
    return run


@pytest.fixture
def served(first, tmp_path) -> Served:
    """A copy of its own of the first night, for a test to break."""
    folder = str(tmp_path / "copy")
    shutil.copytree(first, folder)
    return Served(World(folder, {}, [], {}), f"{folder}/root", f"lmdb://{folder}/kv")


def refused(served: Served, capsys, code: int, *expected: str, arguments: list[str] | None = None) -> str:
    """Runs tonight's job and checks what must hold however it fails; returns the first line of stderr."""
    before = files_of(served.root)
    with EmbeddingClient(served.kv) as client:
        release, vectors = client.current.release, client.get_many(np.arange(-5, 40))
    capsys.readouterr()
    found = main(arguments or served.arguments())
    error = capsys.readouterr().err
    first_line = error.strip().splitlines()[0] if error.strip() else ""
    assert found == code, error
    for text in expected:
        assert text in first_line, error
    assert "Traceback" not in error
    assert current_release(Root(served.root)) == str(day(0))
    assert os.listdir(f"{served.root}/releases") == [str(day(0))], "a half-written release"
    after = files_of(served.root)
    assert {name: after.get(name) for name in before} == before, "a committed file changed or is gone"
    with EmbeddingClient(served.kv) as client:
        assert client.current.release == release
        for was, is_now in zip(vectors, client.get_many(np.arange(-5, 40)), strict=True):
            np.testing.assert_array_equal(was, is_now)
    return first_line


def files_of(root: str) -> dict[str, bytes]:
    """The content of every file that readers may open."""
    found = {}
    for folder, _, names in os.walk(root):
        if "staging" not in os.path.relpath(folder, root).split(os.sep):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    found[os.path.relpath(file.name, root)] = file.read()
    return found


def rewrite(path: str, change) -> None:
    """Changes a log file's table."""
    table = pq.read_table(path)
    pq.write_table(change(table), path)


# The logs.


def test_truncated_file(served, capsys):
    path = f"{served.tonight}/a.parquet"
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)
    refused(served, capsys, 1, path, "not a readable Parquet file", "truncated", "write it again")


def test_damage_inside_a_file(served, capsys):
    path = f"{served.tonight}/a.parquet"
    with open(path, "r+b") as file:
        file.seek(4)
        file.write(os.urandom(800))
    refused(served, capsys, 1, path, "damaged")


def test_not_a_parquet_file(served, capsys):
    path = f"{served.tonight}/notes.parquet"
    with open(path, "w") as file:
        file.write("user,pin\n1,2\n")
    refused(served, capsys, 1, path, "not a readable Parquet file")


def test_empty_file(served, capsys):
    path = f"{served.tonight}/empty.parquet"
    open(path, "w").close()
    refused(served, capsys, 1, path, "not a readable Parquet file")


def test_missing_column(served, capsys):
    rewrite(f"{served.tonight}/a.parquet", lambda table: table.drop_columns(["surface"]))
    refused(served, capsys, 1, f"{served.tonight}/a.parquet", "surface", "--column surface=")


@pytest.mark.parametrize(
    ("column", "wrong", "fix"),
    [
        ("user_id", pa.string(), "int64"),
        ("timestamp_ms", pa.float64(), "int64"),
        ("action", pa.int64(), "string"),
        ("duration_s", pa.string(), "float"),
    ],
)
def test_wrong_type(served, capsys, column, wrong, fix):
    at = SCHEMA.get_field_index(column)

    def change(table: pa.Table) -> pa.Table:
        return table.set_column(at, column, pa.nulls(len(table), wrong))

    rewrite(f"{served.tonight}/a.parquet", change)
    refused(served, capsys, 1, f"{served.tonight}/a.parquet", column, str(wrong), fix)


def test_missing_partition(served, capsys):
    shutil.rmtree(served.tonight)
    refused(served, capsys, 1, served.tonight, "_SUCCESS")


def test_a_partition_that_is_still_written(served, capsys):
    os.unlink(f"{served.tonight}/_SUCCESS")
    refused(served, capsys, 1, served.tonight, "_SUCCESS", "--min-age")


def test_no_such_logs(served, capsys):
    gone = f"{served.world.folder}/nowhere"
    refused(served, capsys, 1, "nowhere", arguments=[*served.arguments(), f"--logs={gone}"])


# The vectors.


def test_vectors_of_the_wrong_width(served, capsys):
    write_vectors(f"{served.world.folder}/pins", {1: np.ones(128)}, width=128)
    refused(served, capsys, 1, f"{served.world.folder}/pins/vectors.parquet", "128", "256")


def test_vectors_of_another_version(served, capsys):
    write_vectors(f"{served.world.folder}/pins", {1: np.ones(256)}, version="v2")
    refused(served, capsys, 1, "version.json", "v2", "v1")


def test_vectors_without_a_version(served, capsys):
    os.unlink(f"{served.world.folder}/pins/version.json")
    refused(served, capsys, 1, f"{served.world.folder}/pins/version.json", "pinsage_version")


def test_nan_in_a_vector(served, capsys):
    vectors = {pin: np.ones(256, np.float16) for pin in range(40)}
    vectors[33][7] = np.nan
    write_vectors(f"{served.world.folder}/pins", vectors)
    refused(served, capsys, 1, f"{served.world.folder}/pins/vectors.parquet", "33", "NaN")


def write_pin_ids(served: Served, ids: list[int | None]) -> None:
    flat = pa.array(np.ones(256 * len(ids), np.float16))
    table = pa.table(
        [pa.array(ids, pa.int64()), pa.FixedSizeListArray.from_arrays(flat, 256)], names=["pin_id", "vector"]
    )
    pq.write_table(table, f"{served.world.folder}/pins/vectors.parquet", row_group_size=3)


def test_duplicate_pin_ids(served, capsys):
    write_pin_ids(served, [1, 2, 3, 4, 5, 2])
    refused(served, capsys, 1, "--pins", "pin_id 2", "more than once")


def test_negative_pin_ids(served, capsys):
    write_pin_ids(served, [1, 2, 3, 4, -5])
    refused(served, capsys, 1, f"{served.world.folder}/pins/vectors.parquet", "-5", "negative")


def test_null_pin_ids(served, capsys):
    write_pin_ids(served, [1, 2, 3, 4, None])
    refused(served, capsys, 1, f"{served.world.folder}/pins/vectors.parquet", "null")


# The model.


def test_a_model_that_is_not_the_one_the_run_was_planned_with(served, capsys, monkeypatch):
    """Somebody deploys a model while the run starts: its vectors would be published under the old digest."""
    define = daily_inference.define_pipeline

    def exchange_and_define(*arguments):
        shutil.rmtree(f"{served.world.folder}/model")
        write_model(f"{served.world.folder}/model", seed=2)
        define(*arguments)

    monkeypatch.setattr(daily_inference, "define_pipeline", exchange_and_define)
    refused(served, capsys, 1, f"{served.world.folder}/model", "digest")


def test_a_model_folder_without_a_model(served, capsys):
    shutil.rmtree(f"{served.world.folder}/model")
    refused(served, capsys, 1, f"{served.world.folder}/model", "pinnerformer init-model")


def test_history_length_shorter_than_the_models(first, tmp_path, capsys):
    world = World(first, {}, [], {})
    code = main(
        [
            "daily",
            f"--root={tmp_path}/root",
            *world.inputs,
            f"--date={day(0)}",
            f"--bootstrap-from={day(0)}",
            "--history-length=5",
            "--publish=none",
        ]
    )
    error = capsys.readouterr().err.splitlines()[0]
    assert code == 2 and "--history-length 5: shorter than the model's max_sequence_length 32" in error
    assert not os.path.exists(f"{tmp_path}/root/CURRENT")


# The stores.


def test_store_that_is_down(served, capsys):
    kv = f"redis://user:s3cret@127.0.0.1:{free_port()}/0"
    line = refused(served, capsys, 1, "redis://user:***@127.0.0.1", arguments=[*served.arguments(), f"--kv={kv}"])
    assert "connection refused; start the server or correct the URL" in line and "s3cret" not in line
    assert os.listdir(f"{served.root}/staging") == [run_of(served.world.folder)], "work began before it was said"


def test_store_that_refuses_the_password(served, capsys, tmp_path):
    with running_redis(str(tmp_path), password="right") as port:
        kv = f"redis://:s3cret@127.0.0.1:{port}/0"
        line = refused(served, capsys, 1, "refuses the user or password", arguments=[*served.arguments(), f"--kv={kv}"])
    assert "s3cret" not in line
    assert os.listdir(f"{served.root}/staging") == [run_of(served.world.folder)], "work began before it was said"


def test_no_store_named(served, capsys):
    arguments = [flag for flag in served.arguments() if not flag.startswith("--kv")]
    refused(served, capsys, 2, "--kv", "--publish none", arguments=arguments)


def test_full_disk(served, capsys, tmp_path):
    """The whole root on a file system with room for the first release and no second."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True)
    if mounted.returncode:  # no right to mount: a limit on the size of a file, to the process the same as a full disk
        code, error = run_with_file_limit(served)
        assert code == 1 and "Traceback" not in error and "File too large" in error
        return
    try:
        shutil.copytree(served.root, small / "root")
        used = shutil.disk_usage(small).used
        subprocess.run(["mount", "-o", f"remount,size={used + 120_000}", small], check=True)
        line = refused(
            dataclasses.replace(served, root=str(small / "root")),
            capsys,
            1,
            str(small),
            "the disk is full",
            "free some",
        )
        assert "No space left" not in line
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def run_with_file_limit(served: Served) -> tuple[int, str]:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *served.arguments()], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_another_bucket_count(served, capsys):
    refused(
        served, capsys, 2, "--user-buckets 7", "layout.json", "4", arguments=[*served.arguments(), "--user-buckets=7"]
    )


def test_a_second_run_on_the_root(served, capsys):
    with hold_lease(Root(served.root), "daily-of-somebody-else"):
        refused(served, capsys, 1, "lease.json", "daily-of-somebody-else", "wait for it")


def test_a_damaged_file_of_the_release_before(served, capsys):
    manifest = read_current(Root(served.root))
    entry = next(entry for entry in manifest.tables["histories"] if entry.rows)
    path = f"{served.root}/{entry.path}"
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(b"\xff" * 40)
    refused(served, capsys, 1, path)


def test_a_damaged_manifest(served, capsys):
    path = f"{served.root}/releases/{day(0)}/manifest.json"
    with open(path) as file:
        content = file.read()
    with open(path, "w") as file:
        file.write(content[: len(content) // 2])
    refused(served, capsys, 1, path)


# The flags.


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--token-bugdet=5"], "--token-bugdet"),
        (["--date=someday"], "someday"),
        (["--user-buckets=0"], "--user-buckets"),
        (["--column=pin=id"], "--column pin=id"),
        (["--bogus", "--direct_num_workers=2"], "--bogus"),
        (["--direct_running_mode=sideways"], "sideways"),
    ],
)
def test_wrong_flags(served, capsys, flags, expected):
    refused(served, capsys, 2, expected, arguments=[*served.arguments(), *flags])


def test_a_date_that_has_been(served, capsys):
    arguments = [*served.arguments(), "--date=2026-10-30"]
    refused(served, capsys, 2, "--date 2026-10-30", f"--date {day(0)} or later", arguments=arguments)


def test_unknown_command(capsys):
    assert main(["dayly"]) == 2
    assert "dayly" in capsys.readouterr().err.splitlines()[0]
