"""Which tensor of what a network returns is meant: ``output=``.

Networks return tensors in tuples, dicts, dataclasses, with None and caches among them. A forward hook on the
private copy that runs makes it return the one that is meant, so that everything after it sees one tensor.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fastcomb.program.private import private_copy
from fastcomb.utils.inputs import CONSTANTS, Samples, call, mapped, structure
from fastcomb.utils.outputs import parts, tensors

#: A name (key or attribute), an index, or a function of what the network returns.
Output = str | int | Callable[[Any], Tensor]

Default = Literal["obvious", "obvious or tensors", "tensors", "result"]

#: What the output to look at is called, where a result has it.
_USUAL = "logits"

#: Of the hook among a module's; torch's own numbers are not negative.
_HOOK = -1


@dataclass(frozen=True)
class Choose:
    """A forward hook that makes a module return one tensor of its result.

    Attributes:
        path: names and indices that lead to it, or a function.
    """

    path: tuple[str | int, ...] | Callable[[Any], Tensor]

    def __call__(self, module: nn.Module, arguments: Any, result: Any) -> Tensor:
        return self.of(result)

    def of(self, result: Any) -> Tensor:
        """The tensor of a result.

        Raises:
            ValueError: it is not there; shows what is.
        """
        if callable(self.path):
            value = self.path(result)
        else:
            value = result
            for step in self.path:
                value = _part(value, step)
        if not isinstance(value, Tensor):
            what = "None or not there" if value is None else f"{structure(value)}, not one tensor"
            raise ValueError(
                f"output={self.name}: the network returns {structure(result)}, in which that is {what}; pass "
                "a tensor's name, its index, or a function of the result"
            )
        return value

    @property
    def given(self) -> Any:
        """As ``output=`` has it, where that can be."""
        return self.path if callable(self.path) or len(self.path) != 1 else self.path[0]

    @property
    def name(self) -> str:
        """For errors."""
        return getattr(self.path, "__name__", "…") if callable(self.path) else repr(self.given)


class Tensors:
    """A forward hook that makes a module return the tensors of its result as a list."""

    def __call__(self, module: nn.Module, arguments: Any, result: Any) -> list[Tensor]:
        return tensors(result)


def choose(model: nn.Module, x: Samples, output: Output | None, *, default: Default = "obvious") -> nn.Module:
    """Let a private copy return what is meant.

    Args:
        model: the copy; gets a hook where it returns something else than one tensor.
        x: a few samples.
        output: what is meant, if that is said.
        default: what is meant otherwise: what is obvious (:func:`find`), and where nothing is, an error or
            all tensors; always all tensors; or the result as it is. Tensors come in a list where the result
            is anything that torch.export does not know; caches are left out.

    Returns:
        the copy.

    Raises:
        TypeError, ValueError: there is no such output, or it is not obvious which one is meant.
    """
    check_output(output)
    if chosen(model) is None:
        unhooked(model)
    if output is None and default == "result":
        return model
    try:
        results = [_run(model, x)]
    except Exception:  # a fault of the module's own, which whatever runs it meets in its turn
        return model
    (result,) = results
    if output is not None:
        if isinstance(result, Tensor) and not callable(output):
            raise ValueError(
                f"output={output!r}: {type(model).__name__} returns one tensor, {structure(result)}; leave "
                "output= out"
            )
        hook = Choose(output if callable(output) else (output,))
        hook.of(result)
        return hooked(model, hook)
    if isinstance(result, Tensor):
        return model
    if default != "tensors":
        if len(x) > 1:
            with contextlib.suppress(Exception):  # it may be made for one number of samples
                results.append(_run(model, x[:-1]))
        try:
            return hooked(model, find(results, [len(x), len(x) - 1], type(model).__name__))
        except TypeError:
            if default == "obvious":
                raise
    known = all(isinstance(leaf, (Tensor, *CONSTANTS)) for leaf in tree_leaves(result))
    return model if known else hooked(model, Tensors())


def check_output(output: Any) -> None:
    """Raise TypeError unless this can be ``output=``."""
    known = output is None or isinstance(output, (str, int)) or callable(output)
    if not known or isinstance(output, bool):
        raise TypeError(
            f"output is a {type(output).__name__}; pass a name, an index, or a function of the result"
        )


def find(results: list[Any], counts: list[int], label: str) -> Choose:
    """The obvious tensor of a result: "logits", or the only floating-point one with the samples first.

    Args:
        results: of one network, for different numbers of samples.
        counts: how many samples each is of.
        label: what errors call the network.

    Raises:
        TypeError: there are several, or none.
    """
    if isinstance(_part(results[0], _USUAL), Tensor):
        return Choose((_USUAL,))
    places = [set(_places(result, count)) for result, count in zip(results, counts, strict=False)]
    found = set.intersection(*places)
    if len(found) != 1:
        why = (
            "several of which may be meant" if found else "with no floating-point tensor of one row a sample"
        )
        raise TypeError(
            f"{label} returns {structure(results[0])}, {why}; say which tensor is with output= (a name, an "
            "index, or a function of the result)"
        )
    return Choose(found.pop())


def chosen(model: nn.Module) -> Choose | None:
    """What a copy was made to return, if anything."""
    hook = model._forward_hooks.get(_HOOK)
    return hook if isinstance(hook, Choose) else None


def hooked(model: nn.Module, hook: Choose | Tensors | None) -> nn.Module:
    """A private copy that returns what a hook makes of its results; itself for None."""
    if hook is not None:
        model._forward_hooks[_HOOK] = hook  # always the same number: fingerprints see it
    return model


def unhooked(model: nn.Module) -> nn.Module:
    """A private copy that returns again what its original does."""
    model._forward_hooks.pop(_HOOK, None)
    return model


def _run(model: nn.Module, x: Samples) -> Any:
    trial = private_copy(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return call(trial, mapped(Tensor.clone, x))


def _part(value: Any, step: str | int) -> Any:
    """A part of a result by name or index; None where there is none."""
    held = [part for _, part in parts(value)]
    if isinstance(step, str):
        return value[step] if isinstance(value, Mapping) and step in value else getattr(value, step, None)
    if isinstance(value, Mapping) or dataclasses.is_dataclass(value):
        held = [part for part in held if part is not None]  # as Hugging Face's results count
    return held[step] if -len(held) <= step < len(held) else None


def _places(value: Any, count: int) -> list[tuple[str | int, ...]]:
    """Where the floating-point tensors of a result are that have ``count`` samples first."""
    if isinstance(value, Tensor):
        return [()] if value.is_floating_point() and value.ndim and len(value) == count else []
    return [(step, *rest) for step, part in parts(value) for rest in _places(part, count)]
