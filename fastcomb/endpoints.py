"""The networks at the corners: read from modules, mappings or checkpoint files, and compared."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

_SHOWN = 5
RUNNING_STATISTICS = ("running_mean", "running_var")


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
    """

    parameters: dict[str, Tensor]
    carried: dict[str, Any]
    aliases: dict[str, str]
    state: tuple[str, ...]
    rigid: frozenset[str] = frozenset()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their first names, on the CPU."""
        both = self.parameters | {n: v for n, v in self.carried.items() if isinstance(v, Tensor)}
        return {name: tensor.detach().cpu() for name, tensor in both.items()}


#: A network as callers give it.
Theta = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str] | Endpoint


def read(theta: Theta, model: nn.Module | None, label: str) -> Endpoint:
    """Read one endpoint.

    Args:
        theta: a module, a mapping from names to tensors, or the path of a ``.safetensors`` file or of a
            torch checkpoint that holds such a mapping (loaded without executing pickled code), or an
            endpoint that has been read.
        model: tells which entries of a mapping are parameters; without it every floating tensor is one,
            except running statistics.
        label: what errors call this endpoint, for example "theta_a".

    Raises:
        TypeError, ValueError, FileNotFoundError: each with what to do about it.
    """
    if isinstance(theta, Endpoint):
        return theta
    if isinstance(theta, (str, os.PathLike)):
        theta = _load(Path(theta), label)
    if isinstance(theta, nn.Module):
        endpoint = _from_module(theta, label)
    elif isinstance(theta, Mapping):
        endpoint = _from_mapping(theta, model, label)
    else:
        raise TypeError(
            f"{label} is a {type(theta).__name__}; pass an nn.Module, a mapping of names to tensors "
            "(such as a state dict), or the path of a checkpoint"
        )
    _check_values(endpoint, label)
    return endpoint


def labelled(theta_a: Theta, theta_b: Theta | Sequence[Theta]) -> dict[str, Theta]:
    """All networks of a call with ``theta_a`` and ``theta_b``, by what errors call them."""
    if isinstance(theta_b, Sequence) and not isinstance(theta_b, str):
        return {"theta_a": theta_a} | {f"theta_b[{i}]": theta for i, theta in enumerate(theta_b)}
    return {"theta_a": theta_a, "theta_b": theta_b}


def structure(model: nn.Module | None, *thetas: Theta) -> nn.Module | None:
    """The module that the networks are weights of: the given one, or the first that is a module."""
    return next((theta for theta in (model, *thetas) if isinstance(theta, nn.Module)), None)


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


def _is_running_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in RUNNING_STATISTICS


def _from_module(module: nn.Module, label: str) -> Endpoint:
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
    return Endpoint(parameters, carried, aliases, tuple(state), rigid)


def _from_mapping(theta: Mapping[str, Any], model: nn.Module | None, label: str) -> Endpoint:
    for name, value in theta.items():
        if not isinstance(value, Tensor) and not str(name).endswith("_extra_state"):
            raise TypeError(
                f"{label}[{name!r}] is a {type(value).__name__}, not a tensor; if this is a training "
                "checkpoint, pass the state dict inside it"
            )
    if model is not None:
        return _from_mapping_for(theta, _from_module(model, "model"), label)
    parameters: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in theta.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or _is_running_statistic(name):
            continue
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if value.numel() and place in seen:
            aliases[name] = seen[place]
        else:
            seen[place] = name
            parameters[name] = value.detach()
    carried = {n: v for n, v in theta.items() if n not in parameters and n not in aliases}
    rigid = frozenset(n for n, v in carried.items() if isinstance(v, Tensor) and v.is_complex())
    return Endpoint(parameters, carried, aliases, tuple(theta), rigid)


def _from_mapping_for(theta: Mapping[str, Any], model: Endpoint, label: str) -> Endpoint:
    """Read a mapping as the weights of a known model."""
    given = dict(theta)
    for alias, name in model.aliases.items():
        tied = given.pop(alias, None)
        if tied is None:
            continue
        if name in given and not torch.equal(tied, given[name]):
            raise ValueError(f"{label}: {alias!r} and {name!r} are tied in the model but differ here")
        given.setdefault(name, tied)
    missing = [repr(name) for name in model.parameters if name not in given]
    if missing:
        raise ValueError(f"{label} lacks parameters of the model: {_few(missing)}")
    strange = [repr(name) for name in given if name not in model.parameters | model.carried]
    if strange:
        raise ValueError(f"{label} has entries that the model does not know: {_few(strange)}")
    shapes = [
        f"{name!r} {tuple(given[name].shape)}, model {tuple(value.shape)}"
        for name, value in model.parameters.items()
        if given[name].shape != value.shape
    ]
    if shapes:
        raise ValueError(f"{label} does not fit the model: {_few(shapes)}")
    parameters = {name: given[name].detach() for name in model.parameters}
    carried = {name: given.get(name, value) for name, value in model.carried.items()}
    return Endpoint(parameters, carried, model.aliases, model.state, model.rigid)


def _check_values(endpoint: Endpoint, label: str) -> None:
    for name, value in endpoint.parameters.items():
        if value.device.type == "meta":
            raise ValueError(f"{label}: {name!r} is on the meta device and has no values")
    floating = endpoint.parameters | {
        name: value for name, value in endpoint.carried.items() if _is_running_statistic(name)
    }
    for name, value in floating.items():
        bad = value.numel() - int(torch.isfinite(value).sum())
        if bad:
            raise ValueError(f"{label}: {name!r} has {bad} values that are NaN or infinite")


def _load(path: Path, label: str) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{label}: no file {path}")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{label}: {path} cannot be read without executing pickled code, which is refused; save the "
            "state dict alone (torch.save(model.state_dict(), path)) or as safetensors"
        ) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{label}: {path} holds a {type(loaded).__name__}, not a state dict")
    return loaded


def _few(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
