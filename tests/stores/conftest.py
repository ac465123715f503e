"""Servers that several tests of stores share."""

import pytest

from tests.redis_cluster import running_cluster


@pytest.fixture(scope="session")
def nodes(tmp_path_factory):
    """Three nodes of a Redis Cluster; empty it before use."""
    with running_cluster(str(tmp_path_factory.mktemp("cluster"))) as cluster:
        yield cluster
