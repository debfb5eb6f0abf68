"""Normalisation: statistics given, recomputed, or of the sample itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastcomb.backends.base import Unsupported
from fastcomb.backends.epilogue import Epilogue
from fastcomb.backends.native.instructions import Norm
from fastcomb.backends.native.lower import Lowering, rule
from fastcomb.backends.native.memory import Buffer, Operand, Space, Value, image_strides, loops
from fastcomb.program import Node


@rule("batch_norm")
def _batch_norm(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Scale and shift per channel, with an addition and a ReLU that follow.

    The statistics are those of the calibration batch while they are collected, else given ones.
    """
    (given,) = low.numbers(node, "input")
    shape = given.shape
    flat = len(shape) == 2
    if not flat:
        x = low.as_images(_four(low, given), node.name)
    else:
        x = given if given.strides[1] == 1 else low.dense(given, node.name)
    if low.goal.kind == "collect":
        scale, shift = _collected(low, node, x)
    else:
        scale, shift = folded(low, node, None)
    alone = Epilogue(node, None, None, "", (node,))  # in a view, into which nothing else can be taken
    epilogue = alone if len(shape) > 4 else low.epilogue(node, norms=())
    residual = low.residual(epilogue)
    result = low.make(x.shape if len(shape) > 4 else shape, epilogue.last.name, image=not flat)
    out = result.tall() if len(shape) == 3 else result
    if residual is not None and len(shape) == 3:
        residual = residual.tall()
    views = [v.meta.permute(_channels_last(v)) for v in (x, residual or x, out)]
    nest = loops(views[0].shape, *(v.stride() for v in views), keep_last=True)
    xs, ys, os = nest.strides
    low.emit(
        "affine", low.dtype, x=x, y=residual, out=out, scale=scale, shift=shift,
        relu=epilogue.activation == "relu", size=nest.size, x_stride=xs, y_stride=ys, out_stride=os,
    )  # fmt: skip
    return low.took(epilogue, result if len(shape) <= 4 else result.view(result.meta.reshape(shape)))


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


@rule("layer_norm", "rms_norm")
def _layer_norm(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Over the last dimensions; a norm of mean squares takes no mean away, and adds torch's least number."""
    centre = node.op == "layer_norm"
    (x,) = low.numbers(node, "input")
    x = low.dense(x, node.name)
    width = torch.Size(arguments["normalized_shape"]).numel()
    eps = torch.finfo(low.dtype).eps if arguments["eps"] is None else arguments["eps"]
    out = low.make(x.shape, node.name)
    gamma, beta = low.vector(arguments["weight"]), low.vector(arguments.get("bias"))
    low.emit(
        "layer_norm", low.dtype, x=x, out=out, scale=gamma, shift=beta, count=x.meta.numel() // width,
        width=width, centre=centre, eps=eps,
    )  # fmt: skip
    return out


@rule("group_norm", "instance_norm")
def _group_norm(low: Lowering, node: Node, arguments: Mapping[str, Any]) -> Value:
    """Over groups of channels, or over each of them, and all places."""
    if node.op == "instance_norm" and not arguments["use_input_stats"]:
        raise Unsupported("instance_norm with running statistics")
    (given,) = low.numbers(node, "input")
    shape = given.shape
    x = low.as_images(_four(low, given), node.name)
    result = low.make(x.shape if len(shape) not in (3, 4) else shape, node.name, image=True)
    out = result.tall() if len(shape) == 3 else result
    gamma, beta = low.vector(arguments["weight"]), low.vector(arguments["bias"])
    n, c, h, w = x.shape
    low.emit(
        "group_norm", low.dtype, x=x, out=out, scale=gamma, shift=beta, batch=n, channels=c,
        groups=arguments.get("num_groups", c), pixels_h=h, pixels_w=w, **image_strides(x, out),
        eps=arguments["eps"],
    )  # fmt: skip
    return result if len(shape) in (3, 4) else result.view(result.meta.reshape(shape))


def _four(low: Lowering, value: Value) -> Value:
    """[N, C, ...] with two dimensions after the channels, or one."""
    shape = value.shape
    if len(shape) == 2:
        return value.view(value.meta[..., None, None])
    return low.reshaped(value, (*shape[:2], -1, shape[-1])) if len(shape) > 4 else value


def _channels_last(value: Value) -> tuple[int, ...]:
    return (0, 1) if value.meta.ndim == 2 else (0, 2, 3, 1)
