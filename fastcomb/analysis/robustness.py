"""Do combinations still work when the matching of their neurons is disturbed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from fastcomb.analysis.evaluation import Evaluation, Options, means
from fastcomb.mixing.endpoints import Theta
from fastcomb.rebasin import Alignment, Method, perturb
from fastcomb.rebasin.align import METHODS
from fastcomb.rebasin.method import check_count
from fastcomb.rebasin.perturb import KINDS, check
from fastcomb.sampling.samplers import Sampler, Uniform
from fastcomb.statistics.density import Array
from fastcomb.sweep import Sweep
from fastcomb.utils.notice import warn
from fastcomb.utils.plotting import metric_label, new_figure, save
from fastcomb.utils.progress import bar
from fastcomb.utils.result import Result, markdown, measured

UNALIGNED = ("partial", 1.0)


@dataclass(frozen=True, eq=False, repr=False)
class Robustness(Result):
    """Loss and accuracy of combinations against the strength of a perturbation of the matching.

    A repeat has its own perturbations and its own combinations; its values are means over combinations.

    Attributes:
        kinds: of perturbation (:func:`fastcomb.rebasin.perturb`).
        fractions: float64 [F], of each group's units.
        loss, accuracy: float64 [kinds, F, repeats]; accuracy is NaN where the task has no classes.
        unaligned_loss, unaligned_accuracy: float64 [repeats], with network B as it was before alignment.
        ends_loss, ends_accuracy: float64 [2], of the two networks themselves.
        sampler: the law of the combinations.
        n: combinations per repeat.
    """

    kinds: tuple[str, ...]
    fractions: Array
    loss: Array
    accuracy: Array
    unaligned_loss: Array
    unaligned_accuracy: Array
    ends_loss: Array
    ends_accuracy: Array
    sampler: str
    n: int

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the task has."""
        return measured(self.accuracy)

    @property
    def repeats(self) -> int:
        """How many repeats were done."""
        return int(self.loss.shape[2])

    def mean(self, metric: str) -> Array:
        """Mean of ``metric`` over combinations and repeats: float64 [kinds, F]."""
        return np.asarray(getattr(self, metric).mean(-1))

    def standard_error(self, metric: str) -> Array:
        """Standard error of :meth:`mean`, repeats being the independent unit: float64 [kinds, F].

        NaN for a single repeat.
        """
        return standard_error(getattr(self, metric))

    @property
    def headline(self) -> str:
        """Mean loss at the first fraction over all kinds, at the last one by kind, and without alignment."""
        least, most = self.mean("loss")[:, 0].mean(), self.mean("loss")[:, -1]
        worst = ", ".join(f"{loss:.4g} ({kind})" for kind, loss in zip(self.kinds, most, strict=True))
        return (
            f"loss {least:.4g} at fraction {self.fractions[0]:g}; {worst} at {self.fractions[-1]:g}; "
            f"unaligned {self.unaligned_loss.mean():.4g}"
        )

    def table(self) -> str:
        """Mean and standard error of each metric by kind and fraction; then unaligned, and both networks'."""
        header = ["matching", "fraction of units"]
        for metric in self.metrics:
            header += [metric, f"{metric} s.e."]
        rows: list[Sequence[str | float]] = []
        for i, kind in enumerate(self.kinds):
            for j, fraction in enumerate(self.fractions):
                cells = [(self.mean(m)[i, j], self.standard_error(m)[i, j]) for m in self.metrics]
                rows.append((kind, f"{fraction:g}", *(v for two in cells for v in two)))
        control = [getattr(self, f"unaligned_{m}") for m in self.metrics]
        rows.append(("unaligned", "", *(v for c in control for v in (c.mean(), float(standard_error(c))))))
        for end, label in enumerate(("θ_A itself", "θ_B itself")):
            values = [(getattr(self, f"ends_{m}")[end], "") for m in self.metrics]
            rows.append((label, "", *(v for two in values for v in two)))
        return markdown(header, rows)

    def plot(self, path: str | Path) -> Path:
        """Loss and accuracy against the strength of each kind of perturbation."""
        figure, axes = new_figure(len(self.metrics))
        for axis, metric in zip(axes[0], self.metrics, strict=True):
            errors = np.nan_to_num(self.standard_error(metric))
            for kind, mean, error in zip(self.kinds, self.mean(metric), errors, strict=True):
                axis.errorbar(self.fractions, mean, error, marker=".", capsize=3, label=kind)
            unaligned = getattr(self, f"unaligned_{metric}").mean()
            axis.axhline(unaligned, color="black", linestyle="--", linewidth=1, label="unaligned")
            for i, end in enumerate(getattr(self, f"ends_{metric}")):
                axis.axhline(
                    end, color="black", linestyle=":", linewidth=1, label=None if i else "the two networks"
                )
            axis.set_xlabel("fraction of units perturbed")
            axis.set_ylabel(f"mean {metric_label(metric)}")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="outside right center")
        figure.suptitle(
            f"Do combinations survive perturbed matchings? {self.n:,} combinations, {self.sampler},\n"
            f"mean and standard error over {self.repeats} repeats",
            fontsize="medium",
        )
        return save(figure, path)


