"""The page in a real browser, where one is installed."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

# The page in a frame of a given width, and a script beside it that writes down what is seen there.
FRAME = """<!doctype html><iframe srcdoc="{page}" style="width:{width}px; height:900px; border:0"></iframe>
<pre id="found"></pre><script>
addEventListener("load", () => {{
  const {{document: page, performance: loaded}} = frames[0];
  page.querySelectorAll("details").forEach(each => each.open = true);
  const shape = each => each.getBoundingClientRect();
  const color = (what, name) => getComputedStyle(page.querySelector(what))[name];
  document.getElementById("found").textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    plots: [...page.querySelectorAll("svg")].map(each => [shape(each).left, shape(each).right, shape(each).height]),
    bars: [...page.querySelectorAll("svg path[style*='--one']")].map(each => shape(each).width),
    fetched: loaded.getEntriesByType("resource").length,
    colors: [color("body", "backgroundColor"), color("body", "color"), color("svg path[style*='--one']", "fill")],
  }});
}});
</script>"""


def seen(page, width, folder, *options):
    """What the script finds when the page is `width` pixels wide."""
    (folder / "frame.html").write_text(FRAME.format(page=html.escape(page), width=width), encoding="utf-8")
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/user",
    ]
    command = [BROWSER, *quiet, *options, "--dump-dom", f"file://{folder}/frame.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_window_and_fetches_nothing(full, width, tmp_path):
    found = seen(full, width, tmp_path)
    assert found["width"] <= width, "only tables scroll, inside their box"
    assert len(found["plots"]) > 20
    assert all(left >= 0 and right <= width and height > 50 for left, right, height in found["plots"])
    assert max(found["bars"]) > 100
    assert found["fetched"] == 0


def test_light_and_dark(full, tmp_path):
    colors = [
        seen(full, 1280, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")["colors"] for scheme in (1, 0)
    ]
    (page, text, bar), (dark_page, dark_text, dark_bar) = colors
    assert _brightness(page) - _brightness(text) > 450
    assert _brightness(dark_text) - _brightness(dark_page) > 450
    assert bar != dark_bar, "plots are drawn in the page's colours"


def _brightness(color):
    """Of "rgb(255, 255, 255)": 765."""
    return sum(map(int, re.findall(r"\d+", color)[:3]))
