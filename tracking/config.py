"""Every number the tracker uses, in one frozen value: the same for the node and for files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from streampetr_core.errors import StreamPETRError
from tracking.visibility import View


class TrackerConfigError(StreamPETRError):
    """A tracker setting that makes no sense."""


@dataclass(frozen=True, kw_only=True)
class ClassParameters:
    """How boxes of one class move and how well cameras measure them.

    Attributes:
        acceleration: spectral density of the white acceleration noise, m^2/s^3 (constant-velocity model).
        speed: standard deviation of a new track's unknown velocity, m/s.
        sideways: standard deviation of the speed across the heading, m/s, by which the motion of objects without a
            measured velocity is told from the errors of their boxes; 0 = they may move any way.
        lateral: (constant, per metre of range) standard deviation across the viewing ray, m; it and `radial` count
            where the detector tells no covariance of the place.
        radial: (constant, per metre of range) standard deviation along the viewing ray, m; depth is what cameras
            measure worst.
        velocity_noise: standard deviation of a measured velocity, m/s, where the detector tells no covariance.
        merge: squared Mahalanobis distance below which two boxes of a class in one frame are one object seen twice
            along the viewing ray; 0 = never.
        gate: largest cost (squared Mahalanobis distance + log determinant) at which a box continues a track.
        velocity_gate: by how much it is larger where velocities are compared too.
        max_range: planar distance to the ego in metres beyond which boxes are left aside; 0 = no limit.
    """

    acceleration: float = 0.5
    speed: float = 3.0
    sideways: float = 0.0
    lateral: tuple[float, float] = (0.2, 0.01)
    radial: tuple[float, float] = (0.3, 0.05)
    velocity_noise: float = 0.7
    merge: float = 2.0
    gate: float = 6.0
    velocity_gate: float = 1.5
    max_range: float = 50.0

    def __post_init__(self) -> None:
        for name in ("acceleration", "speed", "velocity_noise"):
            value = getattr(self, name)
            if not value > 0:
                raise TrackerConfigError(f"tracker: {name} is {value}; it must be positive")


# Found by a cross-entropy search per class on camera detections with and without velocities, each setting scored
# on several thinned copies of the data; rounded. docs/tracking.md says how they do on scenes not chosen on.
_CAR = ClassParameters(
    acceleration=0.37,
    speed=4.5,
    sideways=0.25,
    lateral=(0.24, 0.014),
    radial=(0.25, 0.048),
    velocity_noise=0.52,
    merge=2.75,
    gate=5.5,
    velocity_gate=1.3,
)
_LARGE = ClassParameters(
    acceleration=0.55,
    speed=3.75,
    sideways=0.25,
    lateral=(0.38, 0.017),
    radial=(0.49, 0.0475),
    velocity_noise=0.8,
    merge=2.4,
    gate=6.5,
    velocity_gate=1.6,
)
_CYCLE = ClassParameters(
    acceleration=0.25,
    speed=3.4,
    sideways=0.33,
    lateral=(0.22, 0.005),
    radial=(0.27, 0.05),
    velocity_noise=0.7,
    merge=2.8,
    gate=6.3,
    velocity_gate=1.2,
    max_range=40.0,
)
_PEDESTRIAN = ClassParameters(
    acceleration=0.12,
    speed=1.2,
    sideways=0.3,
    lateral=(0.14, 0.007),
    radial=(0.21, 0.066),
    velocity_noise=0.39,
    merge=1.0,
    gate=4.8,
    velocity_gate=0.4,
    max_range=40.0,
)
_FIXED = ClassParameters(acceleration=0.01, speed=0.1, velocity_noise=0.2, max_range=30.0)

_CLASSES: Mapping[str, ClassParameters] = MappingProxyType(
    {
        "car": _CAR,
        "truck": _LARGE,
        "construction_vehicle": _LARGE,
        "bus": _LARGE,
        "trailer": _LARGE,
        "motorcycle": _CYCLE,
        "bicycle": _CYCLE,
        "pedestrian": _PEDESTRIAN,
        "traffic_cone": _FIXED,
        "barrier": _FIXED,
    }
)

_VIEWS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "CAM_FRONT": (0.0, 65.0),
        "CAM_FRONT_LEFT": (55.0, 65.0),
        "CAM_FRONT_RIGHT": (-55.0, 65.0),
        "CAM_BACK_LEFT": (110.0, 65.0),
        "CAM_BACK_RIGHT": (-110.0, 65.0),
        "CAM_BACK": (180.0, 90.0),
    }
)


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Settings of the tracker; times are in seconds, so they hold at any frame rate.

    Attributes:
        classes: parameters by class name.
        other: parameters of classes not named there.
        max_age: a track unseen for longer dies.
        coast_time: a confirmed track unseen for no longer is still reported, at a predicted place.
        coast_score: factor on the score of such a box.
        doubt: looks without result that a new track is thought to have behind it; the more, the slower its score
            grows.
        look_period: seconds after which a second look at an object tells something new.
        max_hidden: a track that got no box for longer dies even where no camera could see it.
        views: camera -> direction and horizontal field of view in degrees, for frames that lack some cameras; the
            nuScenes cars' by default.
        slow_share: part of the variance of a box's place that changes slowly. Only where velocities are measured;
            without them it could not be told from motion.
        slow_time: seconds in which that error changes (to 1/e).
        groups: classes that a detector takes for one another; a track may go on with a box of such a class.
        flip: by how much the gate is smaller for such a box.
        lineage: by how much a box costs less for the track that holds its query's lineage (`Boxes3D.lineage`).
        lone_gate: by how much the gate is larger where a track and a box left over have only each other.
        heading_spread: standard deviation of the heading that `sideways` refers to, radians.
        size_spread: standard deviation of the logarithm of a measured length, width or height.
        size_limit: the most that a different size adds to the cost.
        max_gap: a step longer than this starts anew.
        late: a frame older than the newest by no more than this is ignored; older than that is a rewind, which
            starts anew.
    """

    classes: Mapping[str, ClassParameters] = field(default_factory=lambda: _CLASSES)
    other: ClassParameters = field(default_factory=ClassParameters)
    max_age: float = 2.2
    coast_time: float = 1.3
    coast_score: float = 0.2
    doubt: float = 1.0
    look_period: float = 0.5
    max_hidden: float = 6.0
    views: Mapping[str, tuple[float, float]] = field(default_factory=lambda: _VIEWS)
    slow_share: float = 0.45
    slow_time: float = 2.2
    groups: tuple[tuple[str, ...], ...] = (
        ("car", "truck", "construction_vehicle", "bus", "trailer"),
        ("motorcycle", "bicycle"),
    )
    flip: float = 1.0
    lineage: float = 1.0
    lone_gate: float = 3.0
    heading_spread: float = 0.3
    size_spread: float = 0.3
    size_limit: float = 2.25
    max_gap: float = 2.0
    late: float = 0.3

    def __post_init__(self) -> None:
        for name in ("max_age", "max_gap", "look_period", "slow_time"):
            if not getattr(self, name) > 0:
                raise TrackerConfigError(f"tracker: {name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.coast_score <= 1:
            raise TrackerConfigError(f"tracker: coast_score is {self.coast_score}; it must be within 0 and 1")

    def of(self, name: str) -> ClassParameters:
        """Parameters of a class by its name."""
        return self.classes.get(name, self.other)

    def observed(self, missing: Collection[str]) -> tuple[View, ...] | None:
        """The views of a frame that lacks these cameras, for `Tracker.step`.

        None, every direction, where none is missing and where one is that `views` does not know.
        """
        if not missing or not set(missing) <= self.views.keys():
            return None
        return tuple(View(*view) for name, view in self.views.items() if name not in missing)
