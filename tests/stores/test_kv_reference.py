"""A store's URL given by reference, so that no job's graph holds a password."""

import pytest

from stores.errors import UsageError
from stores.kv import open_store


def test_env_names_the_variable_that_holds_the_url(monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_STORE", f"lmdb://{tmp_path}")
    with open_store("env:SOME_STORE") as store:
        assert store.current() is None


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(UsageError, match="--kv env:NOT_SET_HERE: the environment variable NOT_SET_HERE is not set on"):
        open_store("env:NOT_SET_HERE")
