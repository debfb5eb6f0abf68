"""``align``: one call for every matching method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastcomb.data.reading import as_samples, in_batches
from fastcomb.mixing import endpoints
from fastcomb.mixing.endpoints import Endpoint, Theta
from fastcomb.program import Program, example_inputs, private_copy
from fastcomb.program.cache import captured
from fastcomb.program.choose import Output, choose
from fastcomb.rebasin.activations import ActivationMatching
from fastcomb.rebasin.alignment import Alignment, loaded, noted
from fastcomb.rebasin.controls import Identity, Random
from fastcomb.rebasin.frank_wolfe import FrankWolfe, universe
from fastcomb.rebasin.method import Match, Method, Problem
from fastcomb.rebasin.sinkhorn import Sinkhorn
from fastcomb.rebasin.ste import StraightThrough
from fastcomb.rebasin.trials import Trials
from fastcomb.rebasin.verified import misread, verified
from fastcomb.rebasin.weights import WeightMatching
from fastcomb.utils.inputs import ready
from fastcomb.utils.registry import Registry

#: The methods that ``method=`` names.
METHODS = Registry(
    Method,  # type: ignore[type-abstract]
    (WeightMatching, ActivationMatching, StraightThrough, Sinkhorn, FrankWolfe, Random, Identity),
)


def align(
    model_a: Theta,
    model_b: Theta,
    method: str | Method = "weights",
    *,
    model: nn.Module | None = None,
    data: Any = None,
    example: Any = None,
    output: Output | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> Alignment:
    """Permute the hidden units of network B so that it matches network A; its function stays the same.

    The permutation groups are read off the captured Program of the network. Before matching, a random
    permutation of all groups is tried: it must leave B's function as it is on the example, random inputs,
    inputs of other sizes that the network takes, and in training mode where that is another function.

    Args:
        model_a: the reference network: a module, its weights, or their path.
        model_b: the network to permute, of the same architecture; given alike.
        method: "weights", "activations", "ste", "sinkhorn", "frank_wolfe", "random" or "identity", or a
            method with its options, such as ``WeightMatching(starts=3)``.
        model: a module of the architecture, where neither network is one; its weights do not matter.
        data: for methods that need it: inputs, ``(x, y)`` or a dict, as in :func:`fastcomb.evaluate`, a
            Dataset or a DataLoader of such.
        example: a few sample inputs: a tensor [N, ...], a tuple of positional arguments or a dict of named
            ones; taken from ``data``, or guessed from the first layers, if None.
        output: which tensor of what the networks return is meant, as in :func:`fastcomb.evaluate`. If None,
            all of it stays as it is, and methods that learn from a loss take the obvious one.
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

    Warns:
        BackendNotice: parameters that neither the example nor training mode reaches, so that nothing is
            known of the units that they may read.

    Example:
        >>> groups = fc.rebasin.symmetries(fc.capture(a))
        >>> shuffled = groups.permute(a.state_dict(), groups.random(seed=1))
        >>> alignment = fc.rebasin.align(a, shuffled, progress=False)
        >>> torch.equal(alignment.model[0].weight, a[0].weight)
        True
        >>> alignment.objective[-1] > alignment.objective[0]
        True
    """
    chosen = METHODS.resolve(method, options)
    structure = _structure(model, model_a, model_b)
    task = _task(chosen, structure, (model_a, model_b), data, example, output, seed, progress)
    return _finish(chosen, chosen.match(task.problem), task)


def align_all(
    models: Sequence[Theta],
    *,
    model: nn.Module | None = None,
    example: Any = None,
    output: Output | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> list[Alignment]:
    """Permute n networks jointly, through a universe, so that all pairs match (C²M³).

    The first network keeps its order; composing the maps between the networks around any cycle gives
    the identity (:mod:`fastcomb.rebasin.frank_wolfe`).

    Args:
        models: the networks: modules, their weights, or paths.
        model, example, output, seed, progress: as in :func:`align`.
        **options: of :class:`FrankWolfe`.

    Returns:
        one :class:`Alignment` per network; ``objective`` is the sum over all pairs.

    Raises:
        as :func:`align`; ValueError for fewer than two networks.

    Example:
        >>> b, c = (fc.rebasin.align(a, a, "random", seed=s).model for s in (1, 2))  # a's units shuffled
        >>> together = fc.rebasin.align_all([a, b, c], progress=False)
        >>> [torch.equal(each.model[0].weight, a[0].weight) for each in together]
        [True, True, True]
    """
    if isinstance(models, nn.Module):
        raise TypeError(f"models is one {type(models).__name__}; pass a list of networks")
    if len(models) < 2:
        raise ValueError(f"{len(models)} networks given; at least two are needed")
    chosen = METHODS.resolve("frank_wolfe", options)
    assert isinstance(chosen, FrankWolfe)
    structure = _structure(model, *models)
    tasks = [
        _task(
            chosen,
            structure,
            (models[0], other),
            None,
            example,
            output,
            seed,
            progress,
            ("models[0]", f"models[{i}]"),
        )
        for i, other in enumerate(models)
    ]
    matches = universe([task.problem for task in tasks], chosen)
    return [_finish(chosen, match, task) for match, task in zip(matches, tasks, strict=True)]


def _structure(model: nn.Module | None, *networks: Theta) -> nn.Module:
    structure = endpoints.structure(model, *networks)
    if structure is None:
        raise TypeError(
            "no network is given as a module; pass a module of the architecture as model= (its weights do "
            "not matter)"
        )
    return structure


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    """A problem, network B as it was given, and what B computes."""

    problem: Problem
    b: Endpoint
    module: nn.Module
    trials: Trials


def _task(
    method: Method,
    structure: nn.Module,
    networks: tuple[Theta, Theta],
    data: Any,
    example: Any,
    output: Output | None,
    seed: int,
    progress: bool | None,
    labels: tuple[str, str] = ("model_a", "model_b"),
) -> _Task:
    """Check everything, and put together what a method needs."""
    if method.needs_data and data is None:
        raise ValueError(f"method={method.name!r} compares the networks on inputs; pass data=")
    a, b = (
        endpoints.read(theta, None if isinstance(theta, nn.Module) else structure, label)
        for theta, label in zip(networks, labels, strict=True)
    )
    endpoints.check_match(a, b, labels)
    x = None if example is None else as_samples("example", example)
    if x is not None and not len(x):
        raise ValueError("example is empty; at least one sample is needed")
    batches = None if data is None else in_batches(data)
    if x is None:
        x = batches[0].x[:2] if batches else example_inputs(_idle(structure))[0]
    x = ready(x, torch.device("cpu"))
    module = choose(_idle(structure), x, output, default="tensors")
    program = captured(module, x)
    structure_label = next((labels[i] for i, theta in enumerate(networks) if theta is structure), "model")
    for theta, label in zip(networks, labels, strict=True):
        if isinstance(theta, nn.Module) and theta is not structure:
            other = choose(_idle(theta), x, output, default="tensors")
            _check_same(program, captured(other, x), (structure_label, label))
    state = b.tensors()
    groups, trials = verified(module, program, x, state)
    if trials is None:
        raise ValueError(f"the network has no permutation symmetry that could be used:\n{groups}")
    counted = frozenset(a.parameters)
    problem = Problem(module, program, x, groups, a.tensors(), state, counted, batches, seed, progress)
    return _Task(problem, b, networks[1] if isinstance(networks[1], nn.Module) else structure, trials)


def _idle(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the CPU."""
    return private_copy(model).cpu().eval()


