"""How long capture and alignment take, on one core, with default settings and no data.

    OMP_NUM_THREADS=1 python -m benchmarks.aligning [--only resnet18 bert …]

Two randomly initialised networks of a kind. "Capture" is :func:`fastcomb.capture` of one; "second" is what
finding the Program again takes for the other, which must be the same object; "align" is all of
:func:`fastcomb.rebasin.align` on fresh modules, with nothing kept from before. Seconds of processor time.
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
from benchmarks.rebasin import declare_torchvision_operators
from fastcomb.program import cache, example_inputs
from fastcomb.rebasin import Alignment

_LAYERS, _WIDTH, _HEADS = 4, 256, 4


def _image_network(name: str) -> nn.Module:
    import torchvision.models

    network: nn.Module = getattr(torchvision.models, name)(weights=None)
    return network


def _bert() -> nn.Module:
    import transformers as hf

    network: nn.Module = hf.BertModel(
        hf.BertConfig(
            vocab_size=500,
            hidden_size=_WIDTH,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_HEADS,
            intermediate_size=4 * _WIDTH,
            max_position_embeddings=64,
        )
    )
    return network


def _gpt2() -> nn.Module:
    import transformers as hf

    network: nn.Module = hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=500,
            n_embd=_WIDTH,
            n_layer=_LAYERS,
            n_head=_HEADS,
            n_positions=64,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    return network


def _llama() -> nn.Module:
    import transformers as hf

    network: nn.Module = hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=500,
            hidden_size=_WIDTH,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_HEADS,
            num_key_value_heads=_HEADS // 2,
            intermediate_size=3 * _WIDTH,
            max_position_embeddings=64,
        )
    )
    return network


def _vit() -> nn.Module:
    import transformers as hf

    network: nn.Module = hf.ViTForImageClassification(
        hf.ViTConfig(
            hidden_size=_WIDTH,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_HEADS,
            intermediate_size=4 * _WIDTH,
            image_size=32,
            patch_size=8,
            num_labels=10,
        )
    )
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{n: functools.partial(_image_network, n) for n in ("resnet18", "resnext50_32x4d", "regnet_y_400mf")},
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "vit": _vit,
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
    began = time.process_time()
    fc.capture(a, x)
    capture = time.process_time() - began
    first = cache.captured(a, x)
    began = time.process_time()
    again = cache.captured(b, x)
    second = time.process_time() - began
    cache._programs.clear()
    began = time.process_time()
    alignment = fc.rebasin.align(made(name, 2), made(name, 3), progress=False)
    align = time.process_time() - began
    kept = "" if again is first else " (captured anew)"
    return f"| {name} | {capture:.2f} | {second:.2f}{kept} | {align:.1f} | {digest(alignment)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time capture and alignment.")
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    library = declare_torchvision_operators()
    small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    fc.rebasin.align(small, small)  # imports
    print("| network | capture s | second s | align s | result |\n|---|---|---|---|---|")
    for name in chosen.only:
        print(measure(name), flush=True)
    del library


if __name__ == "__main__":
    main()
