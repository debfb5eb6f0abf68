"""From a Program to the engine's instructions, for one number of samples.

Values keep torch's own description of a view (shape, strides, offset) in meta tensors, so every operation
that only looks at a tensor differently costs nothing. Images lie with the channels innermost, in buffers
that leave room for the padding of the convolutions that read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fastcomb.backends.base import Unsupported
from fastcomb.backends.criterion import OF_CLASSES, Criterion
from fastcomb.backends.epilogue import Epilogue, match_epilogue
from fastcomb.backends.native.instructions import Goal, Instruction, Lowered, Norm
from fastcomb.backends.native.memory import Buffer, Operand, Space, Value, allocate, images, loops, pitch
from fastcomb.backends.native.shapes import inferred
from fastcomb.backends.native.weights import Constants, Weights
from fastcomb.program import Node, Program, Weight
from fastcomb.program import Value as Ref
from fastcomb.utils.dtypes import dtype_name, narrowed
from fastcomb.utils.rule_table import registering

#: Operations that only name entries anew, and products whose first operand's rows lie as they are.
_SHAPES, _PRODUCTS = {"reshape", "flatten", "unflatten"}, {"linear", "matmul", "addmm"}
#: Operations that read images with the channels innermost.
_IMAGE_READERS = {
    "conv2d", "conv_transpose2d", "batch_norm", "group_norm", "instance_norm", "max_pool2d", "avg_pool2d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d",
}  # fmt: skip
#: Operations whose results have the channels innermost, though they are the second dimension.
_IMAGES = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "batch_norm"}

#: What lowers a node, by canonical operation: (lowering, node, resolved arguments) -> its value.
Rule = Callable[["Lowering", Node, Mapping[str, Any]], Any]
RULES: dict[str, Rule] = {}
#: Registers what lowers some operations.
rule = registering(RULES)


@dataclass
class Shared:
    """What all lowerings of a program with one mixture have in common.

    Attributes:
        statistics: floats into the record of each running mean, by name; the variance follows.
        fixed: running statistics that are the same for all combinations.
        pads: padding that readers want of each value, by key.
        setup: instructions for each combination before any sample.
        entries: of the smallest embedding that reads each input, by its number.
        prepare: how each input becomes what the engine reads; set by the first lowering.
    """

    program: Program
    weights: Weights
    constants: Constants
    buffers: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    statistics: dict[str, int]
    pads: dict[str, tuple[int, int]] = field(default_factory=dict)
    setup: list[Instruction] = field(default_factory=list)
    entries: dict[int, int] = field(default_factory=dict)
    prepare: dict[int, Callable[[Tensor], Tensor]] = field(default_factory=dict)


def prepared_images(x: Tensor, pad: tuple[int, int], wide: int) -> Tensor:
    """Images [N, C, H, W] as the engine reads them: [N, H + 2·top, W + 2·left, wide], zeros around."""
    n, c, h, w = x.shape
    top, left = pad
    out = x.new_zeros(n, h + 2 * top, w + 2 * left, wide)
    out[:, top : top + h, left : left + w, :c] = x.permute(0, 2, 3, 1)
    return out


class Lowering:
    """One lowering; see :func:`lower`."""

    def __init__(
        self,
        shared: Shared,
        xs: Sequence[Tensor],
        samples: int,
        goal: Goal,
        whole: Lowered | None = None,
        total: int | None = None,
    ) -> None:
        self.shared, self.goal, self.whole, self.total = shared, goal, whole, total or samples
        self.program, self.weights = shared.program, shared.weights
        self.dtype = self.weights.dtype
        self.samples, self.step = samples, whole.samples if whole else samples
        self.code: list[Instruction] = []
        self.ends: list[int] = []
        self.norms: list[Norm] = []
        self.made: list[Buffer] = []
        self.below: dict[Buffer, int] = {}  # what computed whole numbers are less than, none of them negative
        self.values: dict[str, Any] = {}
        self.shapes = inferred(shared.program, shared.weights, shared.buffers, xs, samples)
        self.fused: dict[str, Value] = {}  # nodes that an earlier one took in, with the result of the last
        self.inputs: list[str] = []
        for name, x in zip(self.program.inputs, xs, strict=True):
            self._input(name, x)

    # --- the walk ---

    def run(self) -> Lowered:
        """Lower every node in turn, then give all buffers their places.

        Raises:
            Unsupported: the engine cannot run a node, or the result is not one tensor with a row per sample.
        """
        for node in self.program:
            if node.name in self.fused:
                self.values[node.name] = self.fused[node.name]
            else:
                self.values[node.name] = self._node(node)
        outputs = [self.values[name] for name in self.program.returned]
        if any(not isinstance(v, Value) or not v.shape or v.shape[0] != self.samples for v in outputs):
            raise Unsupported("a result without a leading batch dimension")
        if self.goal.kind == "outputs":
            self._outputs(outputs)
        elif self.goal.kind == "loss":
            assert self.goal.loss is not None
            self._loss(outputs[0], self.goal.loss)
        self.ends.append(len(self.code))
        return self._place([output.shape[1:] for output in outputs])

    def refused(self) -> dict[str, str]:
        """Nodes that the engine cannot run, with the reasons; what follows them is tried nevertheless."""
        refused: dict[str, str] = {}
        for node in self.program:
            if node.name in self.fused:
                self.values[node.name] = self.fused[node.name]
                continue
            try:
                self.values[node.name] = self._node(node)
            except Unsupported as error:
                refused[node.name] = str(error)
                self.values[node.name] = tree_map(self._stand_in, self.shapes[node.name])
        return refused

    def _stand_in(self, meta: Any) -> Any:
        """A value for what the engine did not compute."""
        if not isinstance(meta, Tensor):
            return meta
        return self.make(meta.shape, "", dtype=torch.int64 if meta.dtype == torch.int64 else self.dtype)

    def _node(self, node: Node) -> Any:
        """The value of a node: those that only look at what is there need no rule, the others have one."""
        arguments = {k: self.resolved(v) for k, v in node.arguments.items()}
        op = node.op
        if node.sizes:
            return self.shapes[node.name]
        if op == "item":
            container, at = arguments.values()
            return container[at]
        if op in ("identity", "dropout"):
            if op == "dropout" and node.arguments["train"]:
                raise Unsupported("dropout in training mode")
            return self.value(next(iter(arguments.values())))
        if op == "cast":
            return self._cast(node, self.value(next(iter(arguments.values()))))
        if op in _SHAPES:
            return self.reshaped(self.value(next(iter(arguments.values()))), self.shapes[node.name].shape)
        if op not in RULES:
            raise Unsupported(f"the operation {node.label}")
        try:
            return RULES[op](self, node, arguments)
        except RuntimeError as error:  # of torch, which is asked for shapes and weights
            raise Unsupported(f"the operation {node.label} ({str(error).splitlines()[0]})") from error

    def _cast(self, node: Node, value: Value) -> Value:
        """A value in the dtype that it has, and whole numbers in the compute dtype."""
        kind = self.shapes[node.name].dtype
        if kind == self.dtype and value.meta.dtype == torch.int64:
            return self.integers("eq", self.make(value.shape, node.name), value)
        if kind != value.meta.dtype:
            raise Unsupported(f"a cast from {value.meta.dtype} to {kind}")
        return value

    def resolved(self, argument: Any) -> Any:
        """An argument with the values of nodes in the places of references to them."""

        def one(leaf: Any) -> Any:
            return self.values[leaf.name] if isinstance(leaf, Ref) else leaf

        return tree_map(one, argument)

    def value(self, leaf: Any) -> Value:
        """An operand as a value: weights and constants too.

        What is true or false has 1 or 0 in the compute dtype.
        """
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
                    constant = narrowed(constant, self.dtype)
                elif constant.dtype == torch.bool:
                    constant = constant.to(self.dtype)
                elif constant.dtype != torch.int64:
                    raise Unsupported(f"{leaf.name} of dtype {constant.dtype}")
                buffer = self.shared.constants.add(("buffer", leaf.name), constant)
            return Value(buffer, torch.empty(shape, dtype=buffer.dtype, device="meta"))
        if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            buffer = self.shared.constants.add(
                ("scalar", float(leaf)), torch.tensor([leaf], dtype=self.dtype)
            )
            return Value(buffer, torch.empty((), dtype=self.dtype, device="meta"))
        raise Unsupported(f"an operand of type {type(leaf).__name__}")

    def kind(self, argument: Any) -> torch.dtype | None:
        """The dtype that an argument of a node has in torch; None for what is no tensor."""
        if isinstance(argument, Ref):
            value = self.shapes[argument.name]
            return value.dtype if isinstance(value, Tensor) else None
        if not isinstance(argument, Weight):
            return None
        if argument.kind == "parameter":
            return self.dtype
        constant = self.program.constants.get(argument.name, self.shared.buffers.get(argument.name))
        if constant is None:
            raise Unsupported(f"the buffer {argument.name}")
        return self.dtype if constant.is_floating_point() else constant.dtype

    def numbers(self, node: Node, *keys: str, masks: bool = False, integers: bool = False) -> list[Value]:
        """Operands of these names, which must be numbers of the compute dtype.

        Args:
            node: what reads them.
            keys: names of its arguments; those that it does not have are left out.
            masks: whether they may be true or false instead, as 1 or 0.
            integers: whether they may be whole numbers, which are made numbers of the compute dtype.

        Raises:
            Unsupported: an operand of another dtype.
        """
        allowed = {None, self.dtype} | ({torch.bool} if masks else set())
        values = []
        for key in keys:
            if key not in node.arguments:
                continue
            kind = self.kind(node.arguments[key])
            if integers and kind == torch.int64:
                value = self.value(self.resolved(node.arguments[key]))
                made = self.make(value.shape, f"{node.name}/{key}")
                values.append(self.integers("eq", made, value))
                continue
            if kind not in allowed:
                raise Unsupported(f"the operation {node.op} on {kind}")
            values.append(self.value(self.resolved(node.arguments[key])))
        return values

    # --- memory and instructions ---

    def new(self, count: int, dtype: torch.dtype | None = None) -> Buffer:
        """A buffer of ``count`` elements in the compute dtype or another one, to be placed at the end."""
        buffer = Buffer(count, dtype or self.dtype)
        self.made.append(buffer)
        return buffer

    def make(
        self, shape: Sequence[int], key: str, *, image: bool = False, dtype: torch.dtype | None = None
    ) -> Value:
        """A new value; images get the padding that their readers want."""
        dtype = dtype or self.dtype
        if not image:
            meta = torch.empty(tuple(shape), dtype=dtype, device="meta")
            return Value(self.new(meta.numel(), dtype), meta, key)
        if len(shape) == 5:
            meta = images(shape, dtype)
            return Value(self.new(meta.numel(), dtype), meta, key)
        pad = self.shared.pads.get(key, (0, 0))
        meta = images(shape, dtype, pad)
        n, c, h, w = shape if len(shape) == 4 else (*shape[:2], 1, shape[2])
        buffer = self.new(n * c * (h + 2 * pad[0]) * (w + 2 * pad[1]), dtype)
        buffer.pad = pad
        if pad != (0, 0):
            self.emit(
                "border", dtype, out=buffer, batch=n, height=h, width=w, channels=c, top=pad[0], left=pad[1]
            )
        return Value(buffer, meta, key, whole=True)

    def rows(
        self, shape: Sequence[int], key: str, *, image: bool = False, dtype: torch.dtype | None = None
    ) -> Value:
        """As :meth:`make`, with a gap after each row where products that read it want one.

        Values that are reshaped have none, for they would have to be copied.
        """
        dtype = dtype or self.dtype
        readers = {node.op for node in self.program.readers.get(key, ())}
        if image or not shape or not readers & _PRODUCTS or readers & _SHAPES or key in self.program.returned:
            return self.make(shape, key, image=image, dtype=dtype)
        wide = self.make((*shape[:-1], pitch(shape[-1], dtype)), key, dtype=dtype)
        return Value(wide.buffer, wide.meta[..., : shape[-1]], key)

    def like(self, value: Value, key: str) -> Value:
        """A new value of the same shape, and as images where that is how the given one lies."""
        return self.rows(value.shape, key, image=value.images and value.shape[1] > 1)

    def emit(self, op: str, dtype: torch.dtype, **fields: Any) -> None:
        """Add an instruction; operands are values, buffers, or buffers and elements; None is none."""
        self.code.append(self.instruction(op, dtype, **fields))
        for buffer, _ in self.code[-1].operands.values():
            buffer.touch(len(self.code) - 1)

    def instruction(self, op: str, dtype: torch.dtype, **fields: Any) -> Instruction:
        """An instruction by itself."""
        operands: dict[str, Operand] = {}
        numbers: dict[str, Any] = {}
        for name, value in fields.items():
            if isinstance(value, Value):
                operands[name] = (value.buffer, value.offset)
            elif isinstance(value, Buffer):
                operands[name] = (value, 0)
            elif isinstance(value, tuple) and isinstance(value[0], Buffer):
                operands[name] = value
            elif value is not None:
                numbers[name] = value
        return Instruction(op, dtype_name(dtype), operands, numbers)

    def unary(self, function: str, out: Value, x: Value, alpha: float = 0, beta: float = 0) -> Value:
        """Emit a function of one value into ``out``, to whose shape x is broadcast."""
        size, (xs, to) = self._loops(out, x)
        self.emit(
            "unary", out.meta.dtype, x=x, out=out, function=function, size=size, x_stride=xs, out_stride=to,
            alpha=alpha, beta=beta,
        )  # fmt: skip
        return out

    def binary(self, function: str, out: Value, x: Value, y: Value, alpha: float = 1) -> Value:
        """Emit arithmetic into ``out``, to whose shape both operands are broadcast."""
        size, (xs, ys, to) = self._loops(out, x, y)
        self.emit(
            "binary", out.meta.dtype, x=x, y=y, out=out, function=function, size=size, x_stride=xs,
            y_stride=ys, out_stride=to, alpha=alpha,
        )  # fmt: skip
        return out

    def integers(self, function: str, out: Value, x: Value, y: Value | None = None) -> Value:
        """Emit a comparison of whole numbers into ``out``, or the numbers themselves where y is missing."""
        metas = [one.meta.expand(out.shape) for one in (x, y or x)]
        try:
            nest = loops(out.shape, *(meta.stride() for meta in metas), out.meta.stride())
        except ValueError:
            raise Unsupported("whole numbers in more than 6 dimensions") from None
        xs, ys, to = nest.strides
        self.emit(
            "integers", out.meta.dtype, x=x, y=y, out=out, function=function, size=nest.size, x_stride=xs,
            y_stride=ys, out_stride=to,
        )  # fmt: skip
        return out

    def choose(self, out: Value, condition: Value, x: Value, y: Value) -> Value:
        """Emit into ``out`` x where the condition is not 0, else y, all of them broadcast."""
        size, (cs, xs, ys, to) = self._loops(out, condition, x, y)
        self.emit(
            "choose", out.meta.dtype, condition=condition, x=x, y=y, out=out, size=size, condition_stride=cs,
            x_stride=xs, y_stride=ys, out_stride=to,
        )  # fmt: skip
        return out

    def _loops(self, out: Value, *operands: Value) -> tuple[list[int], list[list[int]]]:
        """Sizes of loops over ``out``, and the strides of operands broadcast to it and of itself."""
        if any(one.meta.dtype != out.meta.dtype for one in operands):
            raise Unsupported(f"values of {', '.join(str(one.meta.dtype) for one in operands)} together")
        metas = [*(one.meta.expand(out.shape) for one in operands), out.meta]
        try:
            nest = loops(out.shape, *(meta.stride() for meta in metas))
        except ValueError:
            raise Unsupported("an element-wise operation over more than 6 dimensions") from None
        return nest.size, nest.strides

    def copied(self, value: Value, key: str, *, image: bool = False) -> Value:
        """A copy, contiguous or as images.

        Raises:
            Unsupported: values that are no floating-point numbers.
        """
        dtype = value.meta.dtype
        if not dtype.is_floating_point:
            raise Unsupported(f"moving values of {dtype}")
        return self.unary("identity", self.make(value.shape, key, image=image, dtype=dtype), value)

    def dense(self, value: Value, key: str) -> Value:
        """The value, contiguous."""
        return value if value.meta.is_contiguous() else self.copied(value, key + "/dense")

    def as_images(self, value: Value, key: str) -> Value:
        """The value [N, C, H, W] or [N, C, 1, W] with its channels innermost, copied where it lies otherwise.

        Raises:
            Unsupported: a value of other than 3 or 4 dimensions.
        """
        if value.meta.ndim not in (3, 4):
            raise Unsupported(f"images of {value.meta.ndim} dimensions")
        value = value if value.images else self.copied(value, key + "/images", image=True)
        return value.tall() if value.meta.ndim == 3 else value

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """A view in another shape, of the value itself where its strides allow that, else of a copy."""
        meta = value.meta.reshape(tuple(shape))
        if not value.shares(meta):
            value = self.dense(value, value.key)
            meta = value.meta.reshape(tuple(shape))
        return value.view(meta)

    def _input(self, name: str, x: Tensor) -> None:
        """Choose how samples of an input lie, which is as images where an operation on images reads them."""
        number = len(self.inputs)
        kind = self.dtype if x.dtype == torch.bool else x.dtype
        if kind not in (self.dtype, torch.int64):
            raise Unsupported(f"inputs of {x.dtype}")
        readers = {node.op for node in self.program.readers[name]}
        shape = (self.samples, *x.shape[1:])
        if x.ndim == 4 and readers & _IMAGE_READERS:
            wide = x.shape[1] + (x.shape[1] % 2 if self.dtype == torch.bfloat16 else 0)
            pad = self.shared.pads.get(name, (0, 0))
            meta = images(shape, kind, pad, wide)
            count = self.samples * (shape[2] + 2 * pad[0]) * (shape[3] + 2 * pad[1]) * wide
            self.shared.prepare[number] = lambda x: prepared_images(x, pad, wide)
            image = True
        else:
            image, pad, meta = False, (0, 0), torch.empty(shape, dtype=kind, device="meta")
            count = meta.numel()
            self.shared.prepare[number] = lambda x: x.to(kind).contiguous()
        each = int(count // self.samples * kind.itemsize)
        buffer = Buffer(count, kind, Space.INPUT, 0, each * self.step, pad=pad, which=number)
        self.inputs.append(dtype_name(kind))
        self.values[name] = Value(buffer, meta, name, whole=image)

    def vector(self, weight: Any) -> Buffer | None:
        """A vector as float32 values for the end of another instruction."""
        if weight is None:
            return None
        if isinstance(weight, Weight) and weight.kind == "parameter":
            return self.weights.plain(weight.name, torch.float32)
        value = self.value(weight)
        if isinstance(weight, Weight) and value.meta.is_floating_point():
            constant = self.shared.constants.of(value.buffer).float()
            return self.shared.constants.add(("vector", weight.name), constant)
        if not isinstance(weight, Value) or value.meta.dtype != self.dtype:
            raise Unsupported("a bias or scale that is no vector of numbers")
        value = self.copied(value, f"{value.key}/vector")
        if self.dtype == torch.float32:
            return value.buffer
        wide = self.new(value.meta.numel(), torch.float32)
        self._convert(value, wide, torch.float32)
        return wide

    # --- what an instruction takes in ---

    def epilogue(self, node: Node, *, norms: Sequence[str]) -> Epilogue:
        """What follows a node as far as its instruction can do it."""
        shape = tuple(self.shapes[node.name].shape)
        channels = 1 if node.op in _IMAGES else -1

        def addable(name: str) -> bool:
            value = self.values.get(name)
            if not isinstance(value, Value) or value.meta.dtype != self.dtype:
                return False
            fits = shape[-len(value.shape) :] == value.shape and value.meta.numel() == math.prod(shape)
            return fits and value.meta.expand(shape).stride()[channels] == 1

        return match_epilogue(self.program, node, norms=norms, residual=addable, activations=("relu",))

    def residual(self, epilogue: Epilogue) -> Value | None:
        """The value that an epilogue adds, of the shape of the node's result."""
        if not epilogue.residual:
            return None
        value: Value = self.values[epilogue.residual]
        return value.view(value.meta.expand(self.shapes[epilogue.node.name].shape))

    def took(self, epilogue: Epilogue, out: Value) -> Value:
        """Say that all of these nodes are done; their result."""
        for node in epilogue.nodes[1:]:
            self.fused[node.name] = out
        return out

    # --- the end ---

    def last_dtype(self, key: str) -> torch.dtype:
        """float32 for the result itself, which is not rounded to the compute dtype."""
        program = self.program
        last = program.returned == (key,) and not program.readers.get(key) and not self.goal.rounded
        return torch.float32 if last else self.dtype

    def is_float(self, value: Value) -> bool:
        """Whether a value is float32, as results are that are not rounded to the compute dtype."""
        return value.meta.dtype == torch.float32

    def _outputs(self, outputs: Sequence[Value]) -> None:
        """Emit what puts the results one after another: all samples of the first, of the second, …"""
        dtype = self.dtype if self.goal.rounded else torch.float32
        start = 0
        for output in outputs:
            if not output.meta.is_contiguous():
                output = self.dense(output, f"{output.key}/result")
            count = output.meta.numel()
            each = count // self.samples * dtype.itemsize
            offset, step = start, each * self.step
            start += each * self.total
            made = output.buffer in self.made and output.buffer.space == Space.ARENA
            if made and output.buffer.count == count and output.meta.dtype == dtype:
                output.buffer.space = Space.OUTPUT  # made in its place
                output.buffer.offset, output.buffer.step = offset, step
            else:
                self._convert(output, Buffer(count, dtype, Space.OUTPUT, offset, step), dtype)

    def _loss(self, output: Value, loss: Criterion) -> None:
        """Emit what compares the result with the targets: classes where they lie, entries in their order."""
        lies_well = output.meta.dtype == torch.float32 and _rows(output, loss) is not None
        if not lies_well and not output.meta.is_contiguous():
            output = self.dense(output, "result")
        if output.meta.dtype != torch.float32:
            wide = self.new(output.meta.numel(), torch.float32)
            self._convert(output, wide, torch.float32)
            output = Value(wide, output.meta.float())
        rows = _rows(output, loss)
        assert rows is not None  # of what is contiguous there is a view
        samples, positions, width = rows.shape
        kind = torch.int64 if loss.numbers else torch.float32
        count = samples * positions * (1 if loss.numbers else width)
        each = count // samples * kind.itemsize
        targets = Buffer(count, kind, Space.INPUT, 0, each * self.step, which=len(self.inputs))
        self.inputs.append(dtype_name(kind))
        like = _rows(Value(targets, torch.empty(output.shape, device="meta")), loss)
        assert like is not None
        self.emit(
            "loss", self.dtype, outputs=output, targets=targets, kind=loss.kernel, classes=self.goal.classes,
            samples=samples, positions=positions, width=width, stride=list(rows.stride()),
            target_stride=list(like.stride()), ignored=-1 if loss.ignore_index is None else loss.ignore_index,
            smoothing=loss.label_smoothing, threshold=loss.threshold,
            factor=1 / positions if loss.factor is None else loss.factor,
        )  # fmt: skip

    def _convert(self, value: Value, to: Buffer, dtype: torch.dtype) -> None:
        source, target = dtype_name(value.meta.dtype), dtype_name(dtype)
        count = value.meta.numel()
        self.emit("convert", self.dtype, x=value, out=to, count=count, from_dtype=source, to_dtype=target)

    def _place(self, outputs: list[tuple[int, ...]]) -> Lowered:
        """Give buffers their offsets: in the arena those that one stage alone touches, others beside it."""
        ends = self.ends
        stage = [next(i for i, end in enumerate(ends) if number < end) for number in range(len(self.code))]
        used = [b for b in self.made if b.first >= 0 and b.space == Space.ARENA]
        lasting = [b for b in used if stage[b.first] != stage[b.last]]
        for buffer in lasting:
            buffer.space = Space.LASTING
        long_bytes = allocate(lasting)
        for buffer in lasting:
            buffer.step = self.whole.lasting if self.whole else long_bytes
        arena = allocate([b for b in used if b.space == Space.ARENA])
        return Lowered(self.samples, self.code, ends, self.norms, arena, long_bytes, outputs, self.inputs)


