"""The matrix products that the towers cannot do without, run bare: the floor that a benchmark compares with."""

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Product:
    """x [rows, inputs] times W' [inputs, outputs]; if asked, the gradients of W and of x as well."""

    rows: int
    inputs: int
    outputs: int
    weight_gradient: bool = False
    input_gradient: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs * (1 + self.weight_gradient + self.input_gradient)


class Floor:
    """Runs products one after the other, in memory that is made beforehand and read by all products of one shape."""

    def __init__(self, products: list[Product]):
        self._products = products
        rows: dict[tuple[int, int], int] = {}
        for p in products:
            rows[p.inputs, p.outputs] = max(p.rows, rows.get((p.inputs, p.outputs), 0))
        self._memory = {
            (i, o): tuple(torch.randn(*size) for size in ((n, i), (o, i), (n, o), (n, i), (o, i)))
            for (i, o), n in rows.items()
        }

    @property
    def flops(self) -> int:
        """Of all products."""
        return sum(p.flops for p in self._products)

    def __call__(self) -> None:
        for p in self._products:
            x, weight, y, x_gradient, weight_gradient = self._memory[p.inputs, p.outputs]
            torch.mm(x[: p.rows], weight.T, out=y[: p.rows])
            if p.weight_gradient:
                torch.mm(y[: p.rows].T, x[: p.rows], out=weight_gradient)
            if p.input_gradient:
                torch.mm(y[: p.rows], weight, out=x_gradient[: p.rows])
