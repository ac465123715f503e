"""Training steps: what they depend on, and what they must not depend on."""

import dataclasses

import numpy as np
import pytest
import torch

from pinnerformer_model.checkpoint import load_model, new_model, save_model
from pinnerformer_model.config import FEATURES, ModelConfig, ModelError, preset
from pinnerformer_model.distributed import Group
from pinnerformer_model.loss import TEMPERATURES
from pinnerformer_model.negatives import Negatives
from pinnerformer_model.objectives import Objective
from pinnerformer_model.packed import pack_sequences, pack_windows
from pinnerformer_model.sequences import Sequences
from pinnerformer_model.timelines import sequences_ending
from pinnerformer_model.training import RECENT, BatchMaker, Feed, Trainer, TrainingSettings
from pinnerformer_model.training_state import TrainingState, load_state, save_state
from tests.pinnerformer_model.padded import encode, pad
from tests.pinnerformer_model.samples import every_position
from tests.pinnerformer_model.test_timelines import vectors_of

PINS = 200
SETTINGS = TrainingSettings(
    objective=Objective(positions=6, days=20),
    negatives=Negatives(random=50),
    steps=12,
    warmup_steps=3,
    learning_rate=3e-3,
    users_per_step=8,
    sketch_width=1 << 10,
)


def config(**changes) -> ModelConfig:
    made = preset("tiny", action_vocabulary=("a", "b"), surface_vocabulary=("x", "y", "z"), pinsage_version="v")
    return dataclasses.replace(made, **changes)


def make(timelines, settings=SETTINGS, cfg=None):
    cfg = cfg or config()
    maker = BatchMaker(timelines, vectors_of(PINS), settings, cfg.max_sequence_length)
    return Trainer(cfg, *new_model(cfg, 1), settings, PINS), maker


