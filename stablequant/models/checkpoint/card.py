"""The model card that goes with a quantized model."""

from __future__ import annotations

from pathlib import Path

from ...quantization.plan.plan import Plan
from ..recognizer import Recognizer

TEMPLATE = """---
library_name: transformers
pipeline_tag: automatic-speech-recognition
{base_model}tags: [stablequant, int8, {tag}]
---
# {base}, quantized to {scheme}

Made by stablequant ({how}) from `{base}`.

| | |
|---|---|
| scheme | {scheme}: {bits} |
| sites on integer grids | {integer} of {all_sites} |
| layers selected by the probe | {selected} |
| {data} | {recordings} recordings, {seconds:.0f} s of audio |
| score of the whole plan | {score} |
| weights on disk | {weights:,} bytes |
{language}{remarks}
```python
import stablequant  # registers the format with transformers
from transformers import {auto_class}

model = {auto_class}.from_pretrained("{name}")
```

`plan.json` lists the range of every site and the reason for it. To measure word error rate and speed on your own
recordings: `sfm-quant eval {name} --data DATA --baseline {baseline}`{where}.
"""
LOCAL = ", where FLOAT is the folder of the float model; where this was made, it was named `{base}`"


def model_card(plan: Plan, recognizer: Recognizer, folder: Path, name: str) -> str:
    """README.md of a folder that already contains the weights and will be called `name`."""
    quantized = plan.quantized()
    first = next(iter(quantized.values()))
    inputs = "inputs in float" if first.input is None else f"{first.input.bits}-bit inputs"
    selected = [name for name, layer in plan.layers.items() if layer.selected]
    trained = "training" in plan.calibration
    whole = plan.score.get("whole_model")
    hub_id, local = recognizer.path.partition("@")[0], recognizer.revision is None  # a folder here means nothing there
    base = Path(recognizer.path).resolve().name if local else recognizer.path
    return TEMPLATE.format(
        base=base,
        base_model="" if local else f"base_model: {hub_id}\n",
        baseline="FLOAT" if local else f"{hub_id}@{recognizer.revision}",
        where=LOCAL.format(base=base) if local else "",
        name=name,
        tag=recognizer.task.TAG,
        auto_class=recognizer.task.AUTO_CLASS,
        scheme=plan.scheme,
        how="`sfm-quant tune`" if trained else f"`sfm-quant calibrate --method {plan.method}`",
        data="trained on" if trained else "calibration",
        bits=f"{first.weight.format.bits}-bit weights for each output channel, {inputs}{_sparsity(plan)}",
        integer=len(quantized),
        all_sites=len(plan.sites),
        selected=", ".join(selected) or "none",
        recordings=plan.calibration["recordings"],
        seconds=plan.calibration["seconds"],
        language="" if recognizer.target_lang is None else f"| language | {recognizer.target_lang} |\n",
        remarks="".join(f"\n{_renamed(each, recognizer.path, base)}.\n" for each in recognizer.remarks),
        score="not measured" if whole is None else f"{whole:.3f} {plan.score['unit']}",
        weights=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    )


def _sparsity(plan: Plan) -> str:
    """How many weights are kept, where some are not."""
    found = {
        str(choice.weight.format.sparsity) for choice in plan.quantized().values() if choice.weight.format.sparsity
    }
    return f", sparsity {', '.join(sorted(found))}" if found else ""


def _renamed(remark: str, path: str, base: str) -> str:
    """A remark that begins with the path of the model, without the folders of this machine."""
    return base + remark[len(path) :] if remark.startswith(f"{path}: ") else remark
