"""What several modules of tests start from."""

import pytest

from tests.pipelines.backfills import backfill, layout, make_world


@pytest.fixture(scope="session")
def backfill_world(tmp_path_factory) -> list[str]:
    """The flags that name a world of five days; not to be changed, `copy_world` makes one that may be."""
    return make_world(str(tmp_path_factory.mktemp("backfill-world")), 5)


@pytest.fixture(scope="session")
def backfilled(backfill_world, tmp_path_factory) -> str:
    """The root of an undisturbed backfill of the five days."""
    root = str(tmp_path_factory.mktemp("backfilled"))
    assert backfill(backfill_world, root, 0, 4, *layout(3)) == 0
    return root
