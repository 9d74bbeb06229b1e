"""GridMask: squares on a regular grid, the same for a whole batch, repeatable."""

from __future__ import annotations

import numpy as np
import torch

from training.grid_mask import draw_mask, grid_mask


def test_blanked_squares_stand_on_a_grid() -> None:
    shares = []
    for seed in range(40):
        mask = draw_mask(256, 704, np.random.default_rng(seed)).astype(bool)
        blank_rows, blank_columns = ~mask.all(axis=1), ~mask.all(axis=0)
        # blank is exactly where a blank row meets a blank column
        assert np.array_equal(~mask, blank_rows[:, None] & blank_columns[None])
        edges = np.nonzero(np.diff(blank_columns.astype(int)) == 1)[0]
        if len(edges) > 2:  # columns: one period everywhere
            assert len(set(np.diff(edges).tolist())) == 1
            rows = np.nonzero(np.diff(blank_rows.astype(int)) == 1)[0]
            if len(rows) > 1:
                assert np.diff(rows)[0] == np.diff(edges)[0]
            shares.append(1 - mask.mean())
    assert len(shares) > 20
    assert 0.2 < np.mean(shares) < 0.32  # a quarter: half of either axis


def test_one_mask_for_all_with_the_probability_asked() -> None:
    images = torch.rand(2, 3, 3, 64, 96) + 1
    masked = [grid_mask(images, 0.7, (0, step)) for step in range(300)]
    changed = [not torch.equal(m, images) for m in masked]
    assert 0.62 < np.mean(changed) < 0.78
    for result in masked[:20]:
        kept = result != 0
        assert torch.equal(result[kept], images[kept])
        assert torch.equal(kept, kept[:1, :1, :1].expand_as(kept))
    assert grid_mask(images, 0.0, (0, 0)) is images
    assert torch.equal(masked[7], grid_mask(images, 0.7, (0, 7)))
