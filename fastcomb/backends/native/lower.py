"""From a Program to the engine's instructions, for one number of samples.

Values keep torch's own description of a view (shape, strides, offset) in meta tensors, so every operation
that only looks at a tensor differently costs nothing. Images lie with the channels innermost, in buffers
that leave room for the padding of the convolutions that read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fastcomb.backends.native.memory import STORAGE, Buffer, Space, Value, allocate, images, loops
from fastcomb.backends.native.weights import Constants, Weights, conv_layout, linear_layout
from fastcomb.program import Node, Program
from fastcomb.program import Value as Ref
from fastcomb.program import Weight

(CONTRACT, UNARY, BINARY, AFFINE, CONVERT, POOL, DEPTHWISE, LAYER_NORM, SOFTMAX, GROUP_NORM, REDUCE, ATTENTION,
 MOMENTS, LOSS, BORDER, EMBEDDING, FOLD, TRANSPOSE, ZERO) = range(19)  # fmt: skip
LOSS_KINDS = {"cross_entropy": 0, "nll": 1, "mse": 2}
ADD, SUB, MUL, DIV = range(4)
RELU, IDENTITY = 0, 17

#: Canonical name -> engine's number, and its two parameters from the node's arguments.
UNARY_OPS: dict[str, tuple[int, Callable[[Mapping[str, Any]], tuple[float, float]]]] = {
    "relu": (RELU, lambda a: (0, 0)),
    "leaky_relu": (1, lambda a: (a["negative_slope"], 0)),
    "gelu": (2, lambda a: (0, 0)),
    "silu": (4, lambda a: (0, 0)),
    "tanh": (5, lambda a: (0, 0)),
    "sigmoid": (6, lambda a: (0, 0)),
    "elu": (7, lambda a: (a["alpha"], 0)),
    "hardtanh": (8, lambda a: (a["min_val"], a["max_val"])),
    "relu6": (8, lambda a: (0, 6)),
    "hardswish": (9, lambda a: (0, 0)),
    "hardsigmoid": (10, lambda a: (0, 0)),
    "softplus": (11, lambda a: (a["beta"], a["threshold"])),
    "exp": (12, lambda a: (0, 0)),
    "neg": (13, lambda a: (0, 0)),
    "abs": (14, lambda a: (0, 0)),
    "sqrt": (15, lambda a: (0, 0)),
    "rsqrt": (16, lambda a: (0, 0)),
}
_VIEWS = {"transpose", "permute", "squeeze", "unsqueeze", "expand", "select", "slice", "split", "chunk", "unbind"}
_SHAPES = {"reshape", "flatten", "unflatten"}
_SIZES = {"size", "size_arithmetic"}

Place = tuple[Buffer | None, int]


class Unsupported(Exception):
    """The engine cannot run this; the message names what."""


@dataclass(frozen=True)
class Goal:
    """What a pass is for.

    Attributes:
        kind: "loss", "outputs" or "collect".
        loss: of LOSS_KINDS, for "loss".
        classes: whether to count correct classifications.
        rounded: whether outputs are in the compute dtype instead of float32.
    """

    kind: str
    loss: str = ""
    classes: bool = False
    rounded: bool = False


@dataclass
class Norm:
    """A stage of calibration ends with this layer's moments (csrc/engine.h, Collected)."""

    channels: int
    per_sample: int
    statistics: int
    eps: float
    gamma: Buffer | None
    beta: Buffer | None
    scale: Buffer
    shift: Buffer


@dataclass
class Instruction:
    op: int
    storage: int
    places: list[Place]
    numbers: list[int]
    factors: list[float]

    def given(self) -> tuple[int, int, list[tuple[int, int, int]], list[int], list[float]]:
        """As the engine takes it."""
        return self.op, self.storage, [address(*p) for p in self.places], self.numbers, self.factors


def address(buffer: Buffer | None, elements: int = 0) -> tuple[int, int, int]:
    if buffer is None:
        return (Space.NONE, 0, 0)
    return (buffer.space, buffer.offset + elements * buffer.dtype.itemsize, buffer.step)


@dataclass
class Lowered:
    """Instructions for blocks of so many samples."""

    samples: int
    instructions: list[Instruction]
    ends: list[int]
    norms: list[Norm]
    arena: int
    lasting: int
    output: tuple[int, ...]
    input_bytes: int


@dataclass
class Shared:
    """What all lowerings of a program with one mixture have in common.

    Attributes:
        statistics: floats into the record of each running mean, by name; the variance follows.
        fixed: running statistics that are the same for all combinations.
        pads: padding that readers want of each value, by key.
        setup: instructions for each combination before any sample.
        prepare: how the input becomes what the engine reads; set by the first lowering.
    """

    program: Program
    weights: Weights
    constants: Constants
    buffers: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    statistics: dict[str, int]
    pads: dict[str, tuple[int, int]] = field(default_factory=dict)
    setup: list[Instruction] = field(default_factory=list)
    prepare: Callable[[Tensor], Tensor] = lambda x: x


