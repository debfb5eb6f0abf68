"""The native backend: the whole Program for one combination at a time, in compiled code."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastcomb.backends.base import Scores, Sums
from fastcomb.backends.native.extension import extension, level
from fastcomb.backends.native.law import law
from fastcomb.backends.native.lower import Goal, Norm, Shared, Unsupported, address, lower
from fastcomb.backends.native.weights import PACKED, Constants, Generated, Weights
from fastcomb.backends.torch_reference import TorchReference, check_fit
from fastcomb.mixture import Mixture
from fastcomb.normalisation import Normalisation
from fastcomb.program import CaptureError, Program
from fastcomb.program.cache import captured
from fastcomb.sweep import losses

#: Bytes of activations that a block of samples may need: about half of a core's second-level cache.
_ARENA_BYTES = 512 << 10
#: Multiply-adds of the combinations handed over in one call: some tenths of a second.
_CALL_WORK = 4e10
_MOST_COMBINATIONS = 1 << 14
#: Bytes of samples in the engine's layout that are held at a time.
_CHUNK_BYTES = 256 << 20

#: What the engine computes itself.
_LOSSES = {losses.cross_entropy: "cross_entropy", losses.nll: "nll", losses.mse: "mse"}


class Prepared(NamedTuple):
    """Combinations before any sample: numbers, and recomputed running statistics float32 [K, floats]."""

    indices: list[int]
    statistics: Tensor | None


class Native:
    """Compiled backend for CPUs.

    A thread takes one combination, generates its weights into scratch memory and pushes blocks of samples
    through all layers while their activations stay in its cache.

    Args:
        mixture, model, dtype, normalisation: as for the reference.
        x: the first few samples; their shape is that of all others.

    Raises:
        Unsupported: the engine cannot run this model, dtype or device; the message says why.
    """

    name = "native"
    slots = 1

    def __init__(
        self,
        mixture: Mixture,
        model: nn.Module,
        x: Tensor,
        *,
        dtype: torch.dtype,
        normalisation: Normalisation,
    ) -> None:
        native = extension()
        if native is None:
            raise Unsupported("")
        if mixture.device.type != "cpu":
            raise Unsupported(f"the device {mixture.device}")
        if dtype not in (torch.float32, torch.bfloat16):
            raise Unsupported(f"the dtype {dtype}")
        if any(module.training for module in model.modules()):
            raise Unsupported("a model in training mode")
        check_fit(mixture, model)
        self.mixture, self.dtype, self.normalisation = mixture, dtype, normalisation
        self.level = level()
        self._native = native
        self.block = 1
        x = self._ready(x)
        self._x = x[:1]
        self._program = _program(model, x)
        self._check_parameters(model)
        statistics, self._floats = _record(self._program) if normalisation.batches else ({}, 0)
        shapes = {name: tuple(mixture.shape(name)) for name in mixture.names}
        weights = Weights(shapes, dtype, native.width(self.level), native.pairs(self.level))
        buffers = {n: mixture.a.carried.get(n, b) for n, b in model.named_buffers()}
        fixed = buffers | (normalisation.fixed or {})
        self._shared = Shared(self._program, weights, Constants(), buffers, fixed, statistics)
        self._statistics = statistics
        if statistics:
            lower(self._shared, self._x, 2, Goal("collect"))
        lowered = lower(self._shared, self._x, 2, Goal("outputs"))
        self._output = lowered.output
        self._arena = lowered.arena / 2
        self._passes: dict[tuple[Any, int], int] = {}
        self._engine = self._built()
        self._held: tuple[Tensor, Tensor] | None = None
        self._calibration = [
            (batch, self._prepared(self._ready(batch))) for batch in normalisation.batches
        ]

    def plan(self, samples: int) -> int:
        """Choose how many combinations a call takes; the samples to hand over at a time."""
        sizes = [self.mixture.shape(name).numel() for name in self.mixture.names]
        work = max(sum(sizes) * samples, 1)
        self.block = int(min(max(_CALL_WORK / work, 8), _MOST_COMBINATIONS))
        per_sample = max(1, self._shared.prepare(self._x).nbytes)
        return min(samples, max(1, _CHUNK_BYTES // per_sample))

    def prepare(self, index: Tensor) -> Prepared:
        indices = [i & (1 << 64) - 1 for i in index.tolist()]
        if not self._statistics:
            return Prepared(indices, None)
        record = torch.empty(len(indices), self._floats)
        passes = [self._pass(Goal("collect"), len(batch)) for batch, _ in self._calibration]
        self._engine.collect(
            indices,
            passes,
            [[ready.data_ptr()] for _, ready in self._calibration],
            self._floats,
            record.data_ptr(),
            torch.get_num_threads(),
        )
        return Prepared(indices, record)

    def sums(self, prepared: Prepared, x: Tensor, y: Tensor, scores: Scores) -> Sums:
        loss = _LOSSES.get(scores.loss)
        width = torch.Size(self._output).numel()
        if loss in ("cross_entropy", "nll") and (y.ndim != 1 or y.is_floating_point() or len(self._output) != 1):
            loss = None
        if loss is None or (loss == "mse" and scores.accuracy is losses.accuracy):
            outputs = self.outputs(prepared, x)
            parts = [score(outputs, y).double().sum(1) for score in scores]
            return Sums(*parts)
        classes = scores.accuracy is losses.accuracy
        targets = (y.float() if loss == "mse" else y).contiguous()
        assert targets.numel() == len(x) * (width if loss == "mse" else 1)
        sums = torch.empty(len(prepared.indices), 2, dtype=torch.float64)
        self._run(Goal("loss", loss, classes), prepared, x, [targets.data_ptr()], sums.data_ptr(), 0)
        return Sums(sums[:, 0], sums[:, 1] if classes else torch.full_like(sums[:, 1], torch.nan))

    def outputs(self, prepared: Prepared, x: Tensor) -> Tensor:
        """The model's outputs float32 [K, S, ...]."""
        outputs = torch.empty(len(prepared.indices), len(x), *self._output)
        if outputs.numel():
            self._run(Goal("outputs"), prepared, x, [], 0, outputs.data_ptr())
        return outputs

    def statistics(self, index: int) -> dict[str, Tensor]:
        if not self._statistics:
            return dict(self.normalisation.fixed or {})
        record = self.prepare(self.mixture.index_tensor([index])).statistics
        assert record is not None
        found = {}
        for name, at in self._statistics.items():
            channels = self._program.shapes[name][0]
            found[name] = record[0, at : at + channels]
            found[name.removesuffix("mean") + "var"] = record[0, at + channels : at + 2 * channels]
        return found

    def call(self, index: Tensor, x: Tensor) -> Tensor:
        """Outputs [K, N, ...] of combinations ``index`` [K] in the compute dtype."""
        return self.outputs(self.prepare(index), x).to(self.dtype)

    def check(self, model: nn.Module, x: Tensor) -> Any:
        """Compare combination 0 with the module itself on a few samples; the module's output [S, ...].

        Raises:
            Unsupported: they differ.
        """
        reference = TorchReference(self.mixture, model, dtype=self.dtype, normalisation=self.normalisation)
        index = self.mixture.index_tensor([0])
        prepared = self.prepare(index)
        statistics = self.statistics(0) if self._statistics else {}
        expected = reference.output(index, statistics, x)
        found = self.outputs(prepared, x)[0]
        if not isinstance(expected, Tensor) or expected.shape != found.shape:
            raise Unsupported("what this model returns")
        wide = expected.float()
        limit = {torch.float32: 1e-3, torch.bfloat16: 0.2}[self.dtype]
        if torch.isfinite(wide).all() and (found - wide).norm() > limit * wide.norm() + 1e-6:
            raise Unsupported("a model whose forward computes something else than its captured program")
        return expected

    # --- the engine and its passes ---

    def _check_parameters(self, model: nn.Module) -> None:
        missing = [w.name for node in self._program for w in node.weights
                   if w.kind == "parameter" and w.name not in self.mixture.names]  # fmt: skip
        if missing:
            raise Unsupported(f"the parameter {missing[0]}, which is not mixed")

    def _built(self) -> Any:
        mixture, shared = self.mixture, self._shared
        engine = self._native.Engine(
            self.level, mixture.seed, law(mixture.sampler, mixture._table, mixture._ends)
        )
        for generated in shared.weights.generated:
            self._add(engine, generated)
        self._constants = shared.constants.block()
        setup = [instruction.given() for instruction in shared.setup]
        engine.finish(shared.weights.bytes, setup, self._constants.data_ptr())
        return engine

    def _add(self, engine: Any, generated: Generated) -> None:
        mixture, name, layout = self.mixture, generated.name, generated.layout
        a, b = mixture._pairs[name]
        unit = mixture.units[name]
        sharing = 1 if unit.per_row else 0 if unit.count == a.numel() else 2
        rows = a.shape[0] if a.ndim else 1
        outputs, inner = (layout.outputs, layout.inner) if layout else (rows, a.numel() // max(rows, 1))
        engine.add(
            a.data_ptr(),
            b.data_ptr(),
            outputs,
            inner,
            layout.first if layout else 0,
            generated.form,
            int(generated.form == PACKED and self.dtype == torch.bfloat16),
            sharing,
            unit.number,
            unit.count,
            generated.buffer.offset,
            layout.place if layout else [],
            layout.inverse if layout else [],
        )

    def _pass(self, goal: Goal, samples: int) -> int:
        """Number of the engine's pass over so many samples; built when first wanted."""
        key = ((goal.kind, goal.loss, goal.classes), samples)
        if key not in self._passes:
            most = max(1, int(_ARENA_BYTES / max(self._arena, 1)))
            blocks = -(-samples // most)
            size = -(-samples // blocks)
            blocks = -(-samples // size)
            whole = lower(self._shared, self._x, size, goal)
            rest = samples - (blocks - 1) * size
            last = whole if rest == size else lower(self._shared, self._x, rest, goal, whole)
            if last.lasting > whole.lasting or last.ends[-1] != whole.ends[-1]:
                raise RuntimeError("a shorter block needs other memory than a whole one")
            self._passes[key] = self._engine.add_pass(
                samples,
                size,
                *([i.given() for i in part.instructions] for part in (whole, last)),
                whole.ends,
                [_collected(norm) for norm in whole.norms],
                max(whole.arena, last.arena),
                whole.lasting,
            )
        return self._passes[key]

    def _run(
        self, goal: Goal, prepared: Prepared, x: Tensor, targets: list[int], sums: int, outputs: int
    ) -> None:
        statistics = prepared.statistics
        self._engine.run(
            prepared.indices,
            self._pass(goal, len(x)),
            [self._held_or_prepared(x).data_ptr(), *targets],
            0 if statistics is None else statistics.data_ptr(),
            self._floats,
            sums,
            outputs,
            4 * len(x) * torch.Size(self._output).numel(),
            torch.get_num_threads(),
        )

    def _held_or_prepared(self, x: Tensor) -> Tensor:
        """The samples in the engine's layout; the last ones are remembered."""
        held = self._held
        if held is None or held[0].data_ptr() != x.data_ptr() or held[0].shape != x.shape:
            held = (x, self._prepared(self._ready(x)))
            self._held = held
        return held[1]

    def _prepared(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self._x.shape[1:]:
            raise ValueError(
                f"samples of shape {tuple(x.shape[1:])}, but the first were {tuple(self._x.shape[1:])}"
            )
        self._check_tokens(x)
        return self._shared.prepare(x)

    def _check_tokens(self, x: Tensor) -> None:
        if x.is_floating_point() or not x.numel():
            return
        for node in self._program:
            if node.op == "embedding" and node.values == tuple(self._program.inputs):
                entries = self._program.shapes[node.weights[0].name][0]
                if int(x.min()) < 0 or int(x.max()) >= entries:
                    raise IndexError(
                        f"inputs run from {int(x.min())} to {int(x.max())}, but {node.weights[0].name!r} has "
                        f"{entries} entries"
                    )

    def _ready(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.dtype if tensor.is_floating_point() else None)


def _program(model: nn.Module, x: Tensor) -> Program:
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    kind = kinds.pop() if len(kinds) == 1 else torch.float32
    try:
        program = captured(model, x.to(kind) if x.is_floating_point() else x)
    except CaptureError as error:
        raise Unsupported(str(error)) from None
    if program.unknown:
        raise Unsupported(f"the operation {program.unknown[0].target}")
    return program


def _record(program: Program) -> tuple[dict[str, int], int]:
    """Where each running mean starts in the record of recomputed statistics, and the record's length."""
    found: dict[str, int] = {}
    total = 0
    for node in program:
        if node.op == "batch_norm" and node.arguments["running_mean"] is not None:
            name = node.arguments["running_mean"].name
            if name in found:
                raise Unsupported("a batch norm that is used twice")
            found[name] = total
            total += 2 * program.shapes[name][0]
    return found, total


def _collected(norm: Norm) -> tuple[Any, ...]:
    buffers = (norm.gamma, norm.beta, norm.scale, norm.shift)
    return (norm.channels, norm.per_sample, norm.statistics, norm.eps, *(address(b) for b in buffers))


