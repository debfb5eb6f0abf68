"""How differently classifiers predict: measures of two of them, and of every pair of M, on the same samples.

Measures of two take their outputs: logits or log-probabilities [n, classes], or where only the predicted
class counts also class numbers [n]. Ties between classes go to the lower number.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fastcomb.similarity.features import Features, as_tensor

#: Rates, fractions of samples, that differ by less are the same.
_NEAR = 1e-12


class Pairs(NamedTuple):
    """Sums over samples for every pair of M classifiers, float64 [M, M] each.

    Sums of batches add up. The diagonals of ``both_wrong``, ``right`` and ``loss`` are the classifiers' own.

    Attributes:
        differ: samples that the two put into different classes.
        divergence: Jensen–Shannon divergence of their class probabilities, in nats.
        both_wrong: samples that both get wrong.
        right: samples that the mean of their probabilities gets right.
        loss: cross-entropy of the mean of their probabilities, in nats.
    """

    differ: Tensor
    divergence: Tensor
    both_wrong: Tensor
    right: Tensor
    loss: Tensor


def pairs(logits: Tensor, y: Tensor) -> Pairs:
    """Compare classifiers pair by pair.

    Args:
        logits: [M, S, C], or log-probabilities.
        y: class numbers [S].
    """
    log_probs = logits.double().log_softmax(2)
    classes = log_probs.argmax(2)
    wrong = (classes != y).double()
    count = len(log_probs)
    differ, divergence, right, loss = torch.zeros(
        4, count, count, dtype=torch.float64, device=log_probs.device
    )
    for i, one in enumerate(log_probs):
        others = log_probs[i:]
        both = torch.logaddexp(one, others) - math.log(2)
        chosen = y.expand(len(both), -1)[..., None]
        differ[i, i:] = (classes[i] != classes[i:]).sum(1).double()
        divergence[i, i:] = _divergence(one, others, both).sum(1)
        right[i, i:] = (both.argmax(2) == y).sum(1).double()
        loss[i, i:] = -both.gather(2, chosen).sum((1, 2))
    return Pairs(_mirrored(differ), _mirrored(divergence), wrong @ wrong.T, _mirrored(right), _mirrored(loss))


def ensemble(logits: Tensor, y: Tensor) -> Tensor:
    """Samples that the mean of all M classifiers' probabilities gets right, and its cross-entropy: [2]."""
    mean = logits.double().log_softmax(2).logsumexp(0) - math.log(len(logits))
    return torch.stack([(mean.argmax(1) == y).sum().double(), -mean.gather(1, y[:, None]).sum()])


def error_correlation(both_wrong: Tensor) -> Tensor:
    """Pearson correlation of error indicators, from fractions of samples that both get wrong [M, M].

    Where one of the two classifiers is always right or always wrong the correlation is undefined; then it
    is 1 if both have the same errors, else 0.
    """
    wrong = both_wrong.diagonal()
    spread = torch.outer(wrong * (1 - wrong), wrong * (1 - wrong)).sqrt()
    same = ((both_wrong == wrong) & (both_wrong == wrong[:, None])).double()
    return torch.where(spread > 0, (both_wrong - torch.outer(wrong, wrong)) / spread, same)


def disagreement(a: Features, b: Features) -> float:
    """Fraction of samples that two classifiers put into different classes: a distance in [0, 1].

    Symmetric, and a metric on predictions. It is at most the sum of their error rates, and at least their
    difference: see :func:`min_max_disagreement`.

    Args:
        a, b: outputs [n, classes] or class numbers [n].

    Raises:
        TypeError: not tensors or arrays of numbers.
        ValueError: other shapes, different numbers of samples or none, NaN or +∞.

    Example:
        >>> a, b = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 0])
        >>> fc.similarity.disagreement(a, b)
        0.5
        >>> logits = torch.tensor([[3.0, 1, 0], [0, 2, 1], [0, 1, 5], [2, 0, 3]])
        >>> fc.similarity.disagreement(logits, a)
        0.0
    """
    one, other, _ = _predictions(a, b)
    return float((one != other).double().mean())


