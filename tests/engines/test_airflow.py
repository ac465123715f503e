"""The DAG, run by the real Airflow in an environment of its own: `make test-airflow`."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from stores.files import Root
from stores.releases import current_release
from tests.engines.nights import make_world
from tests.worlds import FIRST, day

AIRFLOW = os.path.abspath(os.environ.get("AIRFLOW_PYTHON", ".cache/airflow/bin/python"))
DAG = os.path.abspath("deploy/airflow/pinnerformer_daily.py")
pytestmark = pytest.mark.timeout(2700)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An Airflow with an empty database."""
    folder = str(tmp_path_factory.mktemp("airflow"))
    environment = {**os.environ, "AIRFLOW_HOME": folder, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    environment |= {"AIRFLOW__CORE__DAGS_FOLDER": os.path.dirname(DAG), "PYTHONWARNINGS": "ignore"}
    subprocess.run([AIRFLOW, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    return environment


def run_dag(home: dict[str, str], folder: str, number: int, *flags: str) -> tuple[dict, str]:
    """Runs the DAG for a day; returns how it ended, and what was said."""
    environment = home | {
        "PINNERFORMER_COMMAND": f"{sys.executable} -m pipelines.cli",
        "PINNERFORMER_BOOTSTRAP_FROM": str(FIRST),
        "PINNERFORMER_FLAGS": shlex.join(["--quiet", *flags]),
        "PYTHONPATH": os.getcwd(),
        **{f"PINNERFORMER_{name.upper()}": f"{folder}/{name}" for name in ("root", "logs", "pins", "model")},
    }
    command = [AIRFLOW, os.path.abspath("tests/engines/run_dag.py"), DAG, str(day(number))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    line = next((line for line in done.stdout.splitlines() if line.startswith("DAG-RUN ")), None)
    assert line, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(line.removeprefix("DAG-RUN ")), done.stdout + done.stderr


def test_a_night_a_refusal_and_the_catching_up(home, tmp_path):
    make_world(str(tmp_path))
    (tmp_path / "strict.yaml").write_text("max_dropped_share: 0.0001\n")
    root = Root(f"{tmp_path}/root")

    ended, _ = run_dag(home, str(tmp_path), 0)
    assert ended["tasks"]["logs_are_complete"][0] == ended["tasks"]["release"][0] == "success"
    assert current_release(root) == str(day(0))

    ended, said = run_dag(home, str(tmp_path), 1, f"--gates={tmp_path}/strict.yaml")
    assert ended["tasks"]["release"] == ["failed", 1]  # of three tries that it would have had
    assert "refused by a gate" in said and "rows_dropped_share" in said
    assert current_release(root) == str(day(0))

    ended, said = run_dag(home, str(tmp_path), 2)
    assert ended["tasks"]["release"][0] == "success" and " backfill " in said
    assert root.list("releases") == [str(day(number)) for number in range(3)]
