"""Compiles the Triton kernels for GPUs, without one, and prints what they need: run by test_triton.py."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastcomb.triton import linear, mix

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {
    **dict.fromkeys("weight weights bias biases table a others".split(), "*fp32"),
    **dict.fromkeys(["lowest", "span"], "fp32"),
    **dict.fromkeys("threshold samples inputs outputs count row".split(), "i32"),
    **dict.fromkeys("weight_unit bias_unit unit seed".split(), "i64"),
    "index": "*i64",
}
DRAWN = {"STEPS": 1, "DRAWS": 65536, "BITS": 16, "ENDS": False, "SHARING": 0}
TILES = {"OWN": True, "BIAS": True, "BIAS_SHARING": 0, "ALIGNED": True, "PRECISION": "tf32"}
LINEAR = {**DRAWN, **TILES, "BM": 256, "BN": 64, "BK": 32}
MIX = {**DRAWN, "BLOCKS": 128}


def compiled(kernel, constants, dtype, capability, warps):
    """Matrix instructions, registers, bytes of stack (of spills, here) and shared memory of a kernel."""
    types = {**TYPES, "out": f"*{dtype}", "x": f"*{dtype}"}
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types[n] for n in names}
    attributes = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n][0] == "*"}
    source = ASTSource(kernel, signature, {(names.index(n),): v for n, v in constants.items()}, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(built.asm["cubin"])
        told = subprocess.run(
            [CUOBJDUMP, "-res-usage", file], capture_output=True, text=True, check=True
        ).stdout
    return {
        "matrix": sorted(set(re.findall(r"wgmma[.]mma_async|mma[.]sync", built.asm["ptx"]))),
        "registers": int(re.search(r"REG:([0-9]+)", told)[1]),
        "stack": int(re.search(r"STACK:([0-9]+)", told)[1]),
        "shared": built.metadata.shared,
    }


found = {}
for capability in (80, 90):
    for law in (0, 3):
        for dtype in ("bf16", "fp32"):
            name = f"linear {capability} {dtype} {law}"
            found[name] = compiled(linear._linear, {**LINEAR, "LAW": law}, dtype, capability, 8)
        found[f"mix {capability} bf16 {law}"] = compiled(mix._mix, {**MIX, "LAW": law}, "bf16", capability, 4)
print(json.dumps(found))
