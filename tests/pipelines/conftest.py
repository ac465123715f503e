"""What several modules of tests start from."""

import dataclasses
import os
import shutil

import pytest

from tests.pipelines import backfills, nights
from tests.pipelines.backfills import backfill, layout
from tests.pipelines.nights import PublishedRoot, first_night, run_night
from tests.redis_server import running_redis


@pytest.fixture(scope="session")
def backfill_world(tmp_path_factory) -> list[str]:
    """The flags that name a world of five days; not to be changed, `copy_world` makes one that may be."""
    return backfills.make_world(str(tmp_path_factory.mktemp("backfill-world")), 5)


@pytest.fixture(scope="session")
def backfilled(backfill_world, tmp_path_factory) -> str:
    """The root of an undisturbed backfill of the five days."""
    root = str(tmp_path_factory.mktemp("backfilled"))
    assert backfill(backfill_world, root, 0, 4, *layout(3)) == 0
    return root


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> PublishedRoot:
    folder = str(tmp_path_factory.mktemp("made"))
    kept = PublishedRoot(nights.make_world(folder), f"{folder}/root", f"lmdb://{folder}/kv")
    first_night(kept.world, kept.root, "--user-buckets=2", "--pin-shards=2")
    for number in (1, 2, 3):
        run_night(kept.world, kept.root, number, f"--kv={kept.kv}")
    return kept


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
