"""The native backend: the whole Program for one combination at a time, in compiled code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastcomb.backends.base import Score, Scores, Unsupported, place, power_of_two
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.captured import buffers_of, check, divided_of, recomputed, record
from fastcomb.backends.criterion import Criterion
from fastcomb.backends.native.compiled import CompiledProgram, refused
from fastcomb.backends.native.instructions import Goal
from fastcomb.backends.native.stretches import Given, Stretches, laid_out
from fastcomb.kernels import native
from fastcomb.mixing import Mixture
from fastcomb.program import Program
from fastcomb.sampling.stream import as_unsigned
from fastcomb.statistics.sequential_decision import Answer, Question
from fastcomb.utils.dtypes import narrowed
from fastcomb.utils.inputs import Samples, leaves, mapped, ready
from fastcomb.utils.notice import notify

#: Multiply-adds of the combinations handed over in one call: some tenths of a second.
_CALL_WORK = 4e10
_MOST_COMBINATIONS = 1 << 14
#: Bytes of samples in the engine's layout that are held at a time.
_CHUNK_BYTES = 256 << 20
#: Bytes of what is handed from one stretch of a network to the next at a time.
_STRETCH_BYTES = 64 << 20


class NativeBlock(NamedTuple):
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
        ValueError: the mixture's parameters are not the model's.
    """

    name = "native"
    dtypes = native.DTYPES
    slots = 1

    def __init__(
        self,
        mixture: Mixture,
        model: nn.Module,
        x: Samples,
        *,
        dtype: torch.dtype,
        normalisation: Normalisation,
    ) -> None:
        if native.extension() is None:
            raise Unsupported("")  # which has been said
        if mixture.device.type != "cpu":
            raise Unsupported(f"on the device {mixture.device}")
        if dtype not in self.dtypes:
            raise Unsupported(f"the dtype {dtype}")
        self.mixture, self.dtype, self.normalisation = mixture, dtype, normalisation
        self.block = 1
        x = self._ready(x)
        self._shapes = _shapes(x)
        self._buffers = buffers_of(model, mixture, normalisation)
        self._before, self._rest = divided_of(model, mixture, x, self._buffers, normalisation)
        self._statistics, self._floats = record(self._rest) if normalisation.batches else ({}, 0)
        self._state = {  # for what torch runs, as the reference has it
            name: narrowed(value, dtype) if value.is_floating_point() else value
            for name, value in {**self._before.constants, **self._rest.constants, **self._buffers}.items()
        }
        xs = self._first_part(x)
        self._stretches: Stretches | None = None
        self._compiled: CompiledProgram | None = None
        apart = self._refused(xs)
        if apart and normalisation.batches:
            raise Unsupported(next(iter(apart.values())))
        if apart:
            self._stretches = Stretches(self._rest, apart, xs, mixture, dtype, self._state, self._engine)
            self._compiled = self._stretches.last
        else:
            self._compiled = self._engine(self._rest, xs)
        shape = self._rest.value_shapes[self._rest.returned[0]]
        #: Shape of a sample's output.
        self.output = tuple(int(size) for size in shape[1:])
        self._keep = self._said = self._checked = False
        self._seconds = 0.0  # of work
        self._kept: tuple[tuple[object, ...], Samples, list[Tensor]] | None = None
        self._calibration = [self._prepared(self._ready(batch)) for batch in normalisation.batches]
        self._sample_bytes = max(1, sum(t.nbytes for t in xs) // len(x))

    def _engine(self, program: Program, xs: Sequence[Tensor]) -> CompiledProgram:
        """The engine of a Program, whose inputs are like ``xs``."""
        mixture = self.mixture
        return CompiledProgram(
            program,
            {name: mixture.mixed(name) for name in mixture.names},
            mixture.laws(),
            mixture.seed,
            dtype=self.dtype,
            xs=xs,
            buffers=self._buffers,
            fixed=self._buffers,
            statistics=self._statistics,
        )

    def _refused(self, xs: Sequence[Tensor]) -> dict[str, str]:
        """What the engine cannot run of the network, by node: why."""
        shapes = {name: tuple(self.mixture.shape(name)) for name in self.mixture.names}
        return refused(self._rest, shapes, xs, self.dtype, self._buffers, self._statistics)

    def plan(self, samples: int, *, in_memory: bool) -> int:
        """Choose how many combinations a call takes; the samples to hand over at a time.

        ``in_memory``: whether samples stay as they are, so that the engine's form of them can be kept.
        """
        self._keep = in_memory
        work = max(1, samples * sum(self.mixture.shape(name).numel() for name in self.mixture.names))
        self.block = int(min(max(_CALL_WORK / work, 8), _MOST_COMBINATIONS))
        if self._stretches is None:
            return min(samples, max(1, _CHUNK_BYTES // self._sample_bytes))
        each = self._sample_bytes + self._stretches.sample_bytes
        chunk = min(samples, max(1, _STRETCH_BYTES // each))
        self.block = power_of_two(_STRETCH_BYTES / (each * chunk), self.block)
        return chunk

    def prepare(self, index: Tensor) -> NativeBlock:
        """The combinations (int64 [K]) by unsigned number, with statistics where they are recomputed."""
        indices = [as_unsigned(i) for i in index.tolist()]
        if not self._statistics or not indices:
            return NativeBlock(indices, None)
        assert self._compiled is not None
        return NativeBlock(indices, self._compiled.collect(indices, self._calibration, self._floats))

    def summed_metrics(self, prepared: NativeBlock, x: Samples, y: Tensor, scores: Scores) -> Tensor:
        """Sums over samples, float64 [measures, K]: in the engine if it knows the loss, else of the outputs.

        Accuracy that has no meaning is NaN.

        Raises:
            ValueError: targets that do not fit the outputs.
        """
        if self._compiled is None or scores.criterion is None or len(scores.measures) > 2:
            sums = scores.of(self.outputs(prepared, x), y)
            self._say_share()
            return sums
        targets = self._targets(scores.criterion, x, y)
        began = time.perf_counter()
        inputs, own = self._inputs(prepared, x)
        sums = torch.empty(len(prepared.indices), 2, dtype=torch.float64)
        self._compiled.run(
            Goal("loss", scores.criterion, scores.classes),
            len(x),
            prepared.indices,
            [*inputs, targets],
            own_inputs=own,
            statistics=prepared.statistics,
            sums=sums,
        )
        self._seconds += time.perf_counter() - began
        if not scores.classes:
            sums[:, 1] = torch.nan
        self._say_share()
        return sums.T

    def per_sample_metric(self, prepared: NativeBlock, x: Samples, y: Tensor, measure: Score) -> Tensor:
        """One measure on every sample, [K, S], from the outputs."""
        return measure(self.outputs(prepared, x), y)

    def decide(
        self, prepared: NativeBlock, x: Samples, y: Tensor, scores: Scores, question: Question
    ) -> list[Answer] | None:
        """The engine's answers, each from as few samples as it takes; None where it does not know the loss.

        Raises:
            ValueError: targets that do not fit the outputs.
        """
        if self._stretches is not None or self._compiled is None or scores.criterion is None:
            return None
        targets = self._targets(scores.criterion, x, y)
        goal = Goal("loss", scores.criterion, scores.classes)
        inputs = [*self._layout(x), targets]
        return self._compiled.decide(goal, len(x), prepared.indices, inputs, question, prepared.statistics)

    def _targets(self, loss: Criterion, x: Samples, y: Tensor) -> Tensor:
        """Targets as the engine reads them."""
        shape = (len(x), *self.output)
        if y.shape != loss.targets(shape):
            raise ValueError(f"targets {tuple(y.shape)} for outputs {shape}")
        return (y if loss.numbers else y.float()).contiguous()

    def outputs(self, prepared: NativeBlock, x: Samples) -> Tensor:
        """The model's outputs float32 [K, S, ...]."""
        return self._outputs(prepared, x, rounded=False)

    def _outputs(self, prepared: NativeBlock, x: Samples, *, rounded: bool) -> Tensor:
        """The model's outputs [K, S, ...]: in the compute dtype if ``rounded``, else in float32."""
        dtype = self.dtype if rounded else torch.float32
        outputs = torch.empty(len(prepared.indices), len(x), *self.output, dtype=dtype)
        if not outputs.numel():
            return outputs
        began = time.perf_counter()
        inputs, own = self._inputs(prepared, x)
        if self._compiled is None:
            assert self._stretches is not None
            outputs = self._stretches.last_on_torch(prepared.indices, Given(inputs, own)).to(dtype)
        else:
            self._compiled.run(
                Goal("outputs", rounded=rounded),
                len(x),
                prepared.indices,
                inputs,
                own_inputs=own,
                statistics=prepared.statistics,
                outputs=outputs,
            )
        self._seconds += time.perf_counter() - began
        return outputs

    def _inputs(self, prepared: NativeBlock, x: Samples) -> tuple[list[Tensor], list[bool]]:
        """What the last stretch takes, and which of it each combination has its own of."""
        laid = self._layout(x)
        if self._stretches is None:
            return laid, [False] * len(laid)
        given = self._stretches.before_last(prepared.indices, laid)
        if self._compiled is None:
            return given.tensors, given.own
        return laid_out(self._compiled, given), given.own

    def statistics(self, index: int) -> dict[str, Tensor]:
        """Buffers that combination ``index`` runs with, by name: fixed ones, and statistics recomputed."""
        statistics = self.recomputed(self.prepare(self.mixture.index_tensor([index])))
        return (self.normalisation.fixed or {}) | {name: value[0] for name, value in statistics.items()}

    def recomputed(self, prepared: NativeBlock) -> dict[str, Tensor]:
        """Recomputed running statistics [K, C] by name."""
        return recomputed(self._rest, self._statistics, prepared.statistics)

    def generate(self, indices: Sequence[int], threads: int) -> None:
        """Generate the weights of combinations and nothing else, to measure it."""
        assert self._compiled is not None
        self._compiled.engine.generate(index=list(indices), threads=threads)

    def call(self, index: Tensor, x: Samples) -> Tensor:
        """Outputs [K, N, ...] of combinations ``index`` [K] in the compute dtype."""
        outputs = self._outputs(self.prepare(index), x, rounded=True)
        self._say_share()
        return outputs

    def check(self, model: nn.Module, x: Samples) -> Tensor:
        """Compare combination 0 with the module itself (:func:`fastcomb.backends.captured.check`)."""
        output = check(self, model, x)
        self._checked = True
        return output

    def _layout(self, x: Samples) -> list[Tensor]:
        """What the first part makes of the samples, as the engine reads it; kept while samples stay."""
        cached = self._kept
        key = tuple(one for t in leaves(x) for one in place(t))
        if cached is None or cached[0] != key:
            try:
                cached = (key, x, self._prepared(self._ready(x)))  # x stays alive, and so its address
            except Unsupported as error:
                if not self._checked:
                    raise
                raise ValueError(
                    f"the compiled kernels cannot run {error}, which the first samples did not show: say "
                    "backend='torch_reference'"
                ) from None
            self._kept = cached if self._keep else None
        return cached[2]

    def _prepared(self, x: Samples) -> list[Tensor]:
        shapes = _shapes(x)
        if shapes != self._shapes:
            raise ValueError(f"samples of {_listed(shapes)}, but the first were {_listed(self._shapes)}")
        xs = self._first_part(x)
        if self._stretches is not None:
            return xs
        assert self._compiled is not None
        return self._compiled.prepared(xs)

    @torch.no_grad()
    def _first_part(self, x: Samples) -> list[Tensor]:
        """What depends on the samples alone, the same whichever samples are together.

        Raises:
            ValueError: it is not.
        """
        if not self._before.nodes:
            return [
                t for t, name in zip(leaves(x), self._before.inputs, strict=True) if name in self._rest.inputs
            ]
        results = self._first_results(x)
        if any(len(result) != len(x) for result in results):
            raise Unsupported("inputs whose shape depends on their number")
        half = len(x) // 2
        if half:
            parts = zip(self._first_results(x[:half]), self._first_results(x[half:]), strict=True)
            for whole, (one, other) in zip(results, parts, strict=True):
                together = torch.cat([one, other]) if one.shape[1:] == other.shape[1:] else one
                if together.shape != whole.shape or not torch.allclose(
                    together, whole, rtol=1e-5, atol=1e-6, equal_nan=True
                ):
                    raise Unsupported("inputs that are compared with one another before any weight is used")
        return results

    def _first_results(self, x: Samples) -> list[Tensor]:
        try:
            values = self._before.run(self._state, *leaves(x))
        except RuntimeError as error:
            raise Unsupported(f"what is done to inputs ({str(error).splitlines()[0]})") from error
        return [narrowed(v, self.dtype) if v.is_floating_point() else v for v in values]

    def _ready(self, x: Samples) -> Samples:
        return ready(mapped(Tensor.detach, x), dtype=self.dtype)

    def _say_share(self) -> None:
        """Notice once what torch runs, and how much of the time that takes."""
        if self._stretches is not None and not self._said:
            self._said = True
            notify(
                f"of this network the compiled kernels do not have {', '.join(self._stretches.names)}, "
                f"which torch runs between them, in {self._stretches.seconds / self._seconds:.0%} of the time"
            )


def _shapes(x: Samples) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of single samples."""
    return [(tuple(t.shape[1:]), t.dtype) for t in leaves(x)]


def _listed(shapes: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(f"shape {shape} and {dtype}" for shape, dtype in shapes)
