"""docs/integrations.md: every block finds the ten best pins, as it stands on the page."""

import os
import re
import subprocess
import sys

import pytest

from tests.docs.integrations import PAGE, block_of, export, run_block, scores_of

FILES = {
    "DuckDB": ["--out=export", "--format=duckdb"],
    "pandas": ["--out=export"],
    "polars": ["--out=export"],
    "NumPy": ["--out=export", "--format=npy"],
    "usearch": ["--out=index", "--format=usearch"],
    "faiss": ["--out=index", "--format=faiss"],
}
HOME = os.getcwd()
DATABASES = {
    "Qdrant": ["--qdrant=qdrant", "--collection=shop"],
    "Milvus": ["--milvus=milvus.db", "--collection=shop"],
}
ENGINES = ("Spark", "Feast")  # tests/engines/test_integrations.py


def check(title: str, words: list[str], root: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as inside:
        inside.chdir(folder)
        if words != FILES["pandas"] and "--out=export" not in words:
            export(root, *FILES["pandas"])
        if title in DATABASES:  # by a process that ends: a database in a file is its writer's alone until then
            pinnerformer = [sys.executable, "-m", "pinnerformer", "export", f"--root={root}", *words]
            subprocess.run(pinnerformer, check=True, env={**os.environ, "PYTHONPATH": HOME})
        else:
            export(root, *words)
    best = [int(pin) for pin in re.findall(r"-?\d+", run_block(title, folder, "best", sys.executable))]
    scores = scores_of(root)
    wanted = sorted(scores.values(), reverse=True)[:10]
    # Pins of equal scores may stand in any order, and halves of an index move a score by a little.
    assert len(set(best)) == 10 and [scores[pin] for pin in best] == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("title", FILES)
def test_files(title, one_night, tmp_path, monkeypatch):
    check(title, FILES[title], one_night[1], str(tmp_path), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("title", DATABASES)
def test_vector_databases(title, one_night, tmp_path, monkeypatch):
    check(title, DATABASES[title], one_night[1], str(tmp_path), monkeypatch)


def test_every_block_is_run_and_is_short():
    with open(PAGE) as file:
        titles = re.findall(r"^## (.+)$", file.read(), re.MULTILINE)
    assert set(titles) == {*FILES, *DATABASES, *ENGINES}
    lines = {
        title: [line for line in block_of(title).splitlines() if line and "import" not in line] for title in titles
    }
    assert max(len(found) for title, found in lines.items() if title != "Feast") <= 6
