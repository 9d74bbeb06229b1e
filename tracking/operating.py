"""What became of every box where a class is judged: at the score threshold with the best MOTA.

Legend: `N` ground truth boxes, `P` predicted boxes of one class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.fast_matching import match
from tracking.fast_tracks import FlatTracks, KeyFrames, TrackSet
from tracking.nuscenes_format import TRACKING_CLASSES

MATCH_DISTANCE = 2.0
"""Metres; the official limit of a match (tracking_nips_2019)."""


@dataclass(frozen=True)
class Outcome:
    """One class at its operating point.

    Attributes:
        name: the class.
        threshold: predictions count whose score is at least this; infinite where no level of recall was reached.
        truth, found: (N,) annotated boxes and (P,) predictions that count.
        partner: (N,) row of the matched prediction, -1 where the object was missed.
        switched: (N,) True where the object changed its track.
        distance: (N,) metres to the matched prediction, 0 where missed.
        frames: the key frames that the boxes refer to.
    """

    name: str
    threshold: float
    truth: FlatTracks
    found: FlatTracks
    partner: NDArray[np.int64]
    switched: NDArray[np.bool_]
    distance: NDArray[np.float64]
    frames: KeyFrames

    @property
    def alarms(self) -> NDArray[np.int64]:
        """Rows of the predictions without an object."""
        return np.setdiff1d(np.arange(len(self.found)), self.partner)


def operating_points(tracks: TrackSet, details: Mapping[str, Any]) -> list[Outcome]:
    """The annotated classes, each at the threshold that the official summary picks for MOTA, IDS and the rest.

    Args:
        tracks: the boxes that were scored.
        details: the curves per class, from the official or the fast evaluation of these boxes.
    """
    outcomes = []
    for label, name in enumerate(TRACKING_CLASSES):
        truth = tracks.truth[tracks.truth.label == label]
        if not len(truth):
            continue
        mota = np.array(details[name]["mota"], dtype=np.float64)
        threshold = np.nan
        if not np.isnan(mota).all():
            threshold = float(details[name]["confidence"][int(np.nanargmax(mota))])
        threshold = np.inf if np.isnan(threshold) else threshold
        found = tracks.found[(tracks.found.label == label) & (tracks.found.score >= threshold)]
        matches = match(truth, found, np.array([-np.inf]), MATCH_DISTANCE)
        columns = (matches.partner[0], matches.switched[0], matches.distance[0])
        outcomes.append(Outcome(name, threshold, truth, found, *columns, tracks.frames))
    return outcomes


def ego_range(boxes: FlatTracks, frames: KeyFrames) -> NDArray[np.float64]:
    """(N,) planar distance to the ego at the boxes' key frames, metres."""
    return np.hypot(*(boxes.xy - frames.ego[boxes.frame, :2]).T)
