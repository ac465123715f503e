"""`pinnerformer train` end to end on small worlds: learning, resuming, several processes, and what it refuses."""

import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pinnerformer_model.baselines import popularity
from pinnerformer_model.checkpoint import (
    load_config,
    load_model,
    load_temperature,
    model_digest,
    new_model,
    save_model,
)
from pinnerformer_model.config import preset
from pinnerformer_model.evaluation import moments_of
from pinnerformer_model.fitting import Hooks, Schedule, fit
from pinnerformer_model.initialisation import StartSettings
from pinnerformer_model.negatives import Negatives
from pinnerformer_model.objectives import Objective
from pinnerformer_model.ranking import constant_scorer, hits_at_k, recall
from pinnerformer_model.training import BatchMaker, Trainer, TrainingSettings
from pinnerformer_model.training_state import load_state
from pipelines.cli import main
from pipelines.training import train as train_command
from pipelines.training.choosing import Evaluation
from pipelines.training.start import PRIOR_DAYS, PRIORS, RIDGES, Starts, choose_start
from tests.redis_server import free_port
from tests.warm import run_python, run_together
from transforms.halves import are_choosers
from transforms.training_data import TrainingData, load_training_data

FLAGS = [
    "--preset=tiny",
    "--users-per-step=16",
    "--random-negatives=200",
    "--positions=6",
    "--warmup-steps=5",
    "--learning-rate=0.001",
    "--quiet",
]
DONE = (0, 4)  # trained; whether it beat its start is not what most tests are about
WEAK = "--start-ridge=1000"  # a start as the plain mean, which a short training improves
START, END, UNTIL = "2026-09-01", "2026-10-30", "2026-10-17"


@pytest.fixture(scope="module")
def timelines(tmp_path_factory) -> str:
    """Sixty days of a synthetic world of few topics, without detours: enough for a tiny model to learn from."""
    folder = str(tmp_path_factory.mktemp("world"))
    world = ["--users=1000", "--pins=1500", f"--start={START}", "--days=60", "--topics=40", "--seed=4"]
    assert main(["synth", f"--out={folder}/w", *world, "--detour-share=0"]) == 0
    where = [f"--logs={folder}/w/logs", f"--pins={folder}/w/pins", f"--out={folder}/t", "--buckets=4", "--quiet"]
    assert main(["training-data", *where, f"--start={START}", f"--end={END}", "--evaluation-share=0.3"]) == 0
    return f"{folder}/t"


def train(timelines: str, out, *flags: str) -> int:
    return main(["train", f"--timelines={timelines}", f"--out={out}", *FLAGS, WEAK, *flags])


def weights(out) -> dict[str, torch.Tensor]:
    return load_file(f"{out}/model.safetensors")


def test_a_killed_training_goes_on_to_the_same_bits(timelines, tmp_path, monkeypatch, capsys):
    flags = ["--steps=24", "--evaluate-every=8", "--save-every=7"]
    assert train(timelines, tmp_path / "whole", *flags) in DONE
    real, steps = train_command.fit, []

    def dies(trainer, maker, schedule, hooks, *rest):
        def on_step(step, loss, norm):
            steps.append(step)
            if step == 17:  # after an evaluation that the last saved state does not know of
                raise KeyboardInterrupt

        return real(trainer, maker, schedule, dataclasses.replace(hooks, on_step=on_step), *rest)

    monkeypatch.setattr(train_command, "fit", dies)
    assert train(timelines, tmp_path / "killed", *flags) == 1
    assert "run the same command again to go on" in capsys.readouterr().err
    monkeypatch.setattr(train_command, "fit", real)
    assert load_state(f"{tmp_path}/killed-training").step == 14
    assert train(timelines, tmp_path / "killed", *flags) in DONE
    assert model_digest(f"{tmp_path}/killed") == model_digest(f"{tmp_path}/whole")
    ended, whole = (load_state(f"{tmp_path}/{name}-training") for name in ("killed", "whole"))
    assert ended.step == whole.step == 24 and ended.best == whole.best
    assert all(torch.equal(ended.tensors[name], value) for name, value in whole.tensors.items())
    # Done already: the same command does nothing more.
    assert train(timelines, tmp_path / "killed", *flags) in DONE
    # Other settings are not gone on with.
    assert train(timelines, tmp_path / "killed", *flags[1:], "--steps=25", "--no-logq") == 2
    said = capsys.readouterr().err
    assert "training.log_q: True before, False now" in said and "training.steps: 24 before, 25 now" in said


