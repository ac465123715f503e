"""What several modules of tests start from."""

import dataclasses
import os
import shutil

import pytest

from pipelines.cli import main
from tests.once import make_once, shared_folder
from tests.pipelines import backfills, nights
from tests.pipelines.backfills import backfill, layout
from tests.pipelines.nights import PublishedRoot, first_night, run_night
from tests.redis_server import running_redis


@pytest.fixture(scope="session")
def backfill_world(tmp_path_factory) -> list[str]:
    """The flags that name a world of five days; not to be changed, `copy_world` makes one that may be."""
    return make_once(shared_folder(tmp_path_factory), "backfill-world", lambda empty: backfills.make_world(empty, 5))[1]


@pytest.fixture(scope="session")
def backfilled(backfill_world, tmp_path_factory) -> str:
    """The root of an undisturbed backfill of the five days."""

    def make(folder: str) -> None:
        assert backfill(backfill_world, f"{folder}/root", 0, 4, *layout(3)) == 0

    return f"{make_once(shared_folder(tmp_path_factory), 'backfilled', make)[0]}/root"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> PublishedRoot:
    def make(folder: str) -> PublishedRoot:
        kept = PublishedRoot(nights.make_world(folder), f"{folder}/root", f"lmdb://{folder}/kv")
        first_night(kept.world, kept.root, "--user-buckets=2", "--pin-shards=2")
        for number in (1, 2, 3):
            run_night(kept.world, kept.root, number, f"--kv={kept.kv}")
        return kept

    return make_once(shared_folder(tmp_path_factory), "made", make)[1]


@pytest.fixture
def kept(made, tmp_path) -> PublishedRoot:
    """A copy for a test to break."""
    shutil.copytree(os.path.dirname(made.root), tmp_path / "copy")
    folder = str(tmp_path / "copy")
    return PublishedRoot(dataclasses.replace(made.world, folder=folder), f"{folder}/root", f"lmdb://{folder}/kv")


@pytest.fixture(params=["lmdb", "redis"])
def kv(request, tmp_path):
    """The URL of an empty store: a folder, or a real server."""
    if request.param == "lmdb":
        yield f"lmdb://{tmp_path}/kv"
    else:
        with running_redis(str(tmp_path)) as port:
            yield f"redis://127.0.0.1:{port}/0"


def make_timelines(folder: str, out: str, *more: str) -> int:
    """Makes timelines of the sixty days of `study_world`; half of the users are held out."""
    inputs = [f"--logs={folder}/world/logs", f"--pins={folder}/world/pins", f"--out={out}", "--buckets=2"]
    when = ["--start=2026-05-01", "--end=2026-06-29", "--evaluation-share=0.5", "--quiet"]
    return main(["training-data", *inputs, *when, *more])


@pytest.fixture(scope="session")
def study_world(tmp_path_factory) -> str:
    """The folder of `world` and `timelines`: what studies are made of; not to be changed."""

    def make(folder: str) -> None:
        sizes = ["--users=200", "--pins=600", "--days=60", "--topics=20", "--start=2026-05-01", "--seed=3"]
        assert main(["synth", f"--out={folder}/world", *sizes]) == 0
        assert make_timelines(folder, f"{folder}/timelines") == 0

    return make_once(shared_folder(tmp_path_factory), "study-world", make)[0]