def _finish(method: Method, match: Match, task: _Task) -> Alignment:
    """The alignment that a match stands for, after the permuted network was run beside the given one.

    Raises:
        RuntimeError: it computes something else.
    """
    problem, b = task.problem, task.b
    groups = problem.symmetries
    state = groups.permute(problem.b, match.permutations)
    failed = task.trials.failed(state, main=True)
    if failed is not None:
        raise RuntimeError(misread(failed[1]))
    first = {name: b.aliases.get(name, name) for name in b.state}
    options = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}  # type: ignore[arg-type]
    options["seed"] = problem.seed
    full = noted({name: state[one] for name, one in first.items() if one in state}, task.module)
    model = loaded(task.module, full, strict=False)
    return Alignment(match.permutations, full, model, match.objective, groups, method.name, options)


def _check_same(one: Program, other: Program, labels: tuple[str, str]) -> None:
    """Raise ValueError where two Programs differ, naming the first difference."""
    if one is other:
        return
    both = " and ".join(labels)
    for a, b in zip(one, other, strict=False):
        for what in ("op", "target", "module", "shape", "weights"):
            x, y = getattr(a, what), getattr(b, what)
            if x != y:
                raise ValueError(
                    f"{both} are different architectures: at {a.name!r} in module "
                    f"{a.module or 'itself'!r}, {labels[0]} has {what} {x} and {labels[1]} {y}"
                )
    if len(one) != len(other):
        raise ValueError(f"{both} are different architectures: {len(one)} operations against {len(other)}")
