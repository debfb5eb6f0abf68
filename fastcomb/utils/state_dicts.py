"""State dicts as people have them: inside training checkpoints, under the names that wrappers give."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

from fastcomb.utils.notice import notify

_SHOWN = 5
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: What DataParallel, DistributedDataParallel, AveragedModel and torch.compile put into names.
_WRAPPERS = ("module", "_orig_mod")
#: How a class that trains a network (Lightning's, say) calls it.
_HELD = ("model",)
#: What a profiler (thop) leaves in every module: one number each.
_COUNTERS = ("total_ops", "total_params")
#: What AveragedModel counts, beside its network.
_AVERAGED = "n_averaged"


class Layout(NamedTuple):
    """The names that state dicts of a model have.

    Attributes:
        known: all of them.
        needed: those of them that none lacks: of parameters that are not tied.
    """

    known: Collection[str]
    needed: Collection[str]

    def fits(self, names: Collection[str]) -> bool:
        """Whether a state dict with these names is one of the model's."""
        return set(self.needed) <= set(names) <= set(self.known)


def few(items: list[str]) -> str:
    """A list for an error message, cut short."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel, AveragedModel and torch.compile's module."""
    while True:
        if isinstance(module, (DataParallel, DistributedDataParallel, AveragedModel)):
            module = module.module
        elif type(module).__module__.startswith("torch._dynamo"):  # which takes seconds to import
            module = module.get_submodule("_orig_mod")
        else:
            return module


def check_usable(parameters: Mapping[str, Tensor], others: Mapping[str, Any], label: str) -> None:
    """Raise ValueError where a parameter is of a kind that is not mixed, or anything has no plain values."""
    for name, value in (*parameters.items(), *others.items()):
        reason = ""
        if any(isinstance(leaf, Tensor) and leaf.is_quantized for leaf in tree_leaves(value)):
            reason = "is quantized; pass the network as it was before"
        elif isinstance(value, Tensor) and value.is_meta:
            reason = "is on the meta device and has no values"
        elif name in parameters and type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            reason = f"is a {type(value).__name__}; pass plain tensors"
        elif name in parameters and (value.layout is not torch.strided or value.is_nested):
            layout = "nested" if value.is_nested else value.layout
            reason = f"has the layout {layout}, which is not mixed; pass its to_dense()"
        elif name in parameters and value.dtype not in _DTYPES:
            reason = f"is {value.dtype}, which is not mixed; convert it to float32, with any scale it has"
        if reason:
            raise ValueError(f"{label}: {name!r} {reason}")


def inside(theta: Mapping[Any, Any], known: Collection[str] = ()) -> dict[Any, Any]:
    """State dicts and modules that a mapping holds as entries; none where it is a state dict itself.

    Args:
        theta: what a file or a caller gave.
        known: names of the model's tensors, where it is known.
    """
    for name, value in theta.items():
        if isinstance(value, Tensor) and ("." in str(name) or name in known or value.ndim > 1):
            return {}
    return {n: v for n, v in theta.items() if isinstance(v, nn.Module) or _is_state_dict(v)}


def chosen(theta: Mapping[Any, Any], layout: Layout | None, label: str, source: str) -> Mapping[Any, Any]:
    """The state dict of a training checkpoint: the only one it holds, or the only one that fits.

    Args:
        theta: what a file holds.
        layout: of the model, where it is known.
        label: what errors call the network.
        source: what notices call the file; they are told once, whatever a call makes of it.

    Returns:
        ``theta`` itself where it holds no state dict as an entry.

    Raises:
        ValueError: it is not clear which one is meant.
    """
    states = inside(theta, layout.known if layout else ())
    if layout and len(states) > 1:
        fitting = {key: state for key, state in states.items() if _fits(state, layout)}
        states = fitting if len(fitting) == 1 else states
    if not states:
        return theta
    if len(states) > 1:
        raise ValueError(
            f"{label} holds several state dicts, {few([repr(key) for key in states])}; save the one you mean "
            f"alone: torch.save(torch.load(path, weights_only=True)[{next(iter(states))!r}], another)"
        )
    ((key, state),) = states.items()
    notify(f"{source} is a training checkpoint, of which the entry {key!r} is read")
    chosen: Mapping[Any, Any] = state
    return chosen


def tidied(theta: Mapping[Any, Any], layout: Layout | None, label: str, source: str) -> OrderedDict[str, Any]:
    """A state dict as tensors under the model's names.

    What wrappers put into names is taken out: where the names then are the model's, or, where no model is
    known, from the front of all of them. Counters of profilers are dropped. Both are told.

    Args:
        theta: names to tensors or arrays.
        layout: of the model, where it is known.
        label, source: what errors and notices call the state dict.

    Returns:
        detached tensors and whatever modules keep as extra state, with ``_metadata`` where ``theta`` has it.

    Raises:
        TypeError: an entry is no tensor, or its name no text.
    """
    keys = [repr(key) for key in inside(theta, layout.known if layout else ())]
    if keys:
        offers = " or ".join(f"{label}[{key}]" for key in keys[:_SHOWN])
        raise TypeError(f"{label} is a training checkpoint, not a state dict; pass {offers}")
    entries = {name: _tensor(value, name, label) for name, value in theta.items()}
    counters = _counters(entries, layout)
    if counters:
        notify(f"{source}: counters are left out, {few([repr(name) for name in counters])}")
    names = [name for name in entries if name not in counters]
    reading = _Reading.of(names, layout)
    changed = [(name, reading.name(name)) for name in names if name != reading.name(name)]
    if changed:
        notify(
            f"{source}: names are read without what a wrapper put into them, such as {changed[0][0]!r} as "
            f"{changed[0][1]!r}"
        )
    result: OrderedDict[str, Any] = OrderedDict((reading.name(name), entries[name]) for name in names)
    metadata = getattr(theta, "_metadata", None)
    if isinstance(metadata, Mapping):
        return with_metadata(result, {reading.path(path): about for path, about in metadata.items()})
    return result


