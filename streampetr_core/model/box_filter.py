"""What is known of a query's box, carried from frame to frame and corrected by what each frame sees.

An image tells where an object is across its ray to centimetres, but along the ray, its depth, to a metre. A filter
that knows both gets the velocity from a few frames where the difference of two depths gives none. This is the
Kalman filter of tracking with noise that the network learns, inside of the network: a query of the memory is
corrected by the image cells that may show the same object (a probabilistic data association filter: Bar-Shalom et
al. 2009, doi:10.1109/MCS.2009.934469), and the cells' own queries begin with the result.

Legend: `B` batch, `Q` queries, `F` of them from image cells, `M` of the memory, `C` classes. The model frame
throughout; `spread` is the covariance of x, y, vx, vy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from streampetr_core.model.box_state import (
    BoxState,
    distance,
    facing_way,
    invert_symmetric,
    oriented,
    rows,
    turned,
)

_LEAST = 1e-4
TAILS = 4.0
"""Degrees of freedom of the innovations: depths are off by far more often than a Gaussian's."""
_MOST_FRAMES = 10.0
_MOST_MOVING = 1.7
"""Sizes are means over so many frames, and yaws of what stands; those of what moves over fewer: it may turn."""
_TURN = 0.15
"""Radians by which the yaw of what moves may lag behind."""
_METRES = 2.0
"""Differences count in these."""
_NUMBERS = 17
"""Differences of place 3 and box 7, how sure it is that there is a counterpart, how sure the box is 6; the
counterpart's scores are in between."""
_USUAL_RANGE = 20.0
_USUAL = (1.0, 0.2)
"""Metres along and across the ray that an image cell is off at the usual range, before anything is learned."""
_ALIKE = 1.5
"""Deviations count so many times: what is wrong in one frame is often wrong in the next."""
_ALONE = -7.0
"""Logarithm of how many cells a square metre show nothing of the memory, and the reverse."""
_STILL: tuple[str, ...] = ("barrier", "traffic_cone", "construction_vehicle")
_PACES: dict[str, float] = {
    "truck": 3.5,
    "bus": 4.5,
    "trailer": 5.0,
    "motorcycle": 2.5,
    "bicycle": 1.2,
    "pedestrian": 0.5,
} | dict.fromkeys(_STILL, 0.05)
"""Metres per second by which the speed that an image cell tells is off, before anything is learned; `_OTHER_PACE`
of other classes."""
_OTHER_PACE = 3.0
_SLIPS: dict[str, float] = {"pedestrian": 1.2}
"""Likewise across the axis."""
_OTHER_SLIP = 0.35
_PUSHES: dict[str, float] = {"pedestrian": 0.3} | dict.fromkeys(_STILL, 0.03)
"""Accelerations that are nothing unusual, metres per second squared, for half a second."""
_OTHER_PUSH = 0.8
_PAUSE = 0.5
"""Seconds from one frame to the next in training, and in which an image's errors change: frames that follow one
another faster count for less."""
_SURE = 0.95
"""No looks are surer of front and back."""
_SLIM = ("pedestrian", "bicycle")
"""Their axes are hard to see."""


@dataclass(frozen=True)
class Followed:
    """Boxes of this frame.

    Attributes:
        state: of image cells, then of the memory.
        box: (B, Q, 7) log length, width, height, sine and cosine of the yaw, vx, vy; zeros where there is none.
        content: (B, Q, dims) what queries are told of their counterparts and of how sure all that is.
        deviations: (B, F, 2) of the cells, see `BoxFilter.deviations`.
        partner: (B, F) the memory's query that shows the same object more likely than not, and of which no other
            cell shows more; -1 = there is none.
    """

    state: BoxState
    box: Tensor
    content: Tensor
    deviations: Tensor
    partner: Tensor


