"""A part of a network as a module of its own."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fastcomb.program import Program, Weight
from fastcomb.utils.inputs import Inputs, fitted


class Part(nn.Module):
    """Runs a Program with weights of its own under their names in the whole network.

    The weights ask for no gradients, and there is no training mode: what was captured is the network in
    eval mode.

    Args:
        program: what to run.
        state: parameters and buffers by name; the part shares those that it reads.
        like: what it is called with, where that is other than one tensor.
    """

    def __init__(self, program: Program, state: Mapping[str, Tensor], like: Inputs | None = None) -> None:
        super().__init__()
        self._like = like
        self._program = program  # a name that no submodule of a network is likely to have
        self._readers: dict[str, Any] = {}
        for weight in dict.fromkeys(weight for node in program for weight in node.weights):
            value = state[weight.name] if weight.name in state else program.constants[weight.name]
            _register(self, weight, value)
            self._readers[weight.name] = operator.attrgetter(weight.name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the Program returns for its inputs: one tensor, or the network's arguments.

        Raises:
            ValueError: other arguments than it was made for.
        """
        if self._like is None:
            return self._program.run(self._tensors(), *args, **kwargs)
        return self._program.run(self._tensors(), *fitted(Inputs(args, kwargs), self._like))

    def _tensors(self) -> dict[str, Tensor]:
        """Its parameters, buffers and constants by name."""
        return {name: read(self) for name, read in self._readers.items()}

    def extra_repr(self) -> str:
        """How many operations it has, and what they start from, for ``print``."""
        sources = ", ".join(map(repr, self._program.inputs))
        return f"{len(self._program)} operations after {sources}"


def _register(module: nn.Module, weight: Weight, value: Tensor) -> None:
    """Put a tensor where its dotted name says, making the modules on the way."""
    *path, last = weight.name.split(".")
    for step in path:
        if step not in module._modules:
            module.add_module(step, nn.Module())
        module = module.get_submodule(step)
    if weight.kind == "parameter":
        module.register_parameter(last, nn.Parameter(value.detach(), requires_grad=False))
    else:
        module.register_buffer(last, value.detach(), persistent=weight.kind == "buffer")
