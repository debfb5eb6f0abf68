"""A module made ready for :func:`torch.export.export`, which takes less than Python does."""

from __future__ import annotations

import inspect
import logging
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fastcomb.utils.inputs import Inputs


def name_arguments(module: nn.Module, x: Inputs) -> None:
    """Give a private copy's forward names for what it takes as ``**kwargs``, which torch.export needs."""
    signature = inspect.signature(module.forward)
    known = signature.parameters.values()
    variadic = next((p.name for p in known if p.kind is inspect.Parameter.VAR_KEYWORD), None)
    further = signature.bind(*x.args, **x.kwargs).arguments.get(variadic, {}) if variadic else {}
    if not further:
        return
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in further]
    parameters = [p for p in known if p.name != variadic] + named
    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    module.forward = forward


def token_by_token(module: nn.Module) -> None:
    """Let Hugging Face's mixtures of experts, in a private copy, look up every token's experts.

    As they come, they sort the tokens of all samples by expert, which says nothing of single samples.
    """
    for part in module.modules():
        choose = getattr(part, "set_experts_implementation", None)
        if choose is not None and getattr(part.config, "_experts_implementation", None) == "grouped_mm":
            choose("batched_mm")


@contextmanager
def lengths_as_sizes(module: nn.Module) -> Iterator[None]:
    """For a while, ``len(x)`` is ``x.shape[0]`` in the code of a module, which export can keep free.

    The function ``len`` itself must return a number, and would make the network one for so many samples.
    """
    spaces = {id(space): space for space in map(vars, _sources(module)) if "len" not in space}
    for space in spaces.values():
        space["len"] = _length
    try:
        yield
    finally:
        for space in spaces.values():
            del space["len"]


def _length(x: Any) -> Any:
    return x.shape[0] if isinstance(x, Tensor) and x.ndim else len(x)


def _sources(module: nn.Module) -> Iterator[types.ModuleType]:
    """The Python modules that define the classes of a network, without torch's."""
    for kind in {base for part in module.modules() for base in type(part).__mro__}:
        source = inspect.getmodule(kind)
        if source is not None and source.__name__.partition(".")[0] not in ("torch", "builtins"):
            yield source


@contextmanager
def quiet() -> Iterator[None]:
    """Export logs and warns at length about what an error states in one line."""
    names = ("torch.export", "torch._dynamo", "torch.fx", "torch._subclasses.fake_tensor")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
