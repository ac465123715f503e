"""Who trains, who chooses, who is reported; and which windows there may be."""

import datetime
import json
import os
import shutil

import numpy as np
import pytest

from pinnerformer_model.days import DAY_MS, midnight_ms
from pipelines.cli import main
from pipelines.study.parts import Source, check_vectors, find_cuts, load_study_data, merge_users
from stores.errors import InputError, UsageError
from tests.pinnerformer_model.test_timelines import make_timelines

START, END = datetime.date(2026, 5, 1), datetime.date(2026, 6, 29)


def source(folder: str = "", cuts: tuple[datetime.date, ...] | int = 1, days: int = 14, folds: int = 1) -> Source:
    return Source(folder, None, cuts, days, folds)


def test_merged_users_keep_their_events():
    t = make_timelines([3, 0, 7, 2, 40])
    merged = merge_users(t.users(np.array([1, 3])), t.users(np.array([0, 2, 4])))
    assert (merged.user_ids == t.user_ids).all() and (merged.offsets == t.offsets).all()
    assert (merged.timestamp_ms == t.timestamp_ms).all() and (merged.pin_row == t.pin_row).all()
    with pytest.raises(ValueError, match="both splits"):
        merge_users(t, t)


def test_windows_by_number_end_with_the_data_and_do_not_overlap():
    last = midnight_ms(END) + DAY_MS - 14 * DAY_MS
    assert find_cuts(source(cuts=3), START, END) == (last - 28 * DAY_MS, last - 14 * DAY_MS, last)
    days = (datetime.date(2026, 6, 10), datetime.date(2026, 5, 20))
    assert find_cuts(source(cuts=days), START, END) == tuple(midnight_ms(d) for d in reversed(days))
    with pytest.raises(UsageError, match="overlap"):
        find_cuts(source(cuts=(datetime.date(2026, 6, 10), datetime.date(2026, 6, 12))), START, END)
    for cuts in (5, (START,), (datetime.date(2026, 6, 20),)):
        with pytest.raises(UsageError, match="must lie inside"):
            find_cuts(source(cuts=cuts), START, END)


def test_vectors_that_know_a_window_are_refused():
    cut = midnight_ms(datetime.date(2026, 6, 2))
    assert check_vectors({}, "T", cut) is None
    assert check_vectors({"vectors_until": "2026-06-02"}, "T", cut) == "2026-06-02"
    with pytest.raises(InputError, match="T: the item vectors know what happened until 2026-06-03"):
        check_vectors({"vectors_until": "2026-06-03"}, "T", cut)


@pytest.fixture(scope="module")
def timelines(study_world):
    return f"{study_world}/timelines"


def test_every_user_is_reported_once_by_models_that_neither_trained_nor_chose_on_it(timelines):
    data = load_study_data(source(timelines, cuts=2, folds=3))
    everybody = np.concatenate([data.train.timelines.user_ids, data.held_out.user_ids])
    reported = []
    for number in range(3):
        fold = data.fold(number)
        asked = [fold.training.user_ids, fold.choice[0].timelines.user_ids, fold.report[0].timelines.user_ids]
        assert min(map(len, asked)) > 0
        assert sorted(np.concatenate(asked).tolist()) == sorted(everybody.tolist())  # nobody twice, nobody left out
        assert [e.cut_ms for e in fold.report] == list(data.cuts_ms) and len(data.cuts_ms) == 2
        # Item vectors are made of everybody's logs before the cut, and so are baselines: of no fold but of all users.
        assert all(sorted(e.past.user_ids) == sorted(everybody) for e in (*fold.choice, *fold.report))
        reported.append(asked[2])
    assert sorted(np.concatenate(reported).tolist()) == sorted(everybody.tolist())


def test_one_fold_is_the_timelines_own_split(timelines):
    data = load_study_data(source(timelines))
    fold = data.fold(0)
    assert (fold.training.user_ids == data.train.timelines.user_ids).all()
    halves = np.concatenate([e.timelines.user_ids for e in (*fold.choice, *fold.report)])
    assert sorted(halves.tolist()) == data.held_out.user_ids.tolist()


def test_a_label_rule_that_finds_nothing_is_said(timelines, tmp_path):
    data = load_study_data(source(timelines, folds=3))
    for split in (data.train.timelines, data.held_out):
        split.positive[:] = False
    with pytest.raises(InputError, match="fold 1 of 3: nothing to foresee .* look at --cuts, at the label rule"):
        data.fold(0)


def test_the_study_refuses_vectors_that_know_a_window(timelines, tmp_path, capsys):
    copy = str(tmp_path / "timelines")
    shutil.copytree(timelines, copy)
    path = os.path.join(copy, "timelines.json")
    with open(path) as file:
        description = json.load(file)
    with open(path, "w") as file:
        json.dump({**description, "vectors_until": "2026-06-20"}, file)
    assert main(["study", f"--timelines={copy}", f"--out={tmp_path}/out", "--quick"]) == 1
    assert "the earliest window begins on 2026-06-16" in capsys.readouterr().err
