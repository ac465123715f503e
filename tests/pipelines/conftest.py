"""A published root of four nights, for tests of what is done to a root between nights."""

import dataclasses
import os
import shutil

import pytest

from tests.pipelines.nights import PublishedRoot, first_night, make_world, run_night


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> PublishedRoot:
    folder = str(tmp_path_factory.mktemp("made"))
    kept = PublishedRoot(make_world(folder), f"{folder}/root", f"lmdb://{folder}/kv")
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
