"""Checkpoint files and folders: what they are is told by their first bytes, not by their names."""

from __future__ import annotations

import codecs
import difflib
import json
import os
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fastcomb.utils.notice import notify
from fastcomb.utils.state_dicts import few

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_INDEX = ".index.json"
_INDEXES = tuple(suffix + _INDEX for suffix in _SUFFIXES)
#: The names under which libraries look for a network in a folder.
_USUAL = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\.\w+)", re.DOTALL)
_HEAD = 512
_LARGEST_HEADER = 100_000_000
_LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
_AGAIN = "copy or download it again"
_FOREIGN = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, such as Keras writes",
    b"\x93NUMPY": "a numpy array",
    b"\x1f\x8b": "compressed with gzip; decompress it first",
    b"BZh": "compressed with bzip2; decompress it first",
    b"\xfd7zXZ": "compressed with xz; decompress it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; decompress it first",
    b"GGUF": "a GGUF file, whose weights are quantized",
}


def load(given: str | os.PathLike[str], label: str) -> Mapping[Any, Any]:
    """Read what a checkpoint holds, on the CPU, without executing pickled code.

    Args:
        given: the path of a safetensors file, of what ``torch.save`` wrote, of an index of shards, or of a
            folder that holds one of those or all shards.
        label: what errors call the network, for example "theta_a".

    Returns:
        a mapping: a state dict, or a training checkpoint around one.

    Raises:
        FileNotFoundError: there is no such file, or a shard of it is missing.
        ValueError: it is no checkpoint, damaged, would need pickled code, or the folder holds several.
    """
    text = os.fspath(given)
    if not text or "://" in text:
        raise ValueError(f"{label}: {text!r} is no path; download the file and pass where it is")
    path = Path(text)
    if not path.exists():
        raise FileNotFoundError(f"{label}: no file {path}{_instead(path)}")
    checkpoint = _Reader(label).anything(path)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{label}: {path} holds a {type(checkpoint).__name__}, not a state dict")
    return checkpoint


