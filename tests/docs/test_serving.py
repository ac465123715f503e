"""The curl lines of docs/serving.md, run against a server."""

import re
import shlex
import shutil
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.files import Root
from stores.releases import read_current
from stores.retriever import Retriever
from tests.docs.test_prose import read
from tests.pipelines.serving.running import serving


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_what_the_page_shows_is_answered(two_nights, tmp_path):
    world, root = two_nights
    kv = f"lmdb://{tmp_path}/served"
    from pipelines.cli import main

    manifest = read_current(Root(root))
    run = manifest.settings["run"]
    assert main(["release", f"--root={root}", f"--run={run}", f"--kv={kv}"]) == 0
    entries = manifest.tables["pin_embeddings"]
    pins = np.concatenate([pq.read_table(f"{root}/{entry.path}")["pin_id"].to_numpy() for entry in entries])
    items = str(tmp_path / "items.parquet")
    pq.write_table(pa.table({"pin_id": pins, "topic": [f"t{pin % 3}" for pin in pins], "price": pins % 5 / 1.0}), items)
    with Retriever(root, kv) as retriever:
        users = retriever.known_users(2).some
    block = re.search(r"<!-- run: tests/docs/test_serving.py -->\n```\n(.*?)```", read("docs/serving.md"), re.DOTALL)
    lines = block[1].splitlines()
    assert len(lines) == 9
    with serving(root, kv, items) as client:
        for line in lines:
            words = line.replace("14", str(users[0])).replace("19]", f"{users[1]}]").replace("/21/", f"/{pins[0]}/")
            # Last: a port may have a 14 in it.
            words = words.replace("127.0.0.1:8000", f"127.0.0.1:{client.port}")
            done = subprocess.run([*shlex.split(words), "--fail-with-body", "-sS"], capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
