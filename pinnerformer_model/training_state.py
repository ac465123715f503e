"""Where training stands, on disk: one file, written whole or not at all, from which it goes on as if never stopped."""

import contextlib
import dataclasses
import json
import os
import tempfile
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pinnerformer_model.config import ModelError

STATE = "state.safetensors"
# Of the form; 2: the temperature's logarithm is that of what it has above its floor, recent losses are kept.
VERSION = 2


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """What goes on.

    Attributes:
        tensors: Weights, moments of the optimiser, counts of labels, recent losses; see `Trainer.tensors`.
        step: Steps done: the data and the learning rate of the next one follow from this number.
        settings: What must not change on the way, as JSON: settings, model config, digest of the timelines.
        best: The evaluation that the kept checkpoint has, `{"step", "recall"}`; None before the first.
    """

    tensors: dict[str, torch.Tensor]
    step: int
    settings: dict[str, Any]
    best: dict[str, Any] | None


def save_state(directory: str, state: TrainingState) -> None:
    """Writes the state: a temporary name, fsync, rename, fsync of the folder. A reader sees the old one or the new."""
    os.makedirs(directory, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".tmp-", dir=directory)
    os.close(descriptor)
    kept = {"version": VERSION, "step": state.step, "settings": state.settings, "best": state.best}
    try:
        save_file(state.tensors, temporary, metadata={"state": json.dumps(kept, sort_keys=True)})
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # A kill before this line leaves the state of before, whole: training goes on from there.
        os.replace(temporary, os.path.join(directory, STATE))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_state(directory: str) -> TrainingState | None:
    """Reads the state; None where there is none.

    Raises:
        ModelError: damaged, or of another version; names the file.
    """
    path = os.path.join(directory, STATE)
    if not os.path.exists(path):
        return None
    try:
        with safe_open(path, "pt") as file:
            kept = json.loads((file.metadata() or {})["state"])
            if kept.get("version") != VERSION:
                raise ModelError(
                    f"{path}: a training state of another version of pinnerformer (form {kept.get('version', 1)}, this "
                    f"one reads {VERSION}); end that training with the version that began it, or name another --state "
                    "and --out to start over"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return TrainingState(tensors, kept["step"], kept["settings"], kept["best"])
    except ModelError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: no readable training state ({error}); remove it to start over") from None


def changed_settings(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two nests of settings: `negatives.random: 1024 before, 2048 now`."""
    lines = []
    for name in sorted(set(before) | set(now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += changed_settings(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: {old} before, {new} now")
    return lines
