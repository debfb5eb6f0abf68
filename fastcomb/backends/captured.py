"""What backends that run a captured Program share: capturing it, and comparing it with its module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from fastcomb.backends.base import Unsupported
from fastcomb.backends.torch_reference import TorchReference, check_fit
from fastcomb.program import CaptureError, Program
from fastcomb.program.cache import captured

if TYPE_CHECKING:
    from fastcomb.mixture import Mixture
    from fastcomb.normalisation import Normalisation

#: How far outputs may be from the module's, of their norm: rounding, in all layers together.
_LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


class Runner(Protocol):
    """A backend that runs a Program."""

    mixture: Mixture
    dtype: torch.dtype
    normalisation: Normalisation

    def prepare(self, index: Tensor) -> Any: ...

    def outputs(self, prepared: Any, x: Tensor) -> Tensor: ...

    def recomputed(self, prepared: Any) -> dict[str, Tensor]: ...


def program_of(model: nn.Module, mixture: Mixture, x: Tensor) -> Program:
    """The module's Program, of known operations and mixed parameters only.

    Raises:
        Unsupported: there is none.
        ValueError: the mixture's parameters are not the model's.
    """
    if any(module.training for module in model.modules()):
        raise Unsupported("a model in training mode")
    check_fit(mixture, model)
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    kind = kinds.pop() if len(kinds) == 1 else torch.float32
    try:
        program = captured(model, x.to(kind) if x.is_floating_point() else x)
    except CaptureError as error:
        raise Unsupported(f"what torch.export cannot capture ({error})") from None
    if program.unknown:
        names = dict.fromkeys(str(node.target) for node in program.unknown)
        raise Unsupported(f"the operation{'s' if len(names) > 1 else ''} {', '.join(names)}")
    for node in program:
        for weight in node.weights:
            if weight.kind == "parameter" and weight.name not in mixture.names:
                raise Unsupported(f"the parameter {weight.name!r}, which is not mixed under that name")
    return program


def record(program: Program) -> tuple[dict[str, int], int]:
    """Where each running mean starts in a record of recomputed statistics, and the record's length.

    A mean's variance follows it.
    """
    found: dict[str, int] = {}
    total = 0
    for node in program:
        if node.op == "batch_norm" and node.arguments["running_mean"] is not None:
            name = node.arguments["running_mean"].name
            if name in found:
                raise Unsupported("a batch norm that is used twice")
            found[name] = total
            total += 2 * program.shapes[name][0]
    return found, total


def recomputed(program: Program, places: dict[str, int], statistics: Tensor | None) -> dict[str, Tensor]:
    """Running statistics by name, [..., C] each, from a record [..., floats] laid out by :func:`record`."""
    found = {}
    if statistics is not None:
        for name, at in places.items():
            channels = program.shapes[name][0]
            found[name] = statistics[..., at : at + channels]
            found[name.removesuffix("mean") + "var"] = statistics[..., at + channels : at + 2 * channels]
    return found


def check(runner: Runner, model: nn.Module, x: Tensor) -> Tensor:
    """Compare combination 0 with the module itself on a few samples; the module's output [S, ...].

    Raises:
        Unsupported: they differ.
    """
    reference = TorchReference(runner.mixture, model, dtype=runner.dtype, normalisation=runner.normalisation)
    index = runner.mixture.index_tensor([0])
    prepared = runner.prepare(index)
    statistics = {name: value[0] for name, value in runner.recomputed(prepared).items()}
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        expected = reference.output(index, statistics, x)  # not in TF32, which torch's convolutions may take
    found = runner.outputs(prepared, x)[0]
    if not isinstance(expected, Tensor) or expected.shape != found.shape:
        raise Unsupported("what this model returns")
    wide = expected.float()
    limit = _LIMITS[runner.dtype]
    if torch.isfinite(wide).all() and (found - wide).norm() > limit * wide.norm() + 1e-6:
        raise Unsupported("a model whose forward computes something else than its captured program")
    return expected