def prepared_images(x: Tensor, pad: tuple[int, int], wide: int) -> Tensor:
    """Images [N, C, H, W] as the engine reads them: [N, H + 2·top, W + 2·left, wide], zeros around."""
    n, c, h, w = x.shape
    top, left = pad
    out = x.new_zeros(n, h + 2 * top, w + 2 * left, wide)
    out[:, top : top + h, left : left + w, :c] = x.permute(0, 2, 3, 1)
    return out


class Lowering:
    """One lowering; see :func:`lower`."""

    def __init__(self, shared: Shared, x: Tensor, samples: int, whole: Lowered | None, goal: Goal) -> None:
        self.shared, self.goal, self.whole = shared, goal, whole
        self.program, self.weights = shared.program, shared.weights
        self.dtype = self.weights.dtype
        self.samples, self.step = samples, whole.samples if whole else samples
        self.code: list[Instruction] = []
        self.ends: list[int] = []
        self.norms: list[Norm] = []
        self.made: list[Buffer] = []
        self.values: dict[str, Any] = {}
        self.shapes = _shapes(self.program, self.weights.shapes, x, samples, self.dtype)
        self.uses: dict[str, list[Node]] = {}
        for node in self.program:
            for name in set(node.values):
                self.uses.setdefault(name, []).append(node)
        self.returned = [leaf.name for leaf in tree_leaves(self.program.output) if isinstance(leaf, Ref)]
        self.fused: dict[str, Value] = {}  # nodes that an earlier one took in, with the result of the last
        self.input_bytes = self._input(x)

    # --- the walk ---

    def run(self) -> Lowered:
        for node in self.program:
            if node.name in self.fused:
                self.values[node.name] = self.fused[node.name]
            else:
                self.values[node.name] = self._node(node)
        if not isinstance(self.program.output, Ref):
            raise Unsupported("a result that is not one tensor")
        output = self.values[self.program.output.name]
        if not isinstance(output, Value) or not output.shape or output.shape[0] != self.samples:
            raise Unsupported("a result without a leading batch dimension")
        if self.goal.kind != "collect":
            self._finish(output)
        self.ends.append(len(self.code))
        return self._place(output.shape[1:])

    def _node(self, node: Node) -> Any:
        arguments = {k: self._resolved(v) for k, v in node.arguments.items()}
        op = node.op
        if op in _SIZES:
            return self.shapes[node.name]
        if op == "item":
            container, at = arguments.values()
            return container[at]
        if op in ("identity", "dropout"):
            if op == "dropout" and node.arguments["train"]:
                raise Unsupported("dropout in training mode")
            return self._value(next(iter(arguments.values())))
        if op in _VIEWS:
            return self._view(node, arguments)
        if op in _SHAPES:
            return self._reshaped(self._value(next(iter(arguments.values()))), self.shapes[node.name].shape)
        if op in UNARY_OPS:
            return self._unary(node, arguments)
        if op in ("add", "sub", "mul", "div"):
            return self._binary(node, arguments)
        method = getattr(self, f"_{op}", None)
        if method is None or not node.known:
            raise Unsupported(f"the operation {node.target if not node.known else op}")
        return method(node, arguments)

    def _resolved(self, argument: Any) -> Any:
        def one(leaf: Any) -> Any:
            return self.values[leaf.name] if isinstance(leaf, Ref) else leaf

        return tree_map(one, argument)

    def _value(self, leaf: Any) -> Value:
        """An operand as a value: weights and constants too."""
        if isinstance(leaf, Value):
            return leaf
        if isinstance(leaf, Weight):
            if leaf.kind == "parameter":
                buffer = self.weights.plain(leaf.name, self.dtype)
                shape = self.weights.shapes[leaf.name]
            else:
                constant = self.program.constants.get(leaf.name, self.shared.buffers.get(leaf.name))
                if constant is None:
                    raise Unsupported(f"the buffer {leaf.name}")
                shape = tuple(constant.shape)
                if constant.is_floating_point():
                    constant = constant.to(self.dtype)
                elif constant.dtype != torch.int64:
                    raise Unsupported(f"{leaf.name} of dtype {constant.dtype}")
                buffer = self.shared.constants.add(("buffer", leaf.name), constant)
            return Value(buffer, torch.empty(shape, dtype=buffer.dtype, device="meta"))
        if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            buffer = self.shared.constants.add(("scalar", float(leaf)), torch.tensor([leaf], dtype=self.dtype))
            return Value(buffer, torch.empty((), dtype=self.dtype, device="meta"))
        raise Unsupported(f"an operand of type {type(leaf).__name__}")

    # --- memory and instructions ---

    def _new(self, count: int, dtype: torch.dtype | None = None) -> Buffer:
        buffer = Buffer(count, dtype or self.dtype)
        self.made.append(buffer)
        return buffer

    def _make(self, shape: Sequence[int], key: str, *, image: bool = False, dtype: torch.dtype | None = None) -> Value:
        """A new value; images get the padding that their readers want."""
        dtype = dtype or self.dtype
        if not image:
            meta = torch.empty(tuple(shape), dtype=dtype, device="meta")
            return Value(self._new(meta.numel(), dtype), meta, key)
        pad = self.shared.pads.get(key, (0, 0))
        meta = images(shape, dtype, pad)
        n, c, h, w = shape
        buffer = self._new(n * c * (h + 2 * pad[0]) * (w + 2 * pad[1]), dtype)
        buffer.pad = pad
        if pad != (0, 0):
            self._emit(BORDER, dtype, [(buffer, 0)], [n, h, w, c, *pad])
        return Value(buffer, meta, key, whole=True)

    def _like(self, value: Value, key: str) -> Value:
        return self._make(value.shape, key, image=value.images and value.shape[1] > 1)

    def _emit(
        self,
        op: int,
        dtype: torch.dtype,
        places: Sequence[Place | Value | None],
        numbers: Sequence[int] = (),
        factors: Sequence[float] = (),
    ) -> None:
        found: list[Place] = []
        for place in places:
            if isinstance(place, Value):
                place = (place.buffer, place.offset)
            found.append(place or (None, 0))
        for buffer, _ in found:
            if buffer is not None:
                buffer.touch(len(self.code))
        self.code.append(Instruction(op, STORAGE[dtype], found, list(numbers), [float(f) for f in factors]))

    def _element(self, op: int, out: Value, x: Value, y: Value | None = None, alpha: float = 0, beta: float = 0,
                 kind: int = UNARY) -> Value:  # fmt: skip
        operands = [x.meta.expand(out.shape), *([y.meta.expand(out.shape)] if y else []), out.meta]
        try:
            nest = loops(out.shape, *(o.stride() for o in operands))
        except ValueError:
            raise Unsupported("an element-wise operation over more than 6 dimensions") from None
        xs, *ys, os = nest.strides
        self._emit(kind, out.meta.dtype, [x, y, out], [op, *nest.size, *xs, *(ys[0] if ys else [0] * 6), *os], [alpha, beta])
        return out

    def _copied(self, value: Value, key: str, *, image: bool = False) -> Value:
        dtype = value.meta.dtype
        if not dtype.is_floating_point:
            raise Unsupported(f"moving values of {dtype}")
        return self._element(IDENTITY, self._make(value.shape, key, image=image, dtype=dtype), value)

    def _dense(self, value: Value, key: str) -> Value:
        """The value, contiguous."""
        return value if value.meta.is_contiguous() else self._copied(value, key + "/dense")

    def _as_images(self, value: Value, key: str) -> Value:
        if value.meta.ndim != 4:
            raise Unsupported(f"images of {value.meta.ndim} dimensions")
        return value if value.images else self._copied(value, key + "/images", image=True)

    def _reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        meta = value.meta.reshape(tuple(shape))
        if not value.shares(meta):
            value = self._dense(value, value.key)
            meta = value.meta.reshape(tuple(shape))
        return value.view(meta)

    def _input(self, x: Tensor) -> int:
        (name,) = self.program.inputs if len(self.program.inputs) == 1 else [None]
        if name is None:
            raise Unsupported("several inputs")
        if x.dtype not in (self.dtype, torch.int64):
            raise Unsupported(f"inputs of {x.dtype}")
        readers = {node.op for node in self.uses.get(name, [])}
        shape = (self.samples, *x.shape[1:])
        if x.ndim == 4 and readers & {"conv2d", "batch_norm", "max_pool2d", "avg_pool2d", "group_norm"}:
            wide = x.shape[1] + (x.shape[1] % 2 if self.dtype == torch.bfloat16 else 0)
            pad = self.shared.pads.get(name, (0, 0))
            meta = images(shape, x.dtype, pad, wide)
            count = self.samples * (shape[2] + 2 * pad[0]) * (shape[3] + 2 * pad[1]) * wide
            self.shared.prepare = lambda x: prepared_images(x, pad, wide)
        else:
            pad, meta = (0, 0), torch.empty(shape, dtype=x.dtype, device="meta")
            count = meta.numel()
            self.shared.prepare = Tensor.contiguous
        each = count // self.samples * x.dtype.itemsize
        buffer = Buffer(count, x.dtype, Space.INPUTS, 0, each * self.step, pad=pad)
        self.values[name] = Value(buffer, meta, name, whole=meta.ndim == 4 and meta.stride(1) == 1)
        return each

    # --- operations ---

    def _view(self, node: Node, arguments: Mapping[str, Any]) -> Any:
        first, *_ = arguments
        value = self._value(arguments[first])
        found = node.target(**{**arguments, first: value.meta})
        if isinstance(found, Tensor):
            return value.view(found)
        return tuple(value.view(meta) for meta in found)

    def _unary(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        op, parameters = UNARY_OPS[node.op]
        if node.op == "gelu" and arguments.get("approximate") == "tanh":
            op = 3
        if node.op == "elu" and (arguments["scale"] != 1 or arguments["input_scale"] != 1):
            raise Unsupported("a scaled elu")
        value = self._value(next(iter(arguments.values())))
        alpha, beta = parameters(arguments)
        return self._element(op, self._like(value, node.name), value, None, alpha, beta)

    def _binary(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        if arguments.get("rounding_mode") is not None:
            raise Unsupported("rounded division")
        x, y = self._value(arguments["self"]), self._value(arguments["other"])
        if {x.meta.dtype, y.meta.dtype} != {self.dtype}:
            raise Unsupported(f"arithmetic on {x.meta.dtype} and {y.meta.dtype}")
        shape = tuple(self.shapes[node.name].shape)
        image = any(v.images and v.shape == shape and shape[1] > 1 for v in (x, y))
        out = self._make(shape, node.name, image=image)
        op = ("add", "sub", "mul", "div").index(node.op)
        return self._element(op, out, x, y, arguments.get("alpha", 1), 0, BINARY)

    def _cat(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        parts = [self._value(v) for v in arguments["tensors"]]
        out = self._make(self.shapes[node.name].shape, node.name, image=all(p.images for p in parts))
        dim, at = arguments["dim"], 0
        for part in parts:
            size = part.shape[dim]
            self._element(IDENTITY, out.view(out.meta.narrow(dim, at, size)), part)
            at += size
        return out

    def _stack(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        out = self._make(self.shapes[node.name].shape, node.name)
        for i, part in enumerate(arguments["tensors"]):
            self._element(IDENTITY, out.view(out.meta.select(arguments["dim"], i)), self._value(part))
        return out

    def _embedding(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        weight, ids = arguments["weight"], self._value(arguments["indices"])
        if not isinstance(weight, Weight) or not ids.meta.is_contiguous() or ids.meta.dtype != torch.int64:
            raise Unsupported("this embedding")
        table = self.weights.plain(weight.name, self.dtype)
        out = self._make(self.shapes[node.name].shape, node.name)
        self._emit(EMBEDDING, self.dtype, [ids, (table, 0), out], [ids.meta.numel(), out.shape[-1]])
        return out

    def _vector(self, weight: Any) -> Buffer | None:
        """A parameter as float32 values for the end of another instruction."""
        if weight is None:
            return None
        if not isinstance(weight, Weight) or weight.kind != "parameter":
            raise Unsupported("a bias or scale that is not a parameter")
        return self.weights.plain(weight.name, torch.float32)

    # --- contractions and what follows them ---

    def _follow(
        self, node: Node, *, norms: bool
    ) -> tuple[Node | None, Node | None, Value | None, Node | None]:
        """What the instruction of ``node`` can do as well: (batch norm, addition, its operand, ReLU)."""
        norm = addition = relu = None
        residual: Value | None = None
        shape = tuple(self.shapes[node.name].shape)
        last = node
        while last.name not in self.returned and len(self.uses.get(last.name, [])) == 1:
            (reader,) = self.uses[last.name]
            if reader.values.count(last.name) != 1:
                break
            if reader.op == "batch_norm" and last is node and norms:
                norm = reader
            elif reader.op == "add" and residual is None and reader.arguments.get("alpha", 1) == 1:
                others = [self._resolved(reader.arguments[k]) if _ready(reader.arguments[k], self.values) else None
                          for k in ("self", "other") if reader.arguments[k] != Ref(last.name)]  # fmt: skip
                other = others[0] if others else None
                if not isinstance(other, Value) or other.shape != shape or other.meta.dtype != self.dtype:
                    break
                if other.strides[1 if len(shape) == 4 else -1] != 1:
                    break
                addition, residual = reader, other
            elif reader.op == "relu":
                relu = reader
            else:
                break
            last = reader
            if relu:
                break
        return norm, addition, residual, relu

    def _contract(self, node: Node, bias: Any, make: Callable[[str], tuple[Value, Callable[..., None]]]) -> Value:
        """Emit a contraction with the nodes that its instruction can take in.

        ``make(key)`` gives the result's value and what emits the instruction, called with
        (residual, scale, shift, relu).
        """
        norm, addition, residual, relu = self._follow(node, norms=self.goal.kind != "collect")
        taken = [n for n in (norm, addition, relu) if n]
        scale: Buffer | None = None
        if norm:
            scale, shift = self._folded(norm, bias)
        else:
            shift = self._vector(bias)
        out, emit = make((taken or [node])[-1].name)
        emit(residual, scale, shift, relu is not None)
        for other in taken:
            self.fused[other.name] = out
        return out

    def _linear(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        weight = arguments["weight"]
        if not isinstance(weight, Weight) or weight.kind != "parameter":
            raise Unsupported("a linear layer whose weight is computed")
        x = self._value(arguments["input"])
        outputs, inner = self.weights.shapes[weight.name]
        layout = linear_layout(outputs, inner, even=self.dtype == torch.bfloat16)
        run = len(layout.inverse)
        if run != inner:
            wide = self._new(x.meta.numel() // inner * run)
            rows = torch.empty(*x.shape[:-1], run, dtype=self.dtype, device="meta")
            self._emit(ZERO, self.dtype, [(wide, 0)], [wide.count])
            x = self._element(IDENTITY, Value(wide, rows[..., :inner]), x)
        grid = self._rows(x)
        if grid is None:
            x = self._dense(x, node.name)
            grid = self._rows(x)
        assert grid is not None
        packed = self.weights.packed(weight.name, layout)

        def make(key: str) -> tuple[Value, Callable[..., None]]:
            out = self._make((*x.shape[:-1], outputs), key, dtype=self._last_dtype(key))

            def emit(residual: Value | None, scale: Buffer | None, shift: Buffer | None, relu: bool) -> None:
                if residual is not None and not residual.meta.is_contiguous():
                    residual = self._dense(residual, key)
                count = out.meta.numel() // outputs
                to = (count // grid[0][0], count // grid[0][0] // grid[0][1])
                steps = [to[0] * outputs, to[1] * outputs, outputs]
                self._emit(
                    CONTRACT, self.dtype, [x, (packed, 0), out, residual, _at(scale), _at(shift)],
                    [*grid[0], *grid[1], *steps, *steps, outputs, relu, self._is_float(out), run, 1, 0],
                )  # fmt: skip

            return out, emit

        return self._contract(node, arguments["bias"], make)

    def _rows(self, x: Value) -> tuple[list[int], list[int]] | None:
        """Rows of the last dimension as up to three loops: sizes and strides."""
        if x.strides[-1] != 1 and x.shape[-1] != 1:
            return None
        try:
            dense = torch.empty(x.shape[:-1], device="meta").stride()
            nest = loops(x.shape[:-1], x.strides[:-1], dense, dims=3)
        except ValueError:
            return None
        return nest.size, nest.strides[0]

    def _conv2d(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        weight, groups = arguments["weight"], arguments["groups"]
        if not isinstance(weight, Weight) or weight.kind != "parameter":
            raise Unsupported("a convolution whose weight is computed")
        shape = self.weights.shapes[weight.name]
        outputs, own, kh, kw = shape
        (sh, sw), (dh, dw) = arguments["stride"], arguments["dilation"]
        padding = arguments["padding"]
        if isinstance(padding, str):
            raise Unsupported(f"padding {padding!r}")
        value = self._value(arguments["input"])
        depthwise = groups == value.shape[1] == outputs and own == 1
        even = self.dtype == torch.bfloat16 and not depthwise and own % 2 == 1
        x = self._padded(value, tuple(padding), node.name, even=even and groups == 1)
        if even and groups > 1:
            raise Unsupported("grouped bfloat16 convolutions with an odd number of channels")
        batch, row, pixel = x.strides[0], x.strides[2], x.strides[3]
        origin = x.offset - padding[0] * row - padding[1] * pixel
        out_shape = tuple(self.shapes[node.name].shape)
        n, _, oh, ow = out_shape
        wide = own + even
        together = dw == 1 and (pixel == wide or kw == 1)
        segments = [y * dh * row for y in range(kh)] if together else [
            y * dh * row + i * dw * pixel for y in range(kh) for i in range(kw)]  # fmt: skip
        run = kw * wide if together else wide

        def make(key: str) -> tuple[Value, Callable[..., None]]:
            dtype = self.dtype if depthwise else self._last_dtype(key)
            out = self._make(out_shape, key, image=True, dtype=dtype)

            def emit(residual: Value | None, scale: Buffer | None, shift: Buffer | None, relu: bool) -> None:
                if depthwise:
                    plain = self.weights.plain(weight.name, torch.float32)
                    turned, new = self.weights.derived(("turned", weight.name), outputs * kh * kw)
                    if new:
                        self.shared.setup.append(
                            Instruction(TRANSPOSE, 0, [(plain, 0), (turned, 0)], [outputs, kh * kw], [])
                        )
                    fused = relu and residual is None
                    self._emit(
                        DEPTHWISE, self.dtype, [(x.buffer, origin), (turned, 0), out, None, _at(scale), _at(shift)],
                        [fused, n, outputs, oh, ow, kh, kw, batch, row, pixel,
                         out.strides[0], out.strides[2], out.strides[3], sh, sw, dh, dw],
                    )  # fmt: skip
                    if residual is not None:
                        self._element(ADD, out, out, residual, 1, 0, BINARY)
                        if relu:
                            self._element(RELU, out, out)
                    return
                for group in range(groups):
                    layout = conv_layout(shape, wide, group, groups)
                    packed = self.weights.packed(weight.name, layout)
                    at = group * layout.outputs
                    res = (residual.buffer, residual.offset + at) if residual is not None else None
                    like = residual if residual is not None else out
                    nest = _pixels(
                        [n, oh, ow], [batch, sh * row, sw * pixel],
                        [out.strides[0], out.strides[2], out.strides[3]],
                        [like.strides[0], like.strides[2], like.strides[3]],
                    )  # fmt: skip
                    self._emit(
                        CONTRACT, self.dtype,
                        [(x.buffer, origin + group * own), (packed, 0), (out.buffer, out.offset + at), res,
                         _at(scale, at), _at(shift, at)],
                        [*nest, layout.outputs, relu, self._is_float(out), run, len(segments), *segments],
                    )  # fmt: skip

            return out, emit

        return self._contract(node, arguments["bias"], make)

    def _padded(self, value: Value, pad: tuple[int, int], key: str, *, even: bool) -> Value:
        """The value as images inside at least this much padding, with an even number of channels."""
        enough = value.buffer.pad[0] >= pad[0] and value.buffer.pad[1] >= pad[1]
        full = not even or value.strides[3] > value.shape[1]
        if value.images and full and (pad == (0, 0) or (value.whole and enough)):
            return value
        if value.whole and value.images and full:  # the next lowering makes room
            before = self.shared.pads.get(value.key, (0, 0))
            self.shared.pads[value.key] = (max(before[0], pad[0]), max(before[1], pad[1]))
            return value
        n, c, h, w = value.shape
        meta = images(value.shape, self.dtype, pad, c + even)
        buffer = self._new(n * (c + even) * (h + 2 * pad[0]) * (w + 2 * pad[1]))
        self._emit(ZERO, self.dtype, [(buffer, 0)], [buffer.count])
        return self._element(IDENTITY, Value(buffer, meta, key + "/padded"), value)

    # --- normalisation ---

    def _folded(self, node: Node, bias: Any) -> tuple[Buffer, Buffer]:
        """Scale and shift per channel of a batch norm in eval mode, after a bias."""
        arguments = node.arguments
        mean = arguments["running_mean"]
        if arguments["training"] or mean is None:
            raise Unsupported("batch_norm with the statistics of the batch")
        channels = self.program.shapes[mean.name][0]
        scale, new = self.weights.derived(("scale", node.name), channels)
        shift, _ = self.weights.derived(("shift", node.name), channels)
        if new:
            if mean.name in self.shared.statistics:
                at = self.shared.statistics[mean.name]
                record = Buffer(2 * channels, torch.float32, Space.STATISTICS, 4 * at)
                places: list[Place] = [(record, 0), (record, channels)]
            else:
                places = []
                for key in ("running_mean", "running_var"):
                    name = arguments[key].name
                    values = self.shared.fixed[name].float()
                    places.append((self.shared.constants.add(("fixed", name), values), 0))
            gamma, beta = self._vector(arguments["weight"]), self._vector(arguments["bias"])
            self.shared.setup.append(
                Instruction(
                    FOLD, 0,
                    [_at(gamma), _at(beta), *places, _at(self._vector(bias)), (scale, 0), (shift, 0)],
                    [channels], [arguments["eps"]],
                )  # fmt: skip
            )
        return scale, shift

    def _batch_norm(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        x = self._value(arguments["input"])
        flat = x.meta.ndim == 2
        if not flat:
            x = self._as_images(x, node.name)
        elif x.strides[1] != 1:
            x = self._dense(x, node.name)
        if self.goal.kind == "collect":
            scale, shift = self._collected(node, x)
        else:
            scale, shift = self._folded(node, None)
        _, addition, residual, relu = self._follow(node, norms=False)
        taken = [n for n in (addition, relu) if n]
        out = self._make(x.shape, (taken or [node])[-1].name, image=not flat)
        views = [v.meta.permute(_channels_last(v)) for v in (x, residual or x, out)]
        nest = loops(views[0].shape, *(v.stride() for v in views), keep_last=True)
        xs, ys, os = nest.strides
        self._emit(
            AFFINE, self.dtype, [x, residual, out, (scale, 0), (shift, 0)],
            [relu is not None, *nest.size, *xs, *ys, *os],
        )  # fmt: skip
        for other in taken:
            self.fused[other.name] = out
        return out

    def _collected(self, node: Node, x: Value) -> tuple[Buffer, Buffer]:
        arguments = node.arguments
        mean = arguments["running_mean"]
        if arguments["training"] or mean is None or mean.name not in self.shared.statistics:
            raise Unsupported("batch_norm with the statistics of the batch")
        channels = x.shape[1]
        view = x.meta.permute(_channels_last(x))
        nest = loops(view.shape, view.stride(), keep_last=True)
        self._emit(MOMENTS, self.dtype, [x], [0, *nest.size, *nest.strides[0], *[0] * 12])
        self.ends.append(len(self.code))
        scale, _ = self.weights.derived(("collected scale", node.name), channels)
        shift, _ = self.weights.derived(("collected shift", node.name), channels)
        self.norms.append(
            Norm(
                channels, x.meta.numel() // channels // self.samples, self.shared.statistics[mean.name],
                arguments["eps"], self._vector(arguments["weight"]), self._vector(arguments["bias"]), scale, shift,
            )  # fmt: skip
        )
        return scale, shift

    def _layer_norm(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        x = self._dense(self._value(arguments["input"]), node.name)
        width = torch.Size(arguments["normalized_shape"]).numel()
        out = self._make(x.shape, node.name)
        gamma, beta = self._vector(arguments["weight"]), self._vector(arguments["bias"])
        self._emit(
            LAYER_NORM, self.dtype, [x, out, _at(gamma), _at(beta)], [x.meta.numel() // width, width, 0],
            [arguments["eps"]],
        )  # fmt: skip
        return out

    def _group_norm(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        x = self._as_images(self._value(arguments["input"]), node.name)
        out = self._make(x.shape, node.name, image=True)
        gamma, beta = self._vector(arguments["weight"]), self._vector(arguments["bias"])
        n, c, h, w = x.shape
        steps = [v.strides[d] for v in (x, out) for d in (0, 2, 3)]
        self._emit(
            GROUP_NORM, self.dtype, [x, out, _at(gamma), _at(beta)],
            [n, c, arguments["num_groups"], h, w, *steps], [arguments["eps"]],
        )  # fmt: skip
        return out

    # --- pooling and reductions ---

    def _max_pool2d(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        return self._pooled(node, arguments, maximum=True)

    def _avg_pool2d(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        return self._pooled(node, arguments)

    def _adaptive_avg_pool2d(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        return self._pooled(node, arguments, adaptive=True)

    def _pooled(
        self, node: Node, arguments: Mapping[str, Any], *, maximum: bool = False, adaptive: bool = False
    ) -> Value:
        x = self._as_images(self._value(next(iter(arguments.values()))), node.name)
        out = self._make(self.shapes[node.name].shape, node.name, image=True)
        kernel = _pair(arguments.get("kernel_size", [1, 1]))
        stride = _pair(arguments.get("stride") or kernel)
        padding, dilation = _pair(arguments.get("padding", [0])), _pair(arguments.get("dilation", [1]))
        inside = bool(arguments.get("count_include_pad", False))
        divisor = arguments.get("divisor_override") or 0
        n, c, h, w = x.shape
        steps = [v.strides[d] for v in (x, out) for d in (0, 2, 3)]
        self._emit(
            POOL, self.dtype, [x, out],
            [maximum, inside, adaptive, n, c, h, w, *out.shape[2:], *steps, *kernel, *stride, *padding, *dilation,
             divisor],
        )  # fmt: skip
        return out

    def _mean(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        return self._reduced(node, arguments, mean=True)

    def _sum(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        return self._reduced(node, arguments)

    def _amax(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        return self._reduced(node, arguments, maximum=True)

    def _reduced(
        self, node: Node, arguments: Mapping[str, Any], *, mean: bool = False, maximum: bool = False
    ) -> Value:
        if arguments.get("dtype") is not None:
            raise Unsupported("a reduction with a dtype")
        x = self._value(arguments["self"])
        dims = arguments.get("dim")
        dims = range(x.meta.ndim) if dims in (None, []) else dims
        over = {d % x.meta.ndim for d in ([dims] if isinstance(dims, int) else dims)}
        kept = [d for d in range(x.meta.ndim) if d not in over]
        out = self._make(self.shapes[node.name].shape, node.name)
        inner = loops([x.shape[d] for d in sorted(over)], [x.strides[d] for d in sorted(over)])
        shape = [x.shape[d] for d in kept]
        dense = torch.empty(shape, device="meta").stride()
        outer = loops(shape, [x.strides[d] for d in kept], dense)
        count = 1
        for d in over:
            count *= x.shape[d]
        self._emit(
            REDUCE, self.dtype, [x, out],
            [maximum, *outer.size, *outer.strides[0], *outer.strides[1], *inner.size, *inner.strides[0]],
            [1 / count if mean else 1],
        )  # fmt: skip
        return out

    def _softmax(self, node: Node, arguments: Mapping[str, Any], logarithm: bool = False) -> Value:
        x = self._value(arguments["self"])
        dim = arguments["dim"] % x.meta.ndim
        last = self._dense(x.view(x.meta.movedim(dim, -1)), node.name)
        out = self._make(last.shape, node.name)
        width = last.shape[-1]
        self._emit(
            SOFTMAX, self.dtype, [last, out], [last.meta.numel() // width, width, logarithm], [0]
        )
        return out.view(out.meta.movedim(-1, dim))

    def _log_softmax(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        return self._softmax(node, arguments, logarithm=True)

    def _scaled_dot_product_attention(self, node: Node, arguments: Mapping[str, Any]) -> Value:
        if arguments.get("attn_mask") is not None or arguments.get("dropout_p") or arguments.get("enable_gqa"):
            raise Unsupported("attention with a mask, dropout or grouped heads")
        parts = [self._value(arguments[k]) for k in ("query", "key", "value")]
        if any(p.meta.ndim not in (3, 4) or p.strides[-1] != 1 for p in parts):
            parts = [self._dense(p, f"{node.name}/{i}") for i, p in enumerate(parts)]
        if any(p.meta.ndim not in (3, 4) for p in parts) or len({p.shape[:-2] for p in parts}) != 1:
            raise Unsupported("attention over other than [batch, heads, tokens, width]")
        four = [p.meta if p.meta.ndim == 4 else p.meta.unsqueeze(1) for p in parts]
        out = self._make(self.shapes[node.name].shape, node.name)
        to = out.meta if out.meta.ndim == 4 else out.meta.unsqueeze(1)
        q, k, v = four
        steps = [s for m in (q, k, v, to) for s in m.stride()[:3]]
        scale = arguments.get("scale") or q.shape[-1] ** -0.5
        self._emit(
            ATTENTION, self.dtype, [*parts, out],
            [q.shape[0], q.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3], *steps,
             bool(arguments.get("is_causal"))],
            [scale],
        )  # fmt: skip
        return out

    # --- the end ---

    def _last_dtype(self, key: str) -> torch.dtype:
        """float32 for the result itself, which is not rounded to the compute dtype."""
        last = [key] == self.returned and key not in self.uses and not self.goal.rounded
        return torch.float32 if last else self.dtype

    @staticmethod
    def _is_float(value: Value) -> bool:
        return value.meta.dtype == torch.float32

    def _finish(self, output: Value) -> None:
        if not output.meta.is_contiguous():
            output = self._dense(output, "result")
        count = output.meta.numel()
        if self.goal.kind == "outputs":
            dtype = self.dtype if self.goal.rounded else torch.float32
            step = count // self.samples * self.step * dtype.itemsize
            if output.buffer in self.made and output.buffer.count == count and output.meta.dtype == dtype:
                output.buffer.space, output.buffer.step = Space.OUTPUT, step  # made in its place
                return
            to = Buffer(count, dtype, Space.OUTPUT, 0, step)
            self._emit(CONVERT, self.dtype, [output, (to, 0)], [count, STORAGE[output.meta.dtype], STORAGE[dtype]])
            return
        if output.meta.dtype != torch.float32:
            wide = self._new(count, torch.float32)
            self._emit(CONVERT, self.dtype, [output, (wide, 0)], [count, STORAGE[output.meta.dtype], 0])
            output = Value(wide, output.meta.float())
        width = count // self.samples
        each = 8 if self.goal.loss != "mse" else 4 * width
        targets = Buffer(self.samples, torch.int64, Space.INPUTS + 1, 0, each * self.step)
        self._emit(
            LOSS, self.dtype, [output, (targets, 0)],
            [LOSS_KINDS[self.goal.loss], self.goal.classes, self.samples, width],
        )  # fmt: skip

    def _place(self, output: tuple[int, ...]) -> Lowered:
        ends = self.ends
        stage = [next(i for i, end in enumerate(ends) if number < end) for number in range(len(self.code))]
        used = [b for b in self.made if b.first >= 0 and b.space == Space.ARENA]
        lasting = [b for b in used if stage[b.first] != stage[b.last]]
        for buffer in lasting:
            buffer.space = Space.LONG
        long_bytes = allocate(lasting)
        for buffer in lasting:
            buffer.step = self.whole.lasting if self.whole else long_bytes
        arena = allocate([b for b in used if b.space == Space.ARENA])
        return Lowered(
            self.samples, self.code, ends, self.norms, arena, long_bytes, tuple(output), self.input_bytes
        )


def lower(shared: Shared, x: Tensor, samples: int, goal: Goal, whole: Lowered | None = None) -> Lowered:
    """Instructions for a block of samples.

    Args:
        shared: weights, constants and padding, to which this adds.
        x: some inputs, for their dtype and shape.
        samples: in the block.
        goal: loss, outputs or calibration.
        whole: for a shorter, last block: what the ones before it were lowered to.

    Raises:
        Unsupported: the program holds something that the engine cannot run.
    """
    while True:
        before = dict(shared.pads)
        lowered = Lowering(shared, x, samples, whole, goal).run()
        if shared.pads == before:
            return lowered


def _shapes(
    program: Program, mixed: Mapping[str, tuple[int, ...]], x: Tensor, samples: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Every node's result on meta tensors: shapes, and sizes as numbers."""
    def meta(shape: Sequence[int], kind: torch.dtype) -> Tensor:
        return torch.empty(tuple(shape), dtype=kind, device="meta")

    state = {n: meta(s, dtype) for n, s in {**program.shapes, **mixed}.items()}
    for name, value in program.constants.items():
        state[name] = meta(value.shape, dtype if value.is_floating_point() else value.dtype)
    return program.values(state, meta((samples, *x.shape[1:]), x.dtype))


def _channels_last(value: Value) -> tuple[int, ...]:
    return (0, 1) if value.meta.ndim == 2 else (0, 2, 3, 1)


def _ready(argument: Any, values: Mapping[str, Any]) -> bool:
    return isinstance(argument, Ref) and argument.name in values


def _at(buffer: Buffer | None, elements: int = 0) -> Place:
    return (buffer, elements)


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _pixels(size: list[int], *strides: list[int]) -> list[int]:
    """[batch, lines, rows] and each operand's strides, lines merged to longer ones where all allow it."""
    (n, h, w), steps = size, [list(s) for s in strides]
    if all(s[1] == w * s[2] for s in steps):
        h, w = 1, h * w
        if all(s[0] == w * s[2] for s in steps):
            n, w = 1, n * w
    return [n, h, w, *(s for step in steps for s in step)]
