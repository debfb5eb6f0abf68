"""How differently classifiers predict: measures of every pair of M classifiers on the same samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


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
    own = logits.double().log_softmax(2)
    classes = own.argmax(2)
    wrong = (classes != y).double()
    count = len(own)
    differ, divergence, right, loss = torch.zeros(4, count, count, dtype=torch.float64, device=own.device)
    for i, one in enumerate(own):
        others = own[i:]
        both = torch.logaddexp(one, others) - math.log(2)
        kl = [(p.exp() * (p - both)).sum((1, 2)) for p in (one, others)]
        chosen = y.expand(len(both), -1)[..., None]
        differ[i, i:] = (classes[i] != classes[i:]).sum(1).double()
        divergence[i, i:] = (kl[0] + kl[1]).clamp_min(0) / 2  # below zero by rounding only
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


def _mirrored(upper: Tensor) -> Tensor:
    return upper + upper.triu(1).T
