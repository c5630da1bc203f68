import json

import pytest

from stablequant.foundation.errors import InputError
from stablequant.quantization.plan.diff import diff_table

SITE = "wav2vec2.encoder.layers.0.attention.q_proj"


def changed(folder, tmp_path, change):
    """The path of an edited copy of a folder's plan."""
    data = json.loads((folder / "plan.json").read_text())
    change(data)
    (tmp_path / "edited.json").write_text(json.dumps(data))
    return str(tmp_path / "edited.json")


def test_the_same_plan_decides_the_same(calibrated):
    folder = str(calibrated[0])
    size = f"{(calibrated[0] / 'model.safetensors').stat().st_size:,}"
    expected = f"the plans make the same choices\nweights on disk: {size} -> {size} bytes"
    assert diff_table(folder, f"{folder}/plan.json") == expected


CHANGES = {
    "bits": (lambda d: d["sites"][SITE].update(weight_bits=4), f"{SITE}: w8a8 -> w4a8"),
    "float": (lambda d: d["sites"][SITE].update(reason="too slow"), f"{SITE}: w8a8 -> float (too slow)"),
    "range": (lambda d: d["sites"][SITE].update(low=-2.0, high=1.5), "-> [-2, 1.5]"),
    "an impossible range": (lambda d: d["sites"][SITE].update(low=5.0), f"cannot be applied: {SITE}: low 5 is above"),
    "no range": (lambda d: [d["sites"][SITE].pop(key) for key in ("low", "high")], "-> none"),
    "method": (lambda d: d["sites"][SITE].update(method="max"), f"{SITE}: method mse -> max"),
    "scheme": (lambda d: d.update(scheme="w4a8", method="mine"), "scheme: w8a8 -> w4a8\nmethod: stable -> mine"),
    "a site gone": (lambda d: d["sites"].pop(SITE), f"{SITE}: in the first plan only"),
    "layers": (lambda d: d["layers"]["lm_head"].update(selected=False), "selected in the first only: lm_head"),
    "group": (lambda d: d["sites"][SITE].update(weight_bits=4, weight_group=32), f"{SITE}: w8a8 -> w4g32a8"),
    "score": (lambda d: d["score"].update(whole_model=2), "score of the whole plan: "),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_told(change, calibrated, tmp_path):
    change, expected = CHANGES[change]
    found = diff_table(str(calibrated[0]), changed(calibrated[0], tmp_path, change))
    assert expected in found
    assert "make the same choices" not in found


def test_scores_on_other_recordings_are_not_compared_in_silence(calibrated, tmp_path):
    def change(data):
        data["score"].update(whole_model=2)
        data["calibration"].update(audio_sha256=["00"])

    found = diff_table(str(calibrated[0]), changed(calibrated[0], tmp_path, change))
    assert "-> 2 (on other recordings: not comparable)" in found


def test_evidence_of_other_recordings_is_no_change(calibrated, tmp_path):
    other = changed(calibrated[0], tmp_path, lambda d: d["sites"][SITE].update(clipped_share=0.5, input_sqnr_db=1.0))
    assert diff_table(str(calibrated[0]), other) == "the plans make the same choices"


def test_what_is_no_plan_is_refused(calibrated, tmp_path):
    for other in (tmp_path, tmp_path / "nothing.json"):
        with pytest.raises(InputError, match=str(other)):
            diff_table(str(calibrated[0]), str(other))


def test_diff_from_the_shell(calibrated, tmp_path, shell):
    done = shell("diff", calibrated[0], changed(calibrated[0], tmp_path, CHANGES["bits"][0]))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{SITE}: w8a8 -> w4a8\n", "")
