"""Does a permuted network compute the same function? Tried beyond the example that it was captured on.

A network may do other things with more samples, longer inputs or in training mode than the captured
Program shows: read more rows of a table, run further heads. So networks are compared on several inputs:
the example, random ones, inputs of other sizes where the network takes them, each in evaluation mode and,
where that differs and is no matter of chance, in training mode.

Outputs are compared in float64, in which sums in another order agree to 1e-13 or so; casts to other
floating-point types are made casts to float64 meanwhile. Networks that do not run that way are compared
in their own type, within some multiple of what one rounding of every weight changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fastcomb.program import private_copy
from fastcomb.utils.inputs import Inputs, Samples, call, leaves, mapped
from fastcomb.utils.outputs import tensors

Mode = Literal["evaluation", "training"]
State = Mapping[str, Tensor]

#: Relative difference that reordered sums may cause in float64 (about 1e-13 in practice) stays far below.
_TOLERANCE = 1e-8
#: In other types: this many times what rounding every weight once changes, over several roundings.
_ROUNDINGS = 64
_REPEATS = 3
#: Entries of one sample above which inputs are not made larger, and fewer samples are tried.
_LARGE = 1 << 15
_WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}
_WIDE |= {torch.complex32: torch.complex128, torch.complex64: torch.complex128}
#: Modules of torch that behave at random, or change their statistics, in training mode.
_UNSTEADY = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU)


@dataclass(frozen=True, eq=False)
class Trial:
    """One input on which networks are compared.

    Attributes:
        what: the input in words, for errors.
        x: the input.
        mode: "evaluation" or "training".
        other: whether its size or mode is another than the example's.
        outputs: the original network's, flattened to tensors.
        wide: whether outputs are computed in float64.
    """

    what: str
    x: Samples
    mode: Mode
    other: bool
    outputs: list[Tensor]
    wide: bool


class Trials:
    """Inputs that the network takes, and what it yields there.

    Args:
        model: a module of the architecture, on the CPU; unchanged.
        state: weights of the original network.
        example: inputs that it was captured on.
        sizes: further sizes to try for dimensions of the input, such as the length of a position table.

    Raises:
        Exception: whatever the network raises on the example itself.
    """

    def __init__(self, model: nn.Module, state: State, example: Samples, sizes: Iterable[int] = ()) -> None:
        self._model = model
        self._original = _Network(model, state)
        self._state = state
        self._rounded: dict[bool, list[_Network]] = {}
        self.trials: list[Trial] = []
        self.training = self._trains(example)
        rows = _rows(example)
        try:
            self._add("the example", rows, "evaluation", other=False)
        except Exception:  # a network may be made for one number of samples
            rows = example
            self._add("the example", rows, "evaluation", other=False)
        for what, x in _random(rows):
            self._try(what, x, "evaluation", other=False)
        for x in _resized(rows, sizes):
            self._try(f"an input of size {_size(x)}", x, "evaluation", other=True)
        if self.training:
            for trial in list(self.trials):
                self._try(f"{trial.what} in training mode", trial.x, "training", other=True)

    def failed(self, state: State, *, main: bool = False) -> tuple[Trial, str] | None:
        """The first trial on which a network differs from the original, and how; None where it never does.

        Args:
            state: weights of the network.
            main: only compare on inputs of the example's size, in evaluation mode.
        """
        network = _Network(self._model, state)
        for trial in self.trials:
            if main and trial.other:
                continue
            try:
                outputs = network.run(trial.x, trial.mode, wide=trial.wide)
            except Exception as error:
                return trial, f"raises {type(error).__name__} on {trial.what}"
            limits: list[float] = []
            for i, (expected, actual) in enumerate(zip(trial.outputs, outputs, strict=True)):
                difference, reach = _difference(expected, actual), _scale(expected)
                if trial.wide and difference <= _TOLERANCE * reach:
                    continue
                limits = limits or self._roundings(trial)
                if not difference <= limits[i]:
                    return trial, f"differs by {difference:.3g} (outputs reach {reach:.3g}) on {trial.what}"
        return None

    def _trains(self, example: Samples) -> bool:
        """Whether training mode yields something else than evaluation mode, and always the same."""
        x = _rows(example)
        try:
            expected = self._original.run(x, "evaluation", wide=False)
            with torch.random.fork_rng(devices=[]):
                outputs = []
                for seed in (0, 1):
                    torch.manual_seed(seed)
                    outputs.append(self._original.run(x, "training", wide=False))
        except Exception:  # training may need targets, or other samples
            return False
        return _alike(outputs[0], outputs[1], within=0.0) and not _alike(expected, outputs[0], within=1e-5)

    def _try(self, what: str, x: Samples, mode: Mode, *, other: bool) -> None:
        try:
            self._add(what, x, mode, other=other)
        except Exception:  # the network does not take this input
            return

    def _add(self, what: str, x: Samples, mode: Mode, *, other: bool) -> None:
        wide = True
        try:
            outputs = self._original.run(x, mode, wide=True)
        except Exception:
            wide = False
            outputs = self._original.run(x, mode, wide=False)
        if not other or not any(bool(one.isnan().any()) for one in outputs):  # where it is defined
            self.trials.append(Trial(what, x, mode, other, outputs, wide))

    def _roundings(self, trial: Trial) -> list[float]:
        """Per output, the largest difference that counts as rounding."""
        if trial.wide not in self._rounded:
            states = [_perturbed(self._state, trial.wide, seed) for seed in range(_REPEATS)]
            self._rounded[trial.wide] = [_Network(self._model, state) for state in states]
        networks = self._rounded[trial.wide]
        changed = [network.run(trial.x, trial.mode, wide=trial.wide) for network in networks]
        return [
            _ROUNDINGS * max(_difference(expected, other[i]) for other in changed)
            for i, expected in enumerate(trial.outputs)
        ]


class _Network:
    """Copies of a module with given weights, in its own type and in float64."""

    def __init__(self, model: nn.Module, state: State) -> None:
        self._model = model
        self._state = state
        self._copies: dict[tuple[Mode, bool], nn.Module] = {}

    def run(self, x: Samples, mode: Mode, *, wide: bool) -> list[Tensor]:
        """The output's tensors, real and in float64."""
        module = self._module(mode, wide)
        if wide:
            x = mapped(_widened, x)
        with torch.no_grad(), _Float64() if wide else torch.no_grad():
            outputs = tensors(call(module, mapped(torch.clone, x)))
        return list(map(_real, outputs))

    def _module(self, mode: Mode, wide: bool) -> nn.Module:
        if (mode, wide) not in self._copies:
            module = private_copy(self._model)
            if wide:
                module = module._apply(_widened)
            put(module, self._state)
            self._copies[mode, wide] = in_training(module) if mode == "training" else module
        return self._copies[mode, wide]


