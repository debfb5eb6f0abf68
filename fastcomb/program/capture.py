"""From an ``nn.Module`` to a :class:`Program`, through :func:`torch.export.export`."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from fastcomb.program.choose import Output, choose
from fastcomb.program.constants import folded_constants
from fastcomb.program.example import example_inputs
from fastcomb.program.exporting import lengths_as_sizes, name_arguments, quiet, token_by_token
from fastcomb.program.ir import Dimension, Node, Program, Value, Weight
from fastcomb.program.ops import canonical
from fastcomb.program.private import private_copy
from fastcomb.program.rewrite import DECOMPOSED
from fastcomb.utils.dtypes import dtype_name
from fastcomb.utils.inputs import Inputs, Samples, call, leaves, mapped

#: Samples that a module is captured with where fewer than three are given.
_SAMPLES = 5
#: A number of samples without a limit.
_MANY = 1 << 31
_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default
_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
#: Names of symbols other than the number of samples.
_OTHERS = "NMLKJ"


class CaptureError(RuntimeError):
    """The module could not be captured; the message says where and what to do."""


def capture(model: nn.Module, *args: Any, output: Output | None = None, **kwargs: Any) -> Program:
    """Capture a module in eval mode as a Program.

    Args:
        model: the module; unchanged.
        *args, **kwargs: sample inputs, the batch first in every tensor; nested as the module takes them.
            Without any, a single random input is guessed from the first layers
            (:func:`fastcomb.program.example.example_inputs`).
        output: which tensor of what it returns is meant: a name, an index, or a function of the result. All
            of it if None; results that torch.export does not know become the list of their tensors.

    Returns:
        the Program, checked against the module on these inputs.

    Raises:
        CaptureError: torch.export cannot follow the module, or the captured operations do not compute
            what the module computes.

    Example:
        >>> program = fc.capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
        >>> [node.op for node in program]
        ['linear', 'relu', 'linear']
        >>> program.shapes["0.weight"]
        (8, 4)
    """
    module = private_copy(model).eval()
    if not leaves((args, kwargs)):
        args = example_inputs(module)
    x = Inputs(args, kwargs).map(_several)
    module = choose(module, x, output, default="tensors")
    try:
        with quiet(), lengths_as_sizes(module), torch.no_grad():
            program = _captured(module, x)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CaptureError(
            f"{type(model).__name__} cannot be captured by torch.export: {reason}. Rewrite the part of "
            "forward that it names (data-dependent control flow, usually), or pass other sample inputs"
        ) from error
    check(program, module, x)
    if not program.bound:
        try:
            check(program, module, mapped(lambda t: t[:-1] if t.ndim else t, x))
        except Exception:
            return dataclasses.replace(program, bound="a forward that depends on the number of samples")
    return program


def _captured(module: nn.Module, x: Inputs) -> Program:
    """What torch.export finds, with operations that have no name taken apart where torch can do that.

    Those of inputs alone stay whole: they run once, as they are.
    """
    name_arguments(module, x)
    token_by_token(module)
    copies = x.map(torch.clone)
    bound = inspect.signature(module.forward).bind(*x.args, **x.kwargs).arguments
    shapes = tree_map(_dynamic, dict(bound))
    exported = torch.export.export(module, copies.args, copies.kwargs, dynamic_shapes=shapes)
    if any(_writes(fx) and not _owned(fx.args[0]) for fx in exported.graph.nodes):
        exported = exported.run_decompositions({})  # writes through views become values
    table = {**torch.export.default_decompositions(), **DECOMPOSED}
    tried: set[Any] = set()
    while True:
        program = folded_constants(_read(exported, module))
        weighted = _weighted(program)
        unknown = {node.target for node in program.unknown if node.name in weighted} - tried
        tried |= unknown
        chosen = {target: table[target] for target in unknown if target in table}
        if not chosen:
            return program
        exported = exported.run_decompositions(chosen)


def _weighted(program: Program) -> set[str]:
    """Values that a parameter has a part in."""
    weighted: set[str] = set()
    for node in program:
        if weighted.intersection(node.values) or any(w.kind == "parameter" for w in node.weights):
            weighted.add(node.name)
    return weighted


def _dynamic(leaf: Any) -> Any:
    """The dimensions of an argument that are free: the samples of a tensor."""
    return {0: torch.export.Dim.AUTO} if isinstance(leaf, Tensor) and leaf.ndim else None


def _several(x: Tensor) -> Tensor:
    """As many samples as no other dimension is likely to have; export takes a batch of one for a constant."""
    if not x.ndim or not len(x) or len(x) > 2:
        return x
    return torch.cat([x] * _SAMPLES)[:_SAMPLES]


def _read(exported: torch.export.ExportedProgram, module: nn.Module) -> Program:
    """What torch.export found as a Program, under the module's own names.

    Writes in place become values: whoever reads the tensor afterwards reads the node that wrote it.
    """
    first = {id(p): name for name, p in module.named_parameters()}
    names = {n: first[id(p)] for n, p in module.named_parameters(remove_duplicate=False)}
    first_buffers = {id(b): name for name, b in module.named_buffers()}
    buffers = {n: first_buffers[id(b)] for n, b in module.named_buffers(remove_duplicate=False)}
    refs: dict[Any, Value | Weight] = {}
    inputs: dict[str, tuple[Dimension, ...]] = {}
    constants: dict[str, Tensor] = {}
    symbols = _Symbols()
    kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    nodes: list[Node] = []
    for fx in exported.graph.nodes:
        if fx.op == "placeholder":
            spec = kinds[fx.name]
            if spec.kind == InputKind.USER_INPUT and isinstance(fx.meta.get("val"), Tensor):
                refs[fx] = Value(fx.name)
                inputs[fx.name] = symbols.shape(fx.meta["val"], first=True)
            elif spec.kind == InputKind.USER_INPUT:
                refs[fx] = spec.arg.value  # a flag or a number, which is part of the program
            elif spec.kind == InputKind.PARAMETER:
                refs[fx] = Weight(names[spec.target], "parameter")
            elif spec.kind == InputKind.BUFFER:
                refs[fx] = Weight(buffers[spec.target], "buffer" if spec.persistent else "transient")
            else:
                refs[fx] = Weight(spec.target, "constant")
                constants[spec.target] = exported.constants[spec.target]
        elif fx.op == "call_function":
            node = _node(fx, refs, symbols)
            nodes.append(node)
            refs[fx] = Value(fx.name)
            if _writes(fx):  # whoever reads the overwritten tensor later sees the new values
                refs[fx.args[0]] = Value(fx.name)
    results = tree_map(lambda leaf: refs.get(leaf, leaf), exported.graph.output_node().args[0])
    spec = exported.call_spec.out_spec
    output = tree_unflatten(list(results)[-spec.num_leaves :], spec)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers()) | constants
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    aliases = {name: one for name, one in names.items() if name != one}
    bound = _bound(exported, inputs)
    return Program(inputs, tuple(nodes), output, shapes, constants, aliases, bound)


def _bound(exported: torch.export.ExportedProgram, inputs: Mapping[str, tuple[Dimension, ...]]) -> str:
    """Why the number of samples is not free; "" where any number from 2 on will do."""
    fixed = [shape for shape in inputs.values() if shape and isinstance(shape[0], int)]
    if fixed:
        return f"a forward that depends on the number of samples (captured for {fixed[0][0]})"
    limits = [r for r in exported.range_constraints.values() if r.lower > 2 or r.upper < _MANY]
    if limits:
        low, high = limits[0].lower, limits[0].upper
        return f"a forward that depends on the number of samples (between {low} and {high})"
    return ""


def _node(fx: torch.fx.Node, refs: dict[Any, Value | Weight], symbols: _Symbols) -> Node:
    """An operation of the exported graph, with what it reads by name and the submodules that called it."""
    op = canonical(fx.target)
    arguments = tree_map(lambda leaf: refs[leaf] if isinstance(leaf, torch.fx.Node) else leaf, _arguments(fx))
    target = fx.target
    if target in _VIEWS:  # a reshape, which holds whatever way a value lies in memory
        target = torch.ops.aten.reshape.default
        arguments = dict(zip(("self", "shape"), arguments.values(), strict=True))
    value = fx.meta.get("val")
    if target is _NORM:  # as which torch.export may write a batch norm, with two results that nobody reads
        op, target, value = "batch_norm", torch.ops.aten.batch_norm.default, fx.meta["val"][0]
        momentum, eps = arguments.pop("momentum"), arguments.pop("eps")
        arguments |= {"training": False, "momentum": momentum, "eps": eps, "cudnn_enabled": False}
    elif op == "batch_norm" and arguments["training"] and fx.meta["val"].shape[0] == 1:
        # of a single thing, such as weights that are standardised, whose channels are its own
        op, target = "instance_norm", torch.ops.aten.instance_norm.default
        arguments |= {"running_mean": None, "running_var": None}
        arguments["use_input_stats"] = arguments.pop("training")
    elif target is operator.getitem and getattr(fx.args[0], "target", None) is _NORM:
        op, target, arguments = "identity", torch.ops.aten.alias.default, {"self": arguments["0"]}
    stack = fx.meta.get("nn_module_stack") or {}
    return Node(
        name=fx.name,
        op=op,
        target=target,
        arguments=arguments,
        shape=symbols.shape(value) if isinstance(value, Tensor) else (),
        dtype=dtype_name(value.dtype) if isinstance(value, Tensor) else "",
        calls=tuple(
            _call(key, path) for key, (path, _) in stack.items() if path and not path.startswith("_empty_nn")
        ),
    )


def _call(key: str, path: str) -> tuple[str, int]:
    """A module and the number of its call; export marks the second call with "@1", and so on."""
    number = key.rpartition("@")[2]
    return path, int(number) if "@" in key and number.isdigit() else 0


def _arguments(fx: torch.fx.Node) -> dict[str, Any]:
    schema = getattr(fx.target, "_schema", None)
    if schema is None:
        return {str(i): value for i, value in enumerate(fx.args)}
    arguments = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(fx.args):
            arguments[argument.name] = fx.args[i]
        else:
            arguments[argument.name] = fx.kwargs.get(argument.name, argument.default_value)
    return arguments


def _writes(fx: torch.fx.Node) -> bool:
    """Whether an operation changes its first argument; dropout in place does so in training only."""
    schema = getattr(fx.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return False
    return "dropout" not in schema.name or bool(_arguments(fx)["train"])


def _owned(fx: Any) -> bool:
    """Whether a tensor's memory belongs to this value alone."""
    return (
        fx.op == "call_function"
        and not getattr(fx.target, "is_view", False)
        and not any(getattr(user.target, "is_view", False) for user in fx.users)
    )


