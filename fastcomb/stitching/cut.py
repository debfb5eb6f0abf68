"""Cutting a network in two at a layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcomb.data.reading import as_samples
from fastcomb.program import (
    Layer,
    Program,
    SeveredError,
    Value,
    between,
    capture,
    check_apart,
    example_inputs,
    find,
    private_copy,
)
from fastcomb.program import layers as program_layers
from fastcomb.program.choose import Output, choose
from fastcomb.stitching.layer import Resize
from fastcomb.stitching.part import Part
from fastcomb.utils.inputs import Inputs, Samples, arguments, call, ready, structure


@dataclass(frozen=True, eq=False)
class Network:
    """A captured network with its weights, as they were then: what cuts of one network have in common.

    Attributes:
        program: its operations.
        state: copies of its parameters and buffers by name.
        name: of its class.
        like: what it is called with, where that is other than one tensor; without samples.
    """

    program: Program
    state: dict[str, Tensor]
    name: str
    like: Inputs | None = None

    @staticmethod
    def of(model: nn.Module, *inputs: Any, output: Output | None = None, **named: Any) -> Network:
        """Capture a module in eval mode on sample inputs; guessed if none are given.

        Raises:
            TypeError: not a module, or it is not obvious which ``output`` is meant.
            ValueError: no input could be guessed.
            CaptureError: it cannot be captured.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; pass an nn.Module")
        if not inputs and not named:
            inputs = example_inputs(model)
        x = as_samples("the sample input", Inputs(inputs, named) if named else inputs)
        copied = choose(private_copy(model).eval(), x, output, default="obvious or tensors")
        args, kwargs = arguments(x)
        program = capture(copied, *args, **kwargs)
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        state = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        check_apart(program, state, x, type(model).__name__)
        return Network(program, state, type(model).__name__, x[:0] if isinstance(x, Inputs) else None)

    @property
    def classes(self) -> int:
        """Number of logits.

        Raises:
            ValueError: the network does not return one tensor [N, classes].
        """
        returned = [self.program.value_shapes[name] for name in _returned(self.program)]
        if len(returned) != 1 or len(returned[0]) != 2 or not isinstance(returned[0][1], int):
            raise ValueError(f"{self.name} does not return logits [N, classes]; this is for classifiers")
        return returned[0][1]

    @property
    def device(self) -> torch.device:
        """Of its weights."""
        return next(iter(self.state.values())).device if self.state else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of its floating-point weights, the first of them."""
        kinds = (tensor.dtype for tensor in self.state.values() if tensor.is_floating_point())
        return next(kinds, torch.get_default_dtype())

    def run(self, part: Part, x: Samples) -> Any:
        """What a part that takes the network's inputs computes from x.

        Raises:
            ValueError: it does not run on such inputs.
        """
        try:
            return call(part, ready(x, self.device))
        except (RuntimeError, TypeError) as error:
            shapes = " and ".join("×".join(map(str, shape)) for shape in self.program.inputs.values())
            given = (
                f"of shape {tuple(x.shape)} and {x.dtype}"
                if isinstance(x, Tensor)
                else f"built {structure(x)}"
            )
            raise ValueError(
                f"inputs {given} do not run through {self.name}, which was cut for {shapes} and "
                f"{self.dtype}: {error}"
            ) from error

    def taps(self, layers: Sequence[Layer], *, output: bool = True) -> Part:
        """What computes the activations of several layers, and the network's output, in one pass.

        It returns ``(activations, output)``: a list in the order of ``layers``, and the output or None.
        """
        values = [Value(layer.value) for layer in layers]
        tree = (values, self.program.output if output else None)
        return Part(between(self.program, None, tree), self.state, self.like)


@dataclass(frozen=True, eq=False)
class Cut:
    """A network in two parts: ``top(bottom(x))`` is its output, bit for bit.

    (Torch's transformer layers have a fast path without gradients, which rounds otherwise and is not taken.)

    Attributes:
        network: the network.
        layer: where it is cut.
        bottom: from the input to the layer, included.
        top: what follows.
    """

    network: Network
    layer: Layer
    bottom: Part
    top: Part

    @property
    def width(self) -> int:
        """Number of channels at the cut."""
        return int(self.layer.shape[self.layer.channels])

    @property
    def positions(self) -> tuple[int, ...]:
        """Spatial size, or number of tokens, at the cut: () for a layer without."""
        return tuple(int(s) for i, s in enumerate(self.layer.shape) if i not in (0, self.layer.channels))

    def __repr__(self) -> str:
        return f"Cut({self.network.name} at {self.layer})"


def layers(
    model: nn.Module, *inputs: Any, clean: bool = False, output: Output | None = None, **named: Any
) -> tuple[Layer, ...]:
    """The layers of a network in execution order, with names and shapes.

    Args:
        model: the network; it is captured in eval mode.
        *inputs, **named: sample arguments, every tensor [N, ...]; guessed if there are none.
        output: which tensor of what it returns is meant, as in :func:`fastcomb.evaluate`; all of it if None.
        clean: only those at which the network can be cut, without severing a skip connection.

    Returns:
        layers (:class:`~fastcomb.program.Layer`); printed, each is its name and shape.

    Raises:
        CaptureError: the network cannot be captured.
        ValueError: no input could be guessed.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> [str(layer) for layer in fc.stitching.layers(model)]
        ['0 N×8', '1 N×8', '2 N×3']
    """
    program = Network.of(model, *inputs, output=output, **named).program
    return tuple(layer for layer in program_layers(program) if not clean or severable(program, layer))


def cut(
    model: nn.Module,
    layer: str,
    *inputs: Any,
    channels: int | None = None,
    output: Output | None = None,
    **named: Any,
) -> Cut:
    """Cut a network in two at a layer.

    Args:
        model: the network; a copy of its weights is cut, in eval mode.
        layer: a name that :func:`layers` lists: of a submodule ("layer1.0"), or of an operation in one
            ("layer1.0.add", the residual sum before the block's activation).
        *inputs, **named: sample arguments, every tensor [N, ...]; guessed if there are none.
        output: which tensor of what it returns is meant, as in :func:`fastcomb.evaluate`; all of it if None.
        channels: dimension of the layer's channels, where the one read off the network is not the one meant.

    Returns:
        both parts.

    Raises:
        ValueError: there is no such layer (near names are listed); it is called several times; nothing comes
            before or after it; or the cut severs a skip connection, so that the parts are not connected
            through this layer alone.
        CaptureError: the network cannot be captured.

    Example:
        >>> parts = fc.stitching.cut(a, "1")
        >>> parts.width
        8
        >>> h = parts.bottom(x)
        >>> torch.allclose(parts.top(h), a(x), atol=1e-5)
        True
    """
    return cuts(model, [layer], *inputs, channels=channels, output=output, **named)[0]


def cuts(
    model: nn.Module,
    names: Sequence[str],
    *inputs: Any,
    channels: int | None = None,
    output: Output | None = None,
    **named: Any,
) -> list[Cut]:
    """:func:`cut` at several layers: the cuts share the network, so that one pass serves all of them.

    Example:
        >>> first, second = fc.stitching.cuts(a, ["0", "1"])
        >>> first.network is second.network
        True
    """
    network = Network.of(model, *inputs, output=output, **named)
    return [_cut(network, name, channels) for name in names]


def _cut(network: Network, name: str, channels: int | None) -> Cut:
    """A network cut at one layer, with the checks that :func:`cut` explains."""
    program = network.program
    if not isinstance(name, str):
        raise TypeError(f"layer={name!r} is no name; stitching.layers(model) lists them")
    if name in program.inputs:
        raise ValueError(
            f"{name!r} is the input of {network.name}: nothing comes before it that could be cut off"
        )
    layer = find(program, name)
    if layer.value in _returned(program):
        raise ValueError(f"{name!r} is the output of {network.name}: nothing after it could be cut off")
    if channels is not None:
        layer = _with_channels(layer, channels)
    try:
        top = between(program, layer.value, program.output)
    except SeveredError as error:
        raise ValueError(_severed(program, layer, error.values)) from None
    return Cut(
        network,
        layer,
        Part(between(program, None, Value(layer.value)), network.state, network.like),
        Part(top, network.state),
    )


def _with_channels(layer: Layer, channels: int) -> Layer:
    rank = len(layer.shape)
    if not -rank < channels < rank or channels % rank == 0:
        raise ValueError(f"channels={channels} is no dimension of {layer} after the batch's")
    return dataclasses.replace(layer, channels=channels % rank)


def _returned(program: Program) -> set[str]:
    return {leaf.name for leaf in tree_leaves(program.output) if isinstance(leaf, Value)}


def _severed(program: Program, layer: Layer, values: tuple[str, ...]) -> str:
    """What a cut leaves unconnected, and the nearest layers at which it would not."""
    every = program_layers(program)
    names: dict[str, Any] = {each.value: each.name for each in every}
    beside = ", ".join(repr(names.get(value, value)) for value in values)
    at = next(i for i, each in enumerate(every) if each.value == layer.value)
    sides = [
        next((each.name for each in side if severable(program, each)), None)
        for side in (every[:at][::-1], every[at + 1 :])
    ]
    near = " or ".join(repr(name) for name in sides if name)
    return (
        f"a cut at {layer.name!r} severs a skip connection: what follows also reads {beside}, beside it"
        + (f"; cut where everything passes through, such as {near}" if near else "")
    )


def severable(program: Program, layer: Layer) -> bool:
    """Whether a network falls in two at a layer, so that nothing after it reads anything beside it."""
    if layer.value in _returned(program):
        return False
    try:
        between(program, layer.value, program.output)
    except SeveredError:
        return False
    return True


def places(a: Cut, b: Cut, resize: str | None) -> dict[str, Any]:
    """Where a stitching layer between two cuts acts: its arguments ``channels`` and ``resize``.

    Raises:
        ValueError: the activations have different positions, and nothing says how those of one become those
            of the other; or they cannot.
    """
    for label, end in (("a", a), ("b", b)):
        if not isinstance(end, Cut):
            raise TypeError(f"{label} is a {type(end).__name__}; pass stitching.cut(model, layer)")
    channels = (a.layer.channels, b.layer.channels)
    if resize is not None:
        Resize(resize, b.positions or (1,))  # a wrong word is an error even where nothing is resized
    if a.positions == b.positions:
        return {"channels": channels, "resize": None}
    if len(a.positions) != len(b.positions):
        raise ValueError(
            f"{a.layer} and {b.layer} have positions of different dimensions, {a.positions} and "
            f"{b.positions}; choose layers of the same kind"
        )
    if resize is None:
        raise ValueError(
            f"{a.layer} and {b.layer} have different positions, {a.positions} and {b.positions}; pass "
            "resize='pool' (adaptive average pooling) or 'interpolate'"
        )
    return {"channels": channels, "resize": Resize(resize, b.positions)}
