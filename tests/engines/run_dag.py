"""Runs a DAG for one logical date and prints how each task ended: for Airflow's Python, which lacks our packages."""

import datetime
import importlib.util
import json
import sys

path, date = sys.argv[1:]
spec = importlib.util.spec_from_file_location("dag_file", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
run = module.nightly.test(logical_date=datetime.datetime.fromisoformat(f"{date}T00:00:00+00:00"))
states = {ti.task_id: [str(ti.state), ti.try_number] for ti in run.get_task_instances()}
print("DAG-RUN", json.dumps({"state": str(run.state), "tasks": states}))
