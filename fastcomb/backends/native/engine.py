"""The native backend: the whole Program for one combination at a time, in compiled code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastcomb.backends.base import Score, Scores, Unsupported, place
from fastcomb.backends.batch_norm import Normalisation
from fastcomb.backends.captured import buffers_of, check, program_of, recomputed, record
from fastcomb.backends.criterion import Criterion
from fastcomb.backends.native.compiled import CompiledProgram
from fastcomb.backends.native.instructions import Goal
from fastcomb.kernels import native
from fastcomb.mixing import Mixture
from fastcomb.sampling.stream import as_unsigned
from fastcomb.statistics.sequential_decision import Answer, Question

#: Multiply-adds of the combinations handed over in one call: some tenths of a second.
_CALL_WORK = 4e10
_MOST_COMBINATIONS = 1 << 14
#: Bytes of samples in the engine's layout that are held at a time.
_CHUNK_BYTES = 256 << 20


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
        x: Tensor,
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
        self._shape, self._kind = x.shape[1:], x.dtype
        self._program = program_of(model, mixture, x)
        self._statistics, self._floats = record(self._program) if normalisation.batches else ({}, 0)
        buffers = buffers_of(model, mixture, normalisation)
        self._compiled = CompiledProgram(
            self._program,
            {name: mixture.mixed(name) for name in mixture.names},
            mixture.laws(),
            mixture.seed,
            dtype=dtype,
            x=x,
            buffers=buffers,
            fixed=buffers,
            statistics=self._statistics,
        )
        self._keep = False
        self._kept: tuple[tuple[object, ...], Tensor, Tensor] | None = None
        self._calibration = [self._prepared(self._ready(batch)) for batch in normalisation.batches]
        self._sample_bytes = max(1, self._compiled.prepared(x[:1]).nbytes)

    def plan(self, samples: int, *, in_memory: bool) -> int:
        """Choose how many combinations a call takes; the samples to hand over at a time.

        ``in_memory``: whether samples stay as they are, so that the engine's form of them can be kept.
        """
        self._keep = in_memory
        work = max(1, samples * sum(self.mixture.shape(name).numel() for name in self.mixture.names))
        self.block = int(min(max(_CALL_WORK / work, 8), _MOST_COMBINATIONS))
        return min(samples, max(1, _CHUNK_BYTES // self._sample_bytes))

    def prepare(self, index: Tensor) -> NativeBlock:
        """The combinations (int64 [K]) by unsigned number, with statistics where they are recomputed."""
        indices = [as_unsigned(i) for i in index.tolist()]
        if not self._statistics or not indices:
            return NativeBlock(indices, None)
        return NativeBlock(indices, self._compiled.collect(indices, self._calibration, self._floats))

    def summed_metrics(self, prepared: NativeBlock, x: Tensor, y: Tensor, scores: Scores) -> Tensor:
        """Sums over samples, float64 [measures, K]: in the engine if it knows the loss, else of the outputs.

        Accuracy that has no meaning is NaN.

        Raises:
            ValueError: targets that do not fit the outputs.
        """
        if scores.criterion is None or len(scores.measures) > 2:
            return scores.of(self.outputs(prepared, x), y)
        targets = self._targets(scores.criterion, x, y)
        sums = torch.empty(len(prepared.indices), 2, dtype=torch.float64)
        self._compiled.run(
            Goal("loss", scores.criterion, scores.classes),
            len(x),
            prepared.indices,
            [self._layout(x), targets],
            statistics=prepared.statistics,
            sums=sums,
        )
        if not scores.classes:
            sums[:, 1] = torch.nan
        return sums.T

    def per_sample_metric(self, prepared: NativeBlock, x: Tensor, y: Tensor, measure: Score) -> Tensor:
        """One measure on every sample, [K, S], from the outputs."""
        return measure(self.outputs(prepared, x), y)

    def decide(
        self, prepared: NativeBlock, x: Tensor, y: Tensor, scores: Scores, question: Question
    ) -> list[Answer] | None:
        """The engine's answers, each from as few samples as it takes; None where it does not know the loss.

        Raises:
            ValueError: targets that do not fit the outputs.
        """
        if scores.criterion is None:
            return None
        targets = self._targets(scores.criterion, x, y)
        goal = Goal("loss", scores.criterion, scores.classes)
        inputs = [self._layout(x), targets]
        return self._compiled.decide(goal, len(x), prepared.indices, inputs, question, prepared.statistics)

    def _targets(self, loss: Criterion, x: Tensor, y: Tensor) -> Tensor:
        """Targets as the engine reads them."""
        shape = (len(x), *self._compiled.output)
        if y.shape != loss.targets(shape):
            raise ValueError(f"targets {tuple(y.shape)} for outputs {shape}")
        return (y if loss.numbers else y.float()).contiguous()

    def outputs(self, prepared: NativeBlock, x: Tensor) -> Tensor:
        """The model's outputs float32 [K, S, ...]."""
        return self._outputs(prepared, x, rounded=False)

    def _outputs(self, prepared: NativeBlock, x: Tensor, *, rounded: bool) -> Tensor:
        """The model's outputs [K, S, ...]: in the compute dtype if ``rounded``, else in float32."""
        dtype = self.dtype if rounded else torch.float32
        outputs = torch.empty(len(prepared.indices), len(x), *self._compiled.output, dtype=dtype)
        if outputs.numel():
            self._compiled.run(
                Goal("outputs", rounded=rounded),
                len(x),
                prepared.indices,
                [self._layout(x)],
                statistics=prepared.statistics,
                outputs=outputs,
            )
        return outputs

    def statistics(self, index: int) -> dict[str, Tensor]:
        """Buffers that combination ``index`` runs with, by name: fixed ones, and statistics recomputed."""
        statistics = self.recomputed(self.prepare(self.mixture.index_tensor([index])))
        return (self.normalisation.fixed or {}) | {name: value[0] for name, value in statistics.items()}

    def recomputed(self, prepared: NativeBlock) -> dict[str, Tensor]:
        """Recomputed running statistics [K, C] by name."""
        return recomputed(self._program, self._statistics, prepared.statistics)

    def generate(self, indices: Sequence[int], threads: int) -> None:
        """Generate the weights of combinations and nothing else, to measure it."""
        self._compiled.engine.generate(index=list(indices), threads=threads)

    def call(self, index: Tensor, x: Tensor) -> Tensor:
        """Outputs [K, N, ...] of combinations ``index`` [K] in the compute dtype."""
        return self._outputs(self.prepare(index), x, rounded=True)

    def check(self, model: nn.Module, x: Tensor) -> Tensor:
        """Compare combination 0 with the module itself (:func:`fastcomb.backends.captured.check`)."""
        return check(self, model, x)

    def _layout(self, x: Tensor) -> Tensor:
        """The samples in the engine's layout; the last ones are kept where samples stay as they are."""
        cached = self._kept
        if cached is None or cached[0] != place(x):
            cached = (place(x), x, self._prepared(self._ready(x)))  # x stays alive, and so its address
            self._kept = cached if self._keep else None
        return cached[2]

    def _prepared(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self._shape or x.dtype != self._kind:
            raise ValueError(
                f"samples of shape {tuple(x.shape[1:])} and {x.dtype}, but the first were "
                f"{tuple(self._shape)} and {self._kind}"
            )
        return self._compiled.prepared(x)

    def _ready(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.dtype if tensor.is_floating_point() else None)
