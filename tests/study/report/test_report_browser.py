"""The page in a browser: every picture is there, nothing is cut off, with no network at all."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run
from matplotlib.image import imread

from mbrec.study.report.page import write

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")
WIDTH, HEIGHT = 1100, 8000
# Writes into the title where the pictures are. The page itself forbids all scripts; its copy for
# this test allows this one, and nothing else more.
LOOK = """<script>addEventListener("load", () => {
  const boxes = [...document.images].map(image => {
    const box = image.getBoundingClientRect();
    return [image.naturalWidth, image.naturalHeight, box.x, box.y, box.width, box.height];
  });
  const {scrollWidth, scrollHeight} = document.documentElement;
  document.title = JSON.stringify({boxes, size: [scrollWidth, scrollHeight]});
});</script></body>"""
POLICY = "default-src 'none'; "


def look_at(page: Path, shot: Path) -> str:
    """Open a page in a browser without a network; return its document, and save how it looks."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    # Nothing listens on this port.
    command += ["--proxy-server=127.0.0.1:9", f"--user-data-dir={page.parent / 'profile'}"]
    command += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", "--dump-dom"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH (apt-get install chromium)")
def test_a_browser_shows_every_picture_of_the_page(tmp_path):
    run = make_run(tmp_path / "run", steps=60, conflict=True)
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    write(run, [], page)
    html = page.read_text()
    assert POLICY in html
    allowed = html.replace(POLICY, f"{POLICY}script-src 'unsafe-inline'; ")
    page.write_text(allowed.replace("</body>", LOOK))
    titled = re.search("<title>(.*?)</title>", look_at(page, shot))
    assert titled
    found = json.loads(unescape(titled[1]))
    assert len(found["boxes"]) == html.count("<img") == 10
    assert found["size"][0] == WIDTH, "the page is wider than the window"
    assert found["size"][1] <= HEIGHT, "the page is higher than the picture of it"
    pixels = imread(shot)[:, :, :3]
    assert pixels.shape[:2] == (HEIGHT, WIDTH)
    for natural_width, natural_height, x, y, width, height in found["boxes"]:
        assert min(natural_width, natural_height) > 100
        area = pixels[round(y) : round(y + height), round(x) : round(x + width)]
        # Axes and names are dark, and lines or cells have colours.
        assert area.min() < 0.3
        assert np.ptp(area, axis=2).max() > 0.3
