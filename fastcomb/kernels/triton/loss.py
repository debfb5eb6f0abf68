"""``score``: loss and accuracy of combinations, so that two numbers of each leave the device."""

# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Losses that the kernel computes.
LOSSES = ("cross_entropy", "nll", "mse")


@triton.jit
def _score(
    out, logits, targets, samples, classes,
    LOSS: tl.constexpr, BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Program (b, k): sums over samples [b · BS, …) of combination k: out [K, blocks, 2].

    logits [K, samples, classes] float32; targets [samples] int64, or [samples, classes] float32 for mse.
    """
    k = tl.program_id(1).to(tl.int64)
    s = tl.program_id(0) * BS + tl.arange(0, BS)
    real = s < samples
    s = tl.minimum(s, samples - 1)
    logits += k * samples * classes
    row = s.to(tl.int64) * classes
    right = tl.zeros((BS,), dtype=tl.float32)
    if LOSS == "mse":
        loss = tl.zeros((BS,), dtype=tl.float32)
        for first in range(0, classes, BC):
            c = first + tl.arange(0, BC)
            inside = c[None, :] < classes
            tile = tl.load(logits + row[:, None] + c[None, :], mask=inside, other=0.0)
            target = tl.load(targets + row[:, None] + c[None, :], mask=inside, other=0.0)
            loss += tl.sum((tile - target) * (tile - target), axis=1)
        loss /= classes
    else:
        label = tl.load(targets + s)
        label_logit = tl.load(logits + row + label)
        unknown = label_logit != label_logit
        largest = tl.full((BS,), float("-inf"), dtype=tl.float32)
        total = tl.zeros((BS,), dtype=tl.float32)
        ahead = tl.zeros((BS,), dtype=tl.int32)
        for first in range(0, classes, BC):
            c = first + tl.arange(0, BC)
            inside = c[None, :] < classes
            tile = tl.load(logits + row[:, None] + c[None, :], mask=inside, other=float("-inf"))
            # as torch.argmax: NaN counts as the largest, and the first of equals is taken
            nan = inside & (tile != tile)
            before = c[None, :] < label[:, None]
            over = inside & ((tile > label_logit[:, None]) | (before & (tile == label_logit[:, None])))
            over = tl.where(unknown[:, None], nan & before, over | nan)
            ahead += tl.sum(over.to(tl.int32), axis=1)
            if LOSS == "cross_entropy":
                peak = tl.maximum(largest, tl.max(tile, axis=1))
                level = tl.where(peak == float("-inf"), 0.0, peak)
                total = total * tl.exp(largest - level) + tl.sum(tl.exp(tile - level[:, None]), axis=1)
                largest = peak
        right = (ahead == 0).to(tl.float32)
        loss = -label_logit
        if LOSS == "cross_entropy":
            loss = tl.log(total) + (largest - label_logit)
    at = out + (k * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(at, tl.sum(tl.where(real, loss, 0.0).to(tl.float64), axis=0))
    tl.store(at + 1, tl.sum(tl.where(real, right, 0.0).to(tl.float64), axis=0))


def score(outputs: Tensor, targets: Tensor, loss: str) -> Tensor:
    """Sums over the samples of loss and correct answers: float64 [2, K].

    Args:
        outputs: float32 [K, S, C], or [K, S, ...] for "mse".
        targets: class numbers int64 [S] in [0, C); float32 [S, ...] for "mse".
        loss: one of :data:`LOSSES`; "mse" has no correct answers, and 0 in their place.
    """
    combinations, samples = outputs.shape[:2]
    classes = outputs.shape[2:].numel()
    bc = min(1024, triton.next_power_of_2(classes))
    bs = max(1, min(256, triton.next_power_of_2(samples), 4096 // bc))
    blocks = triton.cdiv(samples, bs)
    out = torch.empty(combinations, blocks, 2, dtype=torch.float64, device=outputs.device)
    _score[(blocks, combinations)](
        out, outputs.contiguous(), targets.contiguous(), samples, classes,
        LOSS=loss, BS=bs, BC=bc,
    )  # fmt: skip
    return out.sum(1).T
