"""Here files of flags are what is tested."""

import pytest


@pytest.fixture(autouse=True)
def files_are_read(monkeypatch):
    monkeypatch.delenv("PINNERFORMER_CONFIG")
