"""The symmetries of a network, beyond what one Program shows of it.

A Program is what a network does in evaluation mode on inputs of one size. Where that leaves parameters
out, or where a random permutation changes what the network does on other inputs or in training mode,
further Programs are captured there, and the groups are those that all of them have.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastcomb.program import Program, capture, private_copy
from fastcomb.rebasin.reader import UNREACHED
from fastcomb.rebasin.symmetries import Matching, Symmetries, symmetries
from fastcomb.rebasin.trials import Trial, Trials, in_training
from fastcomb.utils.inputs import Samples, arguments
from fastcomb.utils.notice import notify

#: Most Programs of one network.
_PROGRAMS = 8
#: Most sizes of partly read tensors that are tried as sizes of inputs.
_SIZES = 4
_SHOWN = 5

#: Further Programs that a network needed.
_further: WeakKeyDictionary[Program, tuple[Program, ...]] = WeakKeyDictionary()


def verified(
    module: nn.Module, program: Program, example: Samples, state: Mapping[str, Tensor]
) -> tuple[Symmetries, Trials | None]:
    """Groups that keep the function on all trials.

    Args:
        module: of the architecture, in evaluation mode on the CPU.
        program: captured from it on ``example``.
        state: weights of the network to permute.

    Returns:
        the symmetries, and the trials that they passed; None where there is no group.

    Raises:
        RuntimeError: the function changes on some trial, whatever is captured.
    """
    if program not in _further:
        _further[program] = tuple(_training(module, [program], example))
    programs = [program, *_further[program]]
    groups = _read(module, programs)
    _tell(module, programs)
    if not groups.groups:
        return groups, None
    trials = Trials(module, state, example, _partly(module, programs, groups))
    while (failed := trials.failed(groups.permute(state, _moving(groups)))) is not None:
        trial, how = failed
        further = _captured(module, trial) if trial.other and len(programs) < _PROGRAMS else None
        if further is None:
            raise RuntimeError(misread(how))
        programs.append(further)
        _further[program] = tuple(programs[1:])
        groups = _read(module, programs)
    return groups, trials if groups.groups else None


def misread(how: str) -> str:
    """The error where a permuted network computes something else."""
    return (
        f"the permuted network's output {how}, so a symmetry was misread and nothing is returned; please "
        "report the network"
    )


def _read(module: nn.Module, programs: Sequence[Program]) -> Symmetries:
    groups = symmetries(*programs)
    first = {id(buffer): name for name, buffer in module.named_buffers()}
    tied = {
        name: first[id(buffer)]
        for name, buffer in module.named_buffers(remove_duplicate=False)
        if name != first[id(buffer)]
    }
    return dataclasses.replace(groups, aliases={**groups.aliases, **tied})


def _moving(groups: Symmetries) -> Matching:
    """A random matching that leaves no group as it is."""
    matching = groups.random(0)
    return [p.roll(1) if torch.equal(p, torch.arange(len(p))) else p for p in matching]


def _unread(module: nn.Module, programs: Sequence[Program]) -> list[str]:
    """Tensors of the state dict with several entries that no Program reads."""
    read = {weight.name for program in programs for node in program for weight in node.weights}
    saved = module.state_dict().keys()
    tensors = (*module.named_parameters(), *module.named_buffers())
    return [
        name
        for name, tensor in tensors
        if name in saved and name not in read and max(tensor.shape, default=0) > 1
    ]


def _training(module: nn.Module, programs: Sequence[Program], example: Samples) -> Iterator[Program]:
    """The Program of training mode, if it reads more: first of what holds the unread parameters alone."""
    unread = _unread(module, programs)
    if not unread:
        return
    around = {"", *(".".join(name.split(".")[:n]) for name in unread for n in range(1, name.count(".") + 1))}
    for only in (frozenset(around), None):
        program = _try(in_training(private_copy(module), only), example)
        if program is not None and len(_unread(module, [*programs, program])) < len(unread):
            yield program
            return


def _captured(module: nn.Module, trial: Trial) -> Program | None:
    copy = private_copy(module)
    return _try(in_training(copy) if trial.mode == "training" else copy, trial.x)


def _try(module: nn.Module, x: Samples) -> Program | None:
    """The Program of a module in its present mode; None where it cannot be captured."""
    module.train = types.MethodType(_stay, module)  # type: ignore[method-assign]
    try:
        args, kwargs = arguments(x)
        return capture(module, *args, **kwargs)
    except Exception:  # training may need targets, be random, or depend on data
        return None


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """In the place of ``train`` (and so of ``eval``): modes remain as they are."""
    return module


def _partly(module: nn.Module, programs: Sequence[Program], groups: Symmetries) -> list[int]:
    """Sizes of dimensions of which the Programs read a part, such as the rows of a position table."""
    unread = _unread(module, programs)
    shapes = programs[0].shapes
    sizes = {shapes[n][d] for (n, d), why in groups.pinned.items() if UNREACHED in why and n not in unread}
    return sorted(sizes)[:_SIZES]


def _tell(module: nn.Module, programs: Sequence[Program]) -> None:
    unread = _unread(module, programs)
    if unread:
        more = f" and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
        notify(
            f"{type(module).__name__}: {', '.join(map(repr, unread[:_SHOWN]))}{more} are not reached by the "
            "example, nor in training mode as far as that can be captured. They stay as they are; where they "
            "act on hidden units, they find those of the aligned network in another order"
        )
