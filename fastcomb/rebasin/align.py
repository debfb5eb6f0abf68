"""``align``: one call for every matching method."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from fastcomb import endpoints
from fastcomb.endpoints import Endpoint, Theta
from fastcomb.program import Program, example_inputs
from fastcomb.program.cache import captured
from fastcomb.rebasin.activations import ActivationMatching
from fastcomb.rebasin.alignment import Alignment
from fastcomb.rebasin.batches import in_batches
from fastcomb.rebasin.controls import Identity, Random
from fastcomb.rebasin.frank_wolfe import FrankWolfe, universe
from fastcomb.rebasin.method import Match, Method, Problem
from fastcomb.rebasin.sinkhorn import Sinkhorn
from fastcomb.rebasin.ste import StraightThrough
from fastcomb.rebasin.symmetries import symmetries
from fastcomb.rebasin.weights import WeightMatching
from fastcomb.state_dicts import restore, unwrapped

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        WeightMatching,
        ActivationMatching,
        StraightThrough,
        Sinkhorn,
        FrankWolfe,
        Random,
        Identity,
    )
}

#: Relative difference that reordered sums may cause in float64 (about 1e-13 in practice) stays far below.
_FUNCTION_TOLERANCE = 1e-8


def align(
    model_a: nn.Module,
    model_b: Theta,
    method: str | Method = "weights",
    *,
    data: Any = None,
    example: Tensor | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> Alignment:
    """Permute the hidden units of network B so that it matches network A; its function stays the same.

    The permutation groups are read off the captured Program of A.

    Args:
        model_a: the reference network.
        model_b: the network to permute: a module of the same architecture, its weights, or their path.
        method: "weights", "activations", "ste", "sinkhorn", "frank_wolfe", "random" or "identity", or a
            method with its options, such as ``WeightMatching(starts=3)``.
        data: for methods that need it: inputs [N, ...] or ``(x, y)``, a Dataset or a DataLoader of such.
        example: a sample input [N, ...]; taken from ``data``, or guessed from the first layers, if None.
        seed: of the method's random choices. The same seed gives the same result.
        progress: show progress bars; if None, when standard error is a terminal.
        **options: of the method, where it is given by name; for example ``starts=3``.

    Returns:
        An :class:`Alignment`; the arguments are unchanged.

    Raises:
        ValueError: unknown method or option, different architectures, NaN or infinite weights, no
            permutation symmetry, data missing, or no input shape could be guessed.
        TypeError: an argument of the wrong kind.
        CaptureError: the network could not be captured.
        RuntimeError: the permuted network does not compute the same function.
    """
    chosen = resolve(method, options)
    problem, b = _problem(chosen, model_a, model_b, data, example, seed, progress)
    return _finish(chosen, chosen.match(problem), problem, b, model_b)


def align_all(
    models: Sequence[Theta],
    *,
    example: Tensor | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> list[Alignment]:
    """Permute n networks jointly, through a universe, so that all pairs match (C²M³).

    The first network keeps its order; composing the maps between the networks around any cycle gives
    the identity (:mod:`fastcomb.rebasin.frank_wolfe`).

    Args:
        models: the networks; the first is a module, the others as ``model_b`` of :func:`align`.
        example, seed, progress: as in :func:`align`.
        **options: of :class:`FrankWolfe`.

    Returns:
        one :class:`Alignment` per network; ``objective`` is the sum over all pairs.

    Raises:
        as :func:`align`; ValueError for fewer than two networks.
    """
    if len(models) < 2:
        raise ValueError(f"{len(models)} networks given; at least two are needed")
    chosen = resolve("frank_wolfe", options)
    assert isinstance(chosen, FrankWolfe)
    first = models[0]
    pairs = [
        _problem(chosen, first, model, None, example, seed, progress, f"models[{i}]")
        for i, model in enumerate(models)
    ]
    matches = universe([problem for problem, _ in pairs], chosen)
    return [
        _finish(chosen, match, problem, b, model)
        for match, (problem, b), model in zip(matches, pairs, models, strict=True)
    ]


def resolve(method: str | Method, options: Mapping[str, Any]) -> Method:
    """The method by its name and options.

    Raises:
        ValueError: unknown name or option, or options beside a method that has its own.
    """
    if isinstance(method, Method):
        if options:
            raise ValueError(f"options {', '.join(options)} belong into {type(method).__name__}(...)")
        return method
    if method not in METHODS:
        raise ValueError(f"method={method!r} is none of {', '.join(map(repr, METHODS))}")
    kind = METHODS[method]
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            has = f"has {', '.join(sorted(known))}" if known else "has none"
            raise ValueError(f"method={method!r} has no option {name!r}; it {has}")
    return kind(**options)


def _problem(
    method: Method,
    model_a: Any,
    model_b: Theta,
    data: Any,
    example: Tensor | None,
    seed: int,
    progress: bool | None,
    label: str = "model_b",
) -> tuple[Problem, Endpoint]:
    """Check everything, and put together what a method needs."""
    if not isinstance(model_a, nn.Module):
        raise TypeError(f"model_a is a {type(model_a).__name__}; pass the reference network as a module")
    model_a = unwrapped(model_a)
    model_b = unwrapped(model_b) if isinstance(model_b, nn.Module) else model_b
    if method.needs_data and data is None:
        raise ValueError(f"method={method.name!r} compares the networks on inputs; pass data=")
    a = endpoints.read(model_a, model_a, "model_a")
    b = endpoints.read(model_b, None if isinstance(model_b, nn.Module) else model_a, label)
    endpoints.check_match(a, b, ("model_a", label))
    if example is not None and not (isinstance(example, Tensor) and len(example)):
        raise TypeError(
            "example is one tensor of at least one input [N, ...]; networks with several inputs "
            "cannot be aligned"
        )
    batches = None if data is None else in_batches(data)
    module = copy.deepcopy(model_a).cpu().eval()
    if example is None:
        example = batches[0][0][:2] if batches else example_inputs(module)[0]
    program = captured(module, example)
    if isinstance(model_b, nn.Module):
        _check_same(program, captured(copy.deepcopy(model_b).cpu().eval(), example), label)
    groups = symmetries(program)
    if not groups.groups:
        raise ValueError(f"the network has no permutation symmetry that could be used:\n{groups}")
    counted = frozenset(a.parameters)
    problem = Problem(
        module, program, example, groups, a.tensors(), b.tensors(), counted, batches, seed, progress
    )
    return problem, b


def _finish(method: Method, match: Match, problem: Problem, b: Endpoint, model_b: Theta) -> Alignment:
    groups = problem.symmetries
    before = b.tensors()
    state = groups.permute(before, match.permutations)
    _check_function(problem, before, state)
    model = copy.deepcopy(unwrapped(model_b) if isinstance(model_b, nn.Module) else problem.model)
    names = {name: b.aliases.get(name, name) for name in b.state}
    full = {name: state[first] for name, first in names.items() if first in state}
    restore(model, full, strict=False)
    options = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}  # type: ignore[arg-type]
    options["seed"] = problem.seed
    return Alignment(match.permutations, full, model, match.objective, groups, method.name, options)


def _check_same(one: Program, other: Program, label: str) -> None:
    """Raise ValueError where two Programs differ, naming the first difference."""
    if one is other:
        return
    for a, b in zip(one, other, strict=False):
        for what in ("op", "target", "module", "shape", "weights"):
            x, y = getattr(a, what), getattr(b, what)
            if x != y:
                raise ValueError(
                    f"model_a and {label} are different architectures: at {a.name!r} in module "
                    f"{a.module or 'itself'!r}, model_a has {what} {x} and {label} {y}"
                )
    if len(one) != len(other):
        raise ValueError(
            f"model_a and {label} are different architectures: {len(one)} operations against {len(other)}"
        )


def _check_function(problem: Problem, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Raise RuntimeError unless both states give the same outputs, in float64."""
    wide = copy.deepcopy(problem.model).double()
    (x,) = _widen({"x": problem.example[:1]}).values()
    inputs = [x]
    if x.is_floating_point():  # an example may be all zeros
        generator = torch.Generator().manual_seed(0)
        inputs.append(torch.randn(x.shape, generator=generator, dtype=torch.float64))

    def run(state: Mapping[str, Tensor]) -> list[Tensor]:
        outputs = [functional_call(wide, _widen(state), (x,)) for x in inputs]
        return [leaf.nan_to_num() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]

    with torch.no_grad():
        for expected, found in zip(run(before), run(after), strict=True):
            difference = float((expected - found).abs().max()) if expected.numel() else 0.0
            scale = float(expected.abs().max()) if expected.numel() else 1.0
            if not difference <= _FUNCTION_TOLERANCE * max(scale, 1e-30):
                raise RuntimeError(
                    f"the permuted network's output differs by {difference:.3g} (outputs reach {scale:.3g}), "
                    "so a symmetry was misread and nothing is returned; please report the network"
                )


def _widen(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
