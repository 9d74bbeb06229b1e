"""GridMask: squares of a grid blanked out of all images of a batch.

After P. Chen et al., "GridMask Data Augmentation" (arXiv:2001.04086), with the figures of the published PETR
family: probability 0.7, ratio 0.5, inverted (mode 1), no rotation. The published rotation setting of 1 draws whole
degrees below 1, which is none.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PROBABILITY = 0.7
RATIO = 0.5


def grid_mask(images: Tensor, probability: float, seed: tuple[int, ...]) -> Tensor:
    """The images, any shape (..., H, W), times one mask for all of them, with this probability.

    `seed` (for example the run's seed and the step's number) alone decides, so that resuming and several processes
    give what one run gives. Blanked pixels become 0, the mean colour of normalised images.
    """
    rng = np.random.default_rng(seed)
    if rng.random() > probability:
        return images
    mask = torch.from_numpy(draw_mask(images.shape[-2], images.shape[-1], rng))
    return images * mask.to(images.device, images.dtype)


def draw_mask(height: int, width: int, rng: np.random.Generator, ratio: float = RATIO) -> NDArray[np.float32]:
    """(H, W) of 0 and 1: a period drawn from 2 to H - 1 pixels, a phase for either axis.

    Rows and columns within `ratio` of a period are kept, what lies in neither is blanked. The grid is laid out on
    a canvas half as large again whose middle is cut out, as published: the canvas's first and last incomplete
    period hold no kept stripe.
    """
    period = int(rng.integers(2, max(3, height)))
    stripe = min(max(int(period * ratio + 0.5), 1), period - 1)
    rows = _stripes(height, period, stripe, int(rng.integers(period)))
    columns = _stripes(width, period, stripe, int(rng.integers(period)))
    return (rows[:, None] | columns[None, :]).astype(np.float32)


def _stripes(length: int, period: int, stripe: int, phase: int) -> NDArray[np.bool_]:
    """(length,) True within the stripes."""
    canvas = int(1.5 * length)
    position = np.arange(length) + (canvas - length) // 2 - phase
    number = position // period
    return (position >= 0) & (position % period < stripe) & (number < canvas // period)