def equal(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stop", [1, 5, 11])
@pytest.mark.parametrize("exact", [False, True])
def test_resumed_at_any_step_it_ends_in_the_same_bits(timelines, tmp_path, stop, exact):
    settings = dataclasses.replace(SETTINGS, exact_counts=exact)
    whole, maker = make(timelines, settings)
    for step in range(settings.steps):
        whole.step(maker.make(step))
    first, maker = make(timelines, settings)
    for step in range(stop):
        first.step(maker.make(step))
    save_state(str(tmp_path), TrainingState(first.tensors(), first.step_number, {}, None))
    state = load_state(str(tmp_path))
    second, maker = make(timelines, settings)
    second.load(state.tensors, state.step)
    for step in range(second.step_number, settings.steps):
        second.step(maker.make(step))
    assert second.step_number == whole.step_number == 12
    assert equal(second.tensors(), whole.tensors())
    assert not equal(first.tensors(), whole.tensors())


def test_the_loss_does_not_depend_on_how_windows_are_batched(timelines):
    losses = []
    for budget in (1, 100, 10_000):
        trainer, maker = make(timelines, dataclasses.replace(SETTINGS, token_budget=budget))
        batch = maker.make(3)
        losses.append(float(trainer.loss(batch).detach()))
    assert len(batch.windows) == 1
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("name", ["next_action", "sasrec", "all_action", "dense_all_action"])
def test_only_the_embeddings_of_predicting_positions_are_used(timelines, name):
    """Against every position's embedding, picked one by one."""
    settings = dataclasses.replace(SETTINGS, objective=Objective(name, days=20, positions=4, labels=5))
    trainer, maker = make(timelines, settings)
    draw = maker.sampler.draw(2)
    batch = maker.make(2)
    with torch.no_grad():
        got = torch.cat([trainer.user_tower.at(*window) for window in batch.windows])[batch.query_order]
        for query, (window, position) in enumerate(zip(draw.query_window, draw.query_position, strict=True)):
            alone = sequences_ending(
                timelines, vectors_of(PINS), draw.rows[[window]], draw.stops[[window]], config().max_sequence_length
            )
            expected = encode(trainer.user_tower, pad(alone))[0, position]
            torch.testing.assert_close(got[query], expected, rtol=1e-4, atol=1e-5)


def test_a_position_does_not_see_what_is_newer(timelines):
    """All that it may know of the future is when the newest event was: the feature `time since the latest`."""
    cfg = config()
    user_tower, _ = new_model(cfg, 1)
    row = int(np.argmax(timelines.lengths))
    stops = timelines.offsets[[row + 1]]
    window = sequences_ending(timelines, vectors_of(PINS), np.array([row]), stops, cfg.max_sequence_length)

    def positions(sequences: Sequences) -> torch.Tensor:
        return every_position(user_tower, pack_sequences(sequences, np.array([0]))).detach()

    before = positions(window)
    noise = np.random.default_rng(0)
    newest = np.arange(len(window.timestamp_ms)) < 5
    times = window.timestamp_ms
    changed = dataclasses.replace(
        window,
        pin_vectors=np.where(newest[:, None], noise.standard_normal(window.pin_vectors.shape), window.pin_vectors),
        action=np.where(newest, 1 - window.action, window.action),
        surface=np.where(newest, (window.surface + 1) % 3, window.surface),
        duration_s=np.where(newest, 99 * noise.random(len(newest)), window.duration_s).astype(np.float32),
        timestamp_ms=np.concatenate([times[:1], np.repeat(times[5], 4), times[5:]]),
    )
    after = positions(changed)
    torch.testing.assert_close(after[5:], before[5:], rtol=0, atol=1e-6)
    assert (after[:5] - before[:5]).abs().amax(-1).min() > 1e-3
    older = dataclasses.replace(window, pin_vectors=window.pin_vectors.copy())
    older.pin_vectors[-1] = noise.standard_normal(256)
    # And it does see what is older.
    assert (positions(older)[0] - before[0]).abs().max() > 1e-5


def test_training_lowers_the_loss_and_prefetching_does_not_matter(timelines):
    settings = dataclasses.replace(SETTINGS, steps=60)
    trainer, maker = make(timelines, settings)
    feed = Feed(maker, 0, 60)
    losses = [trainer.step(feed.next())[0] for _ in range(60)]
    feed.close()
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.2
    again, maker = make(timelines, settings)
    assert [again.step(maker.make(step))[0] for step in range(20)] == losses[:20]  # prefetched or not


def test_a_feed_hands_on_what_went_wrong(timelines):
    class Broken:
        def make(self, step):
            raise OSError("the disk is gone")

    feed = Feed(Broken(), 0, 3)
    with pytest.raises(OSError, match="the disk is gone"):
        feed.next()
    feed.close()


def test_a_corpus_smaller_than_the_negatives_asked_for_is_refused(timelines):
    with pytest.raises(ValueError, match="201 random negatives asked for, the corpus has 200 pins"):
        make(timelines, dataclasses.replace(SETTINGS, negatives=Negatives(random=201)))


@pytest.mark.parametrize("feature", FEATURES)
def test_a_dropped_feature_is_dropped_in_training_and_inference(timelines, tmp_path, feature):
    cfg = config(dropped_features=(feature,))
    towers = new_model(cfg, 1)
    with torch.no_grad():
        towers[0].position.normal_()
    row = int(np.argmax(timelines.lengths))
    window = pack_windows(timelines, vectors_of(PINS), np.array([row]), timelines.offsets[[row + 1]], 32)
    changed = {
        "pinsage": {"pin_vectors": torch.randn_like(window.pin_vectors)},
        "action": {"action": 1 - window.action},
        "surface": {"surface": (window.surface + 1) % 3},
        "duration": {"duration_s": torch.rand_like(window.duration_s)},
        "time": {"timestamp_ms": window.timestamp_ms // 2, "since_latest_ms": window.since_latest_ms // 2},
        "position": {},
    }
    save_model(str(tmp_path / "m"), cfg, *towers)
    tower = load_model(str(tmp_path / "m")).user_tower
    if feature == "position":
        before = tower.newest(window)
        with torch.no_grad():
            tower.position.normal_()
        torch.testing.assert_close(tower.newest(window), before)
    else:
        for name, change in changed.items():
            if change:
                same = torch.allclose(
                    tower.newest(dataclasses.replace(window, **change)), tower.newest(window), atol=1e-6
                )
                assert same == (name == feature), name
    plain = dataclasses.replace(cfg, dropped_features=())
    assert "dropped_features" not in plain.to_json()  # models of before, and their digests, stay as they are
    assert ModelConfig.from_json(plain.to_json()) == plain
    assert ModelConfig.from_json(cfg.to_json()) == cfg
    with pytest.raises(ModelError, match="dropped_features must be distinct"):
        config(dropped_features=("colour",))


def test_the_temperature_moves_where_the_loss_wants_it_and_does_so_within_a_short_training(timelines):
    """At the learning rate of everything else, 40 steps of 1e-3 would move it by 4 % at most."""
    settings = dataclasses.replace(SETTINGS, steps=40, learning_rate=1e-3, temperature=0.02)
    trainer, maker = make(timelines, settings)
    before = trainer.temperature().item()
    for step in range(40):
        trainer.step(maker.make(step))
    assert abs(trainer.temperature().item() / before - 1) > 0.06


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_follows_from_the_step_and_leaves_the_generators_alone(timelines, tmp_path, dropout):
    settings = dataclasses.replace(SETTINGS, dropout=dropout)
    whole, maker = make(timelines, settings)
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    for step in range(8):
        whole.step(maker.make(step))
    assert torch.equal(torch.rand(1), expected)
    first, maker = make(timelines, settings)
    for step in range(3):
        first.step(maker.make(step))
    second, _ = make(timelines, settings)
    second.load(first.tensors(), 3)
    for step in range(3, 8):
        second.step(maker.make(step))
    assert equal(second.tensors(), whole.tensors())
    plain, maker = make(timelines, dataclasses.replace(settings, dropout=0.0))
    assert (plain.step(maker.make(0))[0] == float(whole.tensors()["losses"][0])) == (dropout == 0)


def test_the_loss_shown_is_the_recent_one_and_is_kept(timelines):
    settings = dataclasses.replace(SETTINGS, steps=RECENT + 20, warmup_steps=1)
    trainer, maker = make(timelines, settings)
    assert np.isnan(trainer.recent_loss)
    losses = [trainer.step(maker.make(step))[0] for step in range(RECENT + 20)]
    assert trainer.recent_loss == pytest.approx(np.mean(losses[20:]))
    again, _ = make(timelines, settings)
    again.load(trainer.tensors(), trainer.step_number)
    assert again.recent_loss == trainer.recent_loss


@pytest.mark.parametrize("size", [2, 3])
def test_every_process_gets_its_share_of_the_tokens(timelines, size):
    settings = dataclasses.replace(SETTINGS, users_per_step=24)
    alone = BatchMaker(timelines, vectors_of(PINS), settings, 32)
    makers = [BatchMaker(timelines, vectors_of(PINS), settings, 32, Group(rank, size)) for rank in range(size)]
    for step in range(5):
        tokens = [maker.make(step).tokens for maker in makers]
        assert sum(tokens) == alone.make(step).tokens
        assert max(tokens) - min(tokens) <= 32  # a window at most


def test_training_starts_from_the_temperature_that_fits_the_start(timelines):
    trainer, maker = make(timelines)
    batch = maker.make(0)
    before = {name: value.clone() for name, value in trainer.tensors().items()}
    found = trainer.calibrate(batch)
    after = trainer.tensors()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert changed == ["temperature.log"] and trainer.step_number == 0
    losses = {}
    for temperature in TEMPERATURES:
        other, _ = make(timelines)
        other.temperature.set(temperature)
        losses[temperature] = float(other.loss(batch).detach())
    assert found == min(losses, key=lambda temperature: losses[temperature])
    assert float(trainer.temperature().detach()) == pytest.approx(found)
    assert len({round(loss, 3) for loss in losses.values()}) > 3  # it matters
