"""The figures of a release, for people and programs alike."""

import json
from typing import Any

from stores.manifests import Manifest
from stores.names import Counter, Step
from transforms.gates import CANNOT_SEE
from transforms.gates.hindsight import hindsight_of


def summarise(manifest: Manifest) -> dict[str, Any]:
    """The figures of a release that a person asks for first."""
    count = manifest.count
    looked_back, index = hindsight_of(manifest), manifest.settings.get("index", {})
    foresight, engaged = looked_back.get("foresight") or {}, looked_back.get("engaged") or {}
    return {
        "release": manifest.release,
        "date": manifest.date,
        "previous": manifest.previous,
        "model": manifest.model_digest[:12],
        "log_files": len(manifest.inputs),
        "rows_read": count(Step.READ_LOGS, Counter.ROWS_READ),
        "rows_dropped": {
            name.removeprefix("dropped_"): count
            for step in (Step.READ_LOGS, Step.UPDATE_HISTORIES)
            for name, count in sorted(manifest.counters.get(step, {}).items())
            if name.startswith("dropped_") and count
        },
        "rows_erased": count(Step.READ_LOGS, Counter.ROWS_ERASED),
        "rows_repeated": count(Step.UPDATE_HISTORIES, Counter.ROWS_REPEATED),
        "rows_expired": count(Step.UPDATE_HISTORIES, Counter.ROWS_EXPIRED),
        "users": manifest.rows("user_embeddings"),
        "users_active": count(Step.UPDATE_HISTORIES, Counter.USERS_ACTIVE),
        "users_embedded": count(Step.EMBED_USERS, Counter.USERS_EMBEDDED),
        "users_without_token": count(Step.JOIN_VECTORS, Counter.USERS_WITHOUT_TOKEN),
        "users_failed": count(Step.EMBED_USERS, Counter.USERS_FAILED),
        "users_carried_over": count(Step.MERGE_SNAPSHOT, Counter.USERS_CARRIED_OVER),
        "users_due": count(Step.UPDATE_HISTORIES, Counter.USERS_DUE),
        "users_expired": count(Step.MERGE_SNAPSHOT, Counter.USERS_EXPIRED),
        "users_stale": count(Step.MERGE_SNAPSHOT, Counter.USERS_STALE),
        "tokens_without_vector": count(Step.JOIN_VECTORS, Counter.TOKENS_WITHOUT_VECTOR),
        "engaged_pins": engaged.get("pins", 0),
        "engaged_pins_without_vector": engaged.get("pins_without_vector", 0),
        "tokens_out_of_vocabulary": count(Step.JOIN_VECTORS, Counter.TOKENS_OUT_OF_VOCABULARY),
        "pins": manifest.rows("pin_embeddings"),
        "pins_reused": count(Step.EMBED_PINS, Counter.PINS_REUSED),
        "shards": len(manifest.parts("pin_embeddings")),
        "shards_reused": count(Step.BUILD_INDEXES, Counter.SHARDS_REUSED),
        "shards_damaged": max(count(step, Counter.SHARDS_DAMAGED) for step in (Step.EMBED_PINS, Step.BUILD_INDEXES)),
        "index_recall_at_10": index.get("recall_at_10"),
        "index_ef_search": index.get("ef_search"),
        "margin": foresight.get("margin"),
        "margin_error": foresight.get("error"),
        "margin_users": foresight.get("users", 0),
        "popularity_rank": foresight.get("popularity"),
        "cannot_see": manifest.statistics.get(CANNOT_SEE, {}),
        "seconds": {step: round(value, 2) for step, value in manifest.timings.items()},
    }


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1)