class _Reader:
    """Reads files; what is wrong with them is said with the network's label.

    Args:
        label: what errors call the network.
    """

    def __init__(self, label: str) -> None:
        self.label = label

    def fault(self, path: Path, what: str) -> ValueError:
        return ValueError(f"{self.label}: {path} {what}")

    def anything(self, path: Path) -> Any:
        """What a file or folder holds."""
        if path.is_dir():
            return self.folder(path)
        if not path.is_file():
            raise self.fault(path, "is neither a file nor a folder")
        shard = _SHARD.fullmatch(path.name)
        if shard and int(shard["total"]) > 1:
            raise self.fault(
                path, f"is one of {int(shard['total'])} parts of a network; pass their folder or their index"
            )
        return self.file(path)

    def file(self, path: Path) -> Any:
        """What one file holds, whatever its name says."""
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        if not head:
            raise self.fault(path, f"is empty; {_AGAIN}")
        if head.startswith(b"PK\x03\x04"):
            return self.archive(path)
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
            return self.safetensors(path)
        if head[0] == 0x80 and len(head) > 1 and head[1] <= pickle.HIGHEST_PROTOCOL:
            if _LEGACY_MAGIC not in head:
                raise self.fault(
                    path,
                    "is a pickle that torch.save did not write; unpickle it yourself, if you trust it, and "
                    "pass the mapping of names to tensors",
                )
            return self.pickled(path)
        for magic, what in _FOREIGN.items():
            if head.startswith(magic):
                raise self.fault(path, f"is no checkpoint of torch: it is {what}")
        return self.text(path, head)

    def text(self, path: Path, head: bytes) -> Any:
        """What an index of shards names; other texts are refused by what they are."""
        start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        if start.startswith(b"version https://git-lfs.github.com/spec/"):
            raise self.fault(
                path, "is a git-lfs pointer, not the file itself; run `git lfs pull` in its repository"
            )
        if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
            raise self.fault(path, f"is a web page: its download failed; {_AGAIN}")
        if start.startswith(b"{"):
            return self.index(path)
        if _is_text(head):
            raise self.fault(path, "is a text, not a checkpoint (safetensors, or what torch.save writes)")
        raise self.fault(
            path, f"is neither safetensors nor what torch.save writes, or its beginning is damaged; {_AGAIN}"
        )

    def safetensors(self, path: Path) -> Any:
        try:
            return load_file(path)
        except SafetensorError as error:
            raise self.fault(path, f"is cut off or damaged ({error}); {_AGAIN}") from error

    def archive(self, path: Path) -> Any:
        """What a zip archive of ``torch.save`` holds, after its checksums, which torch does not look at."""
        try:
            names = _whole(path)
        except MemoryError:
            raise
        except Exception as error:  # of many kinds: this is what zipfile makes of damaged bytes
            raise self.fault(path, f"is cut off or damaged ({error}); {_AGAIN}") from error
        self.check_kind(path, names)
        return self.pickled(path)

    def check_kind(self, path: Path, names: list[str]) -> None:
        """Refuse archives that ``torch.save`` did not write, by what is in them."""
        inner = {name.partition("/")[2] for name in names}
        if "constants.pkl" in inner:
            raise self.fault(
                path, "is a TorchScript archive; pass torch.jit.load(path).state_dict() or save that alone"
            )
        if "archive_format" in inner or "serialized_exported_program.json" in {*names, *inner}:
            raise self.fault(
                path, "is an exported program; pass torch.export.load(path).state_dict or save that alone"
            )
        if any(name.endswith(".npy") for name in names):
            raise self.fault(path, "is an archive of numpy arrays; pass dict(numpy.load(path))")
        if "data.pkl" not in inner:
            raise self.fault(path, "is a zip archive, but not one of torch.save; unpack it first")

    def pickled(self, path: Path) -> Any:
        try:
            with path.open("rb") as stream:  # given the path, torch believes what its name says
                return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise self.fault(path, _refusal(path, str(error))) from error
        except (OSError, MemoryError):
            raise
        except Exception as error:
            reason = (str(error) or "its end is missing").splitlines()[0].partition(". This is")[0]
            raise self.fault(path, f"is cut off or damaged ({reason}); {_AGAIN}") from error

    def index(self, path: Path) -> Any:
        """All tensors of the shards that an index names, which are beside it."""
        places = self.places(path)
        shards = sorted(set(places.values()))
        self.check_there(path, [path.parent / shard for shard in shards])
        merged: dict[str, Any] = {}
        for shard in shards:
            names = {name for name, place in places.items() if place == shard}
            merged |= self.part(path.parent / shard, merged, names)
        return OrderedDict((name, merged[name]) for name in places)

    def places(self, path: Path) -> dict[str, str]:
        """Which shard each tensor is in, as an index says."""
        try:
            weight_map = json.loads(path.read_bytes())["weight_map"]
            if not isinstance(weight_map, dict) or not weight_map:
                raise TypeError
            if not all(isinstance(place, str) for place in weight_map.values()):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            raise self.fault(
                path, "is no index of shards: it is not JSON with names of tensors under 'weight_map'"
            ) from error
        return weight_map

    def part(self, path: Path, before: Mapping[str, Any], wanted: set[str] | None = None) -> dict[str, Any]:
        """The tensors of one shard, which must be the wanted ones, and in no shard before."""
        state = self.file(path)
        if not isinstance(state, Mapping):
            raise self.fault(path, f"holds a {type(state).__name__}, not a state dict")
        missing = [] if wanted is None else sorted(map(repr, wanted - state.keys()))
        if missing:
            raise self.fault(path, f"lacks what the index says it holds: {few(missing)}")
        unknown = [] if wanted is None else sorted(map(repr, state.keys() - wanted))
        if unknown:
            raise self.fault(path, f"holds what the index does not say: {few(unknown)}")
        twice = sorted(map(repr, state.keys() & before.keys()))
        if twice:
            raise self.fault(path, f"holds what another shard holds too: {few(twice)}")
        return dict(state)

    def check_there(self, whole: Path, shards: Iterable[Path]) -> None:
        missing = [str(shard) for shard in shards if not shard.is_file()]
        if missing:
            raise FileNotFoundError(f"{self.label}: of {whole} the shards are missing: {few(missing)}")

    def folder(self, folder: Path) -> Any:
        """The one checkpoint of a folder: of those with a usual name, else of all."""
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
        if any(path.suffix == ".distcp" for path in files):
            raise self.fault(
                folder,
                "is a distributed checkpoint; convert it by torch.distributed.checkpoint.format_utils's "
                "dcp_to_torch_save",
            )
        readers: dict[str, Callable[[], Any]] = {}
        covered: set[str] = set()
        for path in files:
            if path.name.casefold().endswith(_INDEXES):
                readers[path.name] = partial(self.index, path)
                covered |= set(self.places(path).values())
        groups: dict[str, list[Path]] = {}
        for path in files:
            if path.suffix.casefold() in _SUFFIXES and path.name not in covered:
                shard = _SHARD.fullmatch(path.name)
                if shard:
                    name = f"{shard['stem']}-*-of-{shard['total']}{shard['suffix']}"
                    groups.setdefault(name, []).append(path)
                else:
                    readers[path.name] = partial(self.file, path)
        for name in groups:
            readers[name] = partial(self.shards, folder, name)
        usual = [name for name in readers if name.casefold().removesuffix(_INDEX) in _USUAL]
        if not readers:
            raise self.fault(folder, f"is a folder without a checkpoint ({', '.join(_SUFFIXES)})")
        if len(usual) == 1 and len(readers) > 1:
            notify(f"of the folder {folder} {usual[0]} is read")
        elif len(readers) > 1:
            names = few(usual or list(readers))
            raise self.fault(folder, f"is a folder with several checkpoints; pass the path of one: {names}")
        return readers[usual[0] if usual else next(iter(readers))]()

    def shards(self, folder: Path, pattern: str) -> Any:
        """All tensors of shards that no index lists."""
        stem, _, rest = pattern.rpartition("-*-of-")
        total = int(rest[:5])
        paths = [folder / f"{stem}-{number:05d}-of-{rest}" for number in range(1, total + 1)]
        self.check_there(folder / pattern, paths)
        merged: dict[str, Any] = {}
        for path in paths:
            merged |= self.part(path, merged)
        return merged


