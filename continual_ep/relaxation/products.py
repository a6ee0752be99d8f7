r"""Products of states and weights, in full or in fewer bits.

The operands are rounded, the sums are float32, and so are the states: what a tensor core does. The CPU
does the same sums on operands rounded in software, so that the effect on a gradient can be seen anywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError


class Multiplication(NamedTuple):
    """How to multiply.

    :param operand: makes a weight ready, once a phase.
    :param mm: ``(state, weight, out=)``.
    :param addmm: ``(total, state, weight, alpha=, out=)``.
    """

    operand: Callable[[Tensor], Tensor]
    mm: Callable[..., Tensor]
    addmm: Callable[..., Tensor]


def rounded(values: Tensor, products: str) -> Tensor:
    """``values`` to the nearest number of so many bits, as float32."""
    if products == "bfloat16":
        return values.bfloat16().float()
    if products == "tf32":
        # Half of the last kept bit, then the other 13 bits go.
        return (values.view(torch.int32) + 0x1000).bitwise_and_(~0x1FFF).view(torch.float32)
    return values


def multiplication(products: str, like: Tensor, *, stacked: bool = False) -> Multiplication:
    """How ``products`` of tensors like this one are formed.

    :param stacked: matrices come in stacks, one for each member of an ensemble.
    :raises ConfigurationError: fewer bits for a network that is not float32.
    """
    mm, addmm = (torch.bmm, torch.baddbmm) if stacked else (torch.mm, torch.addmm)
    if products == "float32":
        return Multiplication(_as_it_is, mm, addmm)
    _need_float32(products, like)
    if like.is_cuda and products == "tf32":
        return Multiplication(_as_it_is, mm, addmm)  # see tensor_cores
    if like.is_cuda:  # bfloat16 operands, float32 sums

        def product(state: Tensor, weight: Tensor) -> Tensor:
            return mm(state.bfloat16(), weight, out_dtype=torch.float32)

        return Multiplication(lambda weight: weight.bfloat16(), *_from_product(product))

    def rounded_product(state: Tensor, weight: Tensor) -> Tensor:
        return mm(rounded(state, products), weight)

    return Multiplication(lambda weight: rounded(weight, products), *_from_product(rounded_product))


def _from_product(
    product: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """``mm`` and ``addmm`` that write into ``out``, as torch's do."""

    def into(values: Tensor, out: Tensor | None) -> Tensor:
        return values if out is None else out.copy_(values)

    def multiply(state: Tensor, weight: Tensor, *, out: Tensor | None = None) -> Tensor:
        return into(product(state, weight), out)

    def multiply_and_add(
        total: Tensor,
        state: Tensor,
        weight: Tensor,
        *,
        alpha: float = 1.0,
        out: Tensor | None = None,
    ) -> Tensor:
        return into(torch.add(total, product(state, weight), alpha=alpha), out)

    return multiply, multiply_and_add


def operands(products: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors rounded for products that are formed elsewhere, such as convolutions.

    :raises ConfigurationError: tensors that are not float32.
    """
    if products == "float32":
        return list(tensors)
    _need_float32(products, tensors[0])
    if tensors[0].is_cuda and products == "tf32":
        return list(tensors)
    return [rounded(tensor, products) for tensor in tensors]


def _need_float32(products: str, like: Tensor) -> None:
    if like.dtype != torch.float32:
        raise ConfigurationError(
            f"products={products!r} rounds float32, but the network is {like.dtype}: use network.float()"
        )


def _as_it_is(weight: Tensor) -> Tensor:
    return weight


@contextmanager
def tensor_cores(products: str, device: torch.device) -> Iterator[None]:
    """The bits of float32 products inside, on CUDA, where they are a setting of the process only.

    In full unless fewer are asked for: torch lets convolutions drop bits by default. TF32 also forms products
    of operands that were rounded to bfloat16, without further rounding.
    """
    if device.type != "cuda":
        yield
        return
    switches, full, few = _switches()
    before = [getattr(owner, name) for owner, name in switches]
    try:
        for owner, name in switches:
            setattr(owner, name, full if products == "float32" else few)
        yield
    finally:
        for (owner, name), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def _switches() -> tuple[list[tuple[Any, str]], Any, Any]:
    """Where torch keeps the setting, and its values for all bits and for TF32."""
    matmul, convolutions = torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", None)
    if convolutions is None:  # torch before 2.9
        return [(matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")], False, True
    return [(matmul, "fp32_precision"), (convolutions, "fp32_precision")], "ieee", "tf32"
