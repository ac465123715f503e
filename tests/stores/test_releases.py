"""CURRENT and the chain of releases behind it."""

import pytest

from stores.errors import StoreError
from stores.files import Root
from stores.manifests import Manifest, write_manifest
from stores.releases import chain, current_release, move_current, next_release_id
from stores.tables import TABLES
from tests.worlds import day


def manifest_of(release: str, previous: str | None) -> Manifest:
    tables: dict = {name: [] for name in TABLES}
    return Manifest(release, "2026-11-01", previous, "ab", tables, [], {}, {}, [], {}, [])


def test_current_moves_from_what_the_run_was_built_on_only(tmp_path):
    root = Root(str(tmp_path))
    move_current(root, None, "a")
    move_current(root, None, "a")  # a second attempt of the same run
    move_current(root, "a", "b")
    with pytest.raises(StoreError, match="names b, this run was built on a; another run committed"):
        move_current(root, "a", "c")
    assert current_release(root) == "b"


def test_the_chain_and_the_next_id(tmp_path):
    root = Root(str(tmp_path))
    write_manifest(root, manifest_of("2026-11-01", None))
    assert next_release_id(root, day(0)) == "2026-11-01"  # written and never committed
    move_current(root, None, "2026-11-01")
    assert next_release_id(root, day(0)) == "2026-11-01.2" and next_release_id(root, day(1)) == "2026-11-02"
    write_manifest(root, manifest_of("2026-11-01.2", "2026-11-01"))
    move_current(root, "2026-11-01", "2026-11-01.2")
    assert [m.release for m in chain(root)] == ["2026-11-01.2", "2026-11-01"]
    assert next_release_id(root, day(0)) == "2026-11-01.3"


def test_a_chain_that_runs_in_a_circle(tmp_path):
    root = Root(str(tmp_path))
    write_manifest(root, manifest_of("a", "b"))
    write_manifest(root, manifest_of("b", "a"))
    with pytest.raises(StoreError, match="is its own ancestor"):
        list(chain(root, "a"))
