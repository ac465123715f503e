"""Gates on answers: popularity collapse, and what the manifest keeps of the sample."""

import dataclasses
import zlib

import numpy as np

from pinnerformer_model.collapse import covering_pins as count_covering
from stores.neighbours import Neighbours
from tests.transforms.gates.releases import closed, manifest_of, staged_of
from transforms.gates import recall
from transforms.gates.sample import Sample


def test_popularity_collapse(monkeypatch):
    everybody = np.tile(np.arange(10), (100, 1))
    spread = np.arange(1000).reshape(100, 10)
    assert (count_covering(everybody), count_covering(spread)) == (9, 900)
    assert count_covering(np.array([[5, 5, 5, 5, 5, 5, 5, 5, 5, 6]])) == 1
    assert count_covering(np.full((2, 10), -1)) == 0

    def closed_with(pins: np.ndarray, before: int | None, drawn_before: int = 100) -> list[str]:
        settings = {"index": {"coverage_pins": before, "recall_users": drawn_before}}
        previous = dataclasses.replace(manifest_of(1, 1, 1), settings=settings)
        found = Neighbours(pins, np.zeros(pins.shape, np.float32))
        sample = Sample(0, len(pins), np.zeros(2), 5000, np.zeros(2), 64, found, found)
        monkeypatch.setattr(recall, "sample_of", lambda staged: sample)
        staged = staged_of(manifest_of(len(pins), 5000, 5000), [previous])
        return closed((recall.coverage_pins, recall.coverage_fall), staged)

    assert closed_with(spread, 900) == closed_with(spread, None) == []
    assert closed_with(spread, 2800) == ["coverage_fall"]
    assert closed_with(spread, 2800, drawn_before=101) == []  # of more users: no fall
    assert closed_with(everybody, 9) == ["coverage_pins"]
    assert closed_with(np.full((100, 10), -1), 9) == ["coverage_pins", "coverage_fall"]  # no answer at all


def test_a_collapse_like_the_demos_closes_whatever_the_number_of_users(monkeypatch):
    def passes(pins_answered: int, users: int, pins: int = 62_682) -> bool:
        found = Neighbours((np.arange(users * 10) % pins_answered).reshape(users, 10), np.zeros((users, 10)))
        sample = Sample(0, users, np.zeros(2), pins, np.zeros(2), 64, found, found)
        monkeypatch.setattr(recall, "sample_of", lambda staged: sample)
        gate = recall.coverage_share(staged_of(manifest_of(users, pins, pins)))
        assert gate is not None
        return gate.passed

    assert not passes(170, 1000) and not passes(197, 1000)  # 152 to 177 pins were 90 % of the demo's answers
    assert passes(850, 1000) and passes(30, 20) and passes(60, 1000, pins=400)
    assert not passes(11, 100) and not passes(10, 50)  # and a handful, of few users


def test_a_release_of_nobody_is_served_at_the_width_that_finds_every_pin():
    staged = staged_of(manifest_of(0, 30, 30))
    assert closed((recall.index_recall_at_10, recall.coverage_pins, recall.coverage_fall), staged) == []
    assert recall.index_settings(staged) == {
        "ef_search": 64,
        "recall_at_10": None,
        "recall_users": 0,
        "recall_seed": zlib.crc32(b"2026-11-02"),
        "coverage_pins": None,
        "p90_coverage_at_10": None,
    }
