import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from stablequant.quantization.observation import histogram
from stablequant.quantization.plan.choice import input_choice
from stablequant.report import plots

HOSTILE = ["\0\x1b\n", '</svg><script>alert("1")</script>', "$\\frac{", "語 \udc80 #000003", "x" * 200, ""]


def parsed(svg):
    return ElementTree.fromstring(svg.encode("utf-8", "replace"))


def texts(svg):
    return [text.strip() for text in parsed(svg).itertext() if text.strip()]


def test_bars_tell_their_names_and_notes():
    found = texts(
        plots.bars("Rates", ["a", "b"], {"float": [1.0, None], "quantized": [2.0, 3.0]}, ["2 %", "3 %"], 1.5)
    )
    assert found[0] == "Rates"
    assert {"a", "b", "2 %", "3 %", "float", "quantized"} <= set(found)


def test_a_bar_is_as_long_as_its_value():
    svg = plots.bars("Rates", ["a", "b"], {"x": [1.0, 3.0]}, ["", ""])
    paths = [p.get("d") for p in parsed(svg).iter() if "var(--one)" in p.get("style", "")]
    short, long = ([float(n) for n in re.findall(r"[ML] ([\d.]+)", path)] for path in paths)
    assert max(long) - min(long) == pytest.approx(3 * (max(short) - min(short)), rel=1e-4)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_the_data_stay_text(name):
    svg = plots.bars(name, [name], {"x": [1.0]}, [name])
    assert "script" not in {element.tag.rpartition("}")[2] for element in parsed(svg).iter()}


def test_a_histogram_shows_its_range():
    values = histogram.histogram_of(torch.tensor([0.0, 1.0, 1.0, 50.0]))
    svg = plots.histogram("conv", values, input_choice(-0.5, 2.0, 8, "max"))
    assert texts(svg)[0] == "conv"
    assert "% of values" in texts(svg)
    assert svg.count("var(--two)") >= 3  # the area, and a line at each end


@pytest.mark.parametrize("values", [[0.0], [-1e30, 1e30], [1e-30], [-5.0, -5.0]])
def test_histograms_of_any_size(values):
    seen = histogram.coarse(histogram.histogram_of(torch.tensor(values)), 128)
    assert parsed(plots.histogram("x", seen, input_choice(min(values), max(values), 8, "max")))


def test_colours_are_the_pages_and_nothing_is_fetched():
    svg = plots.bars("Rates", ["a"], {"x": [1.0], "y": [2.0]}, ["n"], 1.0)
    assert {"var(--one)", "var(--two)", "var(--line)", "currentColor"} <= set(
        re.findall(r"(?:var\(.*?\)|currentColor)", svg)
    )
    assert not re.search("#[0-9a-f]{6}", svg)
    references = re.findall(r'(?:href="|url\()([^")]*)', svg)
    assert all(reference.startswith("#") for reference in references)


def test_the_same_plot_is_the_same_text():
    draw = lambda: plots.bars("Rates", ["a"], {"x": [1.0]}, ["n"])  # noqa: E731
    assert draw() == draw()
