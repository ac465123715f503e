"""How to add things: every file that the page names is there, and so is every name in it that code has."""

import os
import re

import pytest

PAGE = "docs/extending.md"


def text() -> str:
    with open(PAGE) as file:
        return file.read()


def test_every_file_that_is_named_is_there():
    named = re.findall(r"(?<![\w*/])([\w/.]+/[\w.]+\.(?:py|md|yaml)|pyproject\.toml|requirements\.lock)", text())
    assert len(set(named)) > 25
    assert not [path for path in named if not os.path.exists(os.path.join("docs", path)) and not os.path.exists(path)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("stores/kv_urls.py", "STORES"),
        ("tests/stores/stored.py", "KINDS"),
        ("transforms/gates/__init__.py", "GATES"),
        ("transforms/markers.py", "TASKS_VERSION"),
        ("pinnerformer_model/sequences.py", "TOKEN_COLUMNS"),
        ("transforms/sequences.py", "token_columns"),
        ("stores/timelines.py", "EVENT_TYPES"),
        ("stores/indexes.py", "LIBRARIES"),
        ("stores/indexes.py", "EF_CANDIDATES"),
        ("stores/hnsw.py", "with_effort"),
    ],
)
def test_every_list_that_is_named_is_there(path, name):
    assert f"`{name}`" in text()
    with open(path) as file:
        assert re.search(rf"^(?:    )?(?:def )?{name}\b", file.read(), re.MULTILINE)
