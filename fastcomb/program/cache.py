"""Captured programs, kept for modules that are built alike."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastcomb.program.capture import capture, check
from fastcomb.program.choose import choose
from fastcomb.program.fingerprint import fingerprint
from fastcomb.program.ir import Program
from fastcomb.program.private import private_copy
from fastcomb.utils.inputs import Samples, arguments, leaves

_KEPT = 32
_programs: OrderedDict[Hashable, Program] = OrderedDict()


def captured(model: nn.Module, x: Samples) -> Program:
    """:func:`capture`, done once for modules of the same structure and inputs of the same shape and device.

    Two modules are of the same structure if they have the same fingerprint
    (:mod:`fastcomb.program.fingerprint`). What is kept is compared with the module again before it is used,
    so that a module which changed in a way that no fingerprint shows is captured anew.
    """
    args, kwargs = arguments(x)
    mark = fingerprint(model)
    if mark is None:
        return capture(model, *args, **kwargs)
    shapes = tuple((tuple(t.shape[1:]), t.dtype, t.device) for t in leaves(x))
    key = (shapes, _flags(x), mark)
    if key in _programs:
        with contextlib.suppress(Exception):  # it does not hold for this module, or this many samples
            copy = private_copy(model).eval()
            if isinstance(_programs[key].output, list):  # as capture made it return what export does not know
                copy = choose(copy, x, None, default="tensors")
            check(_programs[key], copy, x)
            _programs.move_to_end(key)
            return _programs[key]
    _programs[key] = capture(model, *args, **kwargs)
    _programs.move_to_end(key)
    if len(_programs) > _KEPT:
        _programs.popitem(last=False)
    return _programs[key]


def _flags(x: Samples) -> str:
    """The structure of a call, with what is no tensor."""
    return repr(tree_map(lambda leaf: Tensor if isinstance(leaf, Tensor) else leaf, arguments(x)))
