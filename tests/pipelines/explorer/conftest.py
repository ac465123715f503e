"""A server with the explorer over the session's root, a catalogue that nobody should trust, and a browser."""

import dataclasses
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.files import Root
from stores.releases import read_current
from stores.retriever import Retriever
from tests.pipelines.nights import PublishedRoot, read_table
from tests.pipelines.serving.running import Client, serving

HOST = "images.example.com"
SCRIPT = "<script>document.title = 'broken'</script>"
HOSTILE = f'{SCRIPT}" onmouseover="document.title=1'


@dataclasses.dataclass
class Explored:
    """A served root, the server over it, and a second root, which is the first as it was a night before.

    Attributes:
        hostile: A pin whose name is markup, whose picture is on a host that is not allowed and whose link is a script.
    """

    made: PublishedRoot
    client: Client
    users: list[int]
    hostile: int

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.client.port}{path}"


@pytest.fixture(scope="package")
def explored(made, tmp_path_factory):
    manifest = read_current(Root(made.root))
    with Retriever(made.root, made.kv) as retriever:
        users = retriever.known_users(40).some
        hostile = int(retriever.retrieve(users[0], 1).pin_ids[0])
    ids = np.unique(read_table(made.root, manifest, "pin_embeddings")["pin_id"].to_numpy())
    folder = tmp_path_factory.mktemp("explored")
    bad = ids == hostile
    columns = {
        "pin_id": ids,
        "name": [HOSTILE if one else f"Oak chair {pin}" for pin, one in zip(ids, bad, strict=True)],
        "image": [
            f"https://{'evil.example.com' if one else HOST}/{pin}.png" for pin, one in zip(ids, bad, strict=True)
        ],
        "url": ["javascript:alert(1)" if one else "https://shop.example.com/" for one in bad],
        "topic": [f"topic {pin % 3}" for pin in ids],
    }
    pq.write_table(pa.table(columns), folder / "items.parquet")
    second = str(folder / "second")
    shutil.copytree(made.root, second)
    Root(second).write_bytes("CURRENT", b"2026-11-03\n")
    where = dict(catalogue=str(folder / "items.parquet"), others=[second], image_hosts=[HOST])
    with serving(made.root, made.kv, **where) as client:
        yield Explored(made, client, users, hostile)


@pytest.fixture(scope="package")
def chromium():
    """Debian's Chromium, driven by Playwright's client."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()
