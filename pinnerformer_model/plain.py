"""The model as plainly as possible: one user at a time, no padding, no mask, numpy; reads the checkpoint by name.

Written apart from the towers, to compare them with: `verify` recomputes users with it, and so do the tests.
"""

import json
import math
import os

import numpy as np
from safetensors import deserialize

FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}  # as safetensors calls them


def read_weights(path: str) -> dict[str, np.ndarray]:
    """The parameters of a safetensors file as float32, without torch: `verify` needs none."""
    with open(path, "rb") as file:
        content = file.read()
    found = {}
    for name, tensor in deserialize(content):
        if tensor["dtype"] == "BF16":  # numpy has no such type: the upper half of a float32
            values = (np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(tensor["data"], FLOATS[tensor["dtype"]]).astype(np.float32)
        found[name] = values.reshape(tensor["shape"])
    return found


class PlainModel:
    """Both towers, from the parameter names of docs/model.md."""

    def __init__(self, directory: str, absolute_periods: tuple[float, ...], relative_periods: tuple[float, ...]):
        self.w = read_weights(os.path.join(directory, "model.safetensors"))
        with open(os.path.join(directory, "config.json")) as file:
            self.config = json.load(file)
        self.periods = {"absolute_time": absolute_periods, "since_latest": relative_periods, "gap": relative_periods}

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].astype(np.float64).T + self.w[f"{name}.bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-5) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def time(self, name: str, t: int) -> list[float]:
        """cos and sin at every period, each with its own phase, and log(1 + seconds)."""
        prefix = f"user_tower.features.{name}"
        cos_phase, sin_phase = self.w[f"{prefix}.cos_phase"], self.w[f"{prefix}.sin_phase"]
        turns = [2 * math.pi * ((t / p) % 1.0) for p in self.periods[name]]
        cosines = [math.cos(a + c) for a, c in zip(turns, cos_phase, strict=True)]
        sines = [math.sin(a + s) for a, s in zip(turns, sin_phase, strict=True)]
        return [*cosines, *sines, math.log1p(t / 1000)]

    def token(self, events: list[dict], i: int) -> np.ndarray:
        event = events[i]
        at = event["timestamp_ms"]
        gap = at - events[i + 1]["timestamp_ms"] if i + 1 < len(events) else 0
        action = self.config["action_vocabulary"].index(event["action"])
        surface = self.config["surface_vocabulary"].index(event["surface"])
        duration = event["duration_s"]
        duration = None if duration is None or not math.isfinite(duration) else duration
        return np.concatenate(
            [
                event["vector"].astype(np.float64),
                self.w["user_tower.features.action.weight"][action],
                self.w["user_tower.features.surface.weight"][surface],
                [0.0 if duration is None else math.log1p(duration), float(duration is None)],
                self.time("absolute_time", at),
                self.time("since_latest", events[0]["timestamp_ms"] - at),
                self.time("gap", gap),
            ]
        )

    def user(self, events: list[dict]) -> np.ndarray:
        """float64 [d] of one user, events newest first: dicts with vector and the log columns."""
        tokens = np.stack([self.token(events, i) for i in range(len(events))])
        v = self.linear("user_tower.projection", tokens) + self.w["user_tower.position"][: len(events)]
        for layer in range(self.config["num_layers"]):
            v = self.block(f"user_tower.blocks.{layer}", v)
        newest = self.norm("user_tower.head_norm", v[0])
        out = self.linear("user_tower.head_out", gelu(self.linear("user_tower.head_in", newest)))
        return out / np.linalg.norm(out)

    def block(self, name: str, v: np.ndarray) -> np.ndarray:
        hidden, heads = v.shape[1], self.config["num_heads"]
        width = hidden // heads
        qkv = self.linear(f"{name}.qkv", self.norm(f"{name}.attention_norm", v))
        attended = np.zeros_like(v)
        for h in range(heads):
            q, k, value = (qkv[:, part * hidden + h * width :][:, :width] for part in range(3))
            for i in range(len(v)):  # newest first: a position sees itself and what is older
                scores = k[i:] @ q[i] / math.sqrt(width)
                weights = np.exp(scores - scores.max())
                attended[i, h * width : (h + 1) * width] = weights / weights.sum() @ value[i:]
        u = v + self.linear(f"{name}.attention_out", attended)
        return u + self.linear(f"{name}.ffn_out", gelu(self.linear(f"{name}.ffn_in", self.norm(f"{name}.ffn_norm", u))))

    def pin(self, vector: np.ndarray) -> np.ndarray:
        """float64 [d] of one PinSage vector."""
        out = self.linear("pin_tower.outer", gelu(self.linear("pin_tower.inner", vector.astype(np.float64))))
        return out / np.linalg.norm(out)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
