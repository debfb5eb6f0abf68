"""Linear layers and convolutions of combinations: which kernels run them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastcomb.kernels.operands import Laws, Mixed
from fastcomb.kernels.triton.epilogue import Epilogue
from fastcomb.kernels.triton.generated_linear import MOST_SAMPLES, mixed_linear
from fastcomb.kernels.triton.implicit_gemm import Geometry, implicit_gemm
from fastcomb.kernels.triton.mix import mix


def generates(samples: int) -> bool:
    """Whether a linear layer on so many samples generates its weights itself, instead of reading them.

    Generating anew for every tile of samples costs more than writing the weights once and reading them, as
    soon as there are two tiles.
    """
    return samples <= MOST_SAMPLES


def linear_weights(index: Tensor, weight: Mixed, laws: Laws, dtype: torch.dtype) -> Tensor:
    """Weights [K, O, 1, 1, I] as :func:`contract` reads them."""
    return mix(index, weight, laws, dtype)[:, :, None, None]


def conv2d_weights(index: Tensor, weight: Mixed, laws: Laws, dtype: torch.dtype) -> Tensor:
    """Weights [K, O, kh, kw, I] as :func:`contract` reads them."""
    return mix(index, weight, laws, dtype, channels_last=True)


def vectors(index: Tensor, parameter: Mixed, laws: Laws, dtype: torch.dtype) -> Tensor:
    """Values [K, ...] of a bias or a norm's weight as float32, rounded to the compute dtype."""
    values: Tensor = mix(index, parameter, laws, dtype)
    return values.float()


def linear(
    x: Tensor,
    index: Tensor,
    weight: Mixed,
    bias: Mixed | None,
    laws: Laws,
    epilogue: Epilogue,
) -> Tensor:
    """``F.linear`` with the weights of each combination, by whichever kernel is the faster.

    Args:
        x: [S, I], or [K, S, I], each combination's; one of
            :data:`fastcomb.kernels.triton.DTYPES`.
        index: int64 [K].
        weight, bias: [O, I] and [O].
        laws: of the mixture.
        epilogue: what follows; its ``scale`` and ``shift`` come after the bias.

    Returns:
        [K, S, O].
    """
    if bias is not None:
        shift = vectors(index, bias, laws, x.dtype)
        if epilogue.scale is not None:
            shift = shift * epilogue.scale
        epilogue = epilogue._replace(shift=shift if epilogue.shift is None else shift + epilogue.shift)
    if generates(x.shape[-2]):
        output: Tensor = mixed_linear(x, index, weight, laws, epilogue)
        return output
    return ready_linear(x, linear_weights(index, weight, laws, x.dtype), epilogue)


def ready_linear(x: Tensor, weights: Tensor, epilogue: Epilogue) -> Tensor:
    """A linear layer by :func:`linear_weights`."""
    points = x.contiguous()[..., None, None, :]
    out: Tensor = implicit_gemm(points, weights, Geometry(), epilogue, own=x.ndim == 3)
    return out[:, :, 0, 0]


def conv2d(
    x: Tensor,
    index: Tensor,
    weight: Mixed,
    bias: Mixed | None,
    laws: Laws,
    geometry: Geometry,
) -> Tensor:
    """``F.conv2d`` of one group with the weights of each combination.

    Args:
        x: [S, I, H, W], or [K, S, I, H, W], each combination's; one of
            :data:`fastcomb.kernels.triton.DTYPES`.
        index: int64 [K].
        weight, bias: [O, I, kh, kw] and [O].
        laws: of the mixture.
        geometry: of the convolution.

    Returns:
        [K, S, O, H', W'], with the channels innermost in memory.
    """
    shift = None if bias is None else vectors(index, bias, laws, x.dtype)
    images = x.movedim(-3, -1).contiguous()
    weights = conv2d_weights(index, weight, laws, x.dtype)
    out: Tensor = implicit_gemm(images, weights, geometry, Epilogue(shift=shift), own=x.ndim == 5)
    return out.movedim(-1, -3)
