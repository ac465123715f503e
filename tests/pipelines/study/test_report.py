"""A claim about training is judged where training added something; the page puts new items first."""

import numpy as np
import pytest

from pipelines.study.baselines import what_can_be_told
from pipelines.study.claims import Claim
from pipelines.study.prose import listed
from pipelines.study.report import KEPT, sentence, table, write_page
from pipelines.study.results import START_ALONE, Study, beats_its_start, judge

USERS = 300


def result(share: float, noise: int, trained: bool = True) -> dict:
    """Users who hit a share of their targets, the same of all and of new ones."""
    random = np.random.default_rng(noise)
    targets = np.full(USERS, 20.0)
    hits = targets * share + random.standard_normal(USERS)
    sums = {}
    for kind in ("", "_new"):
        sums |= {f"hits{kind}": hits.tolist(), f"targets{kind}": targets.tolist()}
    figures = {name: [share, share] for name in ("recall", "recall_new")}
    found = {"report": {"once": figures}, "by_user": {"once": sums}}
    return {**found, "choice": {}} if trained else found


@pytest.fixture
def study():
    cells = {
        "good": [result(0.40, 1)],
        "idle": [result(0.30, 2)],
        "low": [result(0.20, 3)],
        "untrained": [result(0.30, 4, trained=False)],
        "popularity": [result(0.25, 5, trained=False)],
        "strong": [result(0.60, 6, trained=False)],
    }
    starts = {name: "untrained" for name in ("good", "idle", "low")}
    return Study("", {"figure": "recall_new"}, {"figures": {"popularity": {}, "strong": {}}}, cells, starts)


@pytest.mark.parametrize(
    ("cell", "says", "reference", "expected"),
    [
        ("good", "higher", "idle", "holds"),
        ("idle", "higher", "low", START_ALONE),  # ahead, but by what it began with
        ("idle", "higher", "popularity", START_ALONE),
        ("idle", "higher", "strong", "does not hold"),  # behind what was never trained
        ("low", "lower", "good", "holds"),
        ("low", "lower", "idle", START_ALONE),
        ("good", "as good", "idle", START_ALONE),
        ("good", "as good", "good", "holds"),
        ("popularity", "lower", "strong", "holds"),  # nothing of it was trained
    ],
)
def test_a_claim_is_judged_where_the_better_cell_learned_something(study, cell, says, reference, expected):
    assert judge(study, Claim("t", "A against B", cell, says, reference))[0] == expected


def test_beating_a_start_takes_two_standard_errors(study):
    assert beats_its_start(study, "good") is True and beats_its_start(study, "idle") is False
    assert beats_its_start(study, "low") is False and beats_its_start(study, "popularity") is None


def test_a_sentence_says_both_figures_the_one_judged_by_first(study):
    text = sentence(study, Claim("t", "A beats B", "good", "higher", "idle"))
    assert text.startswith("A beats B: **holds** (+0.09") and "; all items: holds (+0.09" in text


def test_a_table_has_levels_with_errors_and_differences_to_start_and_base(study):
    rows = (("good", "good", ()), ("popularity", "popularity", ()))
    head, _, good, popularity = table(study, rows, (), base="idle").splitlines()
    assert head.startswith("| | new | all | new, over its start | all, over its start | new, over the base |")
    columns = [cell.strip() for cell in good.strip("|").split("|")]
    hits = np.array(study.cells["good"][0]["by_user"]["once"]["hits_new"])
    share = hits.sum() / (20 * USERS)
    error = np.sqrt(((hits - 20 * share) ** 2).sum() * USERS / (USERS - 1)) / (20 * USERS)
    assert columns[1] == f"{share:.4f} ± {error:.4f}" and columns[3].startswith("+0.")
    assert popularity.split("|")[4].strip() == "-"  # nothing that began


def test_what_a_small_study_can_tell_is_known_before_it_trains():
    random = np.random.default_rng(0)

    def baselines(users: int) -> dict:
        hits = (random.random(users) < 0.05).astype(float)
        sums = {"hits_new": hits.tolist(), "targets_new": [1.0] * users}
        figures = {"users": users, "positives": users, "positives_new": users}
        oracle = {"hits_new": [1.0] * users, "targets_new": [1.0] * users}
        return {
            "by_user": {"popularity": sums, "oracle": oracle},
            "figures": {"popularity": figures, "oracle": figures},
        }

    text, enough = what_can_be_told(baselines(4000), "recall_new")
    assert enough and "4,000 users" in text and "popularity, gets 0.0" in text and "± 0.003" in text
    text, enough = what_can_be_told(baselines(60), "recall_new")
    assert not enough


def test_values_in_words():
    assert listed([5, 5], "{}") == "5" and listed([5, None, 30, 5], "{:,}") == "5, all or 30"


def test_a_page_that_is_written_again_keeps_the_section_that_no_study_made(tmp_path):
    path = tmp_path / "page.md"
    write_page([], str(path))
    plain = path.read_text()
    section = f"{KEPT[0]}\n\n| a | {'table ' * 40}|\n\n{KEPT[1]}"
    path.write_text(f"# old\n\n{section}\n\n## An old study\n")
    for _ in range(2):
        write_page([], str(path))
        head, _, rest = plain.partition("\n\n")
        assert path.read_text() == f"{head}\n\n{section}\n\n{rest}"
