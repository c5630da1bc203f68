import json

import pytest
from report.examples import HOSTILE, evaluated

from stablequant.report.page import page


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """(--result, --predictions) with everything in them, and text that would be a script."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "result.json").write_text(evaluated().to_json())
    heard = [{"text": "a b", "pred_text": "a c", "baseline_pred_text": "a b"}] * 6
    about = [{"duration": n, "loudness_dbfs": -n, "speaker": f"s{n}", "audio_filepath": f"{n}.wav"} for n in range(6)]
    rows = [one | other for one, other in zip(heard, about, strict=True)]
    rows.append(dict.fromkeys(rows[0], HOSTILE) | {"duration": 2, "loudness_dbfs": None, "pred_text": "x"})
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "result.json"), str(folder / "said.jsonl")


@pytest.fixture(scope="session")
def full(calibrated, measured):
    return page(str(calibrated[0]), *measured)
