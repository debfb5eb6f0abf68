"""A stitched network: the bottom of one network, a stitching layer, the top of another."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastcomb.program.choose import Output
from fastcomb.stitching.affine import Affine, Diagonal, Identity, LowRank, Sparse
from fastcomb.stitching.cut import Cut, cut, places
from fastcomb.stitching.layer import Resize, StitchingLayer
from fastcomb.stitching.orthogonal import Orthogonal
from fastcomb.stitching.part import Part
from fastcomb.stitching.permutation import Permutation, ScaledPermutation, SoftPermutation
from fastcomb.utils.files import write_atomically

_FORMAT = "fastcomb stitch 1"

#: Kinds of stitching layers by name.
KINDS: dict[str, type[StitchingLayer]] = {
    kind.kind: kind
    for kind in (
        Affine,
        Diagonal,
        Identity,
        LowRank,
        Orthogonal,
        Permutation,
        ScaledPermutation,
        SoftPermutation,
        Sparse,
    )
}


class Stitched(nn.Module):
    """top(layer(bottom(x))): a module like any other, in which only the stitching layer asks for gradients.

    It takes what network A takes.

    Args:
        a: the network whose bottom runs, cut.
        b: the network whose top runs, cut.
        layer: the stitching layer between them; moved to B's device and dtype.

    Raises:
        ValueError: the layer does not fit between the two cuts.
    """

    def __init__(self, a: Cut, b: Cut, layer: StitchingLayer) -> None:
        super().__init__()
        outputs, inputs = layer.matrix().shape
        if (inputs, outputs) != (a.width, b.width):
            raise ValueError(
                f"a stitching layer from {inputs} to {outputs} channels does not fit between {a.layer} and "
                f"{b.layer}"
            )
        places(a, b, layer.resize.how if layer.resize else None)
        self.ends = (a, b)
        self.bottom: Part = a.bottom
        self.layer = layer.to(b.network.device, b.network.dtype)
        self.top: Part = b.top

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What B's top makes of A's activations on A's arguments."""
        return self.top(self.layer(self.bottom(*args, **kwargs)))

    @property
    def head(self) -> nn.Module:
        """The stitching layer and the top: takes the bottom's activations."""
        return Head(self.layer, self.top)

    def replaced(self, layer: StitchingLayer) -> Stitched:
        """The same two networks with another stitching layer between them."""
        return Stitched(*self.ends, layer)

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (safetensors: all weights) and ``path`` + ".json" (what the layer is, and where).

        Each appears complete or not at all. :func:`load` reads them.
        """
        path = Path(path)
        a, b = self.ends
        resize = self.layer.resize
        record = {
            "format": _FORMAT,
            "kind": self.layer.kind,
            "options": self.layer.options(),
            "layers": [a.layer.name, b.layer.name],
            "channels": list(self.layer.channels),
            "resize": None if resize is None else {"how": resize.how, "size": list(resize.size)},
        }
        # cloned: safetensors refuses tensors that share memory, as weights used in both parts would
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.state_dict().items()}
        text = json.dumps(record, indent=1) + "\n"
        write_atomically(path, partial(save_file, tensors))
        write_atomically(_record(path), lambda beside: beside.write_text(text, "utf-8"))
        return path

    def extra_repr(self) -> str:
        """Both networks and where they are cut, for ``print``."""
        a, b = self.ends
        return f"{a.network.name} up to {a.layer}, {b.network.name} from {b.layer}"


class Head(nn.Module):
    """A stitching layer and the top of a network."""

    def __init__(self, layer: StitchingLayer, top: Part) -> None:
        super().__init__()
        self.layer = layer
        self.top = top

    def forward(self, h: Tensor) -> Any:
        """What the top makes of the bottom's activations h."""
        return self.top(self.layer(h))


def load(
    path: str | Path,
    model_a: nn.Module,
    model_b: nn.Module,
    *inputs: Any,
    output: Output | None = None,
    **named: Any,
) -> Stitched:
    """Read a saved stitched network.

    Args:
        path: as given to :meth:`Stitched.save`.
        model_a, model_b: modules of the two architectures; unchanged, all weights come from the file.
        *inputs, **named: sample arguments, where none can be guessed.
        output: which tensor of what the networks return is meant, as in :func:`fastcomb.evaluate`.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the files are something else, or do not fit the models.

    Example:
        >>> stitch = fc.stitching.match(fc.stitching.cut(a, "0"), fc.stitching.cut(b, "0"), x, progress=False)
        >>> path = stitch.save("stitch.safetensors")
        >>> loaded = fc.stitching.load(path, a, b)
        >>> torch.equal(loaded.layer.weight, stitch.layer.weight)
        True
    """
    path = Path(path)
    for file in (path, _record(path)):
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}; a stitch is two files, {path.name} and its .json")
    record = json.loads(_record(path).read_text("utf-8"))
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ValueError(f"{_record(path)} is not a saved stitch")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    ends = [
        cut(model, name, *inputs, channels=channels, output=output, **named)
        for model, name, channels in zip(
            (model_a, model_b), record["layers"], record["channels"], strict=True
        )
    ]
    stitched = Stitched(ends[0], ends[1], _layer(record, tensors))
    try:
        stitched.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the two models: {error}") from error
    return stitched


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _layer(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StitchingLayer:
    """The stitching layer of a file; tensors that its kind is not made with are loaded later."""
    kind = KINDS[record["kind"]]
    parameters = {name.removeprefix("layer."): t for name, t in tensors.items() if name.startswith("layer.")}
    resize = record["resize"]
    return kind(
        **{name: t for name, t in parameters.items() if name in inspect.signature(kind).parameters},
        **record["options"],
        channels=tuple(record["channels"]),
        resize=Resize(resize["how"], tuple(resize["size"])) if resize else None,
    )