def with_metadata(state: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> OrderedDict[str, Any]:
    """A state dict with what modules note about their entries, such as version numbers, by module name."""
    result = OrderedDict(state)
    if metadata is not None:
        result._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]
    return result


def restore(module: nn.Module, state: Mapping[str, Any], *, strict: bool = True) -> None:
    """Load a state dict of the module's own layout, whichever notes about it have been lost on the way."""
    metadata = getattr(module.state_dict(), "_metadata", None)
    module.load_state_dict(with_metadata(state, metadata), strict=strict)


@dataclass(frozen=True)
class _Reading:
    """A way to take wrappers out of names.

    Attributes:
        anywhere: whether the words that wrappers put into names are dropped wherever they are.
        leading: how many more words are dropped from the front.
        table: from what is left to the model's own names.
    """

    anywhere: bool = False
    leading: int = 0
    table: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(names: Collection[str], layout: Layout | None) -> _Reading:
        """The way after which most names are the model's; the names as they are, if none is better."""
        if layout is None:
            return _Reading(leading=_shared(names, _WRAPPERS))
        bare = _Reading(anywhere=True)
        tables: list[dict[str, str]] = []
        for more in range(_shared(map(bare.path, layout.known), _HELD) + 1):
            tables.append({_Reading(True, more).path(name): name for name in layout.known})
        ways = [
            _Reading(True, leading, table)
            for leading in range(_shared(map(bare.path, names), _HELD) + 1)
            for table in tables
            if len(table) == len(layout.known)
        ]

        def met(way: _Reading) -> int:
            renamed = {way.name(name) for name in names}
            return len(renamed & set(layout.known)) if len(renamed) == len(names) else -1

        return max([_Reading(), *ways], key=met)

    def path(self, name: str) -> str:
        """The name of a module or tensor without the words."""
        words = name.split(".") if name else []
        if self.anywhere:
            words = [word for word in words if word not in _WRAPPERS]
        return ".".join(words[self.leading :])

    def name(self, name: str) -> str:
        """The name of a tensor as the model has it."""
        left = self.path(name)
        return self.table.get(left, left)


def _shared(names: Iterable[str], words: Collection[str]) -> int:
    """How many words at the front of all names, before the last, are the same and of the given ones."""
    split = [name.split(".")[:-1] for name in names]
    count = 0
    for level in zip(*split, strict=False):
        if level[0] not in words or len(set(level)) > 1:
            break
        count += 1
    return count


def _fits(state: Any, layout: Layout) -> bool:
    if isinstance(state, nn.Module):
        return False
    names = [name for name in state if name not in _counters(state, layout)]
    reading = _Reading.of(names, layout)
    return layout.fits([reading.name(name) for name in names])


def _counters(state: Mapping[str, Any], layout: Layout | None) -> list[str]:
    """Entries that count something and are unknown to the model."""
    known = layout.known if layout else ()
    single = [n for n, v in state.items() if isinstance(v, Tensor) and v.numel() == 1 and n not in known]
    counters = [name for name in single if name.rpartition(".")[2] in _COUNTERS]
    others = [name for name in state if name != _AVERAGED]
    if _AVERAGED in single and others and all(name.startswith("module.") for name in others):
        counters.append(_AVERAGED)
    return counters


def _is_extra(name: Any) -> bool:
    return str(name).endswith("_extra_state")


def _is_state_dict(value: Any) -> bool:
    """Whether all entries have names and are tensors, of which one could be a weight."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return False
    entries = [entry for name, entry in value.items() if not _is_extra(name)]
    if not all(isinstance(entry, (Tensor, np.ndarray)) for entry in entries):
        return False
    return any(
        entry.is_floating_point() if isinstance(entry, Tensor) else entry.dtype.kind == "f"
        for entry in entries
    )


def _tensor(value: Any, name: Any, label: str) -> Any:
    """An entry as a tensor; what modules keep as extra state as it is."""
    if not isinstance(name, str):
        raise TypeError(f"{label} has the entry {name!r}, whose name is a {type(name).__name__} and no text")
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubc":
        # as torch takes arrays: in the machine's byte order, without negative strides, writable
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Tensor):
        return value.detach() if value.requires_grad or isinstance(value, nn.Parameter) else value
    if _is_extra(name):
        return value
    kind = type(value).__name__ + (f" of {value.dtype}" if isinstance(value, np.ndarray) else "")
    raise TypeError(
        f"{label}: {name!r} is a {kind}, not a tensor; pass the state dict alone, without what a training "
        "checkpoint holds beside it"
    )