def standard_error(values: Array) -> Array:
    """Standard error of the mean over the last axis; NaN for a single value."""
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, as it should be
        return np.asarray(values.std(-1, ddof=1) / values.shape[-1] ** 0.5)


def robustness(
    a: Theta,
    b: Theta | Alignment,
    *,
    data: Any,
    sampler: Sampler | None = None,
    n: int = 1000,
    fractions: Sequence[float] = (0, 0.05, 0.1, 0.2, 0.5, 1),
    kinds: Sequence[str] = tuple(KINDS),
    repeats: int = 3,
    seed: int = 0,
    method: str | Method = "weights",
    matching_data: Any = None,
    progress: bool | None = None,
    **options: Unpack[Options],
) -> Robustness:
    """Evaluate combinations of a network with ever more disturbed alignments of another.

    The claim of Csiszárik et al., "Mode Combinability: Exploring Convex Combinations of Permutation
    Aligned Models" (2023): combinations keep working under significant perturbations of the matching.
    Repeat r perturbs with seed ``seed + r`` and evaluates combinations 0 to n − 1 of that seed. Ctrl-C
    returns the repeats that are complete.

    Args:
        a: the first network: a module, mapping or path.
        b: the second network, or its alignment to ``a``.
        data: evaluation data, as in :func:`fastcomb.evaluate`.
        sampler: the law of the combinations; element-wise ``Uniform()`` if None.
        n: combinations per cell.
        fractions: strengths of perturbation, in [0, 1].
        kinds: of :func:`fastcomb.rebasin.perturb`.
        repeats: independent repeats.
        seed: of alignment, perturbations and combinations.
        method, matching_data: for the alignment, where ``b`` is a network.
        progress: show a progress bar; if None, when standard error is a terminal.
        **options: as in :func:`fastcomb.barrier`.

    Raises:
        ValueError: a fraction is outside [0, 1], an unknown kind, or a count below 1.
        TypeError, ValueError: as :func:`fastcomb.evaluate` and :func:`fastcomb.rebasin.align`.

    Example:
        >>> b = fc.rebasin.align(a, a, "random", seed=1).model  # a with its units in another order
        >>> found = fc.robustness(a, b, data=(x, y), n=50, fractions=(0, 1), repeats=2, progress=False)
        >>> found.kinds
        ('swap', 'shuffle', 'partial')
        >>> aligned, disturbed = found.mean("loss").T  # at the fractions 0 and 1
        >>> bool((aligned < disturbed).all())
        True
    """
    check_count("n", n)
    check_count("repeats", repeats)
    if not kinds or not len(fractions):
        raise ValueError("kinds= and fractions= must each name at least one")
    for kind in kinds:
        for fraction in fractions:
            check(kind, fraction)
    law = sampler or Uniform()
    if isinstance(b, Alignment):
        evaluation, alignment = Evaluation.of(data, options, a, b.model), b
    else:
        evaluation = Evaluation.of(data, options, a, b)
        chosen, module = METHODS.resolve(method, {}), evaluation.module(a)
        alignment = evaluation.align(module, b, chosen, matching_data, seed, progress)
    cells = [*((kind, float(fraction)) for kind in kinds for fraction in fractions), UNALIGNED]
    ends = evaluation.own(a, alignment.state_dict)
    done: list[Array] = []
    with bar(len(cells) * repeats, "cell", progress) as shown:
        try:
            for repeat in range(seed, seed + repeats):
                done.append(_repeat(evaluation, a, alignment, cells, law, n, repeat, shown))
        except KeyboardInterrupt:
            if not done:
                raise
            message = f"interrupted: {len(done)} of {repeats} repeats are done"
            warn(message)
    whole = np.stack(done, -1)  # [2, cells, repeats]
    loss, accuracy = whole[:, :-1].reshape(2, len(kinds), len(fractions), len(done))
    return Robustness(
        kinds=tuple(kinds),
        fractions=np.array(fractions, dtype=np.float64),
        loss=loss,
        accuracy=accuracy,
        unaligned_loss=whole[0, -1],
        unaligned_accuracy=whole[1, -1],
        ends_loss=ends[0],
        ends_accuracy=ends[1],
        sampler=str(law),
        n=n,
    )


def _repeat(
    evaluation: Evaluation,
    a: Theta,
    alignment: Alignment,
    cells: Sequence[tuple[str, float]],
    law: Sampler,
    n: int,
    seed: int,
    shown: Any,
) -> Array:
    """Mean loss and accuracy [2, cells]; cells that come to the same matching are evaluated once."""
    sweeps: dict[tuple[Any, ...], Sweep] = {}
    order = []
    for kind, fraction in cells:
        disturbed = perturb(alignment, fraction=fraction, kind=kind, seed=seed)
        matching = tuple(tuple(p.tolist()) for p in disturbed.permutations)
        if matching not in sweeps:
            sweeps[matching] = evaluation.sweep(a, disturbed.state_dict, law, n, seed)
        order.append(sweeps[matching])
        shown.update()
    return means(order)
