"""What matching yields: a network permuted to match another, and how it came about."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastcomb.program import private_copy
from fastcomb.rebasin.symmetries import Group, Matching, Member, Symmetries
from fastcomb.utils.files import write_atomically
from fastcomb.utils.state_dicts import restore, with_metadata

_FORMAT = "fastcomb alignment 1"


@dataclass(frozen=True, eq=False)
class Alignment:
    """A network permuted to match another.

    Attributes:
        permutations: one int64 tensor per group of ``symmetries``: unit j of the aligned network is unit
            ``permutation[j]`` of the original (groups act in order, :class:`Symmetries`).
        state_dict: the aligned network's, parameters and buffers, with the metadata that
            :meth:`torch.nn.Module.state_dict` adds.
        model: the aligned network as a module.
        objective: what the method maximises: before, and after each sweep or other improvement.
        symmetries: the groups, and what was pinned and why.
        method: name of the matching method.
        options: the method's options and seed.
    """

    permutations: Matching
    state_dict: dict[str, Tensor] = field(repr=False)
    model: nn.Module = field(repr=False)
    objective: list[float]
    symmetries: Symmetries = field(repr=False)
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pinned(self) -> Mapping[tuple[str, int], str]:
        """(tensor, dimension) that could not be permuted → why."""
        return self.symmetries.pinned

    @property
    def moved_buffers(self) -> tuple[str, ...]:
        """Buffers that moved with the units, such as running statistics and masks.

        Elsewhere they may differ between the networks now where they did not before.
        """
        moved = {member.name for group in self.symmetries.groups for member in group.members}
        return tuple(name for name, _ in self.model.named_buffers() if name in moved)

    def followed_by(self, matching: Matching) -> Alignment:
        """This alignment with the aligned network's units permuted once more."""
        state = noted(self.symmetries.permute(self.state_dict, matching), self.model)
        model = loaded(self.model, state, strict=False)
        permutations = self.symmetries.compose(self.permutations, matching)
        return dataclasses.replace(self, permutations=permutations, state_dict=state, model=model)

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (safetensors: weights, permutations, groups) and ``path`` + ".json" (the rest).

        Both appear complete or not at all. :func:`load` reads them.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"state/{name}": tensor for name, tensor in self.state_dict.items()}
        tensors |= {f"permutation/{i}": p for i, p in enumerate(self.permutations)}
        groups = []
        for i, group in enumerate(self.symmetries.groups):
            tensors |= {f"group/{i}/{j}": member.index for j, member in enumerate(group.members)}
            members = [{"name": m.name, "dim": m.dim, "rows": m.rows} for m in group.members]
            groups.append({"size": group.size, "members": members, "families": group.families})
        pinned = [{"name": n, "dim": d, "reason": r} for (n, d), r in self.pinned.items()]
        record = {
            "format": _FORMAT,
            "method": self.method,
            "options": dict(self.options),
            "objective": self.objective,
            "groups": groups,
            "pinned": pinned,
            "aliases": dict(self.symmetries.aliases),
        }
        # cloned: safetensors refuses tensors that share memory, as tied weights do
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        text = json.dumps(record, indent=1) + "\n"
        write_atomically(path, partial(save_file, whole))
        write_atomically(_record(path), lambda beside: beside.write_text(text, "utf-8"))
        return path


def load(path: str | Path, model: nn.Module) -> Alignment:
    """Read a saved alignment.

    Args:
        path: as given to :meth:`Alignment.save`.
        model: a module of the architecture; unchanged, a copy carries the aligned weights.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the files are something else, or do not fit the model.

    Example:
        >>> alignment = fc.rebasin.align(a, b)
        >>> path = alignment.save("alignment.safetensors")
        >>> loaded = fc.rebasin.load(path, a)
        >>> torch.equal(loaded.permutations[0], alignment.permutations[0])
        True
        >>> torch.equal(loaded.model[0].weight, alignment.model[0].weight)
        True
    """
    path = Path(path)
    for file in (path, _record(path)):
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}; an alignment is two files, {path.name} and its .json")
    record = json.loads(_record(path).read_text("utf-8"))
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ValueError(f"{_record(path)} is not a saved alignment")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    groups = []
    for i, group in enumerate(record["groups"]):
        members = tuple(
            Member(m["name"], m["dim"], tensors[f"group/{i}/{j}"], tuple(m["rows"]) if m["rows"] else None)
            for j, m in enumerate(group["members"])
        )
        groups.append(Group(group["size"], members, tuple(map(tuple, group["families"]))))
    pinned = {(p["name"], p["dim"]): p["reason"] for p in record["pinned"]}
    state = {n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")}
    state = noted(state, model)
    try:
        aligned = loaded(model, state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {type(model).__name__}: {error}") from error
    permutations = [tensors[f"permutation/{i}"] for i in range(len(groups))]
    symmetries = Symmetries(tuple(groups), pinned, record["aliases"])
    return Alignment(
        permutations, state, aligned, record["objective"], symmetries, record["method"], record["options"]
    )


def noted(state: Mapping[str, Tensor], model: nn.Module) -> OrderedDict[str, Tensor]:
    """A state dict with the versions of modules that loading may depend on."""
    return with_metadata(state, getattr(model.state_dict(), "_metadata", None))


def loaded(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> nn.Module:
    """A copy of a module with other weights, in the same mode."""
    copied = private_copy(model)
    restore(copied, state, strict=strict)
    return copied


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")