def churn(a: Features, b: Features, y: Features | None = None) -> float:
    """Fraction of samples on which replacing one classifier by the other changes something: in [0, 1].

    Without labels, the prediction: the churn of Milani Fard et al., which is :func:`disagreement`. With
    labels, whether it is right: samples that exactly one of the two gets right, wins plus losses. Changes
    from one wrong class to another do not count then. A distance, symmetric.

    Source: Milani Fard, Cormier, Canini and Gupta, "Launch and Iterate: Reducing Prediction Churn" (NeurIPS
    2016).

    Args:
        a, b: outputs [n, classes] or class numbers [n].
        y: class numbers [n], or None.

    Raises:
        TypeError, ValueError: as :func:`disagreement`; labels that are not class numbers [n].

    Example:
        >>> a, b, y = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
        >>> fc.similarity.churn(a, b)
        0.5
        >>> fc.similarity.churn(a, b, y)  # of the two samples that changed, one was wrong and still is
        0.25
    """
    if y is None:
        return disagreement(a, b)
    one, other, labels = _predictions(a, b, y)
    return float(((one == labels) != (other == labels)).double().mean())


def error_corrected_disagreement(
    a: Features, b: Features, y: Features, *, error: Literal["a", "b", "mean"] = "a"
) -> float:
    """Disagreement over an error rate, d / e: how diverse two classifiers are for their accuracy, in [0, ∞).

    d is :func:`disagreement` and e = 1 − accuracy, by default of a; so it is not symmetric, unless with the
    mean of both error rates, where it is in [0, 2]. Two classifiers whose errors are independent and that
    never err alike have 1 − e_b + e_b / e_a; 0 is the same predictions.

    Source: Fort, Hu and Lakshminarayanan, "Deep Ensembles: A Loss Landscape Perspective" (2019), who divide
    by the error rate of one network.

    Args:
        a, b: outputs [n, classes] or class numbers [n].
        y: class numbers [n].
        error: whose error rate: "a", "b", or the "mean" of both.

    Raises:
        TypeError, ValueError: as :func:`churn`; an error rate of 0; another ``error``.

    Example:
        >>> a, b, y = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 0]), np.array([0, 1, 2, 0])
        >>> fc.similarity.error_corrected_disagreement(a, b, y)  # ½ over an error rate of ¼
        2.0
    """
    if error not in ("a", "b", "mean"):
        raise ValueError(f"error={error!r} is none of 'a', 'b', 'mean'")
    differ, rates = _rates(a, b, y)
    rate = sum(rates) / 2 if error == "mean" else rates["ab".index(error)]
    if not rate:
        who = "both classifiers make" if error == "mean" else f"{error} makes"
        raise ValueError(f"{who} no errors, so there is nothing to divide the disagreement {differ:.4g} by")
    return differ / rate


def min_max_disagreement(a: Features, b: Features, y: Features) -> float:
    """Where the disagreement is between its least and its greatest for these accuracies: in [0, 1].

    (d − |e_a − e_b|) / (min(e_a + e_b, 1) − |e_a − e_b|), with d the :func:`disagreement` and e error rates.
    0: the worse classifier errs wherever the better does, and in the same way; 1: they differ as much as they
    can. A distance, symmetric.

    Source: Klabunde and Lemmerich, "On the Prediction Instability of Graph Neural Networks" (ECML PKDD 2022).

    Args:
        a, b: outputs [n, classes] or class numbers [n].
        y: class numbers [n].

    Raises:
        TypeError, ValueError: as :func:`churn`; accuracies that leave no choice, as when one never errs.

    Example:
        >>> a, b, y = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 0]), np.array([0, 1, 2, 0])
        >>> fc.similarity.min_max_disagreement(a, b, y)  # they never err together
        1.0
    """
    differ, (one, other) = _rates(a, b, y)
    least, most = abs(one - other), min(one + other, 1.0)
    if not most - least > _NEAR:
        raise ValueError(
            f"error rates of {one:.4g} and {other:.4g} only allow the disagreement {least:.4g}, so it has no "
            "place between a least and a greatest"
        )
    return min(max((differ - least) / (most - least), 0.0), 1.0)


def jensen_shannon(a: Features, b: Features) -> float:
    """Mean over samples of the Jensen–Shannon divergence of class probabilities, in nats: in [0, log 2].

    ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q) / 2 and p, q the softmax of the outputs. A distance, symmetric;
    the square root of each sample's is a metric. Unchanged by adding a number to all logits of a sample.

    Source: Lin, "Divergence Measures Based on the Shannon Entropy" (IEEE Transactions on Information Theory,
    1991).

    Args:
        a, b: logits or log-probabilities [n, classes], the same classes; −∞ is a probability of 0.

    Raises:
        TypeError, ValueError: as :func:`disagreement`; class numbers, or different numbers of classes.

    Example:
        >>> a = torch.tensor([[50.0, -50.0], [0.0, 0.0]])
        >>> b = torch.tensor([[-50.0, 50.0], [0.0, 0.0]])  # sure of the other class, and as undecided
        >>> round(fc.similarity.jensen_shannon(a, b), 4)  # (log 2 + 0) / 2
        0.3466
    """
    sides = _output(a, "a"), _output(b, "b")
    _check_samples(*sides)
    for side, name in zip(sides, "ab", strict=True):
        if side.ndim != 2:
            raise ValueError(f"{name} has shape {tuple(side.shape)}; probabilities need logits [n, classes]")
    if sides[0].shape != sides[1].shape:
        raise ValueError(f"a has {sides[0].shape[1]} classes and b has {sides[1].shape[1]}")
    one, other = (side.double().log_softmax(1) for side in sides)
    return float(_divergence(one, other, torch.logaddexp(one, other) - math.log(2)).mean())


