import json
import re
import sys
from html.parser import HTMLParser

import pytest

from stablequant.foundation.errors import InputError
from stablequant.models.checkpoint import histograms
from stablequant.quantization.plan.plan import read_plan
from stablequant.report.page import page

EMPTY = {"meta", "br", "use"}


class Outline(HTMLParser):
    """The elements and the text of a page; fails on a tag that is closed in the wrong place."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self._open += [] if tag in EMPTY else [tag]

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert tag in EMPTY or self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_everything_is_on_the_page(full, calibrated):
    found = Outline(full)
    for text in ("WER % 2.00 [1.00, 3.00] 1.50 [1.00, 3.00]", "FAILED: min_speedup 3, found 2", "warning: slow"):
        assert text in found.text
    for title in ("by length", "by speaker", "by loudness"):
        assert f"Word error rate {title}, %" in found.text
    for part in ("extractor", "positional", "products", "attention", "quantize", "norms", "rest"):
        assert re.search(rf"> ?{part}</text>", full.replace("\n", " ")), part
    plan = read_plan(calibrated[0] / "plan.json")
    assert all(name in found.texts for name in plan.sites)
    assert found.text.count("range ") >= 15  # of the histograms, q, k and v as one
    assert found.text.index("conv_layers.0") < found.text.index("feature_projection") < found.text.index("lm_head")


def test_errors_are_marked(full):
    marked = re.findall(r'<b class="([^"]+)" title="(\w+)">\s*(\S+?)\s*</b>', full)
    assert marked.count(("substitution changed", "substitution", "c")) == 6


def test_it_stands_alone(full):
    found = Outline(full)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    for name, value in found.attributes:
        assert not name.startswith("on")
        assert name not in ("href", "src", "xlink:href") or value.startswith("#")
    assert not re.search(r"@import|url\((?!#)", full)
    assert len(full) < 2_000_000


def test_text_of_the_data_is_no_html(full):
    found = Outline(full)
    assert "<script>alert('x')</script>" in found.text
    assert "<script" not in full


def test_every_plot_has_a_title(full):
    drawings = re.findall(r"<svg.*?</svg>", full, re.DOTALL)
    assert len(drawings) > 20
    assert all(re.match(r'<svg role="img" viewBox="[^"]+"><title>[^<]+</title>', each) for each in drawings)


def test_what_was_not_given_says_which_command_gives_it(quantized_folder):
    (quantized_folder / histograms.FILE).unlink()
    (quantized_folder / "model.safetensors").unlink()
    found = Outline(page(str(quantized_folder), timing=False)).text
    command = "sfm-quant eval w8a8 --data DATA --baseline MODEL"
    assert f"{command} --json result.json and pass --result result.json" in found
    assert f"{command} --predictions predictions.jsonl and pass --predictions predictions.jsonl" in found
    assert "No histograms in this folder. sfm-quant calibrate writes them" in found
    assert (
        "Bytes and bits kB of weights on disk. w: bits of the weights, a: of the inputs. Not in this folder." in found
    )
    assert "Not measured: leave out --no-time to measure it." in found


def test_predictions_of_one_model(quantized_folder, tmp_path):
    (quantized_folder / histograms.FILE).unlink()  # drawing them takes longest
    (tmp_path / "said.jsonl").write_text('{"text": "a b", "pred_text": "a"}\n')
    found = Outline(page(str(quantized_folder), predictions=str(tmp_path / "said.jsonl"), timing=False)).text
    assert "To compare with the float model's words, run eval with --baseline" in found
    assert "reference quantized a a b ∅" in found
    for what in ("length", "speaker", "loudness"):
        assert f"Word error rate by {what}, % The predictions do not say the {what}." in found


def test_a_plan_edited_by_hand_is_still_drawn(quantized_folder):
    path = quantized_folder / "plan.json"
    plan = json.loads(path.read_text())
    plan |= {"layers": {}, "score": {}, "calibration": {}}
    path.write_text(json.dumps(plan))
    assert "Loss of each layer alone Probe score" in Outline(page(str(quantized_folder), timing=False)).text


def test_the_same_inputs_give_the_same_page(calibrated, measured):
    assert page(str(calibrated[0]), *measured, timing=False) == page(str(calibrated[0]), *measured, timing=False)


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_the_extra_one_sentence_says_what_to_install(calibrated, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = f"the report needs {package}, which is not installed; run pip install 'stablequant[report]'"
    with pytest.raises(InputError, match=re.escape(message)):
        page(str(calibrated[0]), timing=False)
