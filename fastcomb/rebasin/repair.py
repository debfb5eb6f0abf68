"""REPAIR: give a network between two others activations that vary as much as theirs.

Jordan et al., "REPAIR: REnormalizing Permuted Activations for Interpolation Repair" (ICLR 2023,
arXiv 2211.08403). The hidden units of an interpolated network vary less than those of its endpoints, more
so with each layer. Each hidden linear layer or convolution is rescaled, unit by unit, so that its
pre-activations get the mean and standard deviation interpolated between the endpoints'. Layers that feed
a norm with running statistics get nothing (the norm would undo it); the statistics are collected anew:
of BatchNorm over the batch, of InstanceNorm the mean over samples, each the mean over all calls.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcomb.data.reading import in_batches
from fastcomb.mixing import endpoints
from fastcomb.mixing.endpoints import Theta
from fastcomb.program import Node, Program, Value, Weight, private_copy
from fastcomb.program.cache import captured
from fastcomb.program.choose import Output, choose
from fastcomb.utils.inputs import Samples, joined, leaves
from fastcomb.utils.state_dicts import unwrapped

_LAYERS = ("linear", "conv1d", "conv2d", "conv3d")
#: Norms that may have running statistics → the argument by which they use the input's own instead.
_NORMS = {"batch_norm": "training", "instance_norm": "use_input_stats"}


def repair(
    model: nn.Module, a: Theta, b: Theta, data: Any, *, t: float = 0.5, output: Output | None = None
) -> nn.Module:
    """A copy of an interpolated network with the activation statistics of its endpoints.

    Args:
        model: the interpolated network.
        a, b: the endpoints: modules of the same architecture, their weights, or paths.
        data: inputs (``(x, y)``, a dict, a Dataset or a DataLoader of such, as in :func:`fastcomb.evaluate`),
            typically some hundred training samples; held in memory.
        t: where between a (0) and b (1) the target statistics are taken.
        output: which tensor of what the networks return is meant; layers that only others need stay as they
            are. All of it if None.

    Returns:
        a new module; the arguments are unchanged.

    Raises:
        ValueError: the networks do not match, data is empty or a single sample, or there is no layer
            to repair.
        CaptureError: the network could not be captured.

    Example:
        >>> aligned = fc.rebasin.align(a, b).model
        >>> middle = fc.evaluate(a, aligned, fc.Constant(0.5), data=(x, y), n=1, progress=False).rebuild(0)
        >>> repaired = fc.rebasin.repair(middle, a, aligned, x)
        >>> spread = [each[0](x).std(0) for each in (a, aligned, repaired)]
        >>> torch.allclose(spread[2], (spread[0] + spread[1]) / 2, rtol=1e-3)
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; pass the interpolated network as a module")
    model = unwrapped(model)
    x = joined([x for x, _ in in_batches(data)])
    if len(x) < 2:
        raise ValueError("data is a single sample, which has no spread; pass some hundred")
    ends = [
        endpoints.read(end, None if isinstance(end, nn.Module) else model, label)
        for label, end in (("a", a), ("b", b))
    ]
    interpolated = endpoints.read(model, model, "model")
    for label, end in zip("ab", ends, strict=True):
        endpoints.check_match(interpolated, end, ("model", label))
    repaired = private_copy(model).cpu()
    program = captured(choose(private_copy(repaired).eval(), x[:2], output, default="tensors"), x[:2])
    layers = _repairable(program)
    norms = {node.name for node in program if _running(node)}
    if not layers and not norms:
        raise ValueError("no layer to repair: none has a bias, and no norm has running statistics")
    with torch.no_grad():
        at_a, at_b = (_statistics(program, end.tensors(), x, layers) for end in ends)
        targets = {
            name: (torch.lerp(at_a[name][0], at_b[name][0], t), torch.lerp(at_a[name][1], at_b[name][1], t))
            for name in layers
        }
        state = interpolated.tensors()
        _correct(program, state, x, targets, norms)
        for name, tensor in (*repaired.named_parameters(), *repaired.named_buffers()):
            tensor.copy_(state[name])
    return repaired.to(next(model.parameters()).device)