def _whole(path: Path) -> list[str]:
    """Names of an archive's entries, all of which were read and agree with their checksums."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.CRC:  # torch writes 0 where it was told to save the time
                with archive.open(entry) as stream:
                    while stream.read(1 << 24):
                        pass
        return archive.namelist()


def _refusal(path: Path, error: str) -> str:
    """Why a pickle is not read, and what to do."""
    if zipfile.is_zipfile(path):
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    else:
        try:
            every = _globals(path)
        except Exception as damage:
            return f"is cut off or damaged ({damage}); {_AGAIN}"
        names = sorted(name for name in every if name.startswith("torch.nn.modules.") or f" {name} " in error)
    modules = [name for name in names if name.startswith("torch.nn.modules.")]
    if modules:
        what, inner = f"a whole module ({few(names)})", ".state_dict()"
    elif names:
        what, inner = f"{few(names)} beside its tensors", "[key of the state dict]"
    else:
        what, inner = "what only Python's own pickle can read", ""
    return (
        f"holds {what}: it cannot be read without executing pickled code, which is refused; if you trust it, "
        f"save the state dict alone: torch.save(torch.load(path, weights_only=False){inner}, another)"
    )


def _globals(path: Path) -> set[str]:
    """What the older format's pickles import, without executing them."""
    imports = set()
    with path.open("rb") as stream:
        for _ in range(4):  # a magic number, the format's version, the machine, what was saved
            for operation, argument, _place in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    imports.add(str(argument).replace(" ", "."))
    return imports


def _is_text(head: bytes) -> bool:
    """Whether a file begins as UTF-8, its last character cut off perhaps."""
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False


def _instead(path: Path) -> str:
    """What may have been meant by a path that is not there."""
    if path.is_symlink():
        return f": it is a link to {os.readlink(path)}, which is missing"
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    there = {entry.name.casefold(): entry.name for entry in path.parent.iterdir()}
    near = [there[name] for name in difflib.get_close_matches(path.name.casefold(), there, 3)]
    return f"; in its folder there is {' and '.join(near)}" if near else ""
