"""Thresholds: what a user's file may say, and what a manifest of another version may."""

import dataclasses
import re

import pytest

from stores.errors import UsageError
from transforms.gates import THRESHOLDS, Threshold, Thresholds, read_thresholds
from transforms.gates.thresholds import thresholds_class


def write(tmp_path, text: str) -> str:
    path = tmp_path / "gates.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_moves_what_it_names(tmp_path):
    found = read_thresholds(write(tmp_path, "max_lost_share: 0.2\nrecall_users: 50\n"))
    assert found == dataclasses.replace(Thresholds(), max_lost_share=0.2, recall_users=50)
    assert read_thresholds(write(tmp_path, "# nothing\n")) == read_thresholds(None) == Thresholds()


def test_the_file_that_is_shipped_holds_the_defaults():
    assert read_thresholds("deploy/gates.yaml") == Thresholds()
    with open("deploy/gates.yaml") as file:
        text = file.read()
    # Line by line as the gates declare them; a line that this test misses can be copied from its message.
    found = [line for line in text.splitlines() if line and not line.startswith("#")]
    wanted = [f"{t.name}: {t.default!r}  # {t.reads}" for t in THRESHOLDS]
    assert found == wanted, "\n".join(["deploy/gates.yaml needs:", *(line for line in wanted if line not in found)])
    assert re.findall(r"^(\w+):", text, re.M) == [field.name for field in dataclasses.fields(Thresholds)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_lost_shares: 0.2", "no threshold 'max_lost_shares'; did you mean max_lost_share?"),
        ("xyz: 0.2", "no threshold 'xyz'; there are norm_tolerance"),
        ("max_lost_share: much", "max_lost_share is 'much'; expected a number >= 0"),
        ("max_lost_share: .nan", "max_lost_share is nan"),
        ("max_lost_share: -1", "max_lost_share is -1"),
        ("recall_users: 0", "expected a whole number >= 1"),
        ("recall_users: true", "recall_users is True"),
        ("- a", "expected `name: number` lines"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, text, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        read_thresholds(write(tmp_path, text))


def test_no_such_file(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_thresholds(str(tmp_path / "none.yaml"))


FIRST_VERSION = {
    "norm_tolerance": 2e-3,
    "max_alike": 0.9999,
    "max_lost_share": 0.05,
    "max_dropped_share": 0.05,
    "max_failed_share": 0.01,
    "max_week_factor": 4.0,
    "max_weekday_factor": 2.5,
    "max_vectorless_share": 0.6,
    "max_vectorless_rise": 0.1,
    "max_cosine_drift": 0.15,
    "min_canary_cosine": 0.9999,
    "min_pin_vectors_cosine": 0.9,
    "min_recall_at_10": 0.95,
    "recall_users": 1000,
    "min_coverage_pins": 10,
    "max_coverage_fall": 3.0,
}


def test_manifests_keep_the_names_and_their_order():
    """Users' files and the manifests of older releases name them; those added since stand anywhere between."""
    kept = dataclasses.asdict(Thresholds())
    assert list(kept) == [threshold.name for threshold in THRESHOLDS]
    assert [(name, value) for name, value in kept.items() if name in FIRST_VERSION] == list(FIRST_VERSION.items())


def test_a_manifest_of_another_version_is_read():
    changed = dataclasses.replace(Thresholds(), max_alike=0.5, recall_users=7)
    kept = dataclasses.asdict(changed)
    assert Thresholds.from_manifest(kept) == changed
    older = {name: value for name, value in kept.items() if name != "max_coverage_fall"}
    assert Thresholds.from_manifest(older) == changed  # its default
    assert Thresholds.from_manifest({**kept, "max_of_a_later_version": 1.0}) == changed
    assert Thresholds.from_manifest({}) == Thresholds()


def test_a_threshold_is_asked_for_by_its_declaration():
    limit, other = Threshold("max_x", 0.5, "x"), Threshold("max_x", 0.6, "x")
    kind = thresholds_class([limit, limit])
    assert kind()[limit] == 0.5 and kind(max_x=0.7)[limit] == 0.7
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().max_x = 1.0
    with pytest.raises(TypeError, match="max_x"):
        thresholds_class([limit, other])
