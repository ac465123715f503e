"""The daily job with its root, logs, vectors and model on S3, against the same job on local files."""

import datetime
import os
import random
import signal

import pytest
from pyarrow import fs

from pipelines.cli import main
from stores.errors import InputError
from stores.files import Root
from stores.manifests import TABLES, Manifest
from stores.object_stores import file_system
from stores.releases import read_current
from tests.chaos.events import Plan, read_log
from tests.chaos.scenarios import left_in_staging
from tests.s3_server import running_s3
from tests.warm import run_python
from tests.worlds import FIRST, day, make_rows, make_vectors, write_file, write_model, write_vectors
from transforms.model import local_model

USERS, PINS = 30, 60
MADE = ["--user-buckets=3", "--pin-shards=2", "--history-length=40"]


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, running_s3(patch) as url:
        yield url


@pytest.fixture
def world(bucket, request, tmp_path, monkeypatch) -> tuple[str, str]:
    """The same logs, vectors and model in a local folder and below a URL."""
    monkeypatch.setenv("PINNERFORMER_CACHE", str(tmp_path / "cache"))
    folder, url = str(tmp_path / "world"), f"{bucket}/{request.node.name}"
    for number in range(2):
        write_file(f"{folder}/logs", number, make_rows(number, 120, USERS, PINS, seed=4), "a.parquet")
    write_vectors(f"{folder}/pins", make_vectors(PINS))
    write_model(f"{folder}/model")
    system, path = file_system(url)
    fs.copy_files(folder, path, destination_filesystem=system)
    return folder, url


def arguments_of(world: str, root: str, number: int, *more: str) -> list[str]:
    inputs = [f"--{name}={world}/{name}" for name in ("logs", "pins", "model")]
    first = [f"--bootstrap-from={FIRST}", *MADE] if number == 0 else []
    return ["daily", f"--root={root}", *inputs, f"--date={day(number)}", "--min-age=0h", *first, *more]


def current(root: str) -> Manifest:
    manifest = read_current(Root(root))
    assert manifest is not None
    return manifest


WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.mark.parametrize("workers", [[], pytest.param(WORKERS, marks=pytest.mark.slow)], ids=["in-process", "workers"])
def test_nights_on_s3_equal_nights_on_local_files(world, tmp_path, capsys, workers):
    folder, url = world
    local_root, root = str(tmp_path / "root"), f"{url}/root"
    for number, (join, more) in enumerate((("--join=broadcast", []), ("--join=shuffle", workers))):
        kv = f"--kv=lmdb://{tmp_path}/kv"
        assert main(arguments_of(folder, local_root, number, "--publish=none", "--quiet", join)) == 0
        assert main(arguments_of(url, root, number, kv, join, *more)) == 0
        ours, theirs = current(root), current(local_root)
        assert ours.tables == theirs.tables  # names and checksums
        assert ours.counters == theirs.counters and ours.inputs == theirs.inputs
        for table in TABLES:
            for entry in ours.tables[table]:
                assert Root(root).read_bytes(entry.path) == Root(local_root).read_bytes(entry.path)
    user = make_rows(0, 1, USERS, PINS, seed=4)[0]["user_id"]
    capsys.readouterr()
    assert main(["retrieve", f"--root={root}", f"--kv=lmdb://{tmp_path}/kv", f"--user={user}", "--k=5", "--json"]) == 0
    found = capsys.readouterr().out
    since = datetime.datetime.now(datetime.UTC).date() - day(1)
    status = ["status", f"--root={root}", f"--kv=lmdb://{tmp_path}/kv"]
    assert main([*status, f"--max-age={max(1, since.days + 1)}d"]) == 0  # the world's days lie where they lie
    assert '"pins"' in found and str(day(1)) in capsys.readouterr().out
    assert not os.path.exists("s3:")  # nothing took the URL for a local name


INSTRUMENTED = """
import sys
from tests.chaos.events import Plan
from tests.chaos.scenarios import run_daily
sys.exit(run_daily(sys.argv[2:], Plan.from_text(sys.argv[1])))
"""


def run_instrumented(plan: Plan, command: list[str]) -> int:
    """The exit code of a night in a process of its own that is killed as planned."""
    done = run_python(INSTRUMENTED, plan.to_text(), *command)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [1, pytest.param(int(os.environ.get("OBJECT_KILLS", 4)), marks=pytest.mark.slow)])
def test_nights_that_are_killed_end_like_the_undisturbed_one(world, tmp_path, kills):
    """The chaos suite's short form on objects: every operation on one, element and batch is where it may die."""
    folder, url = world
    assert main(arguments_of(folder, str(tmp_path / "root"), 0, "--publish=none", "--quiet")) == 0
    expected = current(str(tmp_path / "root")).tables
    seed = random.randrange(1000)
    draw = random.Random(seed)

    def night(name: str) -> tuple[str, list[str]]:
        return f"{url}/{name}", arguments_of(url, f"{url}/{name}/root", 0, "--publish=none", "--quiet")

    where, command = night("undisturbed")
    assert run_instrumented(Plan(where, str(tmp_path / "events")), command) == 0
    events = read_log(str(tmp_path / "events"))
    assert {"CURRENT", "manifest and dead letters", "table histories", "step RunInference"} <= set(events)
    for number in range(kills):
        where, command = night(f"killed-{number}")
        at = draw.randrange(1, len(events) + 1)
        log = str(tmp_path / f"events-{number}")
        said = f"seed {seed}, killed at event {at} of {len(events)}"
        if run_instrumented(Plan(where, log, at), command):
            said += f" ({read_log(log)[at - 1]})"
            assert main(command) == 0, said
        print(said)
        assert current(f"{where}/root").tables == expected, said
        root = Root(f"{where}/root")
        assert len(root.list("staging")) == 1 and not left_in_staging(root), said


def test_what_is_missing_is_named_by_its_url(world, bucket, capsys):
    _, url = world
    nowhere = f"{bucket}/nowhere"
    for name, message in {
        "logs": f"--logs {nowhere}: No such file or directory; expected a folder with ds=",
        "pins": f"--pins {nowhere}: No such file or directory; expected a folder of Parquet files",
        "model": f"{nowhere}/config.json: No such file or directory; a model is a folder with",
    }.items():
        flags = [f for f in arguments_of(url, f"{url}/root", 0, "--publish=none") if not f.startswith(f"--{name}=")]
        assert main([*flags, f"--{name}={nowhere}"]) == 1
        assert message in capsys.readouterr().err


def test_a_model_is_copied_once(world, tmp_path):
    folder, url = world
    copy = local_model(f"{url}/model")
    digest = os.path.basename(copy)
    Root(url).remove("model")
    assert local_model(f"{url}/model", digest) == copy
    with pytest.raises(InputError, match=r"model/config.json: No such file"):
        local_model(f"{url}/model")