def _repairable(program: Program) -> set[str]:
    """Hidden layers with a bias, used once, whose result no norm over samples reads."""
    uses = Counter(weight.name for node in program for weight in node.weights)
    normed = {name for node in program if node.op == "batch_norm" or _running(node) for name in node.values}
    results = {leaf.name for leaf in tree_leaves(program.output) if isinstance(leaf, Value)}
    return {
        node.name
        for node in program
        if node.op in _LAYERS
        and node.name not in normed | results
        and isinstance(node.arguments["weight"], Weight)
        and isinstance(node.arguments["bias"], Weight)
        and all(uses[weight.name] == 1 for weight in node.weights)
    }


def _running(node: Node) -> bool:
    """Whether a node normalises with running statistics."""
    key = _NORMS.get(node.op)
    return key is not None and isinstance(node.arguments["running_mean"], Weight) and not node.arguments[key]


def _moments(value: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each unit along ``axis``, over everything else."""
    rows = value.movedim(axis, 0).flatten(1).double()
    return rows.mean(1), rows.std(1)


def _axis(node: Node) -> int:
    return -1 if node.op == "linear" else 1


def _statistics(
    program: Program, state: Mapping[str, Tensor], x: Samples, layers: set[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    values = program.values(state, *leaves(x))
    return {node.name: _moments(values[node.name], _axis(node)) for node in program if node.name in layers}


def _correct(
    program: Program,
    state: dict[str, Tensor],
    x: Samples,
    targets: Mapping[str, tuple[Tensor, Tensor]],
    norms: set[str],
) -> None:
    """Walk the network once, correcting each layer on what the corrected ones before it yield.

    Norms normalise by the input's own statistics, of which the unbiased variance is kept, as in training.
    """
    values: dict[str, Any] = dict(zip(program.inputs, leaves(x), strict=True))
    recorded: dict[str, list[Tensor]] = {}
    for node in program:
        if node.name in targets:
            _rescale(node, state, program.apply(node, state, values), *targets[node.name])
        if node.name in norms:
            statistics = _normalising(node, values[node.arguments["input"].name])
            for name, statistic in zip(("running_mean", "running_var"), statistics, strict=True):
                recorded.setdefault(node.arguments[name].name, []).append(statistic)
            changed = {"running_mean": None, "running_var": None, _NORMS[node.op]: True}
            node = dataclasses.replace(node, arguments={**node.arguments, **changed})
        values[node.name] = program.apply(node, state, values)
    for name, calls in recorded.items():
        state[name] = torch.stack(calls).mean(0).to(state[name].dtype)


def _normalising(node: Node, value: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance [channels] of a norm's input [N, channels, ...]."""
    if node.op == "batch_norm":
        rows = value.movedim(1, 0).flatten(1).double()
        return rows.mean(1), rows.var(1)
    rows = value.flatten(2).double()
    return rows.mean(2).mean(0), rows.var(2).mean(0)


def _rescale(
    node: Node, state: dict[str, Tensor], value: Tensor, target_mean: Tensor, target_spread: Tensor
) -> None:
    """Give a layer's units another mean and spread, through its weight and bias."""
    mean, spread = _moments(value, _axis(node))
    still = spread == 0  # a unit that never changes has no spread to rescale
    scale = torch.where(still, 1.0, target_spread / spread.masked_fill(still, 1.0))
    weight, bias = node.arguments["weight"].name, node.arguments["bias"].name
    shaped = scale.reshape(-1, *[1] * (state[weight].ndim - 1))
    state[weight] = (state[weight] * shaped).to(state[weight].dtype)
    state[bias] = ((state[bias] - mean) * scale + target_mean).to(state[bias].dtype)
