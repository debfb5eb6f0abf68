"""A Program over a batch of combinations: layers in the kernels, everything else batched by torch.func.vmap.

Values have a leading K once a weight has touched them. Images keep torch's shape [K, S, C, H, W] with the
channels innermost in memory, which is what the kernels and torch's fast paths read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from fastcomb.backends.epilogue import Epilogue
from fastcomb.backends.gpu.weights import Weights
from fastcomb.kernels import triton
from fastcomb.program import Node, Program, Weight

#: Mean and unbiased variance of batch norms, [K, C] each, by the running mean's name.
Moments = dict[str, tuple[Tensor, Tensor]]


class Forward:
    """One pass of some combinations over some samples.

    Args:
        program: the network.
        plan: its layers, with what their kernels take in.
        weights: of a group of combinations.
        part: which of these pass.
        buffers: what is the same for all: buffers and constants, in the compute dtype.
        collect: receives the moments of all batch norms, which then normalise with them; None where
            ``weights`` has their statistics.
    """

    def __init__(
        self,
        program: Program,
        plan: Mapping[str, Epilogue],
        weights: Weights,
        part: slice,
        buffers: Mapping[str, Tensor],
        collect: Moments | None = None,
    ) -> None:
        self.program, self.plan, self.weights, self.part = program, plan, weights, part
        self.buffers, self.collect = buffers, collect
        self.count = len(weights.index[part])
        self.kernels = triton.load()
        self.shared: dict[str, Any] = {}
        self.own: dict[str, Any] = {}

    def run(self, x: Tensor) -> Tensor:
        """The network's output [K, S, ...]: float32 where a layer yields it, else the compute dtype."""
        (name,) = self.program.inputs
        self.shared[name] = x
        for node in self.program:
            if node.name in self.own:  # the layer before has taken it in
                continue
            if node.name in self.plan:
                self._layer(self.plan[node.name])
            elif node.op == "batch_norm":
                self.own[node.name] = self._norm(node)
            else:
                self._other(node)
        (name,) = self.program.returned
        return self._whole(name)

    def _whole(self, name: str) -> Tensor:
        """A value with its leading K."""
        if name in self.own:
            value: Tensor = self.own[name]
            return value
        shared: Tensor = self.shared[name]
        return shared.expand(self.count, *shared.shape)

    def _layer(self, layer: Epilogue) -> None:
        name = layer.node.arguments["input"].name
        own = name in self.own
        x = self.own[name] if own else self.shared[name]
        out = (self._conv2d if layer.node.op == "conv2d" else self._linear)(layer, x, own)
        for node in layer.nodes:
            self.own[node.name] = out  # nothing reads the results before the last

    def _linear(self, layer: Epilogue, x: Tensor, own: bool) -> Tensor:
        weights, part = self.weights, self.part
        weight, bias = (layer.node.arguments[key] for key in ("weight", "bias"))
        flat = x.flatten(1, -2) if own else x.flatten(0, -2)
        epilogue = self._epilogue(layer, bias)
        if self.kernels.generates(flat.shape[-2]):
            mixed, laws = weights.mixture.mixed(weight.name), weights.mixture.law_arguments
            out: Tensor = self.kernels.mixed_linear(flat, weights.index[part], mixed, laws, epilogue)
        else:
            out = self.kernels.ready_linear(flat, weights.linear(weight.name)[part], epilogue)
        return out.view(self.count, *x.shape[int(own) : -1], out.shape[-1])

    def _conv2d(self, layer: Epilogue, x: Tensor, own: bool) -> Tensor:
        arguments = layer.node.arguments
        epilogue = self._epilogue(layer, arguments["bias"])
        if epilogue.residual is not None:
            epilogue = epilogue._replace(residual=epilogue.residual.movedim(-3, -1))
        weight = self.weights.conv2d(arguments["weight"].name)[self.part]
        geometry = self.kernels.Geometry(
            tuple(weight.shape[2:4]), *(tuple(arguments[k]) for k in ("stride", "padding", "dilation"))
        )
        images = x.movedim(-3, -1).contiguous()
        out: Tensor = self.kernels.implicit_gemm(images, weight, geometry, epilogue, own=own)
        return out.movedim(-1, -3)

    def _epilogue(self, layer: Epilogue, bias: Weight | None) -> Any:
        """What follows a layer's sums: this bias, and what was matched."""
        scale: Tensor | None = None
        shift: Tensor | None = None
        if layer.norm is not None:
            scale, shift = (t[self.part] for t in self.weights.scale_and_shift(layer.norm, bias))
        elif bias is not None:
            shift = self.weights.vector(bias)[self.part]
        residual = None if layer.residual is None else self._whole(layer.residual)
        dtype = torch.float32 if layer.last.name in self.program.returned else None
        return self.kernels.Epilogue(scale, shift, residual, layer.activation, dtype)

    def _norm(self, node: Node) -> Tensor:
        """A batch norm by itself."""
        x = self._whole(node.arguments["input"].name)
        shape = (self.count, 1, x.shape[2], *[1] * (x.ndim - 3))
        if self.collect is None:
            scale, shift = (t[self.part] for t in self.weights.scale_and_shift(node))
        else:
            over = [d for d in range(1, x.ndim) if d != 2]
            variance, mean = torch.var_mean(x.float(), over, correction=0)
            entries = x[0, :, 0].numel()
            unbiased = variance * (entries / (entries - 1))
            self.collect[node.arguments["running_mean"].name] = mean, unbiased
            scale, shift = self.weights.affine(node, mean, variance, None, self.part)
        return torch.addcmul(shift.view(shape), x.float(), scale.view(shape)).to(x.dtype)

    def _other(self, node: Node) -> None:
        """Any other operation, for one combination at a time as far as it can see."""
        values = {n: self.own[n] for n in node.values if n in self.own}
        if node.op == "group_norm":  # which asks about layouts that vmap cannot tell
            values = {n: value.contiguous() for n, value in values.items()}
        state = {
            w.name: self.weights.values(w.name)[self.part] for w in node.weights if w.kind == "parameter"
        }

        def one(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
            return self.program.apply(node, {**self.buffers, **state}, {**self.shared, **values})

        if node.op == "size" and values:
            self.shared[node.name] = one({n: v[0] for n, v in values.items()}, {})
        elif values or state:
            with warnings.catch_warnings():  # vmap's own loop over an operation is slow but right
                warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
                self.own[node.name] = vmap(one)(values, state)
        else:
            self.shared[node.name] = one({}, {})
