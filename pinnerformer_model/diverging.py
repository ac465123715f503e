"""Which rows of a training step are to blame where its loss, or the norm of its gradient, is no finite number."""

import torch

from pinnerformer_model.step_batches import StepBatch
from pinnerformer_model.training import Trainer

SHOWN = 5


@torch.no_grad()
def blame(trainer: Trainer, batch: StepBatch) -> str:
    """The first thing that is not finite, in the order in which it is computed, and the rows that have it.

    Computed again, so that a step that goes well pays nothing for it. On every rank: pins are gathered.

    Args:
        batch: Of this rank, on the CPU; that of the step that failed, which changed no weights.
    """
    for name, parameter in trainer.named_parameters().items():
        if not torch.isfinite(parameter).all():
            return f"the weights held NaN or infinity before: {name}"
    batch = batch.to(trainer.device)
    group, share = trainer.group, len(batch.pin_vectors)
    pins = batch.pins[group.rank * share : (group.rank + 1) * share]
    if rows := _strange(batch.pin_vectors[: len(pins)], pins):
        return f"pin vectors that are not finite, rows of the timelines' pins/vectors.npy: {rows}"
    tokens = [_strange(w.pin_vectors, w.user_ids.repeat_interleave(w.lengths)) for w, _, _ in batch.windows]
    if found := [users for users in tokens if users]:
        return f"users whose pins' vectors are not finite: {found[0]}"
    queries, pool = trainer.embed(batch)
    if rows := _strange(pool, batch.pins):
        return f"pins whose embeddings are not finite, rows of the timelines' pins/vectors.npy: {rows}"
    if users := _strange(queries, batch.query_user):
        return f"users whose embeddings are not finite: {users}"
    losses = trainer.pair_losses(batch, queries, pool)
    if users := _strange(losses[:, None], batch.query_user[batch.pair_query]):
        return f"users whose losses are not finite: {users}"
    count = len(torch.unique(batch.query_user))
    return f"inputs, embeddings and losses of its {count:,} users are finite one by one: it is their gradient or sum"


def _strange(values: torch.Tensor, ids: torch.Tensor) -> str:
    """The ids, each once, of rows [N, W] that hold NaN or infinity; empty if none does."""
    found = torch.unique(ids[~torch.isfinite(values).all(dim=1)]).tolist()
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return ", ".join(map(str, found[:SHOWN])) + more