class _Symbols:
    """Readable names for the symbols in shapes: N for the samples of all inputs, then M and so on."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def shape(self, tensor: Tensor, *, first: bool = False) -> tuple[Dimension, ...]:
        """Dimensions of a tensor; ``first``: of an input, which has its samples first."""
        if first and tensor.ndim and not isinstance(tensor.shape[0], int):
            self._names.update({str(s): "N" for s in tensor.shape[0].node.expr.free_symbols})
        return tuple(self._dimension(size) for size in tensor.shape)

    def _dimension(self, size: Any) -> Dimension:
        if isinstance(size, int):
            return size
        if not size.node.expr.free_symbols:
            return int(size)
        text = str(size)
        for symbol in sorted(map(str, size.node.expr.free_symbols), key=len, reverse=True):
            if symbol not in self._names:
                self._names[symbol] = _OTHERS[len(self._names)] if len(self._names) < len(_OTHERS) else symbol
            text = text.replace(symbol, self._names[symbol])
        return text


def check(program: Program, module: nn.Module, x: Samples) -> None:
    """Raise CaptureError unless a Program computes what a module (a private copy) computes."""
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        expected = call(module, mapped(torch.clone, x))  # a module may write to its inputs
        try:
            output = program.run(state, *leaves(mapped(torch.clone, x)))
        except Exception as error:
            raise CaptureError(
                f"the captured operations of {type(module).__name__} do not run: {str(error).splitlines()[0]}"
            ) from error
    for want, got in zip(tree_leaves(expected), tree_leaves(output), strict=True):
        if not isinstance(want, Tensor):
            continue
        known = want[torch.isfinite(want)] if want.is_floating_point() else want[:0]
        scale = known.abs().max().item() if known.numel() else 1.0
        eps = torch.finfo(want.dtype).eps if want.is_floating_point() else 0.0
        limit = max(1e-4, 4 * eps)  # a few roundings: export may order sums in another way
        close = want.shape == got.shape and torch.allclose(want, got, limit, limit * scale, equal_nan=True)
        if not close:
            raise CaptureError(
                f"the captured operations of {type(module).__name__} do not reproduce its output; its "
                "forward depends on what torch.export cannot see (random numbers, state outside tensors)"
            )
