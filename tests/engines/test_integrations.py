"""docs/integrations.md: its blocks of Spark and Feast, each in an environment of its own: `make test-integrations`."""

import json
import os
import re

import numpy as np
import pytest

from tests.docs.integrations import export, run_block, scores_of, user_vector

SPARK = os.path.abspath(os.environ.get("SPARK_PYTHON", ".cache/spark/bin/python"))
# On loopback, without the server of its pages, and with no more compiling than a minute's work is worth.
ARGUMENTS = "--conf spark.ui.enabled=false --driver-java-options -XX:TieredStopAtLevel=1 pyspark-shell"
LOCAL = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_SUBMIT_ARGS": ARGUMENTS}
FEAST = os.path.abspath(os.environ.get("FEAST_PYTHON", ".cache/feast/bin/python"))

pytestmark = pytest.mark.timeout(540)


def test_spark_finds_the_best_pins(one_night, tmp_path, monkeypatch):
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path)
        export(one_night[1], "--out=export")
    best = [int(pin) for pin in re.findall(r"-?\d+", run_block("Spark", str(tmp_path), "best", SPARK, 500, **LOCAL))]
    scores = scores_of(one_night[1])
    wanted = sorted(scores.values(), reverse=True)[:10]
    assert len(set(best)) == 10 and [scores[pin] for pin in best] == pytest.approx(wanted, abs=1e-6)


def test_feast_serves_the_exported_vectors(one_night, tmp_path, monkeypatch):
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path)
        export(one_night[1], "--out=export")
    found = json.loads(run_block("Feast", str(tmp_path), "embedding", FEAST, 500))
    assert (np.array(found, np.float32) == user_vector(one_night[1])).all()
