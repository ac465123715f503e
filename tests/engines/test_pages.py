"""deploy/README.md and docs/backups.md, typed: on a real Redis, three nodes of a cluster, and an S3 endpoint."""

import os
import shutil

import pytest
import yaml

from stores.embedding_client import EmbeddingClient
from stores.files import Root
from stores.releases import current_release, read_current
from tests.engines.nights import read_table
from tests.engines.typed import marked_blocks, type_block
from tests.redis_cluster import running_cluster
from tests.redis_server import running_redis
from tests.s3_server import BUCKET, running_s3
from tests.worlds import FIRST, day

ITSELF = "tests/engines/test_pages.py"
PRODUCT = os.getcwd()
PROGRAMS = [f"{PRODUCT}/.cache/{folder}" for folder in ("aws/bin", "bin")]
pytestmark = pytest.mark.timeout(1800)


def typed(page: str) -> list[str]:
    with open(f"{PRODUCT}/{page}") as file:
        return [block for by, block in marked_blocks(file.read()) if by == ITSELF]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to type in, with an S3 endpoint and the programs that the pages name."""
    for name, program in (("aws", PROGRAMS[0]), ("kustomize", PROGRAMS[1])):
        assert os.access(f"{program}/{name}", os.X_OK), f"{program}/{name}: make test-deploy installs it"
    assert shutil.which("rsync"), "apt-get install rsync"
    monkeypatch.setenv("PATH", os.pathsep.join([*PROGRAMS, os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", PRODUCT)
    monkeypatch.setenv("PINNERFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BUCKET", BUCKET)
    monkeypatch.chdir(tmp_path)
    with running_s3(monkeypatch):
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield tmp_path


def served(kv: str, root: str) -> set[str]:
    """The days of the users of a root's newest release, as a store has them; every vector is the root's."""
    manifest = read_current(Root(root))
    assert manifest is not None
    rows = read_table(root, manifest, "user_embeddings")
    with EmbeddingClient(kv) as client:
        vectors, days, found = client.get_many(rows["user_id"].to_numpy())
    assert found.all() and [vector.tobytes() for vector in vectors] == rows["embedding"].to_pylist()
    return {str(one) for one in days}


def run_of(root: str) -> str:
    manifest = read_current(Root(root))
    assert manifest is not None
    return manifest.settings["run"]


def test_copies_and_moves(place, kept_nights, monkeypatch, capfd):
    disk, bucket, restored, published, caught_up, moved, cluster = typed("docs/backups.md")
    kept_nights.copy(2, str(place))
    with running_redis(str(place)) as port, running_cluster(str(place / "nodes")) as nodes:
        kv, new = f"redis://127.0.0.1:{port}/0", nodes.url
        monkeypatch.setenv("KV", kv)
        monkeypatch.setenv("NEW", new)
        night = "pinnerformer daily --root root --logs logs --pins pins --model model --kv $KV --quiet"

        type_block(disk)
        type_block(bucket)
        assert current_release(Root("backup")) == current_release(Root(f"s3://{BUCKET}/backup")) == str(day(1))
        type_block(f"{night} --date {day(2)}")  # the root and the store go on
        assert str(day(2)) in served(kv, "root")

        type_block(restored)
        said = capfd.readouterr().err
        command = f"pinnerformer release --root {place}/restored --run {run_of('restored')} --kv URL"
        assert command in " ".join(said.split())
        monkeypatch.setenv("RUN", run_of("restored"))
        type_block(published)
        assert max(served(kv, "restored")) == str(day(1))
        assert str(day(2)) == "2026-11-03" and FIRST <= day(0)
        type_block(caught_up)
        assert str(day(2)) in served(kv, "restored")

        shutil.rmtree("root")
        shutil.move("restored", "root")
        type_block(moved)
        assert not os.path.exists("root") and str(day(3)) in served(kv, f"s3://{BUCKET}/moved")
        monkeypatch.setenv("RUN", run_of(f"s3://{BUCKET}/moved"))
        type_block(cluster)
        assert served(new, f"s3://{BUCKET}/moved") == served(kv, f"s3://{BUCKET}/moved")


def test_an_overlay_of_ones_own_is_made_as_the_readme_says(place):
    data, overlay = typed("deploy/README.md")
    shutil.copytree(f"{PRODUCT}/deploy", "deploy")
    type_block(data)
    type_block(overlay)
    with open("rendered.yaml") as file:
        found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(file)}
    (places,) = [one["data"] for (kind, name), one in found.items() if name.startswith("pinnerformer-places-")]
    assert places["PINNERFORMER_ROOT"] == f"s3://{BUCKET}/root"
    settings = found["FlinkDeployment", "pinnerformer-flink"]["spec"]["flinkConfiguration"]
    assert settings["slotmanager.number-of-slots.max"] == "1"  # a night of seconds: one worker
