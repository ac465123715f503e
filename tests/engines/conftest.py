"""Engines are started by targets of their own (`make test-flink`, ...), never by `make test`."""

import os

HERE = os.path.dirname(os.path.abspath(__file__))


def pytest_ignore_collect(collection_path, config):
    """Leaves this folder out unless it, or a file of it, was asked for by name."""
    asked = [os.path.abspath(os.path.join(config.invocation_params.dir, a.partition("::")[0])) for a in config.args]
    return None if any(path == HERE or path.startswith(HERE + os.sep) for path in asked) else True
