"""``align``: one call for every matching method."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from fastcomb import endpoints
from fastcomb.endpoints import Endpoint, Theta
from fastcomb.program import capture, example_inputs
from fastcomb.rebasin.symmetries import Symmetries, symmetries
from fastcomb.rebasin.weights import match_weights

Matching = Callable[
    [Symmetries, Mapping[str, Tensor], Mapping[str, Tensor], int], tuple[list[Tensor], list[float]]
]

METHODS: dict[str, Matching] = {"weights": match_weights}

#: Relative difference that reordered sums may cause in float64 (about 1e-13 in practice) stays far below.
_FUNCTION_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Alignment:
    """A network permuted to match another.

    Attributes:
        permutations: one int64 tensor per group of ``symmetries``: unit j of the aligned network is unit
            ``permutation[j]`` of the original.
        state_dict: the aligned network's, parameters and buffers.
        model: the aligned network as a module.
        objective: what the method maximises, before its first sweep and after each.
        symmetries: the groups, and what was pinned and why.
        method: name of the matching method.
    """

    permutations: list[Tensor]
    state_dict: dict[str, Tensor] = field(repr=False)
    model: nn.Module = field(repr=False)
    objective: list[float]
    symmetries: Symmetries = field(repr=False)
    method: str


def align(
    model_a: nn.Module,
    model_b: Theta,
    method: str = "weights",
    *,
    example: Tensor | None = None,
    seed: int = 0,
) -> Alignment:
    """Permute the hidden units of network B so that it matches network A; its function stays the same.

    The permutation groups are read off the captured Program of A.

    Args:
        model_a: the reference network.
        model_b: the network to permute: a module of the same architecture, its weights, or their path.
        method: "weights" (:mod:`fastcomb.rebasin.weights`).
        example: a sample input [N, ...]; guessed from the first layers if None.
        seed: of the method's random choices.

    Returns:
        An :class:`Alignment`; the arguments are unchanged.

    Raises:
        ValueError: unknown method, different parameters or shapes, NaN or infinite weights, no
            permutation symmetry, or no input shape could be guessed.
        CaptureError: the network could not be captured.
        RuntimeError: the permuted network does not compute the same function.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is none of {', '.join(map(repr, METHODS))}")
    if not isinstance(model_a, nn.Module):
        raise TypeError(f"model_a is a {type(model_a).__name__}; pass the reference network as a module")
    a = endpoints.read(model_a, model_a, "model_a")
    b = endpoints.read(model_b, model_a, "model_b")
    endpoints.check_match(a, b)
    inputs = example_inputs(copy.deepcopy(model_a).eval()) if example is None else (example,)
    program = capture(model_a, *inputs)
    groups = symmetries(program)
    if not groups.groups:
        raise ValueError(f"the network has no permutation symmetry that could be used:\n{groups}")
    permutations, objective = METHODS[method](groups, a.parameters, b.parameters, seed)
    state = groups.permute(_tensors(b), permutations)
    _check_function(model_a, _tensors(b), state, inputs)
    model = copy.deepcopy(model_b if isinstance(model_b, nn.Module) else model_a)
    names = {name: b.aliases.get(name, name) for name in b.state}
    full = {name: state[first] for name, first in names.items() if first in state}
    model.load_state_dict(full, strict=False)
    return Alignment(permutations, full, model, objective, groups, method)


def _tensors(endpoint: Endpoint) -> dict[str, Tensor]:
    carried = {name: value for name, value in endpoint.carried.items() if isinstance(value, Tensor)}
    return endpoint.parameters | carried


def _check_function(
    model: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor], inputs: tuple[Tensor, ...]
) -> None:
    """Raise RuntimeError unless both states give the same outputs, in float64."""
    wide = copy.deepcopy(model).double().eval()

    def run(state: Mapping[str, Tensor]) -> list[Tensor]:
        outputs = functional_call(wide, _widen(state), tuple(_widen({"x": x})["x"] for x in inputs))
        return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]

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