def cohen_kappa(a: Features, b: Features) -> float:
    """Agreement of predictions beyond chance, (p_o − p_e) / (1 − p_e): a score in [−1, 1].

    p_o is the fraction of samples with the same predicted class; p_e the fraction expected if both predicted
    their classes as often as they do, but independently. 1 is the same predictions, 0 chance. Symmetric, and
    unchanged by renaming the classes.

    Source: Cohen, "A Coefficient of Agreement for Nominal Scales" (Educational and Psychological Measurement,
    1960).

    Args:
        a, b: outputs [n, classes] or class numbers [n].

    Raises:
        TypeError, ValueError: as :func:`disagreement`; both put all samples into one and the same class.

    Example:
        >>> a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
        >>> fc.similarity.cohen_kappa(a, b)  # they agree on 3/4, and would on 1/2 by chance
        0.5
    """
    one, other, _ = _predictions(a, b)
    classes = torch.cat([one, other]).unique(return_inverse=True)[1].view(2, -1)
    often = [torch.bincount(side, minlength=int(classes.max()) + 1).double() for side in classes]
    chance = float(often[0] @ often[1]) / len(one) ** 2
    if not 1 - chance > _NEAR:
        raise ValueError(
            f"both classifiers put all samples into class {int(one[0])}, so agreement beyond chance is "
            "undefined"
        )
    return (float((one == other).double().mean()) - chance) / (1 - chance)


def _mirrored(upper: Tensor) -> Tensor:
    return upper + upper.triu(1).T


def _divergence(one: Tensor, other: Tensor, both: Tensor) -> Tensor:
    """Jensen–Shannon divergence [...] of log-probabilities [..., C] and those of their mean."""
    # a probability of 0 counts 0; the sum is below 0 by rounding only
    kl = [torch.where(p == -torch.inf, 0.0, p.exp() * (p - both)).sum(-1) for p in (one, other)]
    return (kl[0] + kl[1]).clamp_min(0) / 2


def _predictions(a: Features, b: Features, y: Features | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Class numbers [n] of both and, where there are any, of the labels."""
    one, other = (_classes(_output(side, name)) for side, name in ((a, "a"), (b, "b")))
    _check_samples(one, other)
    if y is None:
        return one, other, one
    labels = _output(y, "y")
    if labels.ndim != 1 or len(labels) != len(one):
        raise ValueError(f"y has shape {tuple(labels.shape)}; it must be class numbers [{len(one)}]")
    return one, other, labels


def _rates(a: Features, b: Features, y: Features) -> tuple[float, list[float]]:
    """Disagreement, and the error rates of both."""
    one, other, labels = _predictions(a, b, y)
    return disagreement(one, other), [float((side != labels).double().mean()) for side in (one, other)]


def _output(values: Features, name: str) -> Tensor:
    """Class numbers int64 [n], or outputs [n, classes] as they are."""
    tensor = as_tensor(values, name)
    if tensor.ndim == 1 and not (tensor.is_floating_point() or tensor.is_complex()):
        if len(tensor) and int(tensor.min()) < 0:
            raise ValueError(f"{name} has class numbers below 0")
        return tensor.long()
    if tensor.ndim != 2 or not tensor.is_floating_point() or tensor.shape[1] < 2:
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}; pass logits [n, classes] of two classes or "
            "more, in floating point, or class numbers [n], which are integers"
        )
    bad = tensor.isnan() | (tensor == torch.inf) | (tensor == -torch.inf).all(1, keepdim=True)
    if bad.any():
        raise ValueError(f"{name} has outputs that are NaN or infinite, in {int(bad.any(1).sum())} samples")
    return tensor


def _classes(output: Tensor) -> Tensor:
    return output.argmax(1) if output.ndim == 2 else output


def _check_samples(one: Tensor, other: Tensor) -> None:
    if len(one) != len(other):
        raise ValueError(f"a has {len(one)} samples and b has {len(other)}; both must predict the same")
    if not len(one):
        raise ValueError("a and b have no samples")
