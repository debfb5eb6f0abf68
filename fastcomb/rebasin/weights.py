"""Weight matching: permutations that bring the weights of one network closest to another's.

Coordinate descent of Ainsworth, Hayase and Srinivasa, "Git Re-Basin: merging models modulo permutation
symmetries" (ICLR 2023): with all other permutations held, the best one for a group is a linear
assignment problem, solved exactly by :func:`scipy.optimize.linear_sum_assignment`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fastcomb.rebasin.symmetries import Group, Symmetries, permute_dim

_MAX_SWEEPS = 100


def match_weights(
    symmetries: Symmetries, a: Mapping[str, Tensor], b: Mapping[str, Tensor], seed: int
) -> tuple[list[Tensor], list[float]]:
    """Maximise the inner product of A's and permuted B's weights.

    Args:
        symmetries: groups of the network.
        a, b: the parameters that count, float tensors by name; a group's members outside are ignored.
        seed: of the order in which groups are visited.

    Returns:
        one permutation per group (unit j of the aligned network is B's unit ``permutation[j]``), and the
        inner product over the members, before the first sweep and after each. It never decreases.
    """
    a = {name: value.detach().to("cpu", torch.float64) for name, value in a.items()}
    b = {name: value.detach().to("cpu", torch.float64) for name, value in b.items()}
    permutations = [torch.arange(group.size) for group in symmetries.groups]
    counted = {m.name for group in symmetries.groups for m in group.members if m.name in b}
    permuted = {name: b[name] for name in counted}
    order = np.random.default_rng(seed)

    def objective() -> float:
        return sum(float((a[name] * permuted[name]).sum()) for name in sorted(counted))

    history = [objective()]
    for _ in range(_MAX_SWEEPS):
        improved = False
        for number in order.permutation(len(permutations)):
            group = symmetries.groups[number]
            step = _best(group, a, permuted)
            candidate = {m.name: permuted[m.name] for m in group.members if m.name in counted}
            before = sum(float((a[name] * value).sum()) for name, value in candidate.items())
            for member in group.members:
                if member.name in counted:
                    candidate[member.name] = permute_dim(candidate[member.name], member, step)
            after = sum(float((a[name] * value).sum()) for name, value in candidate.items())
            # a group on both dimensions of one weight makes the step a guess: keep it only if it helps
            if after > before + 1e-12 * (abs(before) + abs(after)):
                permuted |= candidate
                permutations[number] = permutations[number][step]
                improved = True
        history.append(objective())
        if not improved:
            break
    return permutations, history


def _best(group: Group, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """The assignment of B's units to A's that maximises their summed similarity."""
    similarity = torch.zeros(group.size, group.size, dtype=torch.float64)
    for member in group.members:
        if member.name in b:
            rows_a, rows_b = (t[member.name].movedim(member.dim, 0).reshape(group.size, -1) for t in (a, b))
            similarity += rows_a @ rows_b.T
    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
