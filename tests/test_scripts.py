"""Every script that no other test runs can still be imported: what it takes from the product may have moved."""

import glob
import importlib
import os

import pytest

HOME = os.path.dirname(os.path.dirname(__file__))
SCRIPTS = sorted(
    os.path.relpath(path, HOME)
    for folder in ("benchmarks", "examples", "engines")
    for path in glob.glob(f"{HOME}/{folder}/**/*.py", recursive=True)
)


@pytest.mark.parametrize("path", SCRIPTS)
def test_it_is_imported(path):
    importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace(os.sep, "."))
