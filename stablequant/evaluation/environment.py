"""The environment of a measurement: the processor, its instruction sets and the versions of the libraries."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from ..engines.onednn.operators import attention_products, kernels

ISA = frozenset(  # what decides the speed of integer kernels, as torch.cpu names it
    {
        "avx2",
        "avx512_f",
        "avx_vnni",
        "avx512_vnni",
        "avx512_bf16",
        "amx_int8",
        "amx_bf16",
        "neon",
        "dot",
        "i8mm",
        "sve",
    }
)


def environment(seed: int) -> dict[str, Any]:
    able = torch.cpu.get_capabilities()
    return {
        "cpu": _cpu_name(),
        "isa": sorted(name for name in ISA if able.get(name)),
        "kernels": kernels.way(),
        "attention": str(attention_products.number_format()).removeprefix("torch."),
        "attention_form": attention_products.form(),
        "threads": torch.get_num_threads(),
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "stablequant")},
        "seed": seed,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
