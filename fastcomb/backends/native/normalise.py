"""Normalisation: statistics given, recomputed, or of the sample itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.instructions import Instruction, Norm, Op, Place, at
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Buffer, Space, Value, loops
from fastcomb.program import Node


@rule("batch_norm")
def _batch_norm(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    x = low.value(arguments["input"])
    flat = x.meta.ndim == 2
    if not flat:
        x = low.as_images(x, node.name)
    elif x.strides[1] != 1:
        x = low.dense(x, node.name)
    if low.goal.kind == "collect":
        scale, shift = _collected(low, node, x)
    else:
        scale, shift = folded(low, node, None)
    epilogue = low.epilogue(node, norms=())
    residual = low.residual(epilogue)
    out = low.make(x.shape, epilogue.last.name, image=not flat)
    views = [v.meta.permute(_channels_last(v)) for v in (x, residual or x, out)]
    nest = loops(views[0].shape, *(v.stride() for v in views), keep_last=True)
    xs, ys, os = nest.strides
    low.emit(
        Op.AFFINE, low.dtype, [x, residual, out, (scale, 0), (shift, 0)],
        [epilogue.activation == "relu", *nest.size, *xs, *ys, *os],
    )  # fmt: skip
    return low.took(epilogue, out)


def folded(low: Lowering, node: Node, bias: Any) -> tuple[Buffer, Buffer]:
    """Scale and shift per channel of a batch norm in eval mode, after a bias."""
    arguments = node.arguments
    mean = arguments["running_mean"]
    if arguments["training"] or mean is None:
        raise Unsupported("batch_norm with the statistics of the batch")
    channels = low.program.shapes[mean.name][0]
    scale, new = low.weights.derived(("scale", node.name), channels)
    shift, _ = low.weights.derived(("shift", node.name), channels)
    if new:
        if mean.name in low.shared.statistics:
            start = low.shared.statistics[mean.name]
            record = Buffer(2 * channels, torch.float32, Space.STATISTICS, 4 * start)
            places: list[Place] = [(record, 0), (record, channels)]
        else:
            places = []
            for key in ("running_mean", "running_var"):
                name = arguments[key].name
                values = low.shared.fixed[name].float()
                places.append((low.shared.constants.add(("fixed", name), values), 0))
        gamma, beta = low.vector(arguments["weight"]), low.vector(arguments["bias"])
        low.shared.setup.append(
            Instruction(
                Op.FOLD,
                0,
                [at(gamma), at(beta), *places, at(low.vector(bias)), (scale, 0), (shift, 0)],
                [channels],
                [arguments["eps"]],
            )
        )
    return scale, shift


def _collected(low: Lowering, node: Node, x: Value) -> tuple[Buffer, Buffer]:
    arguments = node.arguments
    mean = arguments["running_mean"]
    if arguments["training"] or mean is None or mean.name not in low.shared.statistics:
        raise Unsupported("batch_norm with the statistics of the batch")
    channels = x.shape[1]
    view = x.meta.permute(_channels_last(x))
    nest = loops(view.shape, view.stride(), keep_last=True)
    low.emit(Op.MOMENTS, low.dtype, [x], [0, *nest.size, *nest.strides[0], *[0] * 12])
    low.ends.append(len(low.code))
    scale, _ = low.weights.derived(("collected scale", node.name), channels)
    shift, _ = low.weights.derived(("collected shift", node.name), channels)
    low.norms.append(
        Norm(
            channels,
            x.meta.numel() // channels // low.samples,
            low.shared.statistics[mean.name],
            arguments["eps"],
            low.vector(arguments["weight"]),
            low.vector(arguments["bias"]),
            scale,
            shift,
        )
    )
    return scale, shift


@rule("layer_norm")
def _layer_norm(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    x = low.dense(low.value(arguments["input"]), node.name)
    width = torch.Size(arguments["normalized_shape"]).numel()
    out = low.make(x.shape, node.name)
    gamma, beta = low.vector(arguments["weight"]), low.vector(arguments["bias"])
    low.emit(
        Op.LAYER_NORM, low.dtype, [x, out, at(gamma), at(beta)], [x.meta.numel() // width, width, 0],
        [arguments["eps"]],
    )  # fmt: skip
    return out


@rule("group_norm")
def _group_norm(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    x = low.as_images(low.value(arguments["input"]), node.name)
    out = low.make(x.shape, node.name, image=True)
    gamma, beta = low.vector(arguments["weight"]), low.vector(arguments["bias"])
    n, c, h, w = x.shape
    steps = [v.strides[d] for v in (x, out) for d in (0, 2, 3)]
    low.emit(
        Op.GROUP_NORM, low.dtype, [x, out, at(gamma), at(beta)],
        [n, c, arguments["num_groups"], h, w, *steps], [arguments["eps"]],
    )  # fmt: skip
    return out


def _channels_last(value: Value) -> tuple[int, ...]:
    return (0, 1) if value.meta.ndim == 2 else (0, 2, 3, 1)
