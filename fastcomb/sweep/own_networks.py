"""The networks of a sweep themselves: does the law of combinations give what they compute?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.torch_reference import TorchReference
from fastcomb.mixing import Mixture
from fastcomb.mixing.endpoints import Theta
from fastcomb.program import private_copy
from fastcomb.program.choose import chosen, hooked
from fastcomb.utils.dtypes import dtype_name
from fastcomb.utils.inputs import Samples, call, mapped, structure
from fastcomb.utils.notice import notify
from fastcomb.utils.outputs import close, tensors

#: Samples that networks are looked at on.
CHECKED = 4
#: Reduced precision that changes results by more than this, of their size, is worth a notice.
_OVERFLOW = 0.1


def check(
    thetas: Mapping[str, Theta], mixture: Mixture, module: nn.Module, x: Samples, dtype: torch.dtype
) -> None:
    """Compare every network that was given as a module with the law at its own weights.

    All combinations run the code of one module. Where another network computes something else with the same
    weights (another activation, another scale among its attributes, values cached outside tensors), no
    combination would lead to it.

    Args:
        thetas: the networks as they were given, by label.
        mixture, module, dtype: what is to run.
        x: a few samples, where the mixture is and in its dtype.

    Raises:
        ValueError: a network is not what its weights make of the module, or its weights exceed the dtype.
    """
    if dtype == torch.float16:
        _check_range(mixture)
    law = TorchReference(mixture, module, dtype=mixture.dtype, normalisation=Normalisation())
    try:
        law.network(mixture.a.parameters, mixture.a.carried, x)
    except Exception as error:
        if not isinstance(x, Tensor):
            raise ValueError(
                f"{type(module).__name__} does not run on {structure(x)} ({_line(error)}); inputs are its "
                "arguments: by position from a tuple, by name from a dict"
            ) from error
        kind = dtype_name(x.dtype)
        if x.is_floating_point() and not mixture.uniform:
            raise ValueError(
                f"{type(module).__name__} has parameters of several dtypes, so x stays {kind}, on which it "
                f"does not run ({_line(error)}); pass x in the dtype that its forward takes"
            ) from error
        if x.is_floating_point() or x.dtype == torch.int64:
            raise
        raise ValueError(
            f"{type(module).__name__} does not run on x of {kind} ({_line(error)}); pass what it was trained "
            "on: images as floating-point numbers (often x.float() / 255), tokens as int64"
        ) from error
    for label, theta in thetas.items():
        if not isinstance(theta, nn.Module):
            continue
        network = mixture.networks[label]
        copied = hooked(private_copy(theta).to(mixture.device).eval(), chosen(module))
        with torch.no_grad():
            expected = tensors(call(copied, mapped(torch.clone, x)))
            outputs = tensors(law.network(network.parameters, network.carried, x))
            if _alike(outputs, expected, mixture.dtype):
                continue
            if not _alike(tensors(call(copied, mapped(torch.clone, x))), expected, mixture.dtype):
                continue  # it draws random numbers, which is said where it runs
        raise ValueError(
            f"{label} computes something else than {type(module).__name__} does with its weights: the "
            "modules differ in code or in attributes that are neither parameters nor buffers (an activation, "
            "a scale, values kept from an earlier call). Give both networks the same"
        )
    if dtype == torch.float16:
        _check_precision(mixture, module, x)


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _alike(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> bool:
    limit = 256 * torch.finfo(dtype).eps
    return len(actual) == len(expected) and all(
        close(a.double() if a.is_floating_point() else a, b.double() if b.is_floating_point() else b, limit)
        for a, b in zip(actual, expected, strict=True)
    )


def _check_range(mixture: Mixture) -> None:
    most = torch.finfo(torch.float16).max
    for label, network in mixture.networks.items():
        for name, value in network.parameters.items():
            if value.numel() and float(value.abs().max()) > most:
                raise ValueError(
                    f"{label}: {name!r} reaches {float(value.abs().max()):.3g}, beyond float16's "
                    f"{most:.5g}; choose "
                    "dtype=torch.bfloat16 or float32"
                )


def _check_precision(mixture: Mixture, module: nn.Module, x: Samples) -> None:
    """Say so where float16 gives the first network another result than float32, by overflow or otherwise."""
    network = mixture.a
    outputs = []
    for dtype in (torch.float16, torch.float32):
        law = TorchReference(mixture, module, dtype=dtype, normalisation=Normalisation())
        carried = {n: v for n, v in network.carried.items() if isinstance(v, Tensor)}
        outputs.append(tensors(law.network(network.parameters, carried, x)))
    for half, single in zip(*outputs, strict=True):
        if single.is_floating_point() and not close(half.float(), single.float(), _OVERFLOW):
            notify(
                f"in float16 {type(module).__name__} returns something else than in float32 (by more than "
                f"{_OVERFLOW:.0%} of its largest result); do values exceed 65504? dtype=torch.bfloat16 has "
                "float32's range"
            )
            return
