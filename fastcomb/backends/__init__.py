"""Ways to run combinations: the compiled engine on CPUs, Triton on GPUs, the torch reference for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastcomb import triton
from fastcomb.backends import layers
from fastcomb.backends.base import Backend, Score, Scores, Unsupported
from fastcomb.backends.gpu import Fused, Triton
from fastcomb.backends.native import Native
from fastcomb.backends.torch_reference import TorchReference
from fastcomb.notice import notify

if TYPE_CHECKING:
    from fastcomb.mixture import Mixture
    from fastcomb.normalisation import Normalisation

__all__ = [
    "NAMES",
    "Backend",
    "Score",
    "Scores",
    "call",
    "check_name",
    "layers",
    "start",
]

#: "auto" is the fastest that can run the job.
NAMES = ("auto", Native.name, Triton.name, Fused.name, TorchReference.name)


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` is a backend's."""
    if name not in NAMES:
        raise ValueError(f"backend={name!r} is none of {', '.join(map(repr, NAMES))}")


def start(
    name: str,
    mixture: Mixture,
    model: nn.Module,
    *,
    dtype: torch.dtype,
    normalisation: Normalisation,
    x: Tensor,
    samples: int,
    held: bool,
) -> tuple[Backend, Any, int]:
    """A backend ready for a data set.

    Args:
        name: one of :data:`NAMES`. Where the engine cannot run a job the reference does, with a notice.
        mixture, model, dtype, normalisation: what to run.
        x: the first few samples of the data.
        samples: how many there are.
        held: whether they are in memory and stay as they are.

    Returns:
        the backend, the model's output on ``x`` for one combination, and the samples to hand over at a time.
    """
    reason = ""
    for kind in _candidates(name, mixture.device, dtype):
        try:
            backend = kind(mixture, model, x, dtype=dtype, normalisation=normalisation)
            return backend, backend.check(model, x), backend.plan(samples, held=held)
        except Unsupported as error:
            reason = str(error)
    reference = TorchReference(mixture, model, dtype=dtype, normalisation=normalisation)
    output, chunk = reference.plan(x, samples)  # a fault of the module itself comes first
    _notice(model, reason)
    return reference, output, chunk


def _candidates(name: str, device: torch.device, dtype: torch.dtype) -> list[type[Native] | type[Triton]]:
    """The compiled backends to try, the fastest first; none for the reference."""
    if name != "auto":
        return [kind for kind in (Native, Triton, Fused) if kind.name == name]
    if device.type == "cpu":
        return [Native] if dtype in Native.dtypes else []
    return [Fused, Triton] if triton.serves(device) and dtype in triton.DTYPES else []


def call(
    mixture: Mixture,
    model: nn.Module,
    index: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    normalisation: Normalisation,
) -> Any:
    """Outputs of combinations ``index`` [K]: the module's own, each tensor with a leading K.

    A module in eval mode on one CPU tensor runs on the compiled engine.
    """
    reason = ""
    if len(args) == 1 and not kwargs and _fits(mixture, model, args[0]):
        try:
            return _native(mixture, model, args[0], normalisation).call(index, args[0])
        except Unsupported as error:
            reason = str(error)
    reference = TorchReference(mixture, model, dtype=mixture.dtype, normalisation=normalisation)
    outputs = reference.call(index, args, kwargs)
    _notice(model, reason)
    return outputs


def _fits(mixture: Mixture, model: nn.Module, x: Any) -> bool:
    return (
        isinstance(x, Tensor)
        and x.ndim > 0
        and len(x) > 0
        and x.dtype in (mixture.dtype, torch.int64)
        and mixture.dtype in Native.dtypes
        and x.device.type == mixture.device.type == "cpu"
        and not any(module.training for module in model.modules())
    )


def _native(mixture: Mixture, model: nn.Module, x: Tensor, normalisation: Normalisation) -> Native:
    """An engine for calls on inputs like x; the mixture remembers its last one."""
    buffers = tuple((b.data_ptr(), b._version) for b in model.buffers())
    key = (model, x.shape[1:], x.dtype, normalisation.choice, buffers)
    if mixture.engine is None or mixture.engine[0] != key or normalisation.batches:
        engine = Native(mixture, model, x[:2], dtype=mixture.dtype, normalisation=normalisation)
        engine.check(model, x[:2])
        mixture.engine = (key, engine)
    found: Native = mixture.engine[1]
    return found


def _notice(model: nn.Module, reason: str) -> None:
    if reason:
        notify(
            f"{type(model).__name__} runs on the torch reference backend, several times slower: the compiled "
            f"kernels cannot run {reason}"
        )