def put(module: nn.Module, state: State) -> None:
    """Set parameters and buffers in place; without :func:`functional_call`, which swaps shared ones twice."""
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name in state:
                tensor.copy_(state[name])


def in_training(module: nn.Module, only: frozenset[str] | None = None) -> nn.Module:
    """Training mode, but for what is random there or collects statistics; only these modules, if given."""
    module.eval()
    for name, part in module.named_modules():
        if not isinstance(part, _UNSTEADY) and (only is None or name in only):
            part.training = True
    return module


class _Float64(TorchDispatchMode):
    """Every operation that names a floating-point type yields float64 (complex ones complex128)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def widened(leaf: Any) -> Any:
            if isinstance(leaf, torch.dtype):
                return _WIDE.get(leaf, leaf)
            # tensors that are neither parameters nor buffers come in their own type
            return _widened(leaf) if isinstance(leaf, Tensor) and not func._schema.is_mutable else leaf

        args, kwargs = tree_map(widened, (args, kwargs or {}))
        return func(*args, **kwargs)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(_WIDE.get(tensor.dtype, tensor.dtype))


def _real(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).double()


def _perturbed(state: State, wide: bool, seed: int) -> dict[str, Tensor]:
    """Every floating-point entry moved by at most one rounding."""
    generator = torch.Generator().manual_seed(seed)

    def moved(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        tensor = _widened(tensor) if wide else tensor
        step = torch.randint(-1, 2, tensor.shape, generator=generator).to(tensor.dtype)
        return tensor + tensor * (torch.finfo(tensor.dtype).eps * step)

    return {name: moved(tensor) for name, tensor in state.items()}


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of two outputs; entries that are NaN or the same infinity in both agree."""
    if one.shape != other.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    same = (one == other) | (one.isnan() & other.isnan())
    return float((one - other).abs().nan_to_num(nan=torch.inf).masked_fill(same, 0.0).max())


