"""The blocks of docs/integrations.md, and the folder that they are run in."""

import os
import re
import subprocess

import numpy as np
import pyarrow as pa

from pipelines.cli import main
from stores.files import Root
from stores.releases import read_current
from stores.schemas import from_binary_column
from stores.tables import read_files

PAGE = "docs/integrations.md"
USER = 3


def block_of(title: str) -> str:
    """The code below a heading."""
    with open(PAGE) as file:
        found = re.search(rf"^## {title}\n.*?```python\n(.*?)```", file.read(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{PAGE} has no {title}"
    return found[1]


def export(root: str, *words: str) -> None:
    assert main(["export", f"--root={root}", *words]) == 0


def run_block(title: str, folder: str, name: str, python: str, timeout_s: float = 240, **environment: str) -> str:
    """Runs a block by an interpreter in a folder; returns what its variable of a name is, as Python writes it."""
    code = f"{block_of(title)}\nprint('FOUND', {name})\n"
    done = subprocess.run(
        [python, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    found = [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert done.returncode == 0 and len(found) == 1, done.stdout[-2000:] + done.stderr[-3000:]
    return found[0]


def read_table(root: str, table: str) -> tuple[np.ndarray, np.ndarray]:
    """(ids, float32 vectors) of the newest release."""
    manifest = read_current(Root(root))
    assert manifest is not None
    rows = pa.concat_tables([read_files(Root(root), files) for _, files in sorted(manifest.parts(table).items())])
    vectors = np.concatenate([from_binary_column(chunk) for chunk in rows["embedding"].chunks])
    return rows[0].to_numpy(), vectors.astype(np.float32)


def user_vector(root: str) -> np.ndarray:
    ids, vectors = read_table(root, "user_embeddings")
    return vectors[ids == USER][0]


def scores_of(root: str) -> dict[int, float]:
    """Pin -> its score for the user."""
    pins, vectors = read_table(root, "pin_embeddings")
    return dict(zip(pins.tolist(), (vectors @ user_vector(root)).tolist(), strict=True))
