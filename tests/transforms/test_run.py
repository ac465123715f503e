"""What workers know of a run: that they see its root, where they say how far they are, whom a repair builds again."""

import datetime
import json
import os
import pickle

import numpy as np
import pytest

from stores.errors import StoreError
from stores.files import Root
from stores.layout import Layout
from stores.user_lists import write_ids
from transforms.run import Instructions, Launch, Repair, Run, RunFolder

DAY = datetime.date(2026, 11, 1)


def make_run(folder, repair: Repair | None = None) -> Run:
    instructions = Instructions(everyone_active=False, repair=repair)
    return Run(Root(str(folder)), "a-run", DAY, str(DAY), None, Layout(), instructions)


def test_a_worker_that_sees_the_root_goes_on_and_one_that_does_not_says_so(tmp_path):
    make_run(tmp_path / "root").check_root()  # never launched: nothing to look for
    run = make_run(tmp_path / "root").launched(lease="mine")
    run.check_root()
    assert run.launch.lease == "mine"
    elsewhere = pickle.loads(pickle.dumps(run))
    object.__setattr__(elsewhere, "root", Root(str(tmp_path / "other")))
    with pytest.raises(StoreError, match="a-run/token: not there on worker .* does not see the launcher's --root"):
        elsewhere.check_root()
    make_run(tmp_path / "other").launched()
    with pytest.raises(StoreError, match="a-run/token: another one on worker"):
        elsewhere.check_root()


def test_launching_changes_nothing_but_the_launch(tmp_path):
    run = make_run(tmp_path)
    launched = run.launched(lease="mine", progress_run="last")
    assert isinstance(launched, Run) and launched != run
    assert launched.launch == Launch(launched.launch.root_sentinel, "mine", "last") and run.launch == Launch()
    assert {**vars(launched), "launch": run.launch} == vars(run)
    assert RunFolder(run.root, run.name).staging == run.staging == "staging/a-run"


def test_progress_is_noted_in_the_folder_of_the_run_that_is_watched(tmp_path):
    run = RunFolder(Root(str(tmp_path)), "day-1", launch=Launch(progress_run="day-2"))
    run.note_progress("embed_users", 5)
    run.note_progress("embed_users", 2, tasks=0)
    folder = f"{tmp_path}/staging/day-2/progress"
    (name,) = os.listdir(folder)
    with open(f"{folder}/{name}") as file:
        lines = [json.loads(line) for line in file]
    assert [(line["units"], line["tasks"]) for line in lines] == [(5, 1), (2, 0)]


def test_a_repair_knows_its_users_and_no_other_run_has_any(tmp_path):
    assert make_run(tmp_path).repaired_users() is None
    write_ids(Root(str(tmp_path)), "staging/a-run/users", np.array([3, 7]))
    assert make_run(tmp_path, Repair("staging/a-run/users", 0)).repaired_users().tolist() == [3, 7]
