"""What a model is: sizes, vocabularies, label rule, and the space its pin vectors live in."""

import dataclasses
import datetime
import json
from typing import Any

PIN_VECTOR_DIM = 256  # PinSage's, and of a config that does not say
FEATURES = ("pinsage", "action", "surface", "duration", "time", "position")


class ModelError(ValueError):
    """A model directory or a setting that cannot be used; the message names the file or key and what to do."""


# The paper's rule for a positive engagement (section 1): on the homefeed a save, or ten seconds of a close-up or click.
PAPER_LABEL_RULE: dict[str, Any] = {
    "surfaces": ["homefeed"],
    "actions": {"repin": 0.0, "closeup": 10.0, "click": 10.0},  # action -> it must last longer than this, in seconds
}


MAX_SIZE = 1 << 20
TRAINING = ("until", "split_salt", "evaluation_share")  # fields that say what a training saw
TOWERS = ("user_tower", "pin_tower")
PROVENANCE = frozenset(  # what else is said of a training, as far as it is known
    {"timelines", "objective", "steps", "seed", "start", "initial", "vectors_until", "choose_by", "choosers"}
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the two towers and to feed them; stored as `config.json`.

    Attributes:
        hidden_size: H, width of a token inside the user tower.
        num_layers: L, transformer blocks.
        num_heads: Attention heads; divides `hidden_size`.
        ffn_size: Inner width of a block's feed-forward layer (4H in the paper).
        max_sequence_length: M, tokens of one user at most.
        embedding_dim: d, width of user and pin embeddings.
        pin_hidden_size: Inner width of the pin tower.
        action_dim, surface_dim: Widths of the learned tables.
        action_vocabulary, surface_vocabulary: Distinct strings; a token's code is the place of its string here.
        label_rule: What counts as a positive when training; see `PAPER_LABEL_RULE`.
        pinsage_version: Of the vectors the model was trained on; another version is another space.
        pin_vector_dim: Numbers of a pin's vector; 256 where `config.json` does not say.
        dtype: Of the stored weights; float32 is the only one.
        dropped_features: Of `FEATURES`, those that the user tower takes for zero: for ablations. Left out of
            `config.json` when there is none.
        until: Training saw what was before this UTC day, "2026-11-01"; empty where nobody says, and of initial weights.
        split_salt, evaluation_share: Which users training did not see: those with `uniform_of(id, split_salt)` below
            the share; a share of 0 where that cannot be said of everybody that trained it. These three are left out
            of `config.json` where `until` is empty, so that older models keep their digests.
        tower_marks: Tower -> its mark (`checkpoint.mark_towers`): which two towers were trained together. Written with
            a trained model's weights; empty, and left out, where nobody says.
        provenance: Where the weights come from, of the keys of `PROVENANCE`: digest of the `timelines`, the
            `objective`, the `steps` until these weights, the `seed`, what training `start`ed from (`initial`, or a
            model's digest), the day that the item vectors know of (`vectors_until`), the kind of recall that chose the
            checkpoint (`choose_by`: new, all, last) and the users that did (`choosers`: choice, nobody, unknown). Left
            out of `config.json` where it is empty.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_size: int
    max_sequence_length: int
    embedding_dim: int
    pin_hidden_size: int
    action_dim: int
    surface_dim: int
    action_vocabulary: tuple[str, ...]
    surface_vocabulary: tuple[str, ...]
    pinsage_version: str
    label_rule: dict[str, Any] = dataclasses.field(default_factory=lambda: PAPER_LABEL_RULE)
    pin_vector_dim: int = PIN_VECTOR_DIM
    dtype: str = "float32"
    dropped_features: tuple[str, ...] = ()
    until: str = ""
    split_salt: int | None = None
    evaluation_share: float = 0.0
    tower_marks: dict[str, str] = dataclasses.field(default_factory=dict)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ModelError(f"{field.name} must be a positive whole number, got {value!r}")
            if field.type is int and value > MAX_SIZE:
                raise ModelError(f"{field.name} is {value}; no model is larger than {MAX_SIZE} in anything")
        if self.hidden_size % self.num_heads:
            raise ModelError(f"num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}")
        for name in ("action_vocabulary", "surface_vocabulary"):
            words = getattr(self, name)
            if not words or len(set(words)) != len(words) or not all(isinstance(word, str) for word in words):
                raise ModelError(f"{name} must be distinct strings, at least one, got {list(words)!r}")
        if len(set(self.dropped_features)) != len(self.dropped_features) or set(self.dropped_features) - set(FEATURES):
            raise ModelError(
                f"dropped_features must be distinct, of {', '.join(FEATURES)}, got {list(self.dropped_features)!r}"
            )
        if self.dtype != "float32":
            raise ModelError(f"dtype must be float32, got {self.dtype!r}")
        if not isinstance(self.pinsage_version, str) or not self.pinsage_version:
            raise ModelError(f"pinsage_version must be a name, got {self.pinsage_version!r}")
        if not isinstance(self.label_rule, dict) or set(self.label_rule) != {"surfaces", "actions"}:
            raise ModelError('label_rule must be {"surfaces": [...], "actions": {action: min seconds}}')
        self._check_training()

    def _check_training(self) -> None:
        """Raises ModelError where what is said of the training is not of its form."""
        try:
            datetime.date.fromisoformat(self.until or "2026-11-01")
        except (TypeError, ValueError):
            raise ModelError(f"until must be a day like 2026-11-01, got {self.until!r}") from None
        if self.split_salt is not None and (not isinstance(self.split_salt, int) or isinstance(self.split_salt, bool)):
            raise ModelError(f"split_salt must be a whole number, got {self.split_salt!r}")
        share = self.evaluation_share
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share < 1:
            raise ModelError(f"evaluation_share must be a share in [0, 1), got {share!r}")
        marks = self.tower_marks
        if not isinstance(marks, dict) or (marks and set(marks) != set(TOWERS)):
            raise ModelError(f"tower_marks must be a mark for each of {', '.join(TOWERS)}, got {marks!r}")
        if not isinstance(self.provenance, dict) or set(self.provenance) - PROVENANCE:
            raise ModelError(f"provenance must be an object of {', '.join(sorted(PROVENANCE))}")

    def trained(
        self,
        until: datetime.date,
        split_salt: int | None,
        evaluation_share: float,
        provenance: dict[str, Any] | None = None,
    ) -> "ModelConfig":
        """The config of a model whose training sees what was before a day, and not the users held out.

        Of one that was trained before, on another split of the users, nobody is known to be unseen: a share of 0. Of
        one whose checkpoint was chosen before, by nobody knows whom, the choosers are unknown.

        Args:
            provenance: What else is known of it; see the class.
        """
        found = dict(provenance or {})
        if self.until and self.provenance.get("choosers") not in ("choice", "nobody"):
            found["choosers"] = "unknown"
        elif self.provenance.get("choosers") == "choice" and found.get("choosers") == "nobody":
            found["choosers"] = "choice"
        if self.until and (self.split_salt, self.evaluation_share) != (split_salt, evaluation_share):
            evaluation_share = 0.0
        latest = max(self.until, until.isoformat())
        return dataclasses.replace(
            self, until=latest, split_salt=split_salt, evaluation_share=evaluation_share, provenance=found
        )

    def to_json(self) -> str:
        """JSON text with sorted keys: equal configs give equal bytes."""
        found = dataclasses.asdict(self)
        if not self.dropped_features:
            del found["dropped_features"]
        if not self.until:
            for name in TRAINING:
                del found[name]
        if not self.tower_marks:
            del found["tower_marks"]
        if not self.provenance:
            del found["provenance"]
        return json.dumps(found, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Reads what `to_json` wrote.

        Raises:
            ModelError: not JSON, a key missing or unknown, or a value out of range; names the key.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"not valid JSON: {error}") from None
        if not isinstance(found, dict):
            raise ModelError("expected a JSON object")
        names = {field.name for field in dataclasses.fields(cls)}
        missing = names - set(found) - {"pin_vector_dim", "dropped_features", "tower_marks", "provenance", *TRAINING}
        if missing:
            raise ModelError(f"missing keys: {', '.join(sorted(missing))}")
        if set(found) - names:
            raise ModelError(f"unknown keys: {', '.join(sorted(set(found) - names))}")
        found.setdefault("dropped_features", [])
        for name in ("action_vocabulary", "surface_vocabulary", "dropped_features"):
            if not isinstance(found[name], list):
                raise ModelError(f"{name} must be a list of strings")
            found[name] = tuple(found[name])
        return cls(**found)


# Tokens per batch. On a CPU batches of 1-4 k tokens are best: past that the feed-forward activations leave the
# cache. A GPU waits for its next kernel below 4 k (docs/benchmarks.md).
TOKEN_BUDGET = {"cpu": 1024, "cuda": 16384}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "ffn_size": 128,
        "max_sequence_length": 32,
        "embedding_dim": 32,
        "pin_hidden_size": 128,
        "action_dim": 8,
        "surface_dim": 8,
    },
    "demo": {
        "hidden_size": 128,
        "num_layers": 2,
        "num_heads": 4,
        "ffn_size": 512,
        "max_sequence_length": 64,
        "embedding_dim": 128,
        "pin_hidden_size": 256,
        "action_dim": 16,
        "surface_dim": 16,
    },
    "small": {
        "hidden_size": 256,
        "num_layers": 4,
        "num_heads": 8,
        "ffn_size": 1024,
        "max_sequence_length": 256,
        "embedding_dim": 256,
        "pin_hidden_size": 1024,
        "action_dim": 32,
        "surface_dim": 32,
    },
    "paper": {
        "hidden_size": 768,
        "num_layers": 6,
        "num_heads": 8,
        "ffn_size": 3072,
        "max_sequence_length": 256,
        "embedding_dim": 256,
        "pin_hidden_size": 1024,
        "action_dim": 32,
        "surface_dim": 32,
    },
}


def preset(
    name: str,
    *,
    action_vocabulary: tuple[str, ...],
    surface_vocabulary: tuple[str, ...],
    pinsage_version: str,
    pin_vector_dim: int = PIN_VECTOR_DIM,
    label_rule: dict[str, Any] | None = None,
    dropped_features: tuple[str, ...] = (),
) -> ModelConfig:
    """A config of one of the sizes in `PRESETS`.

    Raises:
        ModelError: no such preset, or a bad vocabulary.
    """
    if name not in PRESETS:
        raise ModelError(f"no preset {name!r}; there are {', '.join(sorted(PRESETS))}")
    return ModelConfig(
        **PRESETS[name],
        action_vocabulary=tuple(action_vocabulary),
        surface_vocabulary=tuple(surface_vocabulary),
        pinsage_version=pinsage_version,
        pin_vector_dim=pin_vector_dim,
        label_rule=label_rule or PAPER_LABEL_RULE,
        dropped_features=tuple(dropped_features),
    )
