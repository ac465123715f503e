"""Windows of many users one after the other without padding, as the user tower takes them."""

import dataclasses
from typing import Any

import numpy as np
import torch

from pinnerformer_model.sequences import Sequences, token_tensors
from pinnerformer_model.timelines import Timelines, ranges


@dataclasses.dataclass(frozen=True)
class PackedWindows:
    """B windows with T tokens in all, OLDEST FIRST within a window: "itself and older" is then plainly causal.

    Attention alone wants windows side by side. On a CPU those of one length stand together, so that nothing is padded
    or moved. On an accelerator, where many small calls cost more than padding, all do, [B, L] with L the longest:
    padding stands after the newest token, where nothing that is real looks.

    Attributes:
        user_ids: int64 [B].
        lengths: int64 [B], tokens of each.
        pin_vectors: float32 [T, D].
        action, surface: int64 [T], codes.
        timestamp_ms: int64 [T].
        since_latest_ms: int64 [T], from the token to its window's newest.
        gap_ms: int64 [T], from the token before it; 0 for the oldest of a window.
        duration_s: float32 [T]; NaN = not measured.
        age: int64 [T], the token's position: 0 = the newest of its window.
        place: int64 [T], where a token stands in the windows side by side, [B * L]; None where nothing is padded.
        starts: int64 [B], a window's first token.
        longest: L.
        runs: (n, length): so many windows of that length follow one another; together, all B.
        by_runs: Whether attention takes the windows run by run, or all of them padded.
    """

    user_ids: torch.Tensor
    lengths: torch.Tensor
    pin_vectors: torch.Tensor
    action: torch.Tensor
    surface: torch.Tensor
    timestamp_ms: torch.Tensor
    since_latest_ms: torch.Tensor
    gap_ms: torch.Tensor
    duration_s: torch.Tensor
    age: torch.Tensor
    place: torch.Tensor | None
    starts: torch.Tensor
    longest: int
    runs: tuple[tuple[int, int], ...]
    by_runs: bool

    def to(self, device: str | torch.device) -> "PackedWindows":
        """The same windows on a device."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in named.items() if isinstance(value, torch.Tensor)
        }
        return dataclasses.replace(self, **moved, by_runs=torch.device(device).type == "cpu")

    def side_by_side(self, values: torch.Tensor) -> torch.Tensor:
        """[T, W] -> [B, L, W]; zeros after a window's newest token."""
        if self.place is not None:
            padded = values.new_zeros(len(self.lengths) * self.longest, values.shape[1])
            values = padded.index_copy_(0, self.place, values)
        return values.view(len(self.lengths), self.longest, -1)

    def packed(self, values: torch.Tensor) -> torch.Tensor:
        """[B, L, W] -> [T, W]: what `side_by_side` came from."""
        values = values.reshape(len(self.lengths) * self.longest, -1)
        return values if self.place is None else take_once(values, self.place)

    def blocks(self, values: torch.Tensor) -> list[torch.Tensor]:
        """[T, W] -> [n, length, W] of every run, without a copy; or [B, L, W] alone."""
        if not self.by_runs:
            return [self.side_by_side(values)]
        pieces = values.split([n * length for n, length in self.runs])
        return [piece.view(n, length, -1) for piece, (n, length) in zip(pieces, self.runs, strict=True)]

    def joined(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        """[T, W] of what `blocks` made of it."""
        if not self.by_runs:
            return self.packed(blocks[0])
        return torch.cat([block.flatten(0, 1) for block in blocks])

    def absent(self) -> torch.Tensor | None:
        """bool [B, 1, L]: where `blocks` are padded; None where they are not."""
        if self.by_runs or self.place is None:
            return None
        return (torch.arange(self.longest, device=self.lengths.device) >= self.lengths[:, None])[:, None]


def pack_windows(
    timelines: Timelines, vectors: np.ndarray, rows: np.ndarray, stops: np.ndarray, max_sequence_length: int
) -> PackedWindows:
    """The newest M events before given places of timelines.

    Args:
        vectors: float16 or float32 [P, D], the matrix of pin vectors.
        rows: int64 [B], row numbers of users; may repeat.
        stops: int64 [B], place after the newest event to take; at least one event must stand before it.
        max_sequence_length: M.
    """
    lengths = np.minimum(stops - timelines.offsets[rows], max_sequence_length)
    event = ranges(stops - lengths, lengths)  # [T]
    return _pack(timelines, vectors[timelines.pin_row[event]], event, lengths, timelines.user_ids[rows])


def pack_sequences(sequences: Sequences, rows: np.ndarray) -> PackedWindows:
    """The sequences of some users, each turned round.

    Args:
        rows: int64 [B], row numbers of users; those of equal lengths side by side are the fastest.
    """
    lengths, starts = sequences.lengths[rows], sequences.offsets[rows]
    token = np.repeat(2 * starts + lengths - 1, lengths) - ranges(starts, lengths)  # [T]
    return _pack(sequences, sequences.pin_vectors[token], token, lengths, sequences.user_ids[rows])


def _pack(
    columns: Timelines | Sequences, pin_vectors: np.ndarray, token: np.ndarray, lengths: np.ndarray, users: np.ndarray
) -> PackedWindows:
    """Windows of `lengths` tokens, one after the other; `token` [T] says where in the columns each stands."""
    stops, longest = np.cumsum(lengths), int(lengths.max())
    starts = stops - lengths
    time = columns.timestamp_ms[token]
    gap = np.diff(time, prepend=0)
    gap[starts] = 0
    changes = np.flatnonzero(np.diff(lengths)) + 1
    edges = np.concatenate([[0], changes, [len(lengths)]])
    padded = len(changes) > 0
    place = ranges(np.arange(len(lengths)) * longest, lengths) if padded else None
    return PackedWindows(
        user_ids=torch.from_numpy(users),
        lengths=torch.from_numpy(lengths),
        pin_vectors=torch.from_numpy(pin_vectors).float(),
        **token_tensors(columns, token),
        since_latest_ms=torch.from_numpy(np.repeat(time[stops - 1], lengths) - time),
        gap_ms=torch.from_numpy(gap),
        age=torch.from_numpy(np.repeat(stops - 1, lengths) - np.arange(len(token))),
        place=None if place is None else torch.from_numpy(place),
        starts=torch.from_numpy(starts),
        longest=longest,
        runs=tuple(zip(np.diff(edges).tolist(), lengths[edges[:-1]].tolist(), strict=True)),
        by_runs=True,
    )


def take_once(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """`values[places]` of rows, none of them twice: [N, W], int64 [K] -> [K, W]."""
    return _TakeOnce.apply(values, places)


class _TakeOnce(torch.autograd.Function):
    """Its backward writes rows where `index_select`'s adds them one after the other: no row is there twice."""

    @staticmethod
    def forward(ctx, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.rows = len(values)
        return values.index_select(0, places)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (places,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, gradient.shape[1]).index_copy_(0, places, gradient), None
