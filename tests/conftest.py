"""What all tests share: Beam's own findings are kept, and the CPU seconds of a session are said at its end."""

import gc
import os
import resource
import sys
import tempfile

import pytest

from tests.once import shared_folder

# Tests say what is to be read: a file of flags that lies in the current folder is not meant.
os.environ["PINNERFORMER_CONFIG"] = "none"

CPU_MINUTES = 11  # of `make test` on a machine of two cores; above it, a line says so


def pytest_collection_finish(session: pytest.Session) -> None:
    # Torch and Beam are hundreds of thousands of objects that stay: the collector need not look at them every time.
    gc.freeze()
    # A night makes hundreds of thousands of objects that end with it: they need not be looked at every 700.
    gc.set_threshold(20_000, 20, 20)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "apache_beam.transforms.core" in sys.modules:  # many tests never load it
        from tests import beam_memo

        beam_memo.install()


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What Beam, torch and killed commands leave in the machine's folder of temporary files goes with the session's."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("tmp"))
    tempfile.tempdir = None  # asked for anew


@pytest.fixture(scope="session")
def kept_nights(tmp_path_factory: pytest.TempPathFactory):
    """The roots that tests start from, as `tests.pipelines.nights.KeptNights`."""
    from tests.pipelines.nights import KeptNights

    return KeptNights(shared_folder(tmp_path_factory))


@pytest.fixture
def one_night(kept_nights, tmp_path):
    """(world, root) below `tmp_path`: a world and its root after the first night, for a test to go on with or break."""
    return kept_nights.copy(1, str(tmp_path))


@pytest.fixture
def two_nights(kept_nights, tmp_path):
    """As `one_night`, after the second night."""
    return kept_nights.copy(2, str(tmp_path))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "tests.warm" in sys.modules:
        from tests import warm

        warm.end_parent()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says what the session cost: this process, and its children, xdist's workers among them, which ended before."""
    if hasattr(config, "workerinput"):
        return
    usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    terminalreporter.write_line(f"{seconds:.0f} CPU seconds ({seconds / 60:.1f} minutes)")
    if seconds > 60 * CPU_MINUTES:
        terminalreporter.write_line(
            f"NOTE: more than {CPU_MINUTES} CPU minutes: make the slowest tests faster, or mark them `slow`"
        )