class BoxFilter(nn.Module):
    """Association, correction and what is told of the result.

    The filter itself is computed without gradient. A loss of the boxes that queries end with would teach it the
    wrong thing: of several guesses the best is scored, so it would keep them apart. Its noise learns from the
    distances between cells and objects instead, and what is made of its state learns from the boxes.
    """

    slips: Tensor
    pushes: Tensor

    def __init__(self, dims: int, class_names: tuple[str, ...]) -> None:
        super().__init__()
        classes = len(class_names)
        for name, values, other in (
            ("slips", _SLIPS, _OTHER_SLIP),
            ("pushes", _PUSHES, _OTHER_PUSH),
        ):
            numbers = [values.get(name, other) for name in class_names]
            self.register_buffer(name, torch.tensor(numbers).square(), persistent=False)
        # logarithms of metres along and across the ray: of the class, range and score
        self.noise = nn.Linear(classes + 2, 2)
        with torch.no_grad():
            self.noise.weight.zero_()
            self.noise.weight[:, classes] = 1.0
            self.noise.bias.copy_(torch.tensor(_USUAL).log())
        paces = [_PACES.get(name, _OTHER_PACE) for name in class_names]
        self.pace = nn.Parameter(torch.tensor(paces).log())
        """Logarithms of how far told speeds are off."""
        slim = torch.tensor([1.5 if name in _SLIM else 0.3 for name in class_names])
        self.course = nn.Parameter(torch.stack((slim, torch.ones(classes)), dim=-1))
        """What the way that an object of the class moves counts for its axis and heading."""
        last = nn.Linear(32, 2)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 3.0)
        self.moves = nn.Sequential(nn.Linear(8 + classes, 32), nn.ReLU(), last)
        self.told = nn.Linear(_NUMBERS + classes, dims)

    def forward(
        self, fresh: BoxState, scores: Tensor, past: BoxState, old_scores: Tensor, age: Tensor
    ) -> Followed:
        """What image cells show and what the memory has carried into this frame, put together.

        A cell and a memory's query that are the same object get the same box: which of the two answers for it
        makes no difference to where it is.

        Args:
            fresh, past: see `begin` and `carry`.
            scores, old_scores: (B, F, C) and (B, M, C).
            age: (B, M, 1) seconds since the memory's frame.
        """
        with torch.no_grad():
            of_fresh, of_past = self.associate(fresh, scores, past, old_scores)
            before, all_scores = fresh.and_then(past), torch.cat((scores, old_scores), dim=1)
            numbers = torch.cat((before.place / _METRES, self.tell(before, all_scores)[0]), dim=-1)
            one, other = numbers.split((fresh.place.shape[1], past.place.shape[1]), dim=1)
            corrected = self.correct(past, fresh, of_past, age)
            state = self.take_over(fresh, corrected, of_fresh).and_then(corrected)
        box, certain = self.tell(state, all_scores)
        sides = ((of_fresh, one, other, old_scores), (of_past.transpose(1, 2), other, one, scores))
        told = [
            torch.cat((part @ theirs - part.sum(-1, True) * own, part.sum(-1, True), part @ their_scores), dim=-1)
            for part, own, theirs, their_scores in sides
        ]
        content = self.told(torch.cat((torch.cat(told, dim=1), certain), dim=-1))
        # each the other's best: a number of identity belongs to one cell
        partner = of_fresh.argmax(dim=-1)
        chosen = of_past.argmax(dim=1).gather(1, partner)
        mine = torch.arange(partner.shape[1], device=partner.device)
        partner = partner.masked_fill((of_fresh.sum(dim=-1) < 0.5) | (chosen != mine), -1)
        deviations = self.deviations(fresh.place, scores)
        return Followed(state, box, content * (state.frames > 0), deviations, partner)

    def alone(self, fresh: BoxState, scores: Tensor) -> Followed:
        """What image cells show, where there is no memory."""
        box, certain = self.tell(fresh, scores)
        told = functional.pad(certain, (self.told.in_features - certain.shape[-1], 0))
        none = torch.full_like(fresh.frames[..., 0], -1.0).long()
        return Followed(fresh, box, self.told(told), self.deviations(fresh.place, scores), none)

    def deviations(self, place: Tensor, scores: Tensor) -> Tensor:
        """(B, F, 3) metres and (B, F, C) -> (B, F, 2) logarithms of the metres along and across the ray that the
        places of image cells are off; rays from the model frame's origin, near which all cameras are."""
        reach = place[..., :2].norm(dim=-1, keepdim=True).clamp(min=1.0)
        strength = scores.amax(dim=-1, keepdim=True).clamp(min=_LEAST).log()
        said = torch.cat((_seems(scores), (reach / _USUAL_RANGE).log(), strength), dim=-1)
        return self.noise(said).clamp(-4.0, 3.0)

    @torch.no_grad()
    def begin(
        self, place: Tensor, log_size: Tensor, axis: Tensor, heading: Tensor, speed: Tensor, scores: Tensor
    ) -> BoxState:
        """State of what is seen for the first time; attributes as `BoxState`'s, `scores` (B, Q, C)."""
        seems = _seems(scores)
        variance = (2.0 * (self.deviations(place, scores) + math.log(_ALIKE))).exp()
        ray = place[..., :2] / place[..., :2].norm(dim=-1, keepdim=True).clamp(min=_LEAST)
        near = oriented(turned(ray.flip(-1), ray.flip(-1)), variance[..., 0], variance[..., 1])
        # it goes the way that it faces, or back; where the axis is not known, any way
        length = axis.norm(dim=-1, keepdim=True).clamp(min=0.1)
        yaw, certain = facing_way(axis, heading)
        velocity = speed * certain[..., None] * torch.stack((yaw.cos(), yaw.sin()), dim=-1)
        along = speed[..., 0].square() * (1.0 - certain.square()) + seems @ (2.0 * self.pace).exp()
        across = torch.minimum(seems @ self.slips / length[..., 0].clamp(max=1.0) ** 4, along)
        fast = oriented(axis / length, along, across)
        spread = torch.cat((functional.pad(near, (0, 2)), functional.pad(fast, (2, 0))), dim=-2)
        return BoxState(place, velocity, spread, log_size, axis, heading, speed, torch.ones_like(speed))

    @torch.no_grad()
    def carry(self, state: BoxState, turn: Tensor, age: Tensor, scores: Tensor) -> BoxState:
        """A state of the past in this frame: `turn` (B, M, 2, 2) from the axes that it is told in to this frame's,
        `age` (B, M, 1) seconds; its place is in this frame already."""
        velocity = (turn @ state.velocity[..., None])[..., 0]
        place = torch.cat((state.place[..., :2] + velocity * age, state.place[..., 2:]), dim=-1)
        step = age[..., None]
        zero = torch.zeros_like(turn)
        whole = torch.cat((torch.cat((turn, step * turn), -1), torch.cat((zero, turn), -1)), -2)
        push = (_seems(scores) @ self.pushes)[..., None, None]
        eye = torch.eye(2, device=age.device)
        # white noise of the acceleration: as much at any frame rate
        near, far = step.square() / 2.0 * eye, step * eye
        noise = torch.cat((torch.cat((step**3 / 3.0 * eye, near), -1), torch.cat((near, far), -1)), -2)
        spread = whole @ state.spread @ whole.transpose(-1, -2) + push * _PAUSE * noise
        cosine, sine = turn[..., 0, 0], turn[..., 1, 0]
        double = torch.stack((2.0 * sine * cosine, cosine.square() - sine.square()), dim=-1)
        heading = turned(state.heading, torch.stack((sine, cosine), dim=-1))
        return BoxState(
            place, velocity, spread, state.log_size, turned(state.axis, double), heading, state.speed, state.frames
        )

    def associate(
        self, fresh: BoxState, scores: Tensor, past: BoxState, old_scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How sure it is that an image cell and a memory's query are one object, twice (B, F, M): as the cell's
        choice among the memory, rows sum to 1 at most; and as the memory's among the cells, columns do. One object
        may show in several cells, and be several times in the memory."""
        offset = fresh.place[:, :, None, :2] - past.place[:, None, :, :2]
        spread = fresh.spread[:, :, None, :2, :2] + past.spread[:, None, :, :2, :2]
        far, determinant = distance(offset, spread)
        near = -0.5 * (TAILS + 2.0) * torch.log1p(far / TAILS) - 0.5 * determinant.log() - math.log(math.tau)
        agreement = (_seems(scores) @ old_scores.transpose(1, 2)).clamp(min=_LEAST).log()
        old_agreement = (scores @ _seems(old_scores).transpose(1, 2)).clamp(min=_LEAST).log()
        impossible = ~((fresh.frames > 0) & (past.frames > 0).transpose(1, 2))
        of_fresh = (near + agreement).masked_fill(impossible, -math.inf)
        of_past = (near + old_agreement).masked_fill(impossible, -math.inf)
        alone = of_fresh.new_full((1, 1, 1), _ALONE)
        of_fresh = torch.cat((of_fresh, alone.expand(*of_fresh.shape[:2], 1)), dim=2).softmax(dim=2)[..., :-1]
        alone = alone.expand(of_past.shape[0], 1, of_past.shape[2])
        of_past = torch.cat((of_past, alone), dim=1).softmax(dim=1)[:, :-1]
        # whoever has a better partner is no partner; several cells that show one object are all its partners
        best, best_of_past = of_fresh.amax(dim=2, keepdim=True), of_past.amax(dim=1, keepdim=True)
        return of_fresh * of_past / best_of_past.clamp(min=_LEAST), of_past * of_fresh / best.clamp(min=_LEAST)

    def correct(self, past: BoxState, fresh: BoxState, share: Tensor, age: Tensor) -> BoxState:
        """The memory's boxes (M) after what the cells (F) saw of them; `share` (B, F, M), `age` (B, M, 1)."""
        share = share.transpose(1, 2)
        sure = share.sum(dim=-1, keepdim=True)
        offset = fresh.place[:, None, :, :2] - past.place[:, :, None, :2]
        # the likeliest, not the mean: that may lie between two objects
        likeliest = share.argmax(dim=-1, keepdim=True)
        innovation = offset.gather(2, likeliest[..., None].expand(-1, -1, -1, 2))[:, :, 0]
        seen = fresh.map(lambda x: rows(x, likeliest[..., 0]))
        noise = seen.spread[..., :2, :2] * (_PAUSE / age.clamp(min=1e-2)).clamp(min=1.0)[..., None]
        known = past.spread[..., :2, :2]
        # outliers count for less
        far = distance(innovation, known + noise)[0][..., None, None]
        noise = noise * ((TAILS + far) / (TAILS + 2.0)).clamp(min=1.0)
        gain = past.spread[..., :, :2] @ invert_symmetric(known + noise)
        moved = sure * (gain @ innovation[..., None])[..., 0]
        mean = sure * innovation
        others = offset - mean[:, :, None]
        unsure = (share[..., None] * others).transpose(-1, -2) @ others
        unsure = unsure + ((1.0 - sure) * mean)[..., None] * mean[..., None, :]
        unsure = gain @ unsure @ gain.transpose(-1, -2)
        spread = past.spread - sure[..., None] * (gain @ past.spread[..., :2, :]) + unsure
        spread = 0.5 * (spread + spread.transpose(-1, -2))  # against rounding
        moving = _moving(past)
        frames = past.frames + sure
        steady = sure / frames.clamp(min=1.0)
        fewer = torch.minimum(frames, torch.lerp(frames, torch.full_like(frames, _MOST_MOVING), moving))
        lively = sure / fewer.clamp(min=1.0)

        def mix(of: Callable[[BoxState], Tensor], share_of_new: Tensor) -> Tensor:
            return of(past) + share_of_new * (of(seen) - of(past))

        height = mix(lambda s: s.place[..., 2:], steady)
        return BoxState(
            torch.cat((past.place[..., :2] + moved[..., :2], height), dim=-1),
            past.velocity + moved[..., 2:],
            spread,
            mix(lambda s: s.log_size, steady),
            mix(lambda s: s.axis, lively),
            mix(lambda s: s.heading, lively),
            mix(lambda s: s.speed, lively),
            frames.clamp(max=_MOST_FRAMES) * (past.frames > 0),
        )

    def take_over(self, fresh: BoxState, corrected: BoxState, share: Tensor) -> BoxState:
        """The cells' boxes (F) after what the memory knew of them, which is in `corrected` (M) together with what
        they saw."""
        sure = share.sum(dim=-1, keepdim=True)
        known = corrected.map(lambda x: rows(x, share.argmax(dim=-1)))

        def mix(mine: Tensor, other: Tensor) -> Tensor:
            weight = sure if mine.dim() == 3 else sure[..., None]
            return mine + weight * (other - mine)

        mixed = fresh.join(known, mix)
        off = torch.cat((known.place[..., :2] - fresh.place[..., :2], known.velocity - fresh.velocity), dim=-1)
        apart = (sure * (1.0 - sure) * off)[..., None] * off[..., None, :]
        return replace(mixed, spread=mixed.spread + apart)

    @staticmethod
    def covariance(spread: Tensor) -> Tensor:
        """(..., 4, 4) of a single box: the filter's places count as if several frames shared their errors."""
        scale = spread.new_ones(4)
        scale[:2] = 1.0 / _ALIKE
        return spread * scale[:, None] * scale

    def tell(self, state: BoxState, scores: Tensor) -> tuple[Tensor, Tensor]:
        """What the states amount to.

        Returns:
            (B, Q, 7) log size, sine and cosine of the yaw, velocity: zeros without a box; and (B, Q, 6) how sure
            that is: logarithms of the deviations of place and velocity along and across the ray and of the range,
            and the frames.
        """
        seems = _seems(scores)
        there = (state.frames > 0).to(scores)
        moving = _moving(state)
        speed = state.velocity.norm(dim=-1, keepdim=True).clamp(min=_LEAST)
        way = state.velocity.flip(-1) / speed  # sine, cosine
        course = moving * (seems @ self.course)
        axis = state.axis + course[..., :1] * turned(way, way)
        heading = state.heading + course[..., 1:] * way
        # no angle of nothing, and no gradient of it
        yaw, certain = facing_way(axis + functional.pad(1.0 - there, (1, 0)), heading)
        facing = torch.stack((yaw.cos(), yaw.sin()), dim=-1)
        velocity = self._along(state, facing, (seems @ self.slips)[..., None])
        velocity = self._paced(state, velocity, facing, certain[..., None], seems)
        # along and across the ray: what is known differs
        reach = state.place[..., :2].norm(dim=-1, keepdim=True)
        ray = state.place[..., :2] / reach.clamp(min=_LEAST)
        frame = torch.stack((ray, torch.stack((-ray[..., 1], ray[..., 0]), dim=-1)), dim=-2)
        blocks = torch.stack((state.spread[..., :2, :2], state.spread[..., 2:, 2:]), dim=-3)
        axes = frame[..., None, :, :]
        deviation = (axes @ blocks * axes).sum(dim=-1).flatten(-2).clamp(min=_LEAST).sqrt()
        parts = (frame @ velocity[..., None])[..., 0]
        certain = torch.cat(
            (deviation.log(), (reach.clamp(min=1.0) / _USUAL_RANGE).log(), state.frames / _MOST_FRAMES), dim=-1
        )
        sizes = parts.abs()
        said = (sizes.log1p(), (sizes / deviation[..., 2:]).clamp(max=6.0) / 3.0, certain[..., 2:], seems)
        parts = parts * self.moves(torch.cat(said, dim=-1)).sigmoid()
        velocity = (frame.transpose(-1, -2) @ parts[..., None])[..., 0]
        box = torch.cat((state.log_size, yaw.sin()[..., None], yaw.cos()[..., None], velocity), dim=-1)
        return box * there, certain * there

    def _along(self, state: BoxState, facing: Tensor, slip: Tensor) -> Tensor:
        """(B, Q, 2) the velocity once more corrected: things on wheels go the way that they face or back."""
        known = state.axis.norm(dim=-1, keepdim=True).clamp(0.1, 1.0)
        across = torch.stack((-facing[..., 1], facing[..., 0]), dim=-1)
        spread = (state.spread[..., 2:, 2:] @ across[..., None])[..., 0]
        lag = _TURN**2 * state.velocity.square().sum(dim=-1, keepdim=True)
        total = (across * spread).sum(dim=-1, keepdim=True) + slip / known.square().square() + lag
        sideways = (across * state.velocity).sum(dim=-1, keepdim=True)
        return state.velocity - spread * sideways / total.clamp(min=_LEAST)

    def _paced(self, state: BoxState, velocity: Tensor, facing: Tensor, certain: Tensor, seems: Tensor) -> Tensor:
        """(B, Q, 2) the velocity after what its looks say of its speed, forward or backward: a mean of both, each
        as likely as the velocity and the heading make it."""
        along = (velocity * facing).sum(dim=-1, keepdim=True)
        variance = (facing[..., None, :] @ state.spread[..., 2:, 2:] @ facing[..., None])[..., 0].clamp(min=_LEAST)
        pace = (seems @ (2.0 * self.pace).exp())[..., None]
        ways = torch.cat((state.speed, -state.speed), dim=-1)
        chances = 0.5 + 0.5 * torch.cat((certain, -certain), dim=-1).clamp(-_SURE, _SURE)
        share = (chances.log() - 0.5 * (along - ways).square() / (variance + pace)).softmax(dim=-1)
        means = (along * pace + ways * variance) / (variance + pace)
        return velocity + ((share * means).sum(dim=-1, keepdim=True) - along) * facing


def _moving(state: BoxState) -> Tensor:
    """(B, Q, 1) 0 where it may well stand, 1 where it is sure to move."""
    doubt = state.spread.diagonal(dim1=-2, dim2=-1)[..., 2:].mean(dim=-1, keepdim=True).clamp(min=_LEAST).sqrt()
    return ((state.velocity.norm(dim=-1, keepdim=True) / doubt - 1.0) / 2.0).clamp(0.0, 1.0)


def _seems(scores: Tensor) -> Tensor:
    """(..., C) shares of the classes; of squares, or small scores of many classes would outweigh the one."""
    squares = scores.square()
    return squares / squares.sum(dim=-1, keepdim=True).clamp(min=_LEAST**2)
