"""A lowered program in the compiled engine, with its passes for the numbers of samples that come up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastcomb.backends.base import Unsupported
from fastcomb.backends.native.instructions import Goal
from fastcomb.backends.native.lower import Lowering, Shared, lower
from fastcomb.backends.native.weights import Constants, Generated, Weights
from fastcomb.kernels import native
from fastcomb.kernels.operands import Mixed
from fastcomb.program import Program
from fastcomb.statistics.sequential_decision import BLOCK, Answer, Question
from fastcomb.utils.dtypes import dtype_name

#: Bytes of activations that a block of samples may need: about half of a core's second-level cache.
ARENA_BYTES = 512 << 10

#: Most samples in a block, so that threads can share few combinations.
MOST_SAMPLES = 512


class CompiledProgram:
    """One program with one mixture's parameters.

    Args:
        program: what to run.
        mixed: the mixed parameters, contiguous float32; kept, since the engine reads from them.
        laws: from :func:`fastcomb.kernels.native.laws`.
        seed: of the stream.
        dtype: compute dtype.
        xs: some samples of each input, in the compute dtype.
        buffers: values of the program's other weights.
        fixed: running statistics that all combinations share.
        statistics: where recomputed running means start in their record, by name.

    Raises:
        Unsupported: the engine cannot run the program.
    """

    def __init__(
        self,
        program: Program,
        mixed: Mapping[str, Mixed],
        laws: list[Any],
        seed: int,
        *,
        dtype: torch.dtype,
        xs: Sequence[Tensor],
        buffers: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor],
        statistics: dict[str, int],
    ) -> None:
        extension, level = native.extension(), native.cpu_capability()
        assert extension is not None
        self._xs, self._dtype = [x[:1] for x in xs], dtype
        self._mixed = mixed
        shapes = {name: tuple(parameter.a.shape) for name, parameter in mixed.items()}
        weights = Weights(shapes, dtype, extension.width(level), extension.pairs(level))
        self._shared = Shared(program, weights, Constants(), buffers, fixed, statistics)
        if statistics:
            lower(self._shared, self._xs, 2, Goal("collect"))
        lowered = lower(self._shared, self._xs, 2, Goal("outputs"))
        #: Shapes of a sample's results.
        self.outputs = lowered.outputs
        self._arena = lowered.arena / 2
        self._passes: dict[tuple[Goal, int], int] = {}
        self._laws = laws
        self.engine = extension.Engine(level=level, seed=seed, laws=laws)
        setup = [instruction.given() for instruction in self._shared.setup]
        with _verified():
            for generated in weights.generated:
                self._add(generated)
            constants = self._shared.constants.block()
            self.engine.finish(weight_bytes=weights.bytes, setup=setup, constants=constants)

    def prepared(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Samples of each input in the engine's own layout.

        Raises:
            IndexError: tokens that the network's embedding does not have.
        """
        for number, entries in self._shared.entries.items():
            x = xs[number]
            if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < entries:
                raise IndexError(
                    f"inputs run from {int(x.min())} to {int(x.max())}, but the embedding has {entries} "
                    "entries"
                )
        return [self._shared.prepare[number](x) for number, x in enumerate(xs)]

    def run(
        self,
        goal: Goal,
        samples: int,
        indices: Sequence[int],
        inputs: Sequence[Tensor],
        *,
        own_inputs: Sequence[bool] = (),
        statistics: Tensor | None = None,
        sums: Tensor | None = None,
        outputs: Tensor | None = None,
    ) -> None:
        """Run K combinations on prepared samples.

        Args:
            goal, samples: which pass.
            indices: of the combinations.
            inputs: prepared samples, and targets for a loss.
            own_inputs: of which inputs the samples are [K, ...], each combination's own.
            statistics: recomputed running statistics, float32 [K, floats].
            sums: float64 [K, 2] to fill with sums of losses and of correct answers.
            outputs: [K, ...] to fill: all samples of the first result, of the second, and so on.
        """
        self.engine.run(
            index=indices,
            number=self._pass(goal, samples),
            inputs=inputs,
            own_inputs=list(own_inputs),
            statistics=statistics,
            sums=sums,
            outputs=outputs,
            threads=torch.get_num_threads(),
        )

    def decide(
        self,
        goal: Goal,
        samples: int,
        indices: Sequence[int],
        inputs: Sequence[Tensor],
        question: Question,
        statistics: Tensor | None,
    ) -> list[Answer]:
        """Answers about K combinations, from as few of the prepared samples (and targets) as it takes."""
        extension = native.extension()
        assert extension is not None
        together = min(BLOCK, samples)
        asked = extension.Question(
            low=torch.from_numpy(question.low),
            width=torch.from_numpy(question.width),
            low_sum=question.low_sum,
            below=question.below,
            above=question.above,
            capital=question.capital,
            sign=question.decide.sign,
            correct=question.decide.metric == "accuracy",
            seed=question.seed,
            expected=question.expected,
            variance=question.variance,
        )
        answers = torch.empty(len(indices), dtype=torch.int32)
        taken, means = torch.empty_like(answers), torch.empty(len(indices), dtype=torch.float64)
        self.engine.decide(
            index=indices,
            whole=self._pass(goal, together),
            rest=self._pass(goal, samples % together or together),
            inputs=inputs,
            statistics=statistics,
            question=asked,
            answers=answers,
            taken=taken,
            means=means,
            threads=torch.get_num_threads(),
        )
        results = zip(answers.tolist(), taken.tolist(), means.tolist(), strict=True)
        exact = question.decide.holds
        return [Answer(bool(exact(m) if t == samples else a == 1), t, m) for a, t, m in results]

    def collect(self, indices: Sequence[int], batches: Sequence[list[Tensor]], floats: int) -> Tensor:
        """Running statistics over calibration batches (prepared): float32 [K, floats]."""
        record = torch.empty(len(indices), floats)
        self.engine.collect(
            index=indices,
            passes=[self._pass(Goal("collect"), len(batch[0])) for batch in batches],
            batches=batches,
            statistics=record,
            threads=torch.get_num_threads(),
        )
        return record

    def _add(self, generated: Generated) -> None:
        """Tell the engine to generate a parameter in one form, and where."""
        mixed = self._mixed[generated.name]
        a, layout = mixed.a, generated.layout
        rows = a.shape[0] if a.ndim else 1
        packed = generated.form == "packed"
        self.engine.add(
            a=a,
            others=mixed.others,
            form=generated.form,
            dtype=dtype_name(self._dtype if packed else torch.float32),
            sharing=mixed.sharing,
            unit=mixed.unit[0],
            draws=mixed.unit[1],
            offset=generated.buffer.offset,
            outputs=layout.outputs if layout else rows,
            inner=layout.inner if layout else a.numel() // max(rows, 1),
            first=layout.first if layout else 0,
            place=layout.place if layout else [],
            inverse=layout.inverse if layout else [],
        )

    def _pass(self, goal: Goal, samples: int) -> int:
        """Number of the engine's pass over so many samples; built when first wanted."""
        key = (goal, samples)
        if key not in self._passes:
            most = min(MOST_SAMPLES, max(1, int(ARENA_BYTES / max(self._arena, 1))))
            size = -(-samples // -(-samples // most))
            rest = samples - (-(-samples // size) - 1) * size
            whole = lower(self._shared, self._xs, size, goal, total=samples)
            last = whole if rest == size else lower(self._shared, self._xs, rest, goal, whole, samples)
            with _verified():
                self._passes[key] = self.engine.add_pass(
                    samples=samples,
                    block=size,
                    whole=[i.given() for i in whole.instructions],
                    ends=whole.ends,
                    last=[i.given() for i in last.instructions],
                    last_ends=last.ends,
                    norms=[norm.given() for norm in whole.norms],
                    arena=max(whole.arena, last.arena),
                    lasting=whole.lasting,
                    inputs=whole.inputs,
                    output=dtype_name(self._dtype if goal.rounded else torch.float32),
                )
        return self._passes[key]


def refused(
    program: Program,
    shapes: dict[str, tuple[int, ...]],
    xs: Sequence[Tensor],
    dtype: torch.dtype,
    buffers: Mapping[str, Tensor],
    statistics: dict[str, int],
) -> dict[str, str]:
    """Nodes of a program that the engine cannot run, by name, with the reasons.

    Args are those of :class:`CompiledProgram`; ``shapes`` are those of the mixed parameters.
    """
    extension, level = native.extension(), native.cpu_capability()
    assert extension is not None
    weights = Weights(shapes, dtype, extension.width(level), extension.pairs(level))
    shared = Shared(program, weights, Constants(), buffers, buffers, statistics)
    return Lowering(shared, [x[:1] for x in xs], 2, Goal("outputs")).refused()


@contextlib.contextmanager
def _verified() -> Iterator[None]:
    """What the engine refuses to run (csrc/cpu/verify.h) is not run by it."""
    try:
        yield
    except ValueError as error:
        raise Unsupported(f"what the engine refuses ({error})") from error
