"""Windows without padding: the forward of training is that of inference, position by position."""

import dataclasses

import numpy as np
import pytest
import torch

from pinnerformer_model.checkpoint import load_model, new_model
from pinnerformer_model.packed import pack_windows, take_once
from pinnerformer_model.time_encoding import ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS
from pinnerformer_model.timelines import sequences_ending
from tests.pinnerformer_model.padded import encode, pad
from tests.pinnerformer_model.reference import ReferenceModel
from tests.pinnerformer_model.test_timelines import make_timelines, vectors_of
from tests.pinnerformer_model.test_training import config
from tests.pinnerformer_model.test_user_tower import events_of

ROWS, STOPS = np.array([1, 0, 2, 1]), np.array([43, 2, 50, 6])
ALIKE = np.array([1, 1, 2]), np.array([40, 43, 52])  # three windows of nine: nothing is padded


def every_position(lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and positions of all tokens, shuffled: in no order that the code could count on."""
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    position = torch.cat([torch.arange(int(n)) for n in lengths])
    order = torch.randperm(len(row), generator=torch.Generator().manual_seed(0))
    return row[order], position[order]


@pytest.mark.parametrize("by_runs", [True, False])
@pytest.mark.parametrize("rows, stops, length", [(ROWS, STOPS, 16), (ROWS, STOPS, 32), (*ALIKE, 9), (*ALIKE, 1)])
def test_packed_windows_give_what_padded_ones_give_and_their_gradients(rows, stops, length, by_runs):
    t, vectors = make_timelines([3, 40, 9]), vectors_of()
    tower, _ = new_model(config(num_layers=2), 1)
    with torch.no_grad():
        tower.position.normal_()
        for parameter in tower.features.parameters():
            parameter.normal_()
    tower.requires_grad_(True)
    windows = dataclasses.replace(pack_windows(t, vectors, rows, stops, length), by_runs=by_runs)
    assert (windows.place is None) == (len(set(windows.lengths.tolist())) == 1)
    row, position = every_position(windows.lengths)
    weight = torch.randn(len(row), config().embedding_dim, generator=torch.Generator().manual_seed(1))
    padded = encode(tower, pad(sequences_ending(t, vectors, rows, stops, length)))[row, position]
    packed = tower.at(windows, row, position)
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)
    named = dict(tower.named_parameters())
    expected = torch.autograd.grad((padded * weight).sum(), named.values())
    got = torch.autograd.grad((packed * weight).sum(), named.values())
    for name, a, b in zip(named, got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4, msg=lambda said, name=name: f"{name}: {said}")
    newest = torch.arange(len(rows))
    torch.testing.assert_close(tower.newest(windows), tower.at(windows, newest, 0 * newest), rtol=1e-4, atol=1e-5)
    few = torch.tensor([0, 5, 2]) % len(row)
    torch.testing.assert_close(tower.at(windows, row[few], position[few]), packed[few], rtol=1e-4, atol=1e-5)


def test_the_newest_position_of_packed_windows_is_the_formula(model):
    """Against the plain computation in numpy, one user at a time."""
    t, vectors = make_timelines([3, 40, 9]), vectors_of()
    tower = load_model(model).user_tower
    windows = pack_windows(t, vectors, ROWS, STOPS, 16)
    got = tower.at(windows, torch.arange(4), torch.zeros(4, dtype=torch.int64)).numpy()
    reference = ReferenceModel(model, ABSOLUTE_PERIODS_MS, RELATIVE_PERIODS_MS)
    sequences = sequences_ending(t, vectors, ROWS, STOPS, 16)
    for user in range(4):
        np.testing.assert_allclose(got[user], reference.user(events_of(sequences, user)), atol=1e-5)


def test_dropout_is_in_training_and_nowhere_else():
    t, vectors = make_timelines([3, 40, 9]), vectors_of()
    tower, _ = new_model(config(), 1)
    windows = pack_windows(t, vectors, ROWS, STOPS, 16)
    newest = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    plain = tower.at(windows, *newest)
    assert torch.equal(tower.at(windows, *newest, 0.0), plain)
    torch.manual_seed(0)
    dropped = tower.at(windows, *newest, 0.5)
    assert (dropped - plain).abs().max() > 1e-3
    assert not torch.equal(tower.at(windows, *newest, 0.5), dropped)
    # Whatever mode the modules are in.
    assert torch.equal(tower.eval().newest(windows), tower.train().newest(windows))


def test_taken_rows_and_their_gradients():
    values = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([5, 0, 3])
    assert torch.equal(take_once(values, places), values[places])
    assert torch.autograd.gradcheck(lambda v: take_once(v, places), values)
    windows = pack_windows(make_timelines([3, 40, 9]), vectors_of(), ROWS, STOPS, 16)
    tokens = torch.randn(len(windows.age), 5)
    assert torch.equal(windows.packed(windows.side_by_side(tokens)), tokens)


@pytest.mark.parametrize("rows, stops", [(ROWS, STOPS), ALIKE])
def test_windows_of_one_length_are_taken_together(rows, stops):
    windows = pack_windows(make_timelines([3, 40, 9]), vectors_of(), rows, stops, 16)
    tokens = torch.randn(len(windows.age), 5)
    padded = dataclasses.replace(windows, by_runs=False)
    for taken in (windows, padded):
        assert torch.equal(taken.joined(taken.blocks(tokens)), tokens)
    blocks = windows.blocks(tokens)
    assert [tuple(b.shape[:2]) for b in blocks] == list(windows.runs)
    assert all(b.untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr() for b in blocks)
    assert [tuple(b.shape[:2]) for b in padded.blocks(tokens)] == [(len(rows), windows.longest)]
    assert windows.absent() is None
    absent = padded.absent()
    assert (absent is None) == (len(windows.runs) == 1)
    if absent is not None:
        assert (~absent).sum(-1)[:, 0].tolist() == windows.lengths.tolist()


def test_on_a_cpu_nothing_is_padded_and_elsewhere_no_window_is_a_call():
    windows = pack_windows(make_timelines([3, 40, 9]), vectors_of(), ROWS, STOPS, 16)
    assert windows.to("cpu").by_runs and not windows.to("meta").by_runs
