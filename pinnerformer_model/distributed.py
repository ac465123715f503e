"""Training on several devices: rows gathered with their gradients, gradients summed."""

import dataclasses

import torch
import torch.distributed as dist
from torch import nn


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes that train one model together; the default is one alone, which needs no `torch.distributed`.

    Attributes:
        rank: Of this process.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all ranks, one rank after the other: [K, ...] -> [size * K, ...]; K is the same everywhere.

        Every rank's loss flows back into every rank's rows.
        """
        return rows if self.size == 1 else _Gather.apply(rows, self)

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replaces every gradient by its sum over the ranks, in one message; missing ones count as zero."""
        if self.size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        # One message for all parameters: many small ones would each wait for the network.
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        start = 0
        for parameter in parameters:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a number over the ranks."""
        if self.size == 1:
            return value
        value = value.detach().clone()
        dist.all_reduce(value)
        return value


ALONE = Group()


class _Gather(torch.autograd.Function):
    """`all_gather` whose backward hands each rank the sum of all ranks' gradients of its rows."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.rank, ctx.rows = group.rank, len(rows)
        pieces = [torch.empty_like(rows) for _ in range(group.size)]
        dist.all_gather(pieces, rows.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)  # gloo has no reduce_scatter
        return gradient[ctx.rank * ctx.rows : (ctx.rank + 1) * ctx.rows], None
