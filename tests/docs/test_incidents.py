"""docs/incidents.md: every message that it explains is one of the code's, and of a night's messages it has all."""

import ast
import functools
import glob
import re

import pytest

from tests.docs.test_prose import read

PAGE = "docs/incidents.md"
ERRORS = {"InputError", "StoreError", "MissingPartitionError", "OvertakenError", "LeaseLostError", "RewrittenError"}
# What a night runs through; its flags (exit code 2) say themselves what they take.
NIGHT = (
    *("stores/footers.py", "stores/hnsw.py", "stores/layout.py", "stores/lease.py", "stores/local_files.py"),
    *("stores/logs.py", "stores/manifests.py", "stores/partitions.py", "stores/pin_vectors.py", "stores/releases.py"),
    *("stores/rewritten.py", "stores/tables.py", "stores/files.py", "stores/object_files.py", "stores/upgrades.py"),
    *("stores/kv/base.py", "stores/kv/lmdb_store.py", "stores/kv/redis_store.py", "stores/kv/codec.py"),
    *(
        "transforms/embed_users.py",
        "transforms/host_check.py",
        "transforms/model.py",
        "transforms/pins.py",
        "transforms/publish.py",
    ),
    *("transforms/read_logs.py", "transforms/release.py", "transforms/run.py"),
    *("pipelines/backfill.py", "pipelines/launch/run_pipeline.py", "pipelines/launch/waiting.py"),
    "pipelines/launch/engine_hosts.py",
    *("pipelines/operations/outcomes.py", "pipelines/planning/id_kinds.py"),
)


def words(node: ast.AST) -> str:
    """A text of the code as it is said, with `...` where it has something of the case at hand."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(words, node.values))
    if isinstance(node, ast.BinOp):
        return words(node.left) + words(node.right)
    return "..."


def raised(path: str) -> set[str]:
    """What a module's errors say; what is nothing but a name and the system's words is left out."""
    with open(path) as file:
        calls = [node.exc for node in ast.walk(ast.parse(file.read())) if isinstance(node, ast.Raise)]
    said = {
        words(call.args[0])
        for call in calls
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS and call.args
    }
    return {text for text in said if re.search(r"[a-z]{2}", text)}


@functools.cache
def phrases() -> dict[str, re.Pattern[str]]:
    """What the page's tables of messages look for -> as it is found in the code's."""
    tables = read(PAGE).partition("## The logs\n")[2]
    found = re.findall(r"^\| `([^`]+)` \|", tables, re.MULTILINE)
    return {phrase: re.compile(".*".join(map(re.escape, phrase.split("...")))) for phrase in found}


def literals() -> str:
    texts = []
    for path in glob.glob("**/*.py", recursive=True):
        if path.split("/")[0] in ("stores", "transforms", "pipelines", "pinnerformer_model"):
            with open(path) as file:
                tree = ast.parse(file.read())
            texts += [words(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)]
    return "\n".join(texts)


def test_every_message_is_one_of_the_codes():
    said = literals()
    assert len(phrases()) > 80 and not [phrase for phrase, found in phrases().items() if not found.search(said)]


@pytest.mark.parametrize("path", NIGHT)
def test_every_message_of_a_night_is_explained(path):
    unexplained = [text for text in raised(path) if not any(found.search(text) for found in phrases().values())]
    assert not unexplained, f"{PAGE} needs a row for each"


def test_messages_are_found():
    assert any("holds this root (process ..." in text for text in raised("stores/lease.py"))
    assert sum(len(raised(path)) for path in NIGHT) > 80
