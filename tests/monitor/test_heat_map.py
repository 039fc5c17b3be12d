"""A picture of a matrix can be drawn whatever the tasks are called."""

from io import BytesIO

import numpy as np
from PIL import Image

from mbrec.monitor import heat_map

NAMES = ["ctr", "a_$x_$b", "long view"]


def pixels(values: list[list[float]]) -> np.ndarray:
    png, width, height = heat_map.draw(values, NAMES)
    image = Image.open(BytesIO(png))
    assert image.size == (width, height)
    return np.asarray(image.convert("RGB"))


def test_a_cosine_that_changes_sign_changes_colour_and_an_unknown_one_is_empty():
    same = [[1.0, 0.9, 0.9], [0.9, 1.0, 0.9], [0.9, 0.9, 1.0]]
    opposed = [[1.0, -0.9, 0.9], [-0.9, 1.0, 0.9], [0.9, 0.9, 1.0]]
    unknown = [[1.0, float("nan"), 0.9], [float("nan"), 1.0, 0.9], [0.9, 0.9, 1.0]]
    blue, red, white = (pixels(values).astype(int) for values in (same, opposed, unknown))
    redder = (red[..., 0] - blue[..., 0] > 50) & (blue[..., 2] - red[..., 2] > 50)
    cells = redder.mean()
    assert cells > 0.01
    assert (white[redder] > 250).all(1).mean() > 0.9
