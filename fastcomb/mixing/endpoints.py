"""The networks at the corners: read from modules, mappings or checkpoint files, and compared."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastcomb.mixing import checkpoints
from fastcomb.program.private import private_copy
from fastcomb.utils.notice import notify
from fastcomb.utils.state_dicts import Layout, check_usable, chosen, tidied, unwrapped, with_metadata
from fastcomb.utils.state_dicts import few as _few

RUNNING_STATISTICS = ("running_mean", "running_var")
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class Endpoint:
    """One network as named tensors.

    Attributes:
        parameters: floating-point parameters under their first names, each tied tensor once.
        carried: everything else by name (buffers, integer tensors): not mixed.
        aliases: further names of tied parameters, each with its first name.
        state: the names a state dict of this network has, in its order.
        rigid: names in ``carried`` of tensors that would have to be mixed but are no real floating-point
            numbers: complex and integer parameters.
        metadata: what modules note about their entries of state dicts, such as version numbers.
    """

    parameters: dict[str, Tensor]
    carried: dict[str, Any]
    aliases: dict[str, str]
    state: tuple[str, ...]
    rigid: frozenset[str] = frozenset()
    metadata: Mapping[str, Any] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their first names, on the CPU."""
        both = self.parameters | {n: v for n, v in self.carried.items() if isinstance(v, Tensor)}
        return {name: tensor.detach().cpu() for name, tensor in both.items()}


#: A network as callers give it.
Theta = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str] | Endpoint


def read(theta: Theta, model: nn.Module | None, label: str) -> Endpoint:
    """Read one endpoint.

    Args:
        theta: a module (what DataParallel or torch.compile wrap is taken out), a mapping from names to
            tensors or arrays, a path as :func:`fastcomb.mixing.checkpoints.load` takes it, or an endpoint
            that has been read.
        model: tells which entries of a mapping are parameters, and how they are loaded; without it every
            floating tensor is a parameter, except running statistics.
        label: what errors call this endpoint, for example "theta_a".

    Raises:
        TypeError, ValueError, FileNotFoundError: each with what to do about it.
    """
    if isinstance(theta, Endpoint):
        return theta
    if isinstance(theta, nn.Module):
        endpoint = _from_module(unwrapped(theta), label)
    elif isinstance(theta, (str, os.PathLike)):
        source = os.fspath(theta)
        checkpoint, label = checkpoints.load(theta, label), f"{label} ({source})"
        endpoint = _from_mapping(chosen(checkpoint, _layout(model), label, source), model, label, source)
    elif isinstance(theta, Mapping):
        endpoint = _from_mapping(theta, model, label, "a state dict")
    else:
        raise TypeError(
            f"{label} is a {type(theta).__name__}; pass an nn.Module, a mapping of names to tensors "
            "(such as a state dict), or the path of a checkpoint"
        )
    check_usable(endpoint.parameters, endpoint.carried, label)
    _check_values(endpoint, label)
    return endpoint


def labelled(theta_a: Theta, theta_b: Theta | Sequence[Theta]) -> dict[str, Theta]:
    """All networks of a call with ``theta_a`` and ``theta_b``, by what errors call them."""
    if isinstance(theta_b, Sequence) and not isinstance(theta_b, (str, bytes)):
        return {"theta_a": theta_a} | {f"theta_b[{i}]": theta for i, theta in enumerate(theta_b)}
    return {"theta_a": theta_a, "theta_b": theta_b}


def structure(model: nn.Module | None, *thetas: Theta) -> nn.Module | None:
    """The module that the networks are weights of: the given one, or the first that is a module."""
    module = next((theta for theta in (model, *thetas) if isinstance(theta, nn.Module)), None)
    return None if module is None else unwrapped(module)


def check_match(a: Endpoint, b: Endpoint, labels: tuple[str, str] = ("theta_a", "theta_b")) -> None:
    """Raise ValueError unless both endpoints have the same parameters with the same shapes."""
    both = " and ".join(labels)
    missing = sorted(a.parameters.keys() ^ b.parameters.keys())
    if missing:
        sides = [f"{name!r} (only in {labels[name not in a.parameters]})" for name in missing]
        raise ValueError(f"{both} have different parameters: {_few(sides)}")
    shapes = [
        f"{name!r} {tuple(value.shape)} against {tuple(b.parameters[name].shape)}"
        for name, value in a.parameters.items()
        if value.shape != b.parameters[name].shape
    ]
    if shapes:
        raise ValueError(f"{both} have parameters of different shapes: {_few(shapes)}")
    if not a.parameters:
        raise ValueError(f"{both} have no floating-point parameters to mix")