CONSOLE = "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"


def by_torchrun(command: list[str]) -> list[subprocess.CompletedProcess[str]]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [subprocess.run([*launch, "pipelines.cli", *command], env=environment, capture_output=True, text=True)]


def by_hand(command: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Two processes that are told what torchrun tells its own."""
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    return run_together([CONSOLE] * 2, *command, envs=[{**both, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"])


def by_flag(command: list[str]) -> list[subprocess.CompletedProcess[str]]:
    launch = [sys.executable, "-m", "pipelines.cli", *command, "--processes=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [subprocess.run(launch, env=environment, capture_output=True, text=True)]


@pytest.mark.parametrize(
    "launch",
    [
        by_hand,
        pytest.param(by_torchrun, marks=pytest.mark.slow),
        pytest.param(by_flag, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_what_one_trains(timelines, tmp_path, launch):
    # The last is kept: torchrun takes any exit code but 0 of a rank for a crash of it.
    flags = ["--steps=6", "--evaluate-every=3", "--negatives=mixed", "--in-batch-limit=40", "--keep-last"]
    assert train(timelines, tmp_path / "one", *flags) == 0
    for done in launch(["train", f"--timelines={timelines}", f"--out={tmp_path}/two", *FLAGS, WEAK, *flags]):
        assert done.returncode == 0, done.stderr
    one, two = (load_state(f"{tmp_path}/{name}-training") for name in ("one", "two"))
    assert torch.equal(one.tensors["counts"], two.tensors["counts"])
    start = dict(zip(("user_tower", "pin_tower"), new_model(load_config(f"{tmp_path}/one"), 0), strict=True))
    moved = 0.0
    for prefix, tower in start.items():
        for name, before in tower.state_dict().items():
            a, b = (state.tensors[f"{prefix}.{name}"] for state in (one, two))
            # A softmax does not see the keys' bias: its gradient is rounding, and no more.
            if name.endswith("qkv.bias"):
                a, b, before = (torch.cat([part[:32], part[64:]]) for part in (a, b, before))
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
            moved = max(moved, float((a - before).abs().max()))
    assert moved > 1e-3
    assert one.best["recall"] == pytest.approx(two.best["recall"], abs=0.005)


def test_a_rank_ends_with_the_process_that_launched_it():
    watch = "from pipelines.training.processes import end_with; import os, time; end_with(os.getppid())"
    rank = f"{watch}; print(os.getpid(), flush=True); time.sleep(60)"
    launch = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"
    with subprocess.Popen([sys.executable, "-c", launch, rank], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        launcher.kill()
    until = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < until, "the rank outlives its parent"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Nobody has to have waited for a process that has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_model_goes_on_from_its_weights_and_keeps_its_place_in_the_daily_job(timelines, tmp_path, capsys):
    assert train(timelines, tmp_path / "a", "--steps=3", "--no-evaluation", "--drop-feature=time") == 0
    assert load_config(f"{tmp_path}/a").dropped_features == ("time",)
    with open(f"{timelines}/timelines.json") as file:
        told = json.load(file)
    seen = load_config(f"{tmp_path}/a")  # what it saw, and whom it did not
    assert (seen.split_salt, seen.evaluation_share) == (told["split_salt"], told["evaluation_share"])
    assert datetime.date.fromisoformat(seen.until) == datetime.date.fromisoformat(told["end"]) - datetime.timedelta(13)
    assert load_model(f"{tmp_path}/a").config.label_rule["surfaces"] == ["homefeed"]
    flags = [f for f in FLAGS if "preset" not in f]
    again = ["train", f"--timelines={timelines}", f"--out={tmp_path}/b", *flags, "--steps=3", f"--model={tmp_path}/a"]
    assert main([*again, "--learning-rate=1e-9", "--no-evaluation", "--drop-feature=time"]) == 0
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-6
    shutil.copytree(timelines, tmp_path / "other")
    told = json.loads((tmp_path / "other" / "timelines.json").read_text())
    (tmp_path / "other" / "timelines.json").write_text(json.dumps({**told, "pinsage_version": "v9"}))
    assert main([*again[:1], f"--timelines={tmp_path}/other", *again[2:], f"--out={tmp_path}/c"]) == 1
    assert "pinsage_version is not that of the timelines" in capsys.readouterr().err


def test_what_cannot_be_trained_on_is_said(timelines, tmp_path, capsys):
    def refused(*flags: str) -> str:
        capsys.readouterr()
        assert train(timelines, tmp_path / "m", "--steps=3", *flags) in (1, 2)
        return capsys.readouterr().err

    assert "2000 random negatives asked for, the corpus has" in refused("--random-negatives=2000")
    said = refused(f"--until={START}", "--no-evaluation")
    assert "nothing to train on before" in said and "0 training users with 0 events" in said
    said = refused("--days=0.000000001", f"--until={UNTIL}")
    assert "positive by the label rule" in said and "users have one event only" in said
    assert "nothing to evaluate: no user" in refused("--until=2027-01-01")
    assert "torch sees no CUDA device" in refused("--device=cuda") or torch.cuda.is_available()
    os.makedirs(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{}")
    assert "holds a model already" in refused()


def test_a_diverging_training_keeps_the_last_good_checkpoint(timelines, tmp_path, capsys, monkeypatch):
    real = Trainer.step

    def step(self, batch):
        return (float("nan"), 1.0) if self.step_number == 5 else real(self, batch)

    monkeypatch.setattr(Trainer, "step", step)
    assert train(timelines, tmp_path / "m", "--steps=9", "--evaluate-every=3", "--save-every=3") == 1
    said = capsys.readouterr().err
    assert "step 6: the loss is nan" in said and f"the last good checkpoint is in {tmp_path}/m" in said
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "m").values())
    assert load_state(f"{tmp_path}/m-training").step == 3


def shuffled_labels(data: TrainingData) -> TrainingData:
    """The pins of all positives dealt again: what is predicted has nothing to do with who predicts it."""
    pins = data.timelines.pin_row.copy()
    places = np.flatnonzero(data.timelines.positive)
    pins[places] = np.random.default_rng(0).permutation(pins[places])
    return dataclasses.replace(data, timelines=dataclasses.replace(data.timelines, pin_row=pins))


def learn(timelines: str, steps: int, shuffle: bool = False, **changes) -> tuple[float, float]:
    """Recall@10 of a tiny model after some steps, and of popularity."""
    data, held_out = (load_training_data(timelines, split) for split in ("train", "evaluation"))
    cut = int(np.datetime64(UNTIL).astype("datetime64[ms]").astype(np.int64))
    told = data.description
    config = preset(
        "tiny",
        action_vocabulary=tuple(told["action_vocabulary"]),
        surface_vocabulary=tuple(told["surface_vocabulary"]),
        pinsage_version="v",
    )
    settings = TrainingSettings(
        objective=Objective(positions=8),
        negatives=Negatives(random=500),
        steps=steps,
        warmup_steps=20,
        learning_rate=2e-3,
        users_per_step=32,
        **changes,
    )
    past = (shuffled_labels(data) if shuffle else data).timelines.before(cut)
    trainer = Trainer(config, *new_model(config, 0), settings, len(data.vectors))
    maker = BatchMaker(past, data.vectors, settings, config.max_sequence_length)
    nothing = Hooks(None, lambda: None, lambda state: None, lambda *_: None, lambda *_: None)
    fit(trainer, maker, Schedule(steps, 1, steps), nothing, {})
    evaluation = Evaluation.of(held_out, cut, 14, 1000, config.max_sequence_length, "cpu")
    moments = moments_of(held_out.timelines, cut)
    counts = popularity(data.timelines, cut, len(data.vectors))
    everything = np.ones(len(data.vectors), bool)
    hits = hits_at_k(constant_scorer(counts), len(moments), everything, moments.targets, moments.others, 10)
    return evaluation(trainer.user_tower, trainer.pin_tower), recall(hits, moments.target_user)[0]


@pytest.mark.slow
def test_it_learns_and_the_test_of_learning_can_fail(timelines):
    trained, popular = learn(timelines, 300)
    fresh, _ = learn(timelines, 1)
    shuffled, _ = learn(timelines, 300, shuffle=True)
    assert trained > 2 * popular > 0
    assert trained > 1.5 * fresh
    assert shuffled < 0.6 * trained


def test_several_processes_say_what_is_wrong_once(timelines, tmp_path):
    # What `by_flag` does; the launcher is forked, the ranks it starts are real.
    command = ["train", f"--timelines={timelines}", f"--out={tmp_path}/m", *FLAGS, f"--until={START}", "--processes=2"]
    done = run_python(CONSOLE, *command, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1 and done.stderr.count("nothing to evaluate: no user") == 1
    assert "Traceback" not in done.stderr


def test_the_temperature_is_kept_and_gone_on_with(timelines, tmp_path, capsys):
    flags = ["--steps=3", "--no-evaluation"]
    assert train(timelines, tmp_path / "a", *flags, "--temperature=0.2") == 0
    kept = load_temperature(f"{tmp_path}/a")
    assert kept == pytest.approx(0.2, rel=0.1) and kept != 0.2
    on = [f for f in FLAGS if "preset" not in f] + [f"--timelines={timelines}", f"--model={tmp_path}/a", *flags]
    assert main(["train", *on, f"--out={tmp_path}/b"]) == 0
    assert load_state(f"{tmp_path}/b-training").settings["training"]["temperature"] == kept
    assert main(["train", *on, f"--out={tmp_path}/c", "--temperature=0.3"]) == 0
    assert load_state(f"{tmp_path}/c-training").settings["training"]["temperature"] == 0.3
    # A model of before has none: it loads as it did, and training starts where it starts by default.
    loaded = load_model(f"{tmp_path}/a")
    save_model(f"{tmp_path}/old", loaded.config, loaded.user_tower, loaded.pin_tower)
    assert load_temperature(f"{tmp_path}/old") is None
    on[-3] = f"--model={tmp_path}/old"
    assert main(["train", *on, f"--out={tmp_path}/d"]) == 0
    assert load_state(f"{tmp_path}/d-training").settings["training"]["temperature"] == 0.05
    for name, value in loaded.user_tower.state_dict().items():
        assert torch.equal(load_model(f"{tmp_path}/old").user_tower.state_dict()[name], value)
    save_file(weights(tmp_path / "a"), f"{tmp_path}/a/model.safetensors", {"temperature": "hot"})
    capsys.readouterr()
    assert main(["train", *on[:-3], f"--model={tmp_path}/a", *flags, f"--out={tmp_path}/e"]) == 1
    assert "model.safetensors: temperature in its header" in capsys.readouterr().err


def test_killed_before_the_first_saved_state_it_begins_again(timelines, tmp_path, monkeypatch):
    """With a model kept already, which alone would be refused as another training's."""
    flags = ["--steps=6", "--evaluate-every=2", "--save-every=200"]
    assert train(timelines, tmp_path / "whole", *flags) == 0
    real = Trainer.step

    def step(self, batch):
        if self.step_number == 3:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(Trainer, "step", step)
    assert train(timelines, tmp_path / "m", *flags) == 1
    assert os.path.exists(tmp_path / "m" / "config.json")
    monkeypatch.setattr(Trainer, "step", real)
    assert train(timelines, tmp_path / "m", *flags) == 0
    assert model_digest(f"{tmp_path}/m") == model_digest(f"{tmp_path}/whole")


def test_the_flags_of_windows_and_weights_reach_the_training(timelines, tmp_path, capsys):
    asked = ["--newest-weight=0.5", "--full-windows", "--window-share=0.5", "--dropout=0.1", "--days=14"]
    asked.append("--label-days=30")
    assert train(timelines, tmp_path / "m", "--steps=2", "--no-evaluation", *asked) == 0
    found = load_state(f"{tmp_path}/m-training").settings["training"]
    assert found["objective"]["label_days"] == 30
    assert found["objective"]["newest_weight"] == 0.5 and found["objective"]["full_windows"] is True
    assert (found["window_share"], found["dropout"]) == (0.5, 0.1)
    for wrong in ("--dropout=1", "--window-share=0", "--temperature=0.01", "--newest-weight=2"):
        capsys.readouterr()
        assert train(timelines, tmp_path / "n", "--steps=2", wrong) == 2
        assert wrong.split("=")[0].strip("-").replace("-", "_") in capsys.readouterr().err


def test_a_state_of_an_older_version_is_refused_by_name(timelines, tmp_path, capsys):
    flags = ["--steps=2", "--no-evaluation"]
    assert train(timelines, tmp_path / "m", *flags) == 0
    path = f"{tmp_path}/m-training/state.safetensors"
    state = load_state(f"{tmp_path}/m-training")
    told = {"step": 1, "settings": state.settings, "best": None}
    save_file(state.tensors, path, {"state": json.dumps(told)})
    capsys.readouterr()
    assert train(timelines, tmp_path / "m", *flags) == 1
    said = capsys.readouterr().err
    assert f"{path}: a training state of another version" in said and "name another --state" in said
    tensors = {name: value for name, value in state.tensors.items() if name != "temperature.log"}
    save_file(tensors, path, {"state": json.dumps({**told, "version": 2})})
    assert train(timelines, tmp_path / "m", *flags) == 1
    assert "the state there does not fit the model" in capsys.readouterr().err


def test_only_users_that_evaluate_does_not_report_choose(timelines):
    held_out = load_training_data(timelines, "evaluation")
    cut = int(np.datetime64(UNTIL).astype("datetime64[ms]").astype(np.int64))
    evaluation = Evaluation.of(held_out, cut, 14, 1000, 32, "cpu")
    reported = held_out.timelines.user_ids[~are_choosers(held_out.timelines.user_ids)]
    assert 100 < len(evaluation.timelines) < len(held_out.timelines) - 100
    assert not np.isin(evaluation.timelines.user_ids, reported).any()
    everything = len(evaluation.moments.targets)
    assert evaluation.targets == everything > dataclasses.replace(evaluation, choose_by="new").targets > 0


def test_a_training_that_harms_keeps_its_start_and_says_so(timelines, tmp_path, capsys):
    harm = ["--steps=8", "--evaluate-every=4", "--learning-rate=1.0", "--warmup-steps=1", "--choose-by=all"]
    assert train(timelines, tmp_path / "m", *harm) == 4
    said = capsys.readouterr().err
    assert "no checkpoint beat the start" in said and f"{tmp_path}/m" in said
    config = load_config(f"{tmp_path}/m")
    start = new_model(config, 0, load_training_data(timelines, "train").vectors, StartSettings(ridge=1000))
    kept = load_model(f"{tmp_path}/m")
    for tower, before in zip((kept.user_tower, kept.pin_tower), start, strict=True):
        assert all(torch.equal(value, before.state_dict()[name]) for name, value in tower.state_dict().items())
    assert config.provenance["steps"] == 0 and load_state(f"{tmp_path}/m-training").best["step"] == 0
    assert train(timelines, tmp_path / "m", *harm) == 4  # done already, and no better
    # --keep-last asks for the last, whatever it is.
    assert train(timelines, tmp_path / "last", *harm, "--keep-last") == 0
    last = load_config(f"{tmp_path}/last").provenance
    assert (last["steps"], last["choose_by"], last["choosers"]) == (8, "last", "nobody")
    assert model_digest(f"{tmp_path}/last") != model_digest(f"{tmp_path}/m")


def test_a_training_killed_after_its_start_was_kept_goes_on(timelines, tmp_path, monkeypatch):
    flags = ["--steps=4", "--evaluate-every=4"]
    assert train(timelines, tmp_path / "whole", *flags) in (0, 4)

    def dies(*_):
        raise KeyboardInterrupt

    real = train_command.fit
    monkeypatch.setattr(train_command, "fit", dies)
    assert train(timelines, tmp_path / "killed", *flags) == 1
    assert os.path.exists(tmp_path / "killed" / "config.json")
    monkeypatch.setattr(train_command, "fit", real)
    assert train(timelines, tmp_path / "killed", *flags) in (0, 4)
    assert model_digest(f"{tmp_path}/killed") == model_digest(f"{tmp_path}/whole")


def test_a_model_says_where_it_comes_from(timelines, tmp_path, capsys):
    flags = ["--steps=2", "--evaluate-every=2", "--seed=3", "--keep-last"]
    more = [flag for flag in FLAGS if "quiet" not in flag]
    assert main(["train", f"--timelines={timelines}", f"--out={tmp_path}/a", *more, *flags, "--objective=sasrec"]) == 0
    assert "the start has recall@10" in capsys.readouterr().err  # and how well the users tell it, before it begins
    known = load_config(f"{tmp_path}/a").provenance
    assert known["timelines"] == load_training_data(timelines, "train").digest
    assert known["objective"]["name"] == "sasrec" and (known["steps"], known["seed"], known["start"]) == (
        2,
        3,
        "initial",
    )
    more = [flag for flag in FLAGS if "preset" not in flag]
    again = ["train", f"--timelines={timelines}", f"--out={tmp_path}/b", *more, f"--model={tmp_path}/a", *flags]
    assert main(again) == 0
    assert load_config(f"{tmp_path}/b").provenance["start"] == model_digest(f"{tmp_path}/a")
    # What was trained before anybody said who chose is not known to be unchosen.
    old = dataclasses.replace(load_config(f"{tmp_path}/a"), provenance={})
    (tmp_path / "a" / "config.json").write_text(old.to_json())
    assert "provenance" not in json.loads(old.to_json())
    assert main([flag.replace(f"{tmp_path}/b", f"{tmp_path}/c") for flag in again]) == 0
    assert load_config(f"{tmp_path}/c").provenance["choosers"] == "unknown"


def test_the_start_is_chosen_by_users_that_evaluate_does_not_report(timelines, tmp_path, capsys):
    flags = ["--steps=2", "--evaluate-every=2", "--warmup-steps=1", "--preset=tiny", "--users-per-step=16"]
    flags += ["--random-negatives=200", "--choose-by=all", f"--timelines={timelines}"]
    assert main(["train", *flags, f"--out={tmp_path}/chosen"]) in DONE
    said = capsys.readouterr().err
    chosen = load_config(f"{tmp_path}/chosen").provenance["initial"]
    assert f"the start: ridge {chosen['ridge']:g}" in said
    # Given by flag it is taken as it is; where nobody chooses, the default.
    given = ["--start-ridge=7", "--start-prior=0.5", "--start-prior-days=9", "--start-mean-scale=4"]
    assert main(["train", *flags, *given, f"--out={tmp_path}/given"]) in DONE
    expected = {"ridge": 7.0, "prior": 0.5, "prior_days": 9, "mean_scale": 4.0}
    assert load_config(f"{tmp_path}/given").provenance["initial"] == expected
    assert main(["train", *flags, "--no-evaluation", f"--out={tmp_path}/nobody"]) == 0
    assert load_config(f"{tmp_path}/nobody").provenance["initial"] == dataclasses.asdict(StartSettings())
    capsys.readouterr()
    assert main(["train", *flags[3:], "--start-ridge=0", f"--out={tmp_path}/wrong"]) == 2
    assert "ridge, prior_days and mean_scale must be positive" in capsys.readouterr().err


def test_a_better_start_is_found(timelines):
    """Among starts one of which is what the users want, it is taken, and by no more looks than there are candidates."""
    data, held_out = (load_training_data(timelines, split) for split in ("train", "evaluation"))
    cut = int(np.datetime64(UNTIL).astype("datetime64[ms]").astype(np.int64))
    evaluation = Evaluation.of(held_out, cut, 14, 1000, 32, "cpu", "all")
    looked = []

    def measure(settings):
        looked.append(settings)
        return settings

    def compare(a, b):
        worth = {(3.0, 0.0): 2.0, (3.0, 1.0): 5.0, (10.0, 0.0): 2.1}
        more = worth.get((a.ridge, a.prior), 0.0) - worth.get((b.ridge, b.prior), 0.0)
        return more, 0.5

    assert choose_start(measure, compare) == StartSettings(ridge=3.0, prior=1.0, prior_days=3)  # 10 is within the error
    assert len(looked) == 1 + len(RIDGES) - 1 + len(PRIORS) * len(PRIOR_DAYS)
    found = choose_start(lambda start: evaluation.measure(*made_of(data, cut, start)), evaluation.compare)
    best, plain = (evaluation.figures(*made_of(data, cut, start))[0] for start in (found, StartSettings(ridge=1000)))
    assert best >= plain


def config_of(data: TrainingData):
    words = {name: tuple(data.description[name]) for name in ("action_vocabulary", "surface_vocabulary")}
    return preset("tiny", **words, pinsage_version=data.description["pinsage_version"])


def made_of(data: TrainingData, cut: int, start: StartSettings):
    return Starts(config_of(data), 0, data.vectors, data.timelines.before(cut), cut).make(start)
