"""README's way from one's own tables to articles by name, typed as it stands there."""

import csv
import os
import re
import subprocess
import time

import pytest

from pipelines.cli import COMMANDS
from tests.docs.test_prose import read
from tests.own_data import skus

MINUTES = 10
PRODUCT = os.getcwd()


def commands_of(text: str, heading: str) -> list[str]:
    """The commands of the first block of code below a heading, each on one line."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    block = section.split("```")[1].strip("\n")
    return re.sub(r"\\\n\s*", "", block).splitlines()


def test_it_is_four_commands():
    first, *typed = commands_of(read("README.md"), "Your data")
    assert "tests.own_data" in first and len(typed) == 4
    assert [line.split()[1] for line in typed] == ["import", "init-model", "daily", "retrieve"]


@pytest.mark.timeout(60 * MINUTES + 60)
@pytest.mark.skipif("import" not in COMMANDS, reason="`import` and ids that are words are not in this tree yet")
def test_from_tables_to_articles_by_name(tmp_path):
    os.symlink(f"{PRODUCT}/.venv", tmp_path / ".venv")
    environment = {**os.environ, "PYTHONPATH": PRODUCT, "OMP_NUM_THREADS": "1"}
    started, said = time.monotonic(), ""
    for line in commands_of(read("README.md"), "Your data"):
        done = subprocess.run(
            ["bash", "-ec", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60 * MINUTES
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said = done.stdout
    assert time.monotonic() - started < 60 * MINUTES
    found = re.findall("|".join(map(re.escape, skus())), said)
    assert len(found) == 10 == len(set(found))
    # By initial weights: what resembles the customer's last articles, so mostly the one thing or the other they like.
    with open(tmp_path / "shop/events.csv", encoding="utf-8") as file:
        bought = [row["sku"].rsplit("-", 1)[0] for row in csv.DictReader(file) if row["customer"] == "c-17"]
    likes = sorted(set(bought), key=bought.count)[-2:]
    assert sum(sku.rsplit("-", 1)[0] in likes for sku in found) >= 8