def check_rigid(a: Endpoint, b: Endpoint, labels: tuple[str, str]) -> None:
    """Raise ValueError where endpoints differ in parameters that cannot be mixed."""
    both = " and ".join(labels)
    rigid = [
        f"{name!r} ({str(a.carried[name].dtype).removeprefix('torch.')})"
        for name in sorted(a.rigid | b.rigid)
        if name in a.carried and name in b.carried and not same(a.carried[name], b.carried[name])
    ]
    if rigid:
        raise ValueError(
            f"{both} differ in {_few(rigid)}: parameters that are complex or integers are not mixed. Give "
            "both networks the same, or keep complex parameters as real ones (torch.view_as_real)"
        )


def same(one: Any, other: Any) -> bool:
    """Whether two tensors hold the same numbers, NaN being NaN."""
    if one is other:
        return True
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or one.shape != other.shape:
        return False
    other = other.to(one.device)
    if one.dtype != other.dtype:
        return bool((one == other).all())
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def is_running_statistic(name: str) -> bool:
    """Whether a buffer of this name is a running mean or variance."""
    return name.rpartition(".")[2] in RUNNING_STATISTICS


def _from_module(module: nn.Module, label: str) -> Endpoint:
    """A module's parameters, what it carries besides, and names of tied parameters.

    Raises:
        ValueError: a lazy module that has not run yet.
    """
    for name, value in module.named_parameters():
        if nn.parameter.is_lazy(value):
            raise ValueError(
                f"{label}: {name!r} is not initialised; run the lazy module once on a sample first"
            )
    tensors = {name: value.detach() for name, value in module.named_parameters()}
    first = {id(value): name for name, value in module.named_parameters()}
    aliases = {
        name: first[id(value)]
        for name, value in module.named_parameters(remove_duplicate=False)
        if name not in tensors
    }
    parameters = {name: value for name, value in tensors.items() if value.is_floating_point()}
    carried: dict[str, Any] = {n: v for n, v in tensors.items() if n not in parameters}
    carried |= {n: v.detach() for n, v in module.named_buffers(remove_duplicate=False)}
    state = module.state_dict()
    carried |= {n: v for n, v in state.items() if n not in parameters and n not in aliases}
    rigid = frozenset(tensors.keys() - parameters.keys())
    metadata = getattr(state, "_metadata", None)
    return Endpoint(parameters, carried, aliases, tuple(state), rigid, metadata)


def _layout(model: nn.Module | None) -> Layout | None:
    """The names that state dicts of a model have."""
    if model is None:
        return None
    endpoint = _from_module(unwrapped(model), "model")
    tied = set(endpoint.aliases.values())
    known = {**endpoint.parameters, **endpoint.carried, **endpoint.aliases}
    return Layout(known.keys(), endpoint.parameters.keys() - tied)


def _from_mapping(theta: Mapping[Any, Any], model: nn.Module | None, label: str, source: str) -> Endpoint:
    """A state dict's tensors; those that share memory are taken for tied where no model says what is.

    Without a model every floating-point tensor but running statistics is a parameter.
    """
    state = tidied(theta, _layout(model), label, source)
    check_usable({}, state, label)
    if model is not None:
        return _from_mapping_for(state, unwrapped(model), label, source)
    parameters: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or is_running_statistic(name):
            continue
        check_usable({name: value}, {}, label)  # others have no place in memory to compare
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if value.numel() and place in seen:
            aliases[name] = seen[place]
        else:
            seen[place] = name
            parameters[name] = value
    carried = {n: v for n, v in state.items() if n not in parameters and n not in aliases}
    rigid = frozenset(n for n, v in carried.items() if isinstance(v, Tensor) and v.is_complex())
    metadata = getattr(state, "_metadata", None)
    return Endpoint(parameters, carried, aliases, tuple(state), rigid, metadata)


