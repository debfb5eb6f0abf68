"""Normalisation: statistics given, recomputed, or of the sample itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.instructions import Norm
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Buffer, Operand, Space, Value, image_strides, loops
from fastcomb.program import Node


@rule("batch_norm")
def _batch_norm(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Scale and shift per channel, with an addition and a ReLU that follow.

    The statistics are those of the calibration batch while they are collected, else given ones.
    """
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
        "affine", low.dtype, x=x, y=residual, out=out, scale=scale, shift=shift,
        relu=epilogue.activation == "relu", size=nest.size, x_stride=xs, y_stride=ys, out_stride=os,
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
            operands: dict[str, Operand] = {"mean": (record, 0), "variance": (record, channels)}
        else:
            operands = {}
            for key, field in (("running_mean", "mean"), ("running_var", "variance")):
                name = arguments[key].name
                values = low.shared.fixed[name].float()
                operands[field] = (low.shared.constants.add(("fixed", name), values), 0)
        low.shared.setup.append(
            low.instruction(
                "fold_batch_norm",
                torch.float32,
                gamma=low.vector(arguments["weight"]),
                beta=low.vector(arguments["bias"]),
                bias=low.vector(bias),
                **operands,
                scale=scale,
                shift=shift,
                channels=channels,
                eps=arguments["eps"],
            )
        )
    return scale, shift


def _collected(low: Lowering, node: Node, x: Value) -> tuple[Buffer, Buffer]:
    """End a stage with the moments of a value; scale and shift that the engine makes of them for the next."""
    arguments = node.arguments
    mean = arguments["running_mean"]
    if arguments["training"] or mean is None or mean.name not in low.shared.statistics:
        raise Unsupported("batch_norm with the statistics of the batch")
    channels = x.shape[1]
    view = x.meta.permute(_channels_last(x))
    nest = loops(view.shape, view.stride(), keep_last=True)
    low.emit("moments", low.dtype, x=x, size=nest.size, x_stride=nest.strides[0])
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
        "layer_norm", low.dtype, x=x, out=out, scale=gamma, shift=beta, count=x.meta.numel() // width,
        width=width, eps=arguments["eps"],
    )  # fmt: skip
    return out


@rule("group_norm")
def _group_norm(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    x = low.as_images(low.value(arguments["input"]), node.name)
    out = low.make(x.shape, node.name, image=True)
    gamma, beta = low.vector(arguments["weight"]), low.vector(arguments["bias"])
    n, c, h, w = x.shape
    low.emit(
        "group_norm", low.dtype, x=x, out=out, scale=gamma, shift=beta, batch=n, channels=c,
        groups=arguments["num_groups"], pixels_h=h, pixels_w=w, **image_strides(x, out), eps=arguments["eps"],
    )  # fmt: skip
    return out


def _channels_last(value: Value) -> tuple[int, ...]:
    return (0, 1) if value.meta.ndim == 2 else (0, 2, 3, 1)
