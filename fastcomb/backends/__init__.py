"""Ways to run combinations: the compiled engine on CPUs, Triton on GPUs, the torch reference for the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from fastcomb.backends import layers
from fastcomb.backends.base import Backend, Score, Scores, Unsupported
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.gpu import Fused, Triton
from fastcomb.backends.native import Native
from fastcomb.backends.torch_reference import TorchReference
from fastcomb.kernels import triton
from fastcomb.mixing import Mixture
from fastcomb.utils.inputs import Samples
from fastcomb.utils.notice import notify

__all__ = [
    "NAMES",
    "Backend",
    "Score",
    "Scores",
    "check_name",
    "layers",
    "say_reference",
    "start",
]

#: "auto" is the fastest that can run the job.
NAMES = ("auto", Native.name, Triton.name, Fused.name, TorchReference.name)


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` is a backend's."""
    if name not in NAMES:
        raise ValueError(f"backend={name!r} is none of {', '.join(map(repr, NAMES))}")


class Started(NamedTuple):
    """A backend ready for a data set.

    Attributes:
        backend: what runs.
        output: the model's output on the first few samples for one combination.
        chunk: samples to hand over at a time.
        coupled: whether samples influence one another, so that they have to be handed over all together.
    """

    backend: Backend
    output: Any
    chunk: int
    coupled: bool


def start(
    name: str,
    mixture: Mixture,
    model: nn.Module,
    *,
    dtype: torch.dtype,
    normalisation: Normalisation,
    x: Samples,
    samples: int,
    in_memory: bool,
) -> Started:
    """A backend ready for a data set.

    Args:
        name: one of :data:`NAMES`. With "auto" the reference runs what no engine can, with a notice.
        mixture, model, dtype, normalisation: what to run.
        x: the first few samples of the data.
        samples: how many there are.
        in_memory: whether they are in memory and stay as they are.

    Raises:
        ValueError: the backend asked for cannot run this.
    """
    reason = ""
    for kind in _candidates(name, mixture.device, dtype):
        try:
            backend = kind(mixture, model, x, dtype=dtype, normalisation=normalisation)
            output = backend.check(model, x)
            return Started(backend, output, backend.plan(samples, in_memory=in_memory), False)
        except Unsupported as error:
            reason = str(error)
    if name == "auto" and mixture.device.type == "cpu" and dtype not in Native.dtypes:
        reason = f"the dtype {str(dtype).removeprefix('torch.')}"
    reference = TorchReference(mixture, model, dtype=dtype, normalisation=normalisation)
    output, chunk, coupled = reference.plan(x, samples)  # a fault of the module itself comes first
    if name not in ("auto", TorchReference.name):
        raise ValueError(
            f'backend={name!r} cannot run {reason or "this here"}; backend="auto" takes another where that '
            "is needed"
        )
    say_reference(model, reason)
    return Started(reference, output, chunk, coupled)


def _candidates(name: str, device: torch.device, dtype: torch.dtype) -> list[type[Native] | type[Triton]]:
    """The compiled backends to try, the fastest first; none for the reference."""
    if name != "auto":
        return [kind for kind in (Native, Triton, Fused) if kind.name == name]
    if device.type == "cpu":
        return [Native] if dtype in Native.dtypes else []
    return [Fused, Triton] if triton.serves(device) and dtype in triton.DTYPES else []


def say_reference(model: nn.Module, reason: str) -> None:
    """Notice that a module runs on the reference because the kernels cannot run something; nothing for ""."""
    if reason:
        notify(
            f"{type(model).__name__} runs on the torch reference backend, several times slower: the compiled "
            f"kernels cannot run {reason}"
        )
