"""Compile the fused kernels for devices that are not here, and print what came of it as JSON.

A module of its own since Triton decides between compiler and interpreter when it is imported.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from varprobe.statistics import fused, fused_kernels

CUDA, ROCM = GPUTarget("cuda", 80, 32), GPUTarget("hip", "gfx942", 64)
NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
}


def compile_for(target: Any, kernel: Any, types: dict[str, str], **constants: Any) -> Any:
    """Return a kernel as a launch would have it compiled, with everything aligned."""
    signature = types | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(types))}
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target, {"num_warps": fused.WARPS})


def compile_sum_up(target: Any, dtype: torch.dtype, *, full: bool) -> Any:
    """Return the first kernel for elements of this dtype."""
    return compile_for(
        target,
        fused_kernels.sum_up,
        {"values": f"*{NAMES[dtype]}", "numbers": "*fp64", "bins": "*i64", "numel": "i32"},
        WIDE=dtype is torch.float64,
        FULL=full,
        ROWS=fused.ROWS,
        LANES=fused.ROW_BYTES // dtype.itemsize,
    )


def main() -> None:
    """Compile what there is, and print."""
    wanted = [(CUDA, dtype, True) for dtype in NAMES]
    wanted += [(CUDA, torch.float32, False), (ROCM, torch.bfloat16, True)]
    compiled = [compile_sum_up(target, dtype, full=full) for target, dtype, full in wanted]
    types = {"columns": "*fp64", "numbers": "*fp64", "programs": "i32"}
    compiled.append(compile_for(CUDA, fused_kernels.join, types, LANES=fused.MAX_PROGRAMS))
    text = "".join(kernel.asm.get("ptx", "") for kernel in compiled)
    sys.stdout.write(
        json.dumps(
            {
                "kinds": [kind for k in compiled for kind in ("cubin", "hsaco") if kind in k.asm],
                "atomics": re.findall(r"\b(?:atom|red)\.\S*\.(\w+)", text),
                "flushes": re.findall(r"\S+\.ftz\S*", text),
                "loads": re.findall(r"ld\.global\.(\S+)", text),
            }
        )
    )


if __name__ == "__main__":
    main()
