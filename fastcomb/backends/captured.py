"""What backends that run a captured Program share: capturing it, and comparing it with its module."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fastcomb.backends.base import Unsupported
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.places import places
from fastcomb.backends.torch_reference import TorchReference
from fastcomb.mixing import Mixture
from fastcomb.mixing.endpoints import is_running_statistic
from fastcomb.program import CaptureError, Program, Value, dependence
from fastcomb.program.cache import captured
from fastcomb.program.constants import folded_constants
from fastcomb.program.prologue import Undivided, divided
from fastcomb.utils.inputs import Samples, ready

#: Samples that a backend is compared with the module on, and how many of them the second time.
CHECKED, _FEWER = 6, 2
#: How often the rounding that the module itself shows a backend may differ by, and what it always may, of
#: a sample's output: a few roundings of float32 in sums of another order.
_ROUNDINGS, _LEAST = 16, 32 * torch.finfo(torch.float32).eps
#: How far recomputed statistics may be off: means of their standard deviation, variances of themselves.
_STATISTICS = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05}

_ELSE = "a model whose forward computes something else than its captured program"


class Runner(Protocol):
    """A backend that runs a Program."""

    mixture: Mixture
    dtype: torch.dtype
    normalisation: Normalisation

    def prepare(self, index: Tensor) -> Any:
        """What is computed once for a block of combinations (int64 [K]) before any sample."""

    def outputs(self, prepared: Any, x: Samples) -> Tensor:
        """The model's outputs float32 [K, S, ...] on samples x [S, ...]."""

    def recomputed(self, prepared: Any) -> dict[str, Tensor]:
        """Recomputed running statistics [K, C] by name; none where the model's are fixed."""


class Divided(NamedTuple):
    """A network in two parts, of which the first is the same for all combinations.

    Attributes:
        before: what depends on inputs and buffers alone; it returns a list of tensors [S, ...].
        rest: the network from those to the result [S, ...].
    """

    before: Program
    rest: Program


def divided_of(
    model: nn.Module,
    mixture: Mixture,
    x: Samples,
    buffers: Mapping[str, Tensor],
    normalisation: Normalisation,
) -> Divided:
    """The module's Program with what is known of its buffers worked out, in two parts.

    Raises:
        Unsupported: there is none in which every sample is by itself.
        ValueError: the mixture's parameters are not the model's.
    """
    program = _captured(model, mixture, x)
    if normalisation.batches:
        record(program)
    mixed = {w.name for node in program if node.op == "batch_norm" for w in node.weights}
    program = folded_constants(program, {n: b for n, b in buffers.items() if n not in mixed})
    try:
        before, rest = divided(program)
    except Undivided as error:
        raise Unsupported(str(error)) from None
    first = dependence(before)
    if first.meeting:
        raise Unsupported(f"{first.reason} before any weight is used")
    if reason := dependence(rest).reason:
        raise Unsupported(reason)
    return Divided(before, rest)


def program_of(model: nn.Module, mixture: Mixture, x: Tensor) -> Program:
    """The module's Program: of known operations and mixed parameters only, and every sample by itself.

    Raises:
        Unsupported: there is none.
        ValueError: the mixture's parameters are not the model's.
    """
    program = _captured(model, mixture, x)
    reason, unproven, _ = dependence(program)
    names = dict.fromkeys(n.label for n in program if not n.known or n.name in unproven)
    if names:
        raise Unsupported(f"the operation{'s' if len(names) > 1 else ''} {', '.join(names)}")
    if len(program.inputs) != 1:
        raise Unsupported("several inputs")
    if reason:
        raise Unsupported(reason)
    return program


def _captured(model: nn.Module, mixture: Mixture, x: Samples) -> Program:
    """The module's Program, of mixed parameters only.

    Raises:
        Unsupported: there is none, or its result is not one tensor.
        ValueError: the mixture's parameters are not the model's.
    """
    if any(module.training for module in model.modules()):
        raise Unsupported("a model in training mode")
    places(mixture, model)
    if not mixture.uniform:
        raise Unsupported("parameters of several dtypes")
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    kind = kinds.pop() if len(kinds) == 1 else torch.float32
    try:
        program = captured(model, ready(x, dtype=kind))
    except CaptureError as error:
        raise Unsupported(f"what torch.export cannot capture ({error})") from None
    for node in program:
        for weight in node.weights:
            if weight.kind == "parameter" and weight.name not in mixture.names:
                raise Unsupported(f"the parameter {weight.name!r}, which is not mixed under that name")
    if len(program.returned) != 1 or not isinstance(program.output, Value):
        raise Unsupported("a result that is not one tensor")
    result = next((node.dtype for node in program if node.name == program.returned[0]), "")
    if result and not getattr(torch, result).is_floating_point:
        raise Unsupported(f"a result of {result}")
    return program


def buffers_of(model: nn.Module, mixture: Mixture, normalisation: Normalisation) -> dict[str, Tensor]:
    """Buffers and running statistics that all combinations share, by all their names."""
    known: Mapping[str, Any] = mixture.a.carried | (normalisation.fixed or {})
    return {
        name: known.get(name, buffer).to(mixture.device)
        for name, buffer in model.named_buffers(remove_duplicate=False)
    }


def record(program: Program) -> tuple[dict[str, int], int]:
    """Where each running mean starts in a record of recomputed statistics, and the record's length.

    A mean's variance follows it.
    """
    starts: dict[str, int] = {}
    total = 0
    for node in program:
        if node.op != "batch_norm" and any(is_running_statistic(weight.name) for weight in node.weights):
            raise Unsupported("running statistics that are recomputed for other than batch norms")
        if node.op == "batch_norm" and node.arguments["running_mean"] is not None:
            name = node.arguments["running_mean"].name
            if name in starts:
                raise Unsupported("a batch norm that is used twice")
            starts[name] = total
            total += 2 * program.shapes[name][0]
    return starts, total


