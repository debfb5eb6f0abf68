"""What commands are given as text, read: models, losses, networks and data. Errors name the text or file."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from fastcomb.backends.batch_norm import uses_running
from fastcomb.cli.errors import about, told
from fastcomb.data.reading import LABELS
from fastcomb.mixing import endpoints
from fastcomb.mixing.endpoints import Endpoint
from fastcomb.program import private_copy
from fastcomb.utils.inputs import structure
from fastcomb.utils.notice import notify

#: What each kind of argument may be when it is no file of the right kind.
_CODE = {
    "model": "package.module:factory, or an archive .pt2 of torch.export",
    "data": "a .npz, .pt or .safetensors file with arrays x and y, or inputs by name and labels, "
    "package.module:name or torchvision:NAME:FOLDER",
    "output": "a name, an index or package.module:name",
    "loss": "the name of a loss, such as cross_entropy, mse or huber(delta=0.5), or package.module:name",
    "accuracy": "argmax or package.module:name",
}

#: Names of the targets, for errors.
_LISTED = ", ".join(LABELS)

_POINTER = b"version https://git-lfs"


def imported(text: str, what: str, *, call: bool = True) -> Any:
    """What "package.module:name" or "package.module:name(literal, …)" stands for.

    Args:
        text: as above.
        what: "model", "data", "loss", "accuracy" or "output", for errors.
        call: whether a function or class that is named without arguments is called too.

    Raises:
        ValueError: it cannot be imported or raises, or is not written like this.
    """
    place, _, name = text.partition(":")
    called, _, _ = name.partition("(")
    if os.path.exists(text):
        kind = "folder" if Path(text).is_dir() else "file of another kind"
        raise ValueError(f"{what} {text!r} is a {kind}; it must be {_CODE[what]}")
    if not place or not called:
        raise ValueError(f"{what} {text!r} is neither a file that exists nor package.module:name")
    if place.endswith(".py") or "/" in place:
        dotted = place.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"{what} {text!r}: write a module with dots, without .py, as in {dotted}:{called}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the present folder, as python -m has it
    target: Any
    try:
        target = functools.reduce(getattr, called.split("."), importlib.import_module(place))
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what} {text!r} cannot be imported: {told(error)}") from error
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    if "(" in name:
        try:
            tree = ast.parse(name, mode="eval").body
            assert isinstance(tree, ast.Call)
            arguments = tuple(ast.literal_eval(argument) for argument in tree.args)
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords}
        except (SyntaxError, ValueError, AssertionError) as error:
            raise ValueError(f"{what} {text!r}: arguments must be literals") from error
    elif not call or not callable(target) or isinstance(target, nn.Module):
        return target
    try:
        return target(*arguments, **keywords)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what} {text!r} raised {told(error)}") from error


def read_model(text: str) -> nn.Module:
    """The module that a MODEL argument names, one of our own, in eval mode.

    Raises:
        ValueError: it names none, or an archive of a network with running statistics.
    """
    if Path(text).suffix.lower() == ".pt2":
        path = _there(Path(text), "model")
        try:
            module: nn.Module = torch.export.load(path).module()
        except Exception as error:
            raise ValueError(f"{text} cannot be read as an archive of torch.export: {told(error)}") from error
        if any(name.endswith("running_mean") for name, _ in module.named_buffers()):
            raise ValueError(
                f"{text} has normalisation with running statistics, which an exported program no longer "
                "shows as layers; name the module by package.module:factory instead"
            )
        return module
    model = imported(text, "model")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {text!r} is a {type(model).__name__}, not an nn.Module")
    return private_copy(model).eval()


def read_networks(a: str, b: str, model: nn.Module, text: str) -> tuple[Endpoint, Endpoint]:
    """Checkpoints A and B as weights of a model.

    Args:
        a, b: their paths.
        model: the module.
        text: what the user calls it.

    Raises:
        FileNotFoundError, TypeError, ValueError: naming the file, and the model where they do not fit.
    """
    first, second = (_network(label, path, model, text) for label, path in (("A", a), ("B", b)))
    one, other = first.tensors(), second.tensors()
    if all(endpoints.same(value, other[name]) for name, value in one.items()):
        notify(f"{a} and {b} hold the same weights: all their combinations are one network")
    return first, second


def check_normalisation(model: nn.Module, text: str, choice: str | None) -> None:
    """Raise ValueError if --batch-norm is given for a model without running statistics."""
    if choice is not None and not any(map(uses_running, model.modules())):
        raise ValueError(
            f"--batch-norm {choice}: the model {text} has no running statistics in use; leave it out"
        )


def read_measure(text: str, what: str) -> Any:
    """A loss or an accuracy by name, or the callable that package.module:name is."""
    return imported(text, what, call=False) if ":" in text else text


def read_output(text: str | None) -> Any:
    """Which output is meant: an index, a name, or the callable that package.module:name is."""
    if text is None or ":" in text:
        return None if text is None else imported(text, "output", call=False)
    return int(text) if text.removeprefix("-").isdigit() else text


def dtype(name: str | None) -> torch.dtype | None:
    """The dtype that torch calls ``name``."""
    return None if name is None else getattr(torch, name)


def read_data(text: str) -> Any:
    """Samples as :func:`fastcomb.evaluate` takes them.

    Args:
        text: a file .npz, .pt or .safetensors with arrays x and y, or with the network's arguments by name
            beside labels; package.module:name of what :func:`fastcomb.evaluate` takes, or a function that
            returns it; or torchvision:NAME:FOLDER, the test split of a torchvision data set that is in the
            folder, as tensors in [0, 1].
    """
    arrays = _arrays(text)
    if arrays is None:
        return _torchvision(text) if text.startswith("torchvision:") else imported(text, "data")
    labels = [name for name in LABELS if name in arrays]
    if len(labels) != 1 or len(arrays) < 2:
        has = ", ".join(sorted(arrays)) or "nothing"
        raise ValueError(f"{text} has {has}; it must have x and y, or inputs by name and one of {_LISTED}")
    y = arrays[labels[0]]
    for name, value in arrays.items():
        if len(value) != len(y):
            raise ValueError(f"{text}: {name} has {len(value)} samples but {labels[0]} has {len(y)}")
    return (arrays["x"], y) if arrays.keys() == {"x", labels[0]} else arrays


def read_inputs(text: str) -> Any:
    """Inputs alone: as data, of which targets are left out."""
    arrays = _arrays(text)
    if arrays is not None:
        inputs = {name: value for name, value in arrays.items() if name not in LABELS}
        if not inputs:
            raise ValueError(
                f"{text} has {', '.join(sorted(arrays)) or 'nothing'}; it must have x, or inputs by name"
            )
        return inputs["x"] if inputs.keys() == {"x"} else inputs
    data = read_data(text)
    return data[0] if isinstance(data, (tuple, list)) and data else data


def _network(label: str, path: str, model: nn.Module, text: str) -> Endpoint:
    with about(path):
        try:
            return endpoints.read(path, model, label)
        except ValueError as error:
            endpoints.read(path, None, label)  # what is wrong with the file itself is not about the model
            raise ValueError(f"{error}; the model is {text}") from error


def _there(path: Path, what: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{what}: " + (f"{path} is a folder" if path.is_dir() else f"no file {path}"))
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(f"{path} is a pointer of git-lfs, not the file itself; git lfs pull fetches it")
    return path


def _arrays(text: str) -> dict[str, Tensor] | None:
    """Arrays of a data file by name; None if the text has not the suffix of one."""
    suffix = Path(text).suffix.lower()
    if suffix not in (".npz", ".safetensors", ".pt", ".pth"):
        return None
    path = _there(Path(text), "data")
    if suffix == ".npz" and not zipfile.is_zipfile(path):  # numpy would take it for a pickle
        raise ValueError(f"{text} cannot be read as .npz: it is no archive of numpy.savez, or not all of one")
    try:
        if suffix in (".pt", ".pth"):
            arrays = _saved(torch.load(path, map_location="cpu", weights_only=True))
        else:
            with np.load(path) if suffix == ".npz" else safe_open(path, "pt") as file:
                arrays = {name: _array(file, name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:
        raise ValueError(f"{text} cannot be read as {suffix}: {told(error)}") from error
    for name, value in arrays.items():
        if value.ndim == 0:
            raise ValueError(f"{text}: {name} is a single number; the first dimension must count samples")
    return arrays


def _saved(data: Any) -> dict[str, Tensor]:
    """What torch.save wrote: tensors by name, or (x, y).

    Raises:
        TypeError: it is something else.
    """
    if isinstance(data, (tuple, list)) and len(data) == 2:
        data = dict(zip("xy", data, strict=True))
    if not isinstance(data, dict) or not all(isinstance(value, Tensor) for value in data.values()):
        raise TypeError(f"it holds {structure(data)}, not tensors by name")
    return data


def _array(file: Any, name: str) -> Tensor:
    """An array of an open file.

    Raises:
        ValueError: it does not hold numbers.
    """
    if isinstance(file, safe_open):
        tensor: Tensor = file.get_tensor(name)
        return tensor
    try:
        value = file[name]
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not hold numbers that torch knows ({error})") from error


def _torchvision(text: str) -> Any:
    """The test part of a torchvision data set, from "torchvision:NAME:FOLDER".

    Raises:
        ValueError: no folder is named, torchvision is missing or has no such data set, or cannot read it.
    """
    _, _, rest = text.partition(":")
    name, _, folder = rest.partition(":")
    if not folder:
        raise ValueError(
            f"data {text!r}: write torchvision:NAME:FOLDER, such as torchvision:MNIST:data/mnist"
        )
    try:
        from torchvision import datasets, transforms
    except Exception as error:
        raise ValueError(f"data {text!r} needs torchvision: {told(error)}") from error
    kind = getattr(datasets, name, None)
    if kind is None:
        raise ValueError(f"torchvision has no data set {name!r}")
    split = {"split": "test"} if name in ("SVHN", "STL10", "Places365") else {"train": False}
    try:
        return kind(folder, transform=transforms.ToTensor(), **split)
    except Exception as error:
        raise ValueError(
            f"data {text!r} cannot be read: {told(error)} (nothing is downloaded; the folder must hold it)"
        ) from error
