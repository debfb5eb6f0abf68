"""Compiles the Triton kernels for GPUs, without one, and prints what they need: run by test_triton.py.

    TRITON_INTERPRET=0 python tests/compile_kernels.py [--asm FOLDER]

With --asm the assembly of every kernel is written to a folder too.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastcomb.kernels.triton import generated_linear, implicit_gemm, loss, mix

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
#: In SASS: HGMMA is a warpgroup's asynchronous product (sm_90), HMMA a warp's; on gfx942 v_mfma.
MATRIX = re.compile(r"\bHGMMA\b|\bHMMA\b|v_mfma")
FLOATS = "weights table a others scale shift logits".split()
TYPES = {
    **dict.fromkeys(FLOATS, "*fp32"),
    **dict.fromkeys(["lowest", "span"], "fp32"),
    **dict.fromkeys(["unit", "seed"], "i64"),
    **dict.fromkeys(["index", "targets"], "*i64"),
}
LAW = {"STEPS": 1, "DRAWS": 65536, "BITS": 16, "ENDS": False, "SHARING": "element"}
NO_EPILOGUE = {"SCALE": False, "SHIFT": True, "RESIDUAL": False, "ACTIVATION": ""}
GEOMETRY = {"SH": 1, "SW": 1, "PH": 0, "PW": 0, "DH": 1, "DW": 1, "KH": 1, "KW": 1}
LINEAR = {
    **LAW, **NO_EPILOGUE, "PAIR": True, "OWN": True, "ALIGNED": True,
    "ACTIVATION": "relu", "PRECISION": "tf32", "BM": 128, "BN": 64, "BK": 32,
}  # fmt: skip
CONTRACT = {
    **GEOMETRY, **NO_EPILOGUE, "POINTS": True, "FLAT": False, "OWN": True, "SHIFT": True,
    "ACTIVATION": "relu", "PRECISION": "tf32", "BM": 128,
}  # fmt: skip
CONV = {
    **CONTRACT, "POINTS": False, "PH": 1, "PW": 1, "KH": 3, "KW": 3, "SCALE": True, "RESIDUAL": True, "BN": 64
}  # fmt: skip


def compiled(kernel, constants, dtype, target, options, asm):
    """Matrix instructions, registers, bytes of stack (of spills, here) and shared memory of a kernel."""
    types = {
        "weight": f"*{dtype}" if kernel is implicit_gemm._implicit_gemm else "*fp32",
        "residual": f"*{dtype}",
    }
    types |= {"out": "*fp64" if kernel is loss._score else f"*{dtype}", "x": f"*{dtype}"}
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else (types | TYPES).get(n, "i32") for n in names}
    # as at a launch: aligned tensors, and sizes that are multiples of 16
    given = [i for i, n in enumerate(names) if signature[n][0] == "*" or signature[n] == "i32"]
    attributes = {(i,): [["tt.divisibility", 16]] for i in given if names[i] not in ("wide", "high")}
    source = ASTSource(kernel, signature, {(names.index(n),): v for n, v in constants.items()}, attributes)
    built = triton.compile(source, target=target, options=options)
    if target.backend == "hip":
        text = built.asm["amdgcn"]
        counts = [int(re.search(rf"[.]{name}: +([0-9]+)", text)[1]) for name in ("vgpr_count", "agpr_count")]
        numbers = sum(counts), int(re.search(r"[.]private_segment_fixed_size: ([0-9]+)", text)[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "kernel.cubin"
            file.write_bytes(built.asm["cubin"])
            text = said(TOOLS / "nvdisasm", "-c", file)
            told = said(TOOLS / "cuobjdump", "-res-usage", file)
        numbers = tuple(int(re.search(rf"{key}:([0-9]+)", told)[1]) for key in ("REG", "STACK"))
    if asm:
        asm.write_text(text)
    return {
        "matrix": sorted(set(MATRIX.findall(text))),
        "registers": numbers[0],
        "stack": numbers[1],
        "shared": built.metadata.shared,
    }


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kernels():
    """Name, kernel, constants, dtype, warps, stages: what sweeps of large networks run."""
    for law in (0, 3):
        yield (
            f"mix law {law}",
            mix._mix,
            {**LAW, "LAW": law, "TAPS": False, "TOGETHER": 8, "BLOCKS": 128},
            "bf16",
            4,
            3,
        )
        for dtype in ("bf16", "fp32"):
            yield f"linear {dtype} law {law}", generated_linear._linear, {**LINEAR, "LAW": law}, dtype, 8, 3
    for dtype, inner, outputs in (("bf16", 64, 256), ("fp16", 64, 256), ("fp32", 32, 128)):
        wide = {**CONTRACT, "BN": outputs, "BK": inner}
        yield f"gemm {dtype}", implicit_gemm._implicit_gemm, wide, dtype, 8, 3
        yield f"conv {dtype}", implicit_gemm._implicit_gemm, {**CONV, "BK": inner}, dtype, 4, 3
    few = {**CONV, "FLAT": True, "BK": 32}
    yield "conv of few channels bf16", implicit_gemm._implicit_gemm, few, "bf16", 4, 3
    yield "score", loss._score, {"LOSS": "cross_entropy", "BS": 256, "BC": 16}, "fp32", 4, 3


def ones(kernel, constants):
    """The constants with all sizes 1, which Triton takes for constants too."""
    fixed = {*constants, *TYPES, "out", "x", "weight", "residual", "threshold"}
    return {**constants, **dict.fromkeys(set(kernel.arg_names) - fixed, 1)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--asm", type=Path)
    folder = parser.parse_args().asm
    found = {}
    for target, described in TARGETS.items():
        for name, kernel, constants, dtype, warps, stages in kernels():
            options = {"num_warps": warps}
            if described.backend == "cuda":
                options["num_stages"] = stages
            asm = folder and folder / f"{target} {name}.s".replace(" ", "-")
            found[f"{target} {name}"] = compiled(kernel, constants, dtype, described, options, asm)
            if target == "sm_90" and "16" not in name:  # must compile; what it needs does not matter
                compiled(kernel, ones(kernel, constants), dtype, described, options, None)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
