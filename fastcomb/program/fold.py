"""The same function with fewer operations: batch norms taken into the layers before them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.program.ir import Node, Program, Value, Weight

_LAYERS = ("linear", "conv1d", "conv2d", "conv3d")


def folded(program: Program, state: Mapping[str, Tensor]) -> tuple[Program, dict[str, Tensor]]:
    """Fold every batch norm with running statistics into the layer that it alone follows.

    Args:
        program: the network.
        state: its parameters and buffers by name.

    Returns:
        a Program of the same function up to rounding, and its weights: those of ``state`` and the scaled
        ones, under new names.
    """
    readers = Counter(value for node in program for value in node.values)
    readers.update(leaf.name for leaf in tree_leaves(program.output) if isinstance(leaf, Value))
    layers = {
        n.name: n
        for n in program
        if n.op in _LAYERS and channels_second(n) and readers[n.name] == 1 and _own(n, "weight", "bias")
    }
    norms = {
        node.arguments["input"].name: node
        for node in program
        if node.op == "batch_norm"
        and node.arguments["input"].name in layers
        and not node.arguments["training"]
        and _own(node, "weight", "bias", "running_mean", "running_var")
        and node.arguments["running_mean"] is not None
    }
    scaled: dict[str, Tensor] = {}
    nodes = []
    for node in program:
        if node.name in norms:
            norm = norms[node.name]
            weight, bias = _scaled(node, norm, state)
            names = [f"{node.name}.folded_{part}" for part in ("weight", "bias")]
            scaled |= dict(zip(names, (weight, bias), strict=True))
            weights = {
                part: Weight(name, "buffer") for part, name in zip(("weight", "bias"), names, strict=True)
            }
            nodes.append(dataclasses.replace(node, name=norm.name, arguments={**node.arguments, **weights}))
        elif node not in norms.values():
            nodes.append(node)
    shapes = {**program.shapes, **{name: tuple(t.shape) for name, t in scaled.items()}}
    return dataclasses.replace(program, nodes=tuple(nodes), shapes=shapes), {**state, **scaled}


def channels_second(layer: Node) -> bool:
    """Whether a layer's units lie along dimension 1 of its result, where a batch norm has its channels.

    A linear layer over [N, T, D] has its units along D, and a batch norm after it normalises T.
    """
    return layer.op != "linear" or len(layer.shape) == 2


def _own(node: Node, *names: str) -> bool:
    """Whether these arguments are parameters or buffers, or None."""
    weights = [node.arguments[name] for name in names]
    return all(w is None or (isinstance(w, Weight) and w.kind != "constant") for w in weights)


def _scaled(layer: Node, norm: Node, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer with the norm inside, worked out in float64."""

    def get(node: Node, name: str, missing: float) -> Tensor:
        weight = node.arguments[name]
        return torch.tensor(missing).double() if weight is None else state[weight.name].double()

    scale = get(norm, "weight", 1) * torch.rsqrt(get(norm, "running_var", 1) + norm.arguments["eps"])
    shift = get(norm, "bias", 0) + (get(layer, "bias", 0) - get(norm, "running_mean", 0)) * scale
    original = state[layer.arguments["weight"].name]
    wide = original.double() * scale.reshape(-1, *[1] * (original.ndim - 1))
    return wide.to(original.dtype), shift.to(original.dtype)
