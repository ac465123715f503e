"""The model before a night: whether it knows the words of the logs, and how long the histories are that it reads."""

import difflib
from typing import Any

from pinnerformer_model.checkpoint import check_model
from pinnerformer_model.config import ModelConfig, ModelError
from pipelines.checking.findings import Level, Part, count, share
from pipelines.checking.log_part import PERCENTILES, LogsFound, percentiles
from stores.errors import InputError, PinnerFormerError
from stores.logs import TEXT_COLUMNS
from transforms.acts import has_labels
from transforms.model import local_model


def look_at_model(model: str) -> tuple[Part, ModelConfig | None]:
    """Looks at a model as the night does, before any work."""
    part = Part("model")
    try:
        config, digest = check_model(local_model(model))
    except (ModelError, PinnerFormerError) as error:
        part.headline = f"{model}: cannot be used"
        part.refuse(InputError(str(error)))
        return part, None
    trained = f"trained on what was before {config.until}" if config.until else "initial weights"
    part.headline = (
        f"{trained}, M {config.max_sequence_length}, {config.embedding_dim} wide, for vectors of "
        f"{config.pinsage_version}, {config.pin_vector_dim} wide"
    )
    part.figures |= {
        "digest": digest,
        "until": config.until or None,
        "max_sequence_length": config.max_sequence_length,
        "embedding_dim": config.embedding_dim,
        "pin_vector_dim": config.pin_vector_dim,
        "pinsage_version": config.pinsage_version,
    }
    if not has_labels(config):
        part.find(
            Level.NOTE,
            "its label rule fits no action and surface that it knows: the gates that look back take every act for a "
            "positive; train with a rule of your own (--label-rule of training-data)",
        )
    return part, config


def compare_words(part: Part, config: ModelConfig, logs: LogsFound) -> None:
    """The words of the logs that the model does not know: their rows make no token."""
    for name in TEXT_COLUMNS:
        known = getattr(config, f"{name}_vocabulary")
        words = logs.rows.words[name]
        unknown = [(word, n) for word, n in words.most_common() if word not in known]
        if not unknown:
            continue
        rows = sum(n for _, n in unknown)
        text = f"{share(rows, logs.rows.good)} of the rows have one of {count(len(unknown), f'{name}')} that the model"
        text += f" does not know, and make no token; it knows {', '.join(known[:8])}"
        near = {word: difflib.get_close_matches(word, known, n=1, cutoff=0.7) for word, _ in unknown}
        seen = tuple(
            f"{word} {share(n, logs.rows.good)}" + (f", like {near[word][0]}" if near[word] else "")
            for word, n in unknown[:3]
        )
        part.find(Level.LOSES if rows < logs.rows.good else Level.CLOSES, text, sample=seen)


def describe_histories(part: Part, logs: LogsFound, config: ModelConfig | None, history_length: int) -> None:
    """How long histories are, beside what the model reads and what a root keeps."""
    _, rows = logs.histories.counted()
    if not len(rows):
        return
    found = percentiles(rows)
    words = ", ".join(f"{value:,} (P{p})" for p, value in found.items())
    remark = f"of {logs.histories.about}{count(logs.histories.distinct, 'user')}; the longest {int(rows.max()):,}"
    if not logs.looked_at.is_all:
        remark += "; dropped ones too"
    if logs.counted < logs.looked_at.total:
        remark += f"; of the newest {logs.counted:,} rows, whole ones are longer"
    part.add("rows of a user", words, remark)
    figures: dict[str, Any] = {f"p{p}": found[p] for p in PERCENTILES} | {"most": int(rows.max())}
    limits = {"kept": history_length, "read by the model": config.max_sequence_length if config else None}
    for name, limit in limits.items():
        if limit is not None:
            longer = float((rows > limit).mean())
            figures[name.replace(" ", "_")] = {"length": limit, "share_longer": round(longer, 6)}
            if longer > 0:
                part.add(f"{name}", f"{limit:,}", f"{share(longer, 1)} of the users have more rows")
            else:
                part.add(f"{name}", f"{limit:,}", "nobody has more")
    part.figures["rows_per_user"] = figures
