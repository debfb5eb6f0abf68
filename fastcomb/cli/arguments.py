"""Arguments of commands: models, data and samplers as text."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from fastcomb.sampler_text import parse_sampler
from fastcomb.samplers import Sampler


def imported(text: str, what: str, *, call: bool = True) -> Any:
    """What "package.module:name" or "package.module:name(literal, …)" stands for.

    Args:
        text: as above.
        what: what errors call it.
        call: whether a function or class that is named without arguments is called too.

    Raises:
        ValueError: it cannot be imported, or is not written like this.
    """
    place, _, name = text.partition(":")
    called, _, _ = name.partition("(")
    if not place or not called:
        raise ValueError(f"{what} {text!r} is neither a file that exists nor package.module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the present folder, as python -m has it
    try:
        found = getattr(importlib.import_module(place), called)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} {text!r} cannot be imported: {error}") from error
    if "(" not in name:
        return found() if call and callable(found) and not isinstance(found, nn.Module) else found
    try:
        tree = ast.parse(name, mode="eval").body
        assert isinstance(tree, ast.Call)
        args = [ast.literal_eval(argument) for argument in tree.args]
        kwds = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords}
    except (SyntaxError, ValueError, AssertionError) as error:
        raise ValueError(f"{what} {text!r}: arguments must be literals") from error
    return found(*args, **kwds)


def read_model(text: str) -> nn.Module:
    """The module that a MODEL argument names.

    Raises:
        ValueError: it names none, or an archive of a network with running statistics.
    """
    if Path(text).suffix == ".pt2":
        module: nn.Module = torch.export.load(text).module()
        if any(name.endswith("running_mean") for name, _ in module.named_buffers()):
            raise ValueError(
                f"{text} has normalisation with running statistics, which an exported program no longer "
                "shows as layers; name the module by package.module:factory instead"
            )
        return module
    model = imported(text, "model")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {text!r} is a {type(model).__name__}, not an nn.Module")
    return model


def read_data(text: str) -> Any:
    """Samples as :func:`fastcomb.evaluate` takes them.

    Args:
        text: a file .npz or .safetensors with arrays x and y; package.module:name of (x, y), a Dataset, a
            DataLoader, or a function that returns one; or torchvision:NAME:FOLDER, the test split of a
            torchvision data set that is in the folder, as tensors in [0, 1].
    """
    path = Path(text)
    if path.suffix == ".npz":
        with np.load(_there(path)) as arrays:
            return _pair(dict(arrays), text)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return _pair(load_file(_there(path)), text)
    if text.startswith("torchvision:"):
        return _torchvision(text)
    return imported(text, "data")


def read_inputs(text: str) -> Any:
    """Inputs alone: as data, of which y is left out."""
    if Path(text).suffix == ".npz":
        with np.load(_there(Path(text))) as arrays:
            return torch.from_numpy(arrays["x"])
    found = read_data(text)
    return found[0] if isinstance(found, (tuple, list)) else found


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return path


def _pair(arrays: dict[str, Any], text: str) -> tuple[Any, Any]:
    if not {"x", "y"} <= arrays.keys():
        raise ValueError(f"{text} has {', '.join(sorted(arrays)) or 'nothing'}; it must have arrays x and y")
    return arrays["x"], arrays["y"]


def _torchvision(text: str) -> Any:
    _, _, rest = text.partition(":")
    name, _, folder = rest.partition(":")
    if not folder:
        raise ValueError(
            f"data {text!r}: write torchvision:NAME:FOLDER, such as torchvision:MNIST:data/mnist"
        )
    try:
        from torchvision import datasets, transforms
    except ImportError as error:
        raise ValueError(f"data {text!r} needs torchvision: {error}") from error
    kind = getattr(datasets, name, None)
    if kind is None:
        raise ValueError(f"torchvision has no data set {name!r}")
    split = {"split": "test"} if name in ("SVHN", "STL10", "Places365") else {"train": False}
    return kind(folder, transform=transforms.ToTensor(), **split)


class SamplerType(click.ParamType[Sampler]):
    """A sampler as text."""

    name = "law"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sampler:
        if isinstance(value, Sampler):
            return value
        try:
            return parse_sampler(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CountType(click.ParamType[int]):
    """A number of things, at least one; 1e6 is one too."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if number < 1 or not number.is_integer():
            self.fail(f"{value!r} is not a number of at least 1", param, ctx)
        return int(value) if str(value).isdigit() else int(number)


def networks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Arguments A and B (checkpoints) and the option --model."""
    command = click.option(
        "--model", required=True, help="Code of the networks: package.module:factory, or an archive .pt2."
    )(command)
    command = click.argument("b", type=click.Path(exists=True, dir_okay=False))(command)
    return click.argument("a", type=click.Path(exists=True, dir_okay=False))(command)
