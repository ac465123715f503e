"""One bad user costs nobody else a vector, and memory that runs out costs nobody one."""

import dataclasses

import numpy as np
import pytest
import torch

from pinnerformer_model.checkpoint import load_model
from pinnerformer_model.inference import UserEncoder
from pinnerformer_model.isolation import NOT_FINITE, encode_healthy
from pinnerformer_model.packed import PackedWindows
from pinnerformer_model.sequences import Sequences
from tests.pinnerformer_model.samples import make_sequences, windows_with
from tests.worlds import write_model

LENGTHS = [3, 9, 4, 30, 1, 2, 2, 8, 17, 5, 5, 6, 31, 3, 12, 7]
POISONED = (0, 7, 8)
MARK = 7.5  # no vector of unit length holds it


class Faulty(UserEncoder):
    """The real tower, with a fault in it: `fault(batch, which, out)` sees a batch and who of it is poisoned."""

    fault = staticmethod(lambda batch, which, out: out)
    calls = 0

    def encode_batch(self, batch: PackedWindows) -> np.ndarray:
        self.calls += 1
        marked = batch.pin_vectors[:, 0] == MARK
        which = windows_with(batch, marked.numpy())
        batch.pin_vectors[:, 0][marked] = 0.0
        return self.fault(batch, which, super().encode_batch(batch))


def raise_for_them(batch, which, out):
    if which.any():
        raise ValueError("no such code\nand more")
    return out


def nan_for_them(batch, which, out):
    out[which] = np.nan
    return out


def nan_for_all_of_the_batch(batch, which, out):
    if which.any():
        out[:] = np.inf
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_model(str(tmp_path_factory.mktemp("model"))))


def poisoned_sequences():
    sequences = make_sequences(LENGTHS)
    for row in POISONED:
        sequences.pin_vectors[sequences.offsets[row + 1] - 1, 0] = MARK
    return sequences


def encode(model, fault, token_budget=64):
    encoder = Faulty(model.user_tower, token_budget)
    encoder.fault = fault
    return encode_healthy(encoder, poisoned_sequences()), encoder


@pytest.mark.parametrize("budget", [1, 64, 4096])
@pytest.mark.parametrize("fault", [raise_for_them, nan_for_them, nan_for_all_of_the_batch])
def test_only_the_culprits_go_without(model, fault, budget):
    undisturbed, _ = encode(model, Faulty.fault, budget)
    assert not undisturbed.failures
    found, encoder = encode(model, fault, budget)
    assert tuple(found.failures) == POISONED
    reason = "ValueError: no such code" if fault is raise_for_them else NOT_FINITE
    assert set(found.failures.values()) == {reason}
    healthy = [row for row in range(len(LENGTHS)) if row not in POISONED]
    np.testing.assert_array_equal(found.embeddings[healthy], undisturbed.embeddings[healthy])
    assert not found.embeddings[list(POISONED)].any()
    assert encoder.calls < 4 * len(LENGTHS)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[enforce fail] not enough memory: you tried to allocate 8589934592 bytes."),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(model, error):
    def too_large(batch, which, out):
        if len(batch.lengths) > 3:
            raise error
        return out

    undisturbed, _ = encode(model, Faulty.fault)
    found, _ = encode(model, too_large)
    assert not found.failures and found.halved > 0
    np.testing.assert_allclose(found.embeddings, undisturbed.embeddings, atol=2e-3)


def test_a_user_who_does_not_fit_at_all_is_named(model):
    def never(batch, which, out):
        if batch.longest > 20:
            raise MemoryError
        return out

    found, _ = encode(model, never)
    assert found.failures == {3: "out of memory at 30 tokens", 12: "out of memory at 31 tokens"}


def test_memory_that_runs_out_while_culprits_are_looked_for(model):
    def both(batch, which, out):
        if len(batch.lengths) > 2:
            raise MemoryError
        return raise_for_them(batch, which, out)

    found, _ = encode(model, both)
    assert tuple(found.failures) == POISONED


def test_a_fault_that_goes_away_is_nobodys(model):
    undisturbed, _ = encode(model, Faulty.fault)
    raised = []

    def once(batch, which, out):
        if not raised:
            raised.append(True)
            raise OSError("a hiccup")
        return out

    found, _ = encode(model, once)
    assert raised and not found.failures
    np.testing.assert_array_equal(found.embeddings, undisturbed.embeddings)


def test_a_batch_that_fails_only_as_a_batch_is_cut(model):
    def in_company(batch, which, out):
        if len(batch.lengths) > 1:
            raise RuntimeError("only alone")
        return out

    found, _ = encode(model, in_company)
    assert not found.failures and np.isfinite(found.embeddings).all() and found.embeddings.any(axis=1).all()


def test_no_users(model):
    whole = make_sequences([1])
    columns = {f.name: getattr(whole, f.name)[:0] for f in dataclasses.fields(whole)}
    nobody = Sequences(**{**columns, "offsets": np.zeros(1, np.int64)})
    found = encode_healthy(UserEncoder(model.user_tower), nobody)
    assert found.embeddings.shape == (0, 32) and not found.failures