def _scale(output: Tensor) -> float:
    finite = output[output.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _alike(one: Sequence[Tensor], other: Sequence[Tensor], within: float) -> bool:
    return len(one) == len(other) and all(
        _difference(a, b) <= within * _scale(a) for a, b in zip(one, other, strict=True)
    )


def _rows(x: Samples) -> Samples:
    """A few samples, repeated where there are fewer; repeated numbers are scaled, or none would vary."""
    count = 3 if _entries(x) <= _LARGE else 2
    return mapped(lambda t: _taken(t, count), x)


def _taken(x: Tensor, count: int) -> Tensor:
    if not x.ndim or len(x) >= count:
        return x[:count] if x.ndim else x
    picked = x[torch.arange(count) % len(x)]
    if not x.is_floating_point():
        return picked
    return picked * (1 - 0.25 * (torch.arange(count) // len(x))).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _random(x: Samples) -> Iterator[tuple[str, Samples]]:
    """Inputs of the same size: normal numbers; integers among those that the example has."""
    generator = torch.Generator().manual_seed(0)
    count = 5 if _entries(x) <= _LARGE else 2
    yield "random input", mapped(lambda t: _drawn(t, (count, *t.shape[1:]), generator), x)
    if len(x) and not all(t.is_floating_point() for t in leaves(x)):  # columns may have ranges of their own
        yield "an example of mixed rows", mapped(lambda t: _mixed(t, count, generator), x)


def _mixed(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Every column drawn from the rows by itself; numbers drawn anew."""
    shape = (count, *x.shape[1:])
    if x.is_floating_point():
        return _drawn(x, shape, generator)
    return x.gather(0, torch.randint(len(x), shape, generator=generator))


def _entries(x: Samples) -> int:
    """Entries of one sample."""
    return sum(t[:1].numel() for t in leaves(x))


def _size(x: Samples) -> str:
    return " and ".join("×".join(map(str, t.shape)) for t in leaves(x))


def _drawn(x: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if x.is_floating_point():  # an example may be all zeros
        return torch.randn(shape, generator=generator).to(x.dtype)
    if x.is_complex():
        return torch.randn(shape, generator=generator, dtype=torch.complex64).to(x.dtype)
    values = x.flatten()
    return values[torch.randint(len(values), shape, generator=generator)]


def _resized(x: Samples, sizes: Iterable[int]) -> Iterator[Samples]:
    """Random inputs in which dimensions other than the batch are shorter or longer.

    Of several tensors, all dimensions of one size, such as tokens and their mask, get another together.
    """
    generator = torch.Generator().manual_seed(1)
    if isinstance(x, Inputs):
        yield from _resized_together(x, list(sizes), generator)
        return
    per_sample = x[:1].numel()
    for dims, new in _sizes(tuple(x.shape), sizes):
        shape = tuple(new if d in dims else size for d, size in enumerate(x.shape))
        entries = torch.Size(shape[1:]).numel()
        if 0 < entries <= max(_LARGE, per_sample - 1):
            yield _drawn(x, (3 if entries <= _LARGE // 8 else 2, *shape[1:]), generator)


def _resized_together(x: Inputs, sizes: list[int], generator: torch.Generator) -> Iterator[Inputs]:
    for size in dict.fromkeys(d for t in leaves(x) for d in t.shape[1:]):
        for new in _others(size, sizes):

            def drawn(t: Tensor, size: int = size, new: int = new) -> Tensor:
                shape = (3, *(new if d == size else d for d in t.shape[1:]))
                return _drawn(t, shape, generator)

            entries = sum(torch.Size(new if d == size else d for d in t.shape[1:]).numel() for t in leaves(x))
            if 0 < entries <= max(_LARGE // 8, _entries(x) - 1):
                yield x.map(drawn)


def _others(size: int, sizes: Iterable[int]) -> list[int]:
    """Other sizes to try for a dimension; attention takes memory with the square of a length."""
    longer = {new for new in (2 * size, *sizes) if new <= min(max(4 * size, 64), 512)}
    return sorted({size + 1, size - 1, size // 2, *longer} - {size})


def _sizes(shape: tuple[int, ...], sizes: Iterable[int]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Dimensions and the size that they are given: all of space together, others one by one."""
    if len(shape) > 3:
        yield tuple(range(2, len(shape))), shape[2] + shape[2] // 4
        yield tuple(range(2, len(shape))), shape[2] // 2
        yield (len(shape) - 1,), shape[-1] - 1
    for d in range(1, len(shape) if len(shape) < 4 else 2):
        for new in _others(shape[d], sizes):
            yield (d,), new