def recomputed(program: Program, places: dict[str, int], statistics: Tensor | None) -> dict[str, Tensor]:
    """Running statistics by name, [..., C] each, from a record [..., floats] laid out by :func:`record`."""
    running = {}
    if statistics is not None:
        for name, at in places.items():
            channels = program.shapes[name][0]
            running[name] = statistics[..., at : at + channels]
            running[name.removesuffix("mean") + "var"] = statistics[..., at + channels : at + 2 * channels]
    return running


def check(runner: Runner, model: nn.Module, x: Samples) -> Tensor:
    """Compare combinations 0 and 1 with the module itself on a few samples, together and fewer at a time.

    Sample by sample: what they may differ by is measured, as the difference that rounding makes to the
    module's own result (against the next finer dtype). A backend in half precision is compared in float32
    first, where a mistake cannot hide behind rounding. The module is also compared with itself on fewer
    samples, since of operations without a rule nobody knows whether they keep samples apart.

    Args:
        runner: the backend.
        model: the module.
        x: samples [S, ...].

    Returns:
        the module's output [S, ...] for combination 0.

    Raises:
        Unsupported: they differ.
    """
    if runner.dtype != torch.float32:
        arguments = {"dtype": torch.float32, "normalisation": runner.normalisation}
        finer = type(runner)(runner.mixture, model, x, **arguments)  # type: ignore[call-arg]
        check(finer, model, x)
    reference = TorchReference(runner.mixture, model, dtype=runner.dtype, normalisation=runner.normalisation)
    index = runner.mixture.index_tensor([0, 1])
    prepared = runner.prepare(index)
    statistics = runner.recomputed(prepared)
    some = x[:CHECKED]
    law = _Law(reference, index, statistics)
    expected = law.output(0, some)
    outputs = runner.outputs(prepared, some)
    if not isinstance(expected, Tensor) or expected.shape != outputs.shape[1:]:
        raise Unsupported("what this model returns")
    limit = _ROUNDINGS * law.rounding(some, expected) + _LEAST
    _compare(outputs[0], expected, limit)
    _compare(outputs[1], law.output(1, some), limit)
    fewer = some[-_FEWER:]
    own = functools.cache(lambda k, count: law.output(k, fewer[:count]))
    try:
        alone = own(0, 1)
    except Exception as error:
        raise Unsupported(f"a model that refuses single samples ({str(error).splitlines()[0]})") from error
    _compare(alone, expected[-_FEWER:][:1], limit, "samples that influence one another")
    _compare(own(0, len(fewer)), expected[-_FEWER:], limit, "samples that influence one another")
    for count in {len(fewer), 1} - {len(some)}:
        outputs = runner.outputs(prepared, fewer[:count])
        for k in (0, 1):
            _compare(outputs[k], own(k, count), limit)
    if statistics:
        _check_statistics(statistics, reference.prepare(index[:1]).statistics, _STATISTICS[runner.dtype])
    return expected if len(some) == len(x) else law.output(0, x)


class _Law:
    """The module itself, with running statistics that are given."""

    def __init__(self, reference: TorchReference, index: Tensor, statistics: Mapping[str, Tensor]) -> None:
        self._reference, self._index, self._statistics = reference, index, statistics

    def output(self, k: int, x: Samples, reference: TorchReference | None = None) -> Any:
        """Output of the k-th combination on samples x."""
        statistics = {name: value[k] for name, value in self._statistics.items()}
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            # not in TF32, which torch's convolutions may take
            return (reference or self._reference).output(self._index[k : k + 1], statistics, x)

    def rounding(self, x: Samples, output: Tensor) -> float:
        """What rounding makes of the first combination's output: a root mean square, of the output's."""
        finer = torch.float64 if self._reference.dtype == torch.float32 else torch.float32
        output = output.double()
        try:
            exact = self.output(0, x, self._reference.wider(finer)).double()
        except Exception:  # a module that insists on its own dtype
            return torch.finfo(self._reference.dtype).eps
        known = torch.isfinite(output) & torch.isfinite(exact)
        size = float(exact[known].norm())
        return float((output - exact)[known].norm()) / size if size else 0.0


def _compare(actual: Tensor, expected: Tensor, limit: float, fault: str = _ELSE) -> None:
    """Raise Unsupported where a sample's result [S, ...] is further off than ``limit`` of a sample's size."""
    one, other = (t.double().reshape(len(t), -1) for t in (actual, expected))
    finite = torch.isfinite(other)
    if actual.shape != expected.shape or not torch.equal(finite, torch.isfinite(one)):
        raise Unsupported(fault)
    difference = torch.where(finite, one - other, 0).norm(dim=1)
    sizes = torch.where(finite, other, 0).norm(dim=1)
    typical = sizes.square().mean().sqrt()
    if (difference > limit * torch.maximum(sizes, typical) + 1e-30).any():
        raise Unsupported(fault)


def _check_statistics(actual: Mapping[str, Tensor], law: Mapping[str, Tensor], limit: float) -> None:
    for name, value in actual.items():
        expected = law[name][0].double()
        variance = law[name.removesuffix("mean") + "var" if name.endswith("mean") else name][0].double()
        scale = variance.sqrt() if name.endswith("mean") else variance
        if ((value[0].double() - expected).abs() > limit * (scale + scale.mean()) + 1e-6).any():
            raise Unsupported("a batch norm whose statistics come out otherwise")
