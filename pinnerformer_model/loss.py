"""Sampled softmax with the log Q correction (paper, section 4)."""

import dataclasses

import torch
from torch import nn

from pinnerformer_model.count_min import CountMinSketch, ExactCounts
from pinnerformer_model.training_settings import LEAST_TEMPERATURE, check_temperature

TEMPERATURES = (0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.8)  # that a training may start from, unless told
ABSENT = -1e9  # the score of what is not in the pool: finite, so that an empty pool costs 0 and has gradients of 0


class Temperature(nn.Module):
    """tau, learned and never below 0.01.

    The logarithm of what it has above 0.01 is learned: a step changes that by a share of itself, and however near the
    floor it is, there is a gradient that leads back up. Ours: it starts at 0.05.

    Args:
        initial: Above 0.01.
    """

    def __init__(self, initial: float = 0.05):
        super().__init__()
        check_temperature(initial)
        self.log = nn.Parameter(torch.tensor(initial - LEAST_TEMPERATURE, dtype=torch.float64).log().float())

    def forward(self) -> torch.Tensor:
        """float32 []."""
        return LEAST_TEMPERATURE + self.log.exp()

    @torch.no_grad()
    def set(self, value: float) -> None:
        """Makes it a value, above 0.01."""
        self.log.copy_(torch.tensor(check_temperature(value) - LEAST_TEMPERATURE, dtype=torch.float64).log())


@dataclasses.dataclass(frozen=True)
class LogQ:
    """log Q of pins: how many copies of each a pool is expected to hold.

    A pin comes into the pool as somebody's label, as often as it has been one, or drawn from the corpus, each alike:
    Q(v) = in_batch_size count(v) / total + random_size / corpus_size. With random negatives alone Q is a constant,
    which the softmax does not see.

    Attributes:
        counts: Of labels so far, this step's included.
        in_batch_size, random_size: Of the pool.
        corpus_size: Pins there are.
    """

    counts: CountMinSketch | ExactCounts
    in_batch_size: int
    random_size: int
    corpus_size: int

    def __call__(self, pins: torch.Tensor, own: torch.Tensor | float = 0.0) -> torch.Tensor:
        """float32 [N].

        Args:
            pins: int64 [N].
            own: Copies expected because the user itself is in the batch: Q given the user; 0: of anybody.
        """
        share = self.counts.counts(pins).double() / self.counts.total.clamp(min=1)
        expected = self.in_batch_size * share + self.random_size / self.corpus_size + own
        return expected.log().float()


def pair_losses(
    queries: torch.Tensor,
    pins: torch.Tensor,
    temperature: torch.Tensor,
    *,
    pair_query: torch.Tensor,
    pair_pin: torch.Tensor,
    pair_bias: torch.Tensor,
    pool_bias: torch.Tensor,
    masked_query: torch.Tensor,
    masked_pin: torch.Tensor,
) -> torch.Tensor:
    """Of every pair, -log( e^{s(u,p) + b_p} / ( e^{s(u,p) + b_p} + sum_j e^{s(u,n_j) + b_j} ) ).

    s = <u, p> / temperature. The sum over negatives is one number per query, so pairs of one query share it; a pin that
    stands in the pool m times is scored once, with log m in its bias.

    Args:
        queries: float32 [Q, d], unit vectors.
        pins: float32 [N, d], unit vectors.
        temperature: float32 [].
        pair_query, pair_pin: int64 [P], rows of `queries` and `pins`.
        pair_bias: float32 [P], -log Q of the pair's label; 0 without the correction.
        pool_bias: float32 [N], log copies - log Q; `ABSENT` where there is no copy.
        masked_query, masked_pin: int64 [X], pairs that are no negatives.

    Returns:
        float32 [P]. A pair without any negative costs 0.
    """
    # One number per query, shared by its pairs: without that, dense all-action would hold P x N logits.
    negatives = _LogSumOfPool.apply(queries, pins / temperature, pool_bias, masked_query, masked_pin)  # [Q]
    positive = (queries[pair_query] * pins[pair_pin]).sum(-1) / temperature + pair_bias  # [P]
    # softplus(n - p) is -log(e^p / (e^p + e^n)), and stays finite where either exponential would not.
    return nn.functional.softplus(negatives[pair_query] - positive)


class _LogSumOfPool(torch.autograd.Function):
    """log sum_j e^{<u, p_j> + b_j} of every query over the pool, float32 [Q].

    By hand, since Q x N numbers are by far the most that a step holds: they are written once, and become their own
    gradient in place.
    """

    @staticmethod
    def forward(ctx, queries, pins, bias, masked_query, masked_pin):
        # The bias of the pool rides along in the one large product: Q x N logits are never copied to add it.
        logits = torch.addmm(bias, queries, pins.T)  # [Q, N]
        # After the product and not by leaving pins out: which pins are no negatives differs from query to query.
        logits.index_put_((masked_query, masked_pin), logits.new_tensor(ABSENT))
        found = torch.logsumexp(logits, dim=1)
        ctx.save_for_backward(queries, pins, found)
        ctx.logits = logits
        return found

    @staticmethod
    def backward(ctx, gradient):
        queries, pins, found = ctx.saved_tensors
        share = ctx.logits.sub_(found[:, None]).exp_().mul_(gradient[:, None])  # softmax; 0 where masked
        ctx.logits = None  # spent: a second backward would read what is no logit any more
        return share @ pins, share.T @ queries, None, None, None


def sampled_softmax(*arguments: torch.Tensor, pair_weight: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
    """float32 []: the sum over pairs of weight times loss.

    Args:
        pair_weight: float32 [P].
        arguments, named: As `pair_losses` takes them.
    """
    return (pair_weight * pair_losses(*arguments, **named)).sum()