def _from_mapping_for(theta: OrderedDict[str, Any], model: nn.Module, label: str, source: str) -> Endpoint:
    """Read a mapping as the weights of a known model."""
    own = _from_module(model, "model")
    _check_kinds(theta, own, label)
    if _loads_its_own_way(model):
        theta = _loaded(theta, model, own, label)
    state = dict(theta)
    for alias, name in own.aliases.items():
        tied = state.pop(alias, None)
        if tied is None:
            continue
        if name in state and not _equal(tied, state[name]):
            raise ValueError(f"{label}: {alias!r} and {name!r} are tied in the model but differ here")
        state.setdefault(name, tied)
    missing = [_near(name, state) for name in own.parameters if name not in state]
    if missing:
        raise ValueError(f"{label} lacks parameters of the model: {_few(missing)}")
    strange = [repr(name) for name in state if name not in own.parameters | own.carried]
    if strange:
        raise ValueError(f"{label} has entries that the model does not know: {_few(strange)}")
    both = [
        (name, state[name], value)
        for name, value in (own.parameters | own.carried).items()
        if isinstance(value, Tensor) and isinstance(state.get(name), Tensor)
    ]
    shapes = [f"{n!r} {tuple(v.shape)}, model {tuple(w.shape)}" for n, v, w in both if v.shape != w.shape]
    if shapes:
        raise ValueError(f"{label} does not fit the model: {_few(shapes)}")
    absent = [
        repr(name)
        for name in own.state
        if name not in state and isinstance(own.carried.get(name), Tensor) and not name.endswith(_COUNT)
    ]
    if absent:
        notify(f"{source} lacks buffers, for which the model's own are taken: {_few(absent)}")
    parameters = {name: state[name] for name in own.parameters}
    carried = dict(own.carried)
    for name in carried.keys() & state.keys():
        value, like = state[name], own.carried[name]
        if isinstance(value, Tensor) and isinstance(like, Tensor) and not like.is_floating_point():
            value = value.to(like.dtype)  # which _check_kinds found to be the same
        carried[name] = value
    return Endpoint(parameters, carried, own.aliases, own.state, own.rigid, own.metadata)


def _near(name: str, state: Mapping[str, Any]) -> str:
    """A name that is missing, with a longer one that may be meant."""
    longer = next((other for other in state if other.endswith(f".{name}")), None)
    return f"{name!r} (it has {longer!r})" if longer else repr(name)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _check_kinds(state: Mapping[str, Any], own: Endpoint, label: str) -> None:
    """Raise ValueError where numbers are of another kind than the model's and do not mean the same in it."""
    wrong = []
    for name, value in state.items():
        first = own.aliases.get(name, name)
        like = own.parameters.get(first, own.carried.get(first))
        if not isinstance(value, Tensor) or not isinstance(like, Tensor) or value.is_meta:
            continue
        kinds = [(t.is_floating_point(), t.is_complex()) for t in (value, like)]
        if first in own.parameters or value.is_complex():
            same = kinds[0] == kinds[1]
        elif kinds[0] == kinds[1] == (True, False) or value.dtype == like.dtype or name.endswith(_COUNT):
            same = True
        else:
            same = torch.equal(value.to(like.dtype).to(value.dtype), value)
        if not same:
            wrong.append(f"{name!r} is {value.dtype}, in the model {like.dtype}")
    if wrong:
        raise ValueError(f"{label} has other kinds of numbers than the model: {_few(wrong)}")


def _loads_its_own_way(model: nn.Module) -> bool:
    """Whether loading a state dict is more than copying tensors by name, as in torch's own layers."""
    return type(model).load_state_dict is not nn.Module.load_state_dict or any(
        not type(module)._load_from_state_dict.__module__.startswith("torch.nn.modules.")
        or module._load_state_dict_pre_hooks
        for module in model.modules()
    )


def _loaded(
    theta: OrderedDict[str, Any], model: nn.Module, own: Endpoint, label: str
) -> OrderedDict[str, Any]:
    """The state dict of a model after it loaded another one in its own way."""
    loaded = private_copy(model)
    metadata = {**(own.metadata or {}), **getattr(theta, "_metadata", {})}
    try:
        result = loaded.load_state_dict(with_metadata(theta, metadata), strict=False)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{label} is refused by {type(model).__name__}.load_state_dict: {reason}") from error
    state = with_metadata(loaded.state_dict(), None)
    if result is not None:  # what else a method may return that hides torch's own
        for name in result.missing_keys:
            state.pop(name, None)
        state |= {name: theta[name] for name in result.unexpected_keys if name in theta}
    return state


def _check_values(endpoint: Endpoint, label: str) -> None:
    for name, value in endpoint.parameters.items():
        if value.device.type == "meta":
            raise ValueError(f"{label}: {name!r} is on the meta device and has no values")
    floating = endpoint.parameters | {
        name: value for name, value in endpoint.carried.items() if is_running_statistic(name)
    }
    for name, value in floating.items():
        bad = value.numel() - int(torch.isfinite(value).sum())
        if bad:
            raise ValueError(f"{label}: {name!r} has {bad} values that are NaN or infinite")
