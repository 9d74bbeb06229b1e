"""Boxes in, the same boxes with identities out: a Kalman filter a track, all tracks at once.

Legend: `T` tracks, `N` boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streampetr_core.boxes import Boxes3D
from streampetr_core.cameras import CameraModel
from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import apply, inverse
from tracking.association import assign, lone, mahalanobis, merge_groups, variances, within_reach
from tracking.calibration import ScoreCalibration
from tracking.config import TrackerConfig
from tracking.motion import hold_heading, position_noise, predict, update
from tracking.tracks import Seen, Tables, Tracks, heading_of
from tracking.visibility import View, in_view

Array = NDArray[np.float64]


class TrackerError(StreamPETRError):
    """Boxes that the tracker cannot use."""


class Tracker:
    """Tracks boxes from frame to frame.

    Ids are unique over the life of the tracker: a reset begins with fresh ones. The same boxes in another order
    give the same tracks. What was learnt of the detector's scores outlives a reset.

    The score of a track grows with the boxes it took and with how these compare with others of their class: it
    ranks tracks, and is no probability.

    Args:
        config: every setting; None takes the defaults.
    """

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self.last_reset_reason = ""
        self.reset_counts: Counter[str] = Counter()
        self.late_frames = 0
        self._next_id = 0
        self._class_names: tuple[str, ...] = ()
        self._clear()

    def reset(self, reason: str = "request") -> None:
        """Forget every track; ids go on from where they are. Call it between drives."""
        if self._stamp_ns is not None:
            self.reset_counts[reason] += 1
        self.last_reset_reason = reason
        self._clear()

    def step(
        self,
        boxes: Boxes3D,
        map_from_ego: ArrayLike | None = None,
        scene: str = "",
        observed: Sequence[CameraModel | View] | None = None,
    ) -> Boxes3D:
        """The tracks after one more frame.

        Args:
            boxes: in the map frame, at one instant (`stamp_ns`). A velocity that is NaN or exactly zero is taken
                as not measured. Boxes beyond their class's range are left aside when the ego's place is known.
            map_from_ego: (4, 4) at that instant. With it the depth error of cameras, which grows with range, is
                modelled along the viewing ray.
            scene: the drive; another one than before starts anew.
            observed: the cameras whose images the boxes come from. A track outside all of them was not missed:
                it lives on. None = every direction was looked at.

        Returns:
            Boxes in the map frame with `track_id` and covariances, best first: tracks that got a box, and those
            that lost it a moment ago at their predicted place with a lower score. A frame that comes late (older
            than the newest) changes nothing and returns the last tracks.

        Raises:
            TrackerError: when the boxes are not in the map frame, or hold NaN.
        """
        self._check(boxes)
        pose = None if map_from_ego is None else np.asarray(map_from_ego, dtype=np.float64)
        ego = None if pose is None else pose[:2, 3]
        self.last_reset_reason = ""
        if self._stamp_ns is not None and scene != self._scene:
            self.reset("scene_change")
        if self._stamp_ns is not None:
            step_s = (boxes.stamp_ns - self._stamp_ns) * 1e-9
            if -self.config.late <= step_s <= 0:
                self.late_frames += 1
                return self._last
            if step_s < 0:
                self.reset("time_back")
            elif step_s > self.config.max_gap:
                self.reset("gap")
            else:
                self._predict(step_s, ego)
                self._age(step_s, pose, observed)
        if self._stamp_ns is None:
            self._begin(boxes.class_names)
        self._stamp_ns, self._scene = boxes.stamp_ns, scene
        boxes = boxes[self._chosen(boxes, pose)]
        self._calibration.learn(boxes.score, boxes.label)
        seen = self._merge(self._measure(boxes, ego))
        rows, columns = self._associate(seen)
        self._update(rows, seen[columns])
        self._start(seen[np.setdiff1d(np.arange(len(seen)), columns)])
        age = (boxes.stamp_ns - self._tracks.seen_ns) * 1e-9
        self._tracks = self._tracks[(self._tracks.missed <= self.config.max_age) & (age <= self.config.max_hidden)]
        self._last = self._output()
        return self._last

    def _clear(self) -> None:
        self._stamp_ns: int | None = None
        self._scene = ""
        self._tracks = Tracks.none(0)
        self._last = Boxes3D.empty("map")

    def _check(self, boxes: Boxes3D) -> None:
        if boxes.frame_id != "map":
            raise TrackerError(
                f"tracker: boxes are in '{boxes.frame_id}'; transform them to 'map' first (boxes.transformed)"
            )
        for name in ("center", "size", "yaw", "score"):
            if not np.isfinite(getattr(boxes, name)).all():
                raise TrackerError(f"tracker: {name} has NaN or infinity at {boxes.stamp_ns} ns")
        if self._stamp_ns is not None and boxes.class_names != self._class_names:
            raise TrackerError(
                f"tracker: class list changed from {self._class_names} to {boxes.class_names}; reset the tracker"
            )

    def _begin(self, class_names: tuple[str, ...]) -> None:
        """Take over the class list of the first boxes."""
        if class_names != self._class_names:
            self._calibration = ScoreCalibration(len(class_names))
        self._class_names = class_names
        self._tracks = Tracks.none(len(class_names))
        self._tables = Tables.of(self.config, class_names)

    def _predict(self, step_s: float, ego: Array | None) -> None:
        tracks, tables = self._tracks, self._tables
        acceleration = tables.acceleration[tracks.label]
        noise = position_noise(tracks.state[:, :2], ego, tables.lateral[tracks.label], tables.radial[tracks.label])
        share = np.where(tracks.covariance[:, 4, 4] > 0, self.config.slow_share, 0.0)
        slow = share[:, None, None] * noise
        moved = predict(tracks.state, tracks.covariance, step_s, acceleration, slow, self.config.slow_time)
        tracks.state, tracks.covariance = moved

    def _age(self, step_s: float, pose: Array | None, observed: Sequence[CameraModel | View] | None) -> None:
        """Count the time in which a track was looked for; it ends for those that get a box."""
        tracks = self._tracks
        if observed is None or pose is None:
            tracks.missed += step_s
        else:
            place = np.column_stack([tracks.places(), tracks.height])
            tracks.missed += np.where(in_view(apply(inverse(pose), place), observed), step_s, 0.0)

    def _chosen(self, boxes: Boxes3D, pose: Array | None) -> NDArray[np.int64]:
        """Rows of the boxes within the range of their class, best first, equal scores in an order of their own.

        The range is, as in submissions, the planar distance in the ego's own plane.
        """
        keys = (boxes.center[:, 2], boxes.center[:, 1], boxes.center[:, 0], boxes.label, -boxes.score)
        order = np.lexsort(keys)
        if pose is None:
            return order
        limit = self._tables.max_range[boxes.label]
        x, y, _ = apply(inverse(pose), boxes.center).T
        return order[((np.hypot(x, y) <= limit) | (limit <= 0))[order]]

    def _measure(self, boxes: Boxes3D, ego: Array | None) -> Seen:
        tables, label = self._tables, boxes.label
        noise = position_noise(boxes.center[:, :2], ego, tables.lateral[label], tables.radial[label])
        noise = _told(boxes.position_covariance, noise)
        # detectors without velocities write zeros or NaN
        moving = np.isfinite(boxes.velocity).all(axis=1) & (boxes.velocity != 0).any(axis=1)
        speed = np.where(moving, tables.velocity_noise[label], tables.speed[label])
        speed_noise = (speed**2)[:, None, None] * np.eye(2)
        told = _told(boxes.velocity_covariance, speed_noise)
        # nobody is much less sure of a velocity than one who knows nothing but the class
        most = np.maximum(2 * tables.speed[label], speed) ** 2
        told = told * np.minimum(most / variances(told)[:, 1], 1.0)[:, None, None]
        speed_noise = np.where(moving[:, None, None], told, speed_noise)
        boxes = replace(boxes, velocity=np.where(moving[:, None], boxes.velocity, 0.0))
        fresh = 1 - self.config.slow_share * moving
        return Seen(boxes, noise, fresh, speed_noise, moving, self._calibration.standing(boxes.score, label))

    def _merge(self, seen: Seen) -> Seen:
        """One box for each object that was seen twice: the best, at the mean of their places."""
        n, boxes = len(seen), seen.boxes
        if n < 2:
            return seen
        distance = self._tables.merge[boxes.label]
        reach = float(np.sqrt((2 * distance * np.trace(seen.noise, axis1=1, axis2=2)).max()))
        leader, kept = merge_groups(boxes.center[:, :2], seen.noise, boxes.label, distance, reach)
        if kept.all():
            return seen
        weight = np.maximum(seen.standing, 1e-6) ** 2
        total = np.bincount(leader, weight, n)
        center = np.stack([np.bincount(leader, weight * column, n) for column in boxes.center.T], axis=1)
        merged = seen[kept]
        return replace(merged, boxes=replace(merged.boxes, center=center[kept] / total[kept, None]))

    def _associate(self, seen: Seen) -> tuple[NDArray, NDArray]:
        """Rows and columns of tracks and the boxes that continue them: of their class, else of a like class."""
        tracks, boxes, tables = self._tracks, seen.boxes, self._tables
        if not len(tracks) or not len(seen):
            none = np.zeros(0, dtype=np.int64)
            return none, none
        # seen once and without a velocity, it may be much faster than most; out of view, it may have gone far
        unsure = np.trace(tracks.covariance[:, 2:4, 2:4], axis1=1, axis2=2)
        young = (tracks.weight <= 1) & (unsure > 0.5 * tables.speed[tracks.label] ** 2)
        hidden = (boxes.stamp_ns - tracks.seen_ns) * 1e-9 > tracks.missed + 1e-3
        gate = tables.gate[tracks.label]
        far = gate + np.where(young | hidden, self.config.lone_gate, 0.0)
        room = self._speed_room(seen)
        cue = 0.0 if boxes.lineage is None else self.config.lineage
        rows, columns = within_reach(
            tracks.state[:, :2],
            tables.group[tracks.label],
            self._reach(far + cue + room, seen),
            boxes.center[:, :2],
            tables.group[boxes.label],
        )
        rows, columns, cost = self._costs(rows, seen, columns, far + cue + room)
        heirs = tracks.lineage[rows] == seen.lineage()[columns]
        cost -= np.where(heirs & (tracks.lineage[rows] > 0), cue, 0.0)
        same = tracks.label[rows] == boxes.label[columns]
        taken = assign(rows, columns, np.where(same, gate[rows] - cost, 0.0))
        free = self._free(rows, columns, taken)
        taken = np.append(taken, lone(rows, columns, np.where(free & same, far[rows] - cost, 0.0)))
        free = self._free(rows, columns, taken) & (tracks.weight[rows] >= 2)
        flipped = np.where(free & ~same, gate[rows] - cost - self.config.flip, 0.0)
        taken = np.append(taken, assign(rows, columns, flipped))
        return rows[taken], columns[taken]

    def _reach(self, gate: Array, seen: Seen) -> Array:
        """(T,) metres beyond which no box's place can cost a track less than `gate` (T,)."""
        place = self._tracks.covariance[:, :2, :2]
        least, most = self._extremes(seen.fresh_noise(), seen.boxes.label)
        _, cost = mahalanobis(np.zeros((len(place), 2)), place + least[:, None, None] * np.eye(2))
        return np.sqrt(np.maximum(gate - cost, 0.0) * (np.trace(place, axis1=1, axis2=2) + most))

    def _extremes(self, noise: Array, label: NDArray) -> tuple[Array, Array]:
        """(T,) the variance in the best direction of the best of the boxes that may continue a track, and the
        largest sum of variances; `noise` (N, 2, 2) and `label` (N,) of boxes. 1 and 0 where there are none."""
        group = self._tables.group
        best, worst = np.full(group.max() + 1, np.inf), np.zeros(group.max() + 1)
        np.minimum.at(best, group[label], variances(noise)[:, 0])
        np.maximum.at(worst, group[label], np.trace(noise, axis1=1, axis2=2))
        of = group[self._tracks.label]
        return np.where(np.isfinite(best), best, 1.0)[of], worst[of]

    @staticmethod
    def _free(rows: NDArray, columns: NDArray, taken: NDArray) -> NDArray[np.bool_]:
        """Which pairs have neither track nor box in common with those taken."""
        used_row, used_column = (np.zeros(index.max(initial=0) + 1, dtype=bool) for index in (rows, columns))
        used_row[rows[taken]] = used_column[columns[taken]] = True
        return ~(used_row[rows] | used_column[columns])

    def _costs(self, rows: NDArray, seen: Seen, columns: NDArray, limit: Array) -> tuple[NDArray, NDArray, Array]:
        """The pairs whose place costs less than `limit` (T,), and what all costs: how badly the two fit."""
        tracks, boxes = self._tracks, seen.boxes
        off = boxes.center[columns, :2] - tracks.state[rows, :2]
        squared, log_determinant = mahalanobis(off, tracks.covariance[rows, :2, :2] + seen.fresh_noise()[columns])
        cost = squared + log_determinant
        near = np.flatnonzero(cost < limit[rows])
        rows, columns, cost = rows[near], columns[near], cost[near]
        ratio = np.log(tracks.size)[rows] - np.log(boxes.size)[columns]
        cost += np.minimum((ratio**2).sum(1) / self.config.size_spread**2, self.config.size_limit)
        both = np.flatnonzero(seen.moving[columns])
        r, c = rows[both], columns[both]
        off = boxes.velocity[c] - tracks.state[r, 2:4]
        squared, log_determinant = mahalanobis(off, tracks.covariance[r, 2:4, 2:4] + seen.speed_noise[c])
        # a velocity that nobody is sure of says nothing against a box
        cost[both] += squared + np.minimum(log_determinant - self._tables.velocity_gate[tracks.label[r]], 0.0)
        return rows, columns, cost

    def _speed_room(self, seen: Seen) -> Array:
        """(T,) the most by which a measured velocity can make a box cost less."""
        tracks = self._tracks
        least, _ = self._extremes(seen.speed_noise[seen.moving], seen.boxes.label[seen.moving])
        speed = tracks.covariance[:, 2:4, 2:4] + least[:, None, None] * np.eye(2)
        _, cost = mahalanobis(np.zeros((len(tracks), 2)), speed)
        return np.maximum(self._tables.velocity_gate[tracks.label] - cost, 0.0)

    def _update(self, rows: NDArray, seen: Seen) -> None:
        tracks, boxes = self._tracks, seen.boxes
        state, covariance = update(
            tracks.state[rows], tracks.covariance[rows], boxes.center[:, :2], seen.fresh_noise(), 0
        )
        fast = np.flatnonzero(seen.moving)
        if fast.size:
            state[fast], covariance[fast] = update(
                state[fast], covariance[fast], boxes.velocity[fast], seen.speed_noise[fast], 2
            )
        tracks.state[rows], tracks.covariance[rows] = state, covariance
        # looks in quick succession share their errors, so they weigh by the time between them
        weight = np.minimum((boxes.stamp_ns - tracks.seen_ns[rows]) * 1e-9 / self.config.look_period, 1.0)
        tracks.weight[rows] += weight
        tracks.evidence[rows] += weight * seen.standing
        tracks.votes[rows, boxes.label] += weight * seen.standing
        share = np.maximum(weight / tracks.weight[rows], 0.15 * weight)
        tracks.height[rows] += share * (boxes.center[:, 2] - tracks.height[rows])
        tracks.size[rows] += share[:, None] * (boxes.size - tracks.size[rows])
        tracks.heading[rows] = 0.7 ** weight[:, None] * tracks.heading[rows] + weight[:, None] * heading_of(boxes)
        tracks.seen_ns[rows], tracks.missed[rows], tracks.lineage[rows] = boxes.stamp_ns, 0.0, seen.lineage()
        tracks.label[rows] = tracks.votes[rows].argmax(1)
        self._hold_heading(rows[~seen.moving])

    def _hold_heading(self, rows: NDArray) -> None:
        tracks = self._tracks
        sideways = self._tables.sideways[tracks.label[rows]]
        rows, sideways = rows[sideways > 0], sideways[sideways > 0]
        heading = tracks.heading[rows]
        heading = heading / np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-9)
        held = hold_heading(
            tracks.state[rows], tracks.covariance[rows], heading, sideways, self.config.heading_spread
        )
        tracks.state[rows], tracks.covariance[rows] = held

    def _start(self, seen: Seen) -> None:
        n, boxes = len(seen), seen.boxes
        covariance = np.zeros((n, 6, 6))
        covariance[:, :2, :2], covariance[:, 2:4, 2:4] = seen.fresh_noise(), seen.speed_noise
        covariance[:, 4:, 4:] = seen.noise - seen.fresh_noise()
        votes = np.zeros((n, len(self._class_names)))
        votes[np.arange(n), boxes.label] = seen.standing
        self._tracks = self._tracks + Tracks(
            state=np.concatenate([boxes.center[:, :2], boxes.velocity, np.zeros((n, 2))], axis=1),
            covariance=covariance,
            height=boxes.center[:, 2],
            size=boxes.size,
            heading=heading_of(boxes),
            evidence=seen.standing,
            weight=np.ones(n),
            votes=votes,
            label=boxes.label,
            track_id=self._next_id + np.arange(n),
            seen_ns=np.full(n, boxes.stamp_ns, dtype=np.int64),
            missed=np.zeros(n),
            lineage=seen.lineage(),
        )
        self._next_id += n

    def _output(self) -> Boxes3D:
        assert self._stamp_ns is not None
        shown = np.flatnonzero(self._tracks.missed <= self.config.coast_time)
        score = self._tracks.evidence[shown] / (self._tracks.weight[shown] + self.config.doubt)
        score *= np.where(self._tracks.seen_ns[shown] < self._stamp_ns, self.config.coast_score, 1.0)
        order = np.lexsort((self._tracks.track_id[shown], -score))
        tracks = self._tracks[shown[order]]
        return Boxes3D(
            center=np.concatenate([tracks.places(), tracks.height[:, None]], axis=1),
            size=tracks.size,
            yaw=np.arctan2(tracks.heading[:, 1], tracks.heading[:, 0]),
            velocity=tracks.state[:, 2:4],
            score=score[order],
            label=tracks.label,
            track_id=tracks.track_id,
            position_covariance=tracks.place_covariance(),
            velocity_covariance=tracks.covariance[:, 2:4, 2:4],
            frame_id="map",
            stamp_ns=self._stamp_ns,
            class_names=self._class_names,
        )


def _told(covariance: Array | None, assumed: Array) -> Array:
    """(N, 2, 2) of x and y as the detector tells it where it does; `assumed` where it does not."""
    if covariance is None:
        return assumed
    planar = covariance[:, :2, :2]
    known = np.isfinite(planar).all(axis=(1, 2))
    known[known] = variances(planar[known])[:, 0] > 0
    return np.where(known[:, None, None], planar, assumed)
