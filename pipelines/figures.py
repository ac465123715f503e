"""The figures of a release, for people and programs alike."""

import json
from typing import Any

from stores.manifests import Manifest


def summarise(manifest: Manifest) -> dict[str, Any]:
    """The figures of a release that a person asks for first."""
    counters = manifest.counters
    read, history = counters.get("read_logs", {}), counters.get("update_histories", {})
    joined, merged = counters.get("join_vectors", {}), counters.get("merge_snapshot", {})
    return {
        "release": manifest.release,
        "date": manifest.date,
        "previous": manifest.previous,
        "model": manifest.model_digest[:12],
        "log_files": len(manifest.inputs),
        "rows_read": read.get("rows_read", 0),
        "rows_dropped": {
            name.removeprefix("dropped_"): count
            for name, count in sorted(read.items())
            if name.startswith("dropped_") and count
        },
        "rows_erased": read.get("rows_erased", 0),
        "rows_repeated": history.get("rows_repeated", 0),
        "rows_expired": history.get("rows_expired", 0),
        "users": manifest.rows("user_embeddings"),
        "users_active": history.get("users_active", 0),
        "users_embedded": counters.get("embed_users", {}).get("users_embedded", 0),
        "users_without_token": joined.get("users_without_token", 0),
        "users_failed": counters.get("embed_users", {}).get("users_failed", 0),
        "users_carried_over": merged.get("users_carried_over", 0),
        "users_due": history.get("users_due", 0),
        "users_expired": merged.get("users_expired", 0),
        "users_stale": merged.get("users_stale", 0),
        "tokens_without_vector": joined.get("tokens_without_vector", 0),
        "tokens_out_of_vocabulary": joined.get("tokens_out_of_vocabulary", 0),
        "pins": manifest.rows("pin_embeddings"),
        "index_recall_at_10": manifest.settings["index"].get("recall_at_10"),
        "index_ef_search": manifest.settings["index"].get("ef_search"),
        "seconds": {stage: round(value, 2) for stage, value in manifest.timings.items()},
    }


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1)
