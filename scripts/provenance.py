"""What the JSON of every script has in common: where the numbers come from, and how they are written."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from stablequant.evaluation.environment import environment

ROOT = Path(__file__).resolve().parents[1]


def provenance(seed: int) -> dict[str, Any]:
    """Facts that a number cannot be repeated without."""
    return {"commit": commit(), "environment": environment(seed)}


def commit() -> str | None:
    """The checkout's commit, with a + when files differ from it; None outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def compact_json(value: Any) -> str:
    """One line of JSON; dataclasses become objects, and floats keep five digits."""
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
