"""The networks of a run in one file, as they were read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fastcomb.mixing.endpoints import Endpoint
from fastcomb.utils.files import write_atomically


def save_networks(networks: Mapping[str, Endpoint], path: Path) -> None:
    """Write all tensors of networks; what a state dict carries besides tensors is left out."""
    tensors = {
        f"{label}/{name}": tensor.clone().contiguous()
        for label, network in networks.items()
        for name, tensor in network.tensors().items()
    }
    about = {
        label: {
            "parameters": list(network.parameters),
            "aliases": network.aliases,
            "state": [name for name in network.state if _kept(network, name)],
        }
        for label, network in networks.items()
    }
    record = {"networks": json.dumps(about)}  # one text: the file does not keep an order of several
    write_atomically(path, lambda beside: beside.write_bytes(save(tensors, record)))


def load_networks(path: Path) -> dict[str, Endpoint]:
    """The networks of a run by label, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the run's networks cannot be read")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["networks"])
            tensors: dict[str, dict[str, Tensor]] = {label: {} for label in about}
            for key in file.keys():  # noqa: SIM118 - the file is no mapping
                label, _, name = key.partition("/")
                tensors[label][name] = file.get_tensor(key)
    except Exception as error:
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    networks = {}
    for label, record in about.items():
        parameters = {name: tensors[label].pop(name) for name in record["parameters"]}
        networks[label] = Endpoint(parameters, tensors[label], record["aliases"], tuple(record["state"]))
    return networks


def _kept(network: Endpoint, name: str) -> bool:
    first = network.aliases.get(name, name)
    return first in network.parameters or isinstance(network.carried.get(first), Tensor)
