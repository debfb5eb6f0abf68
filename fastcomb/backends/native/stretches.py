"""A network that the engine runs in stretches, with torch between them for what the engine lacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.compiled import CompiledProgram
from fastcomb.backends.native.instructions import Goal
from fastcomb.mixing import Mixture
from fastcomb.program import Program
from fastcomb.program.parts import MOVED, Stretch, Uncut, stretches

#: Makes the engine of a Program with samples of its inputs.
Compile = Callable[[Program, Sequence[Tensor]], CompiledProgram]


class Given(NamedTuple):
    """Values that a stretch reads: tensors [S, ...] that all combinations share, or [K, S, ...]."""

    tensors: list[Tensor]
    own: list[bool]


class Stretches:
    """All but the last of a network's stretches, and what that one takes.

    Args:
        program: the network.
        apart: operations that torch runs: node name → why.
        xs: samples of its inputs.
        mixture, dtype: what runs, and in what.
        state: buffers and constants in that dtype.
        compile: makes engines.

    Attributes:
        names: of the operations that torch runs.
        last: engine of the last stretch; None where torch runs that too.
        sample_bytes: of what is handed over for each sample of each combination.
        seconds: spent in torch's operations.

    Raises:
        Unsupported: the network cannot be cut there.
    """

    def __init__(
        self,
        program: Program,
        apart: Mapping[str, str],
        xs: Sequence[Tensor],
        mixture: Mixture,
        dtype: torch.dtype,
        state: Mapping[str, Tensor],
        compile: Compile,
    ) -> None:
        apart = dict(apart)
        try:
            parts = stretches(program, apart)
            while further := _numbers_between(program, parts):
                apart |= further
                parts = stretches(program, apart)
        except Uncut as error:
            reason = ", ".join(dict.fromkeys(apart.values()))
            raise Unsupported(f"{reason}; and not in parts, because of {error}") from None
        self._mixture, self._dtype, self._state = mixture, dtype, state
        self._program = program
        self._masks = {node.name for node in program if node.dtype == "bool"}
        kinds = {node.name: node.label for node in program}
        self.names = list(dict.fromkeys(kinds[name] for name in apart))
        self.seconds = 0.0
        self.sample_bytes = 1
        values = dict(zip(program.inputs, (x[:1] for x in xs), strict=True))
        index = mixture.index_tensor([0])
        self._engines: list[CompiledProgram | None] = []
        self._parts = parts
        for number, stretch in enumerate(parts):
            given = [values[name] for name in stretch.program.inputs]
            engine = None if stretch.apart else compile(stretch.program, given)
            self._engines.append(engine)
            if number == len(parts) - 1:
                break
            if engine is None:
                try:
                    results = self._on_torch(stretch, index, Given(given, [False] * len(given)))
                except RuntimeError as error:
                    raise Unsupported(f"{self.names} ({str(error).splitlines()[0]})") from error
                results = [result[0] for result in results]
            else:
                results = [
                    self._of_kind(name, torch.zeros(1, *shape, dtype=dtype))
                    for name, shape in zip(stretch.program.returned, engine.outputs, strict=True)
                ]
            self.sample_bytes += sum(result.nbytes for result in results)
            values |= dict(zip(stretch.program.returned, results, strict=True))
        self.last = self._engines[-1]

    def before_last(self, indices: list[int], xs: Sequence[Tensor]) -> Given:
        """What the last stretch takes, on samples of the network's inputs for some combinations."""
        values: dict[str, tuple[Tensor, bool]] = {
            name: (x, False) for name, x in zip(self._program.inputs, xs, strict=True)
        }
        for stretch, engine in zip(self._parts[:-1], self._engines[:-1], strict=True):
            given = _given(stretch.program, values)
            if engine is None:
                results = self._on_torch(stretch, self._mixture.index_tensor(indices), given)
            else:
                results = self._on_engine(engine, indices, given)
            for name, result in zip(stretch.program.returned, results, strict=True):
                values[name] = self._of_kind(name, result), True
        return _given(self._parts[-1].program, values)

    def _of_kind(self, name: str, value: Tensor) -> Tensor:
        """A value in torch's dtype of it: what is true or false, the engine has as 1 and 0."""
        return value.bool() if name.removesuffix(MOVED) in self._masks else value

    def last_on_torch(self, indices: list[int], given: Given) -> Tensor:
        """The network's result [K, S, ...], where torch runs its last operations."""
        (result,) = self._on_torch(self._parts[-1], self._mixture.index_tensor(indices), given)
        return result

    def _on_engine(self, engine: CompiledProgram, indices: list[int], given: Given) -> list[Tensor]:
        """Results [K, S, ...] of a stretch of the engine."""
        count, samples = len(indices), _samples(given)
        widths = [samples * torch.Size(shape).numel() for shape in engine.outputs]
        flat = torch.empty(count, sum(widths), dtype=self._dtype)
        inputs = laid_out(engine, given)
        engine.run(
            Goal("outputs", rounded=True), samples, indices, inputs, own_inputs=given.own, outputs=flat
        )
        pieces = flat.split(widths, dim=1)
        return [
            piece.reshape(count, samples, *shape) for piece, shape in zip(pieces, engine.outputs, strict=True)
        ]

    @torch.no_grad()
    def _on_torch(self, stretch: Stretch, index: Tensor, given: Given) -> list[Tensor]:
        """Results [K, S, ...] of torch's operations, one combination after another."""
        began = time.perf_counter()
        program = stretch.program
        names = {w.name for node in program for w in node.weights if w.kind == "parameter"}
        mixed = {name: self._mixture.parameter(name, index, self._dtype) for name in names}
        rows = []
        for k in range(len(index)):
            state = {**self._state, **{name: value[k] for name, value in mixed.items()}}
            inputs = [t[k] if own else t for t, own in zip(given.tensors, given.own, strict=True)]
            rows.append([self._cast(leaf) for leaf in tree_leaves(program.run(state, *inputs))])
        self.seconds += time.perf_counter() - began
        return [torch.stack(row) for row in zip(*rows, strict=True)]

    def _cast(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise Unsupported("a result that is no tensor")
        return value.to(self._dtype) if value.is_floating_point() else value


def _numbers_between(program: Program, parts: Sequence[Stretch]) -> dict[str, str]:
    """What makes whole numbers in a stretch of the engine, which hands over no such: node name → why."""
    nodes = {node.name: node for node in program}
    found = {}
    for stretch in parts[:-1]:
        for name in () if stretch.apart else stretch.program.returned:
            node = nodes.get(name.removesuffix(MOVED))
            if node is not None and node.dtype == "int64":
                while node.op == "item":
                    node = nodes[node.values[0]]
                found[node.name] = f"whole numbers of {node.label}"
    return found


def laid_out(engine: CompiledProgram, given: Given) -> list[Tensor]:
    """Values as an engine reads them."""
    flat = [t.flatten(0, 1) if own else t for t, own in zip(given.tensors, given.own, strict=True)]
    ready = engine.prepared(flat)
    return [
        r.unflatten(0, t.shape[:2]) if own else r
        for r, t, own in zip(ready, given.tensors, given.own, strict=True)
    ]


def _given(program: Program, values: Mapping[str, tuple[Tensor, bool]]) -> Given:
    pairs = [values[name] for name in program.inputs]
    return Given([tensor for tensor, _ in pairs], [own for _, own in pairs])


def _samples(given: Given) -> int:
    return given.tensors[0].shape[int(given.own[0])]
