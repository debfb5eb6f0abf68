"""How long capture and alignment take, with default settings and no data.

    python -m benchmarks.aligning [--threads 1] [--only resnet18 bert …]

Two randomly initialised networks of a kind. "Capture" is :func:`fastcomb.capture` of one; "second" is what
finding the Program again takes for the other, which must be the same object; "align" is all of
:func:`fastcomb.rebasin.align` on fresh modules, with nothing kept from before. Seconds of the clock.
"Result" is a hash of the groups and of the permutations that were found: changes that only save time leave it
as it is. Needs torchvision and transformers.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

import fastcomb as fc
from benchmarks.networks import declare_operators, hugging_face
from fastcomb.program import cache, example_inputs
from fastcomb.rebasin import Alignment


def _image_network(name: str) -> nn.Module:
    import torchvision.models

    network: nn.Module = getattr(torchvision.models, name)(weights=None)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{n: functools.partial(_image_network, n) for n in ("resnet18", "resnext50_32x4d", "regnet_y_400mf")},
    **{family: hugging_face(family) for family in ("bert", "gpt2", "llama", "vit")},
}


def made(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS[name]().eval()


def digest(alignment: Alignment) -> str:
    """A hash of the groups and of the permutations."""
    found = hashlib.sha256(str(alignment.symmetries).encode())
    for permutation in alignment.permutations:
        found.update(permutation.numpy().tobytes())
    return found.hexdigest()[:12]


def measure(name: str) -> str:
    """A row of the table."""
    a, b = made(name, 0), made(name, 1)
    (x,) = example_inputs(a)
    began = time.perf_counter()
    fc.capture(a, x)
    capture = time.perf_counter() - began
    first = cache.captured(a, x)
    began = time.perf_counter()
    again = cache.captured(b, x)
    second = time.perf_counter() - began
    cache._programs.clear()
    began = time.perf_counter()
    alignment = fc.rebasin.align(made(name, 2), made(name, 3), progress=False)
    align = time.perf_counter() - began
    kept = "" if again is first else " (captured anew)"
    return f"| {name} | {capture:.2f} | {second:.2f}{kept} | {align:.1f} | {digest(alignment)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time capture and alignment.")
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    declare_operators()
    small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    fc.rebasin.align(small, small)  # imports
    print("| network | capture s | second s | align s | result |\n|---|---|---|---|---|")
    for name in chosen.only:
        print(measure(name), flush=True)


if __name__ == "__main__":
    main()
