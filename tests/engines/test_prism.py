"""The daily job on Prism: another engine than the in-process one, with the same pipeline."""

import pytest

from engines.prism.binary import prism_flags
from tests.engines.nights import assert_same_release, run_nights

pytestmark = pytest.mark.timeout(540)


def test_three_nights_equal_the_local_run(tmp_path):
    flags = prism_flags()
    manifests = run_nights(str(tmp_path / "prism"), str(tmp_path / "prism/root"), flags)
    expected = run_nights(str(tmp_path / "local"), str(tmp_path / "local/root"), [])
    for found, want in zip(manifests, expected, strict=True):
        assert_same_release(str(tmp_path / "prism/root"), found, str(tmp_path / "local/root"), want)
