"""Where the mixed parameters of a mixture lie in a module."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from fastcomb.mixing import Mixture


def places(mixture: Mixture, model: nn.Module) -> dict[str, list[str]]:
    """Where each mixed parameter lies in a module: the names of all its places, of a shared submodule once.

    Raises:
        ValueError: the mixture's parameters are not the model's.
    """
    tied: dict[int, list[str]] = {}
    shapes = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            tied.setdefault(id(parameter), []).append(name)
            shapes[name] = parameter.shape
    faults = []
    first: dict[int, str] = {}
    for key, names in tied.items():
        known = [name for name in names if name in mixture.names]
        if not known:
            faults.append(f"{min(names)!r} is missing")
        elif len(known) > 1:
            faults.append(
                f"{' and '.join(map(repr, known))} are one tensor in the model; pass model= to Mixture"
            )
        else:
            first[key] = known[0]
    for name in mixture.names:
        if name not in shapes:
            faults.append(f"the model has no {name!r}")
        elif mixture.shape(name) != shapes[name]:
            faults.append(f"{name!r} is {tuple(mixture.shape(name))}, in the model {tuple(shapes[name])}")
    if faults:
        raise ValueError(f"the mixture does not fit {type(model).__name__}: {'; '.join(faults[:5])}")
    by_name: dict[str, list[str]] = {}
    for place, tensor in slots(model, "parameters"):
        if id(tensor) in first:
            by_name.setdefault(first[id(tensor)], []).append(place)
    return by_name


def slots(model: nn.Module, kind: str) -> Iterator[tuple[str, Tensor]]:
    """Every place of a parameter or buffer, by the first name of its module, and what is there."""
    for prefix, module in model.named_modules():
        for key, tensor in getattr(module, f"_{kind}").items():
            if tensor is not None:
                yield f"{prefix}.{key}".lstrip("."), tensor