def _rows(output: Value, loss: Criterion) -> Tensor | None:
    """The result as a view [samples, positions, classes], or entries [samples, 1, width]; None if none is."""
    meta = output.meta
    if loss.kind not in OF_CLASSES:
        rows = meta.reshape(len(meta), 1, -1)
        return rows if output.shares(rows) and rows.is_contiguous() else None
    assert loss.dimension is not None
    rows = meta.movedim(loss.dimension, -1).reshape(len(meta), -1, meta.shape[loss.dimension])
    return rows if output.shares(rows) else None


def lower(
    shared: Shared,
    xs: Sequence[Tensor],
    samples: int,
    goal: Goal,
    whole: Lowered | None = None,
    total: int | None = None,
) -> Lowered:
    """Instructions for a block of samples.

    Args:
        shared: weights, constants and padding, to which this adds.
        xs: some samples of each input, for their dtypes and shapes.
        samples: in the block.
        goal: loss, outputs or calibration.
        whole: for a shorter, last block: what the ones before it were lowered to.
        total: samples in all blocks.

    Raises:
        Unsupported: the program holds something that the engine cannot run.
    """
    while True:
        before = dict(shared.pads)
        lowered = Lowering(shared, xs, samples, goal, whole, total).run()
        if shared.pads == before:
            return lowered
