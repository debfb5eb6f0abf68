"""Virtual parameters: tensors that are generated when an operation first needs their values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from fastcomb.mixing import Mixture

# What the wrapper answers itself; any other use needs values.
_METADATA = {
    *(
        getattr(Tensor, name).__get__
        for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_leaf")
    ),
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.__len__,
    Tensor.is_floating_point,
    Tensor.is_complex,
}


class VirtualParameter(Tensor):
    """One parameter of combination ``index``, which may be batched by :func:`torch.func.vmap`.

    Shape, dtype and device are known at once. Linear layers and 2-d convolutions go to the operators that
    generate and multiply in one (:mod:`fastcomb.backends.layers`). Other convolutions are handed to an
    operator of our own, since vmap's rule for batched kernels (one grouped convolution) is several times
    slower on CPUs than the same convolutions one after another; everything else receives the generated
    values. Values that are known already are given.
    """

    _mixture: Mixture
    _name: str
    _index: Tensor
    _generated: Tensor | None

    @staticmethod
    def __new__(
        cls, mixture: Mixture, name: str, index: Tensor, dtype: torch.dtype, known: Tensor | None = None
    ) -> VirtualParameter:
        virtual: VirtualParameter = Tensor._make_wrapper_subclass(
            cls, mixture.shape(name), dtype=dtype, device=mixture.device
        )
        virtual._mixture, virtual._name, virtual._index = mixture, name, index
        virtual._generated = known
        return virtual

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def values(self) -> Tensor:
        """The parameter's values; generated once."""
        if self._generated is None:
            self._generated = self._mixture.parameter(self._name, self._index, self.dtype)
        return self._generated

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"VirtualParameter({self._name!r}, {tuple(self.shape)})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs or {})
        layer = _LAYERS.get(func)
        result = layer(*args, **kwargs or {}) if layer else None
        if result is not None:
            return result
        return _CONVOLUTIONS.get(func, func)(*_generate(args), **_generate(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*_generate(args), **_generate(kwargs or {}))


def _generate(tree: Any) -> Any:
    return tree_map(lambda t: t.values() if isinstance(t, VirtualParameter) else t, tree)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    zeros = [0] * len(stride)
    result: Tensor = torch.convolution(x, weight, bias, stride, padding, dilation, False, zeros, groups)
    return result


#: Convolution over 1, 2 or 3 dimensions, which vmap runs once per combination.
convolution = torch.library.custom_op("fastcomb::convolution", _convolution, mutates_args=())
convolution.register_fake(_convolution)


@convolution.register_vmap
def _convolution_vmap(info, in_dims, x, weight, bias, *rest):  # type: ignore[no-untyped-def]
    def at(value: Tensor | None, dim: int | None, k: int) -> Tensor | None:
        return value if value is None or dim is None else value.select(dim, k)

    values = (x, weight, bias)
    results = [
        convolution(*(at(v, d, k) for v, d in zip(values, in_dims, strict=False)), *rest)
        for k in range(info.batch_size)
    ]
    return torch.stack(results), 0


def _each(builtin: Any, spatial: int) -> Any:
    """A stand-in for ``F.conv{spatial}d`` that reaches :func:`convolution` where it can."""

    def listed(value: Any) -> list[int]:
        values = list(value) if isinstance(value, (tuple, list)) else [value]
        return values * spatial if len(values) == 1 else values

    def call(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or input.ndim != spatial + 2:  # "same", or a single sample
            result: Tensor = builtin(input, weight, bias, stride, padding, dilation, groups)
            return result
        result = convolution(input, weight, bias, listed(stride), listed(padding), listed(dilation), groups)
        return result

    return call


_CONVOLUTIONS = {
    F.conv1d: _each(F.conv1d, 1),
    F.conv2d: _each(F.conv2d, 2),
    F.conv3d: _each(F.conv3d, 3),
}


def _mixed(parts: tuple[Any, Any], rest: tuple[Any, ...]) -> list[Any] | None:
    """Arguments of a mixed layer after the input; None where its weight or bias is no virtual parameter."""
    weight, bias = parts
    fresh = isinstance(weight, VirtualParameter) and weight._generated is None
    if not fresh or not (bias is None or isinstance(bias, VirtualParameter)):
        return None
    mixture = weight._mixture
    values: list[Any] = [
        *mixture.values(weight._name),
        *(mixture.values(bias._name) if bias is not None else (None, None)),
    ]
    units = [mixture.units[v._name].numbers if v is not None else [0, 0, 0] for v in parts]
    return [weight._index, *values, *mixture.law_arguments, *units, False, *rest]


def _linear(input: Tensor, weight: Any, bias: Any = None) -> Tensor | None:
    """``F.linear`` by the operator that generates and multiplies in one; None where that cannot be."""
    if isinstance(input, VirtualParameter) or input.ndim < 2 or input.dtype != weight.dtype:
        return None
    arguments = _mixed((weight, bias), ())
    return None if arguments is None else torch.ops.fastcomb.mixed_linear(input, *arguments)


def _conv2d(
    input: Tensor,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """``F.conv2d`` by the operator that generates and multiplies in one; None where that cannot be."""
    if isinstance(input, VirtualParameter) or isinstance(padding, str) or input.ndim != 4:
        return None
    if input.dtype != weight.dtype:
        return None
    geometry = tuple(
        list(v) * (3 - len(v)) if isinstance(v, (tuple, list)) else [v, v]
        for v in (stride, padding, dilation)
    )
    arguments = _mixed((weight, bias), (*geometry, groups))
    return None if arguments is None else torch.ops.fastcomb.mixed_conv2d(input, *arguments)


_LAYERS = {F.linear: _linear, F.conv2d: _conv2d}
