"""The table of baselines on users whose taste is known: what each learns from, what is chosen, what is pooled."""

import dataclasses

import numpy as np
import pytest

from pinnerformer_model import evaluation_names
from pinnerformer_model.days import DAY_MS
from pinnerformer_model.evaluation import pool_figures
from pinnerformer_model.pinnersage import SERVED
from pinnerformer_model.timelines import Timelines
from stores.ids import uniform_of
from transforms.baselines import (
    BASELINES,
    NAMES,
    Baseline,
    baseline_rows,
    choose_settings,
    measure_baseline,
    training_counts,
)
from transforms.evaluation import Evaluation, make_evaluation
from transforms.halves import are_choosers

CUT = 20_000 * DAY_MS
PINS, GROUPS = 120, 6


def timelines_of(users: np.ndarray, seed: int) -> Timelines:
    """Users who engage with the pins of one of six groups, on 40 days around the cut; some events are not positive."""
    random = np.random.default_rng(seed)
    lengths = random.integers(20, 60, len(users))
    owner = np.repeat(np.arange(len(users)), lengths)
    total = int(lengths.sum())
    own = random.random(total) < 0.8
    group = np.where(own, (users % GROUPS)[owner], random.integers(0, GROUPS, total))
    time = CUT + random.integers(-30 * 24, 14 * 24, total) * 3_600_000
    order = np.lexsort((time, owner))
    return Timelines(
        user_ids=users,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pin_row=(group * (PINS // GROUPS) + random.integers(0, PINS // GROUPS, total)).astype(np.int32)[order],
        action=np.zeros(total, np.int32),
        surface=np.zeros(total, np.int32),
        timestamp_ms=time[order],
        duration_s=np.full(total, np.nan, np.float32),
        positive=random.random(total) < 0.7,
    )


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    vectors = np.random.default_rng(0).standard_normal((PINS, 16)).astype(np.float32)  # that say nothing of groups
    return make_evaluation(timelines_of(np.arange(120), 1), timelines_of(np.arange(1000, 1300), 2), vectors, CUT)


def test_every_baseline_has_a_row_and_those_that_learn_find_the_groups(evaluation):
    rows = baseline_rows([evaluation.half("choice")], [evaluation.half("report")])
    assert {row.name for row in rows} == set(NAMES) and NAMES == evaluation_names.BASELINES
    best = {name: max(row.figures.recall_new[0] for row in rows if row.name == name) for name in NAMES}
    learned = [best[name] for name in ("item_cosine", "ease", "als")]
    assert min(learned) > 1.5 * best["popularity"] > 0 and min(learned) > 1.5 * best["whitened_mean"]
    users = {tuple(row.figures.by_user["user_ids"].tolist()) for row in rows}
    assert len(users) == 1  # so that every difference is paired
    assert all(0 < row.figures.errors["recall_new"] < 0.1 for row in rows)
    ahead, error = rows[0].figures.less(rows[1].figures)["recall"]
    assert ahead == pytest.approx(rows[0].figures.recall[0] - rows[1].figures.recall[0]) and 0 < error < 0.1


def test_nothing_is_learned_from_the_future_or_from_users_asked(evaluation):
    counts = training_counts(evaluation, False)
    past = evaluation.past
    owner = np.repeat(np.arange(len(past)), past.lengths)
    wanted = np.zeros((len(past), PINS))
    before = past.timestamp_ms < CUT
    np.add.at(wanted, (owner[before], past.pin_row[before]), 1)
    np.testing.assert_array_equal(counts.toarray(), wanted)
    after = past.timestamp_ms >= CUT
    changed = dataclasses.replace(past, pin_row=np.where(after, 0, past.pin_row).astype(np.int32))
    other = make_evaluation(evaluation.timelines, changed, evaluation.vectors, CUT)
    for baseline in BASELINES:
        setting = baseline.settings(evaluation)[-1]
        a, b = (measure_baseline(baseline, setting, [e.half("report")], diversity=False) for e in (evaluation, other))
        assert a.recall == b.recall, baseline.name


def test_pinnersage_serves_ten_places_that_targets_compete_for(evaluation):
    half = evaluation.half("report")
    clusters, moments = half.clusters(1.0), half.moments("once")
    found = half.pinnersage_served(clusters)
    hits = targets = 0
    for query in range(len(moments)):
        medoids = clusters.pin_row[clusters.offsets[query] : clusters.offsets[query + 1]][:SERVED]
        ranked = [np.argsort(-(half.unit @ half.unit[m]), kind="stable").tolist() for m in medoids]
        served: list[int] = []
        for place in range(PINS):
            served += [r[place] for r in ranked if r[place] not in served]
        wanted = set(moments.targets.row[moments.targets.of(query, query + 1)].tolist())
        hits, targets = hits + len(wanted & set(served[:10])), targets + len(wanted)
    assert found.recall[0] == pytest.approx(hits / targets, abs=0.003) and targets > 100
    assert found.recall[0] < half.pinnersage(clusters, SERVED).recall[0]  # the oracle's targets do not compete


def test_settings_are_chosen_by_either_recall(evaluation):
    both = {"repeats": evaluation.half("choice").mean_of_last(1), "fresh": evaluation.half("choice").popularity(None)}
    known = {
        "repeats": dataclasses.replace(both["repeats"], recall=(0.9, 0.9), recall_new=(0.1, 0.1)),
        "fresh": dataclasses.replace(both["fresh"], recall=(0.2, 0.2), recall_new=(0.3, 0.3)),
    }
    fake = Baseline("fake", lambda _: ("repeats", "fresh"), lambda s, _: s, lambda e, s, f, d: known[s])
    assert choose_settings(fake, [evaluation]) == {"new": "fresh", "all": "repeats"}


def test_cuts_are_pooled_by_user(evaluation):
    earlier = dataclasses.replace(evaluation, cut_ms=CUT - 14 * DAY_MS)
    parts = [e.half("report").popularity(7) for e in (earlier, evaluation)]
    pooled = pool_figures(parts)
    assert pooled.positives == sum(p.positives for p in parts)
    assert max(p.users for p in parts) <= pooled.users < sum(p.users for p in parts)
    hits = sum(p.recall[0] * p.positives for p in parts)
    assert pooled.recall[0] == pytest.approx(hits / pooled.positives)


@pytest.mark.parametrize("salt", [0, 1, 76, 77, 78, 1 << 40])
def test_half_of_the_users_choose_whatever_split_they_are_of(salt):
    ids = np.arange(40_000)
    held_out = ids[uniform_of(ids, salt) < 0.2]
    share = are_choosers(held_out).mean()
    assert len(held_out) > 7000 and abs(share - 0.5) < 0.03
