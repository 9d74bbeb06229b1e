"""Pictures of a frame: boxes projected onto every camera image, and the same boxes from above."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
from streampetr_core.cameras import CameraModel
from streampetr_core.frame import Frame
from streampetr_core.geometry import apply, inverse

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]

BACKGROUND: Color = (24, 26, 30)
GROUND_TRUTH: Color = (80, 220, 120)
TEXT: Color = (225, 228, 232)
FAINT: Color = (70, 74, 82)
NEAR_PLANE = 0.2
"""Metres in front of a camera at which box edges are cut."""

EDGES = np.array(
    [
        [0, 1],
        [1, 2],
        [2, 3],
        [3, 0],
        [4, 5],
        [5, 6],
        [6, 7],
        [7, 4],
        [0, 4],
        [1, 5],
        [2, 6],
        [3, 7],
        [0, 2],
        [1, 3],
    ]
)
"""Corner pairs of `Boxes3D.corners`; the last two cross the front face, so that the heading is seen."""

_LAYOUT = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")


@dataclass(frozen=True)
class Style:
    """Sizes of a picture in pixels and what is drawn.

    Attributes:
        cell_width: width of one camera image.
        columns: camera images in a row.
        range_m: half the side of the view from above, metres.
        min_score: boxes below are not drawn.
        max_boxes: at most so many, best first.
    """

    cell_width: int = 528
    columns: int = 3
    range_m: float = 52.0
    min_score: float = 0.25
    max_boxes: int = 120


def class_color(label: int) -> Color:
    """RGB of a class index, evenly spread over the hues."""
    red, green, blue = colorsys.hsv_to_rgb((0.57 + label * 0.618034) % 1.0, 0.65, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def identity_color(track_id: int) -> Color:
    """RGB of a track identity, different for neighbouring numbers."""
    red, green, blue = colorsys.hsv_to_rgb((track_id * 0.618034) % 1.0, 0.55 + 0.35 * (track_id % 3) / 2, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def box_color(boxes: Boxes3D, row: int) -> Color:
    """A track's own colour, else its class's."""
    track_id = int(boxes.track_id[row])
    return identity_color(track_id) if track_id >= 0 else class_color(int(boxes.label[row]))


def project_edges(
    corners: NDArray[np.float64], camera: CameraModel, camera_from_ego: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Edges (N, 14, 2, 2) in pixels of boxes with `corners` (N, 8, 3), and (N, 14) which are seen at all.

    An edge that passes through the near plane is cut there; one behind it is not seen. The image is taken as
    rectified.
    """
    points = apply(camera_from_ego, corners)[:, EDGES]
    start, end = points[:, :, 0], points[:, :, 1]
    depth = points[..., 2]
    visible = (depth > NEAR_PLANE).any(axis=-1)
    span = end[..., 2] - start[..., 2]
    cut = (NEAR_PLANE - start[..., 2]) / np.where(np.abs(span) < 1e-9, 1e-9, span)
    crossing = start + cut[..., None] * (end - start)
    behind = depth <= NEAR_PLANE
    clipped = np.where(behind[..., None], crossing[:, :, None], points)
    pixels = clipped @ camera.intrinsics.T
    return pixels[..., :2] / np.maximum(pixels[..., 2:], 1e-6), visible


def at_image_instant(boxes: Boxes3D, seconds: float) -> Boxes3D:
    """The boxes where they were `seconds` later, by their own velocity (unknown = standing)."""
    shift = np.zeros_like(boxes.center)
    shift[:, :2] = np.nan_to_num(boxes.velocity) * seconds
    return replace(boxes, center=boxes.center + shift)


def draw_on_camera(
    picture: Picture, boxes: Boxes3D, frame: Frame, camera: int, color: Color | None = None, width: int = 2
) -> None:
    """Draw `boxes` (in base_link at the frame's reference instant) onto `picture` of one camera, in place.

    The picture may have any size with the camera's aspect ratio. Each box is moved by its velocity to the
    instant at which this image was taken.
    """
    model = frame.rig.cameras[camera]
    seconds = float(frame.image_stamps_ns[camera] - frame.stamp_ns) * 1e-9
    moved = at_image_instant(boxes, seconds)
    lines, visible = project_edges(moved.corners(), model, frame.camera_from_ego()[camera])
    scale = picture.shape[1] / model.width
    margin = 4.0 * max(model.width, model.height)
    in_view = visible & (np.abs(lines) < margin).all(axis=(-1, -2))
    pixels = np.round(np.clip(lines * scale, -1e4, 1e4) * 16).astype(np.int32)
    touches = ((lines >= 0) & (lines < [model.width, model.height])).all(axis=-1).any(axis=(-1, -2))
    for row in np.flatnonzero(touches):
        paint = color or box_color(boxes, int(row))
        for edge in np.flatnonzero(in_view[row]):
            (x0, y0), (x1, y1) = pixels[row, edge].tolist()
            cv2.line(picture, (x0, y0), (x1, y1), paint, width, cv2.LINE_AA, shift=4)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def write_texts(picture: Picture, texts: Sequence[tuple[tuple[float, float], str, Color]], size: int = 13) -> None:
    """Write (position, text, colour) onto the picture, in place."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for position, text, color in texts:
        draw.text(position, text, fill=color, font=_font(size), stroke_width=1, stroke_fill=BACKGROUND)
    picture[:] = np.asarray(canvas)


def view_from_above(
    boxes: Boxes3D,
    side: int,
    style: Style,
    ground_truth: Boxes3D | None = None,
    trails: dict[int, NDArray[np.float64]] | None = None,
) -> Picture:
    """A (side, side, 3) picture from above: the robot in the middle, forward up, boxes in base_link.

    `trails` holds for a track id its past centres (K, 2) in base_link, oldest first.
    """
    picture = np.full((side, side, 3), BACKGROUND, np.uint8)
    scale = side / (2 * style.range_m)

    def to_pixels(points: NDArray[np.float64]) -> NDArray[np.int32]:
        flipped = np.stack([-points[..., 1], -points[..., 0]], axis=-1)
        pixels = np.round(np.clip(flipped * scale + side / 2, -1e4, 1e4) * 16)
        return np.ascontiguousarray(pixels, dtype=np.int32)

    middle = side // 2
    for radius in range(10, int(style.range_m) + 1, 10):
        cv2.circle(picture, (middle, middle), round(radius * scale), FAINT, 1, cv2.LINE_AA)
    robot = to_pixels(np.array([[3.7, 0.0], [-0.9, 0.9], [-0.9, -0.9]]))
    cv2.fillPoly(picture, [robot], TEXT, cv2.LINE_AA, shift=4)

    def footprints(some: Boxes3D) -> NDArray[np.int32]:
        return to_pixels(some.corners()[:, [0, 3, 7, 4], :2])

    if ground_truth is not None and len(ground_truth):
        cv2.polylines(picture, list(footprints(ground_truth)), True, GROUND_TRUTH, 1, cv2.LINE_AA, shift=4)
    for track_id, centers in (trails or {}).items():
        if len(centers) > 1:
            path = to_pixels(np.asarray(centers))
            cv2.polylines(picture, [path], False, identity_color(track_id), 1, cv2.LINE_AA, shift=4)
    texts = [((middle + 3, middle - r * scale - 15), f"{r} m", FAINT) for r in range(20, int(style.range_m), 20)]
    if len(boxes):
        shapes = footprints(boxes)
        fronts = to_pixels(np.stack([boxes.center[:, :2], boxes.corners()[:, [0, 3], :2].mean(axis=1)], axis=1))
        for row in range(len(boxes)):
            color = box_color(boxes, row)
            cv2.polylines(picture, [shapes[row]], True, color, 2, cv2.LINE_AA, shift=4)
            cv2.polylines(picture, [fronts[row]], False, color, 1, cv2.LINE_AA, shift=4)
            if boxes.track_id[row] >= 0:
                x, y = (shapes[row].max(axis=0) / 16).tolist()
                texts.append(((x + 1, y - 6), str(int(boxes.track_id[row])), color))
    write_texts(picture, texts, size=11)
    return picture


def for_drawing(boxes: Boxes3D, style: Style) -> Boxes3D:
    """The boxes that a picture shows: the best `max_boxes` at or above `min_score`."""
    kept = boxes[boxes.score >= style.min_score]
    return kept[np.argsort(-kept.score, kind="stable")[: style.max_boxes]]


def picture_of(
    frame: Frame,
    boxes: Boxes3D | None = None,
    title: str = "",
    style: Style | None = None,
    trails: dict[int, NDArray[np.float64]] | None = None,
) -> Picture:
    """One RGB picture of a frame: all cameras with projected boxes, and the view from above.

    Args:
        frame: images, geometry and, where known, ground truth (drawn green; boxes of score 0, which no sensor
            saw, are left out).
        boxes: detections (coloured by class) or tracks (coloured by identity), in base_link or map.
        title: one line above everything.
        style: sizes and thresholds.
        trails: past centres (K, 2) in base_link of each track; drawn for the tracks that are shown.
    """
    style = style or Style()
    shown = for_drawing(boxes, style) if boxes is not None else Boxes3D.empty()
    if shown.frame_id == "map":
        shown = shown.transformed(inverse(frame.map_from_ego), "base_link")
    truth = frame.ground_truth
    if truth is not None:
        truth = truth[truth.score > 0]
    drawn = set(shown.track_id.tolist())
    paths = {track_id: trail for track_id, trail in (trails or {}).items() if track_id in drawn}
    names = list(frame.rig.names)
    order = [names.index(n) for n in _LAYOUT] if set(names) == set(_LAYOUT) else list(range(len(names)))
    first = frame.rig.cameras[0]
    cell_height = round(style.cell_width * first.height / first.width)
    rows = -(-len(order) // style.columns)
    side = rows * cell_height
    header = 30
    width = style.columns * style.cell_width + side
    canvas = np.full((header + side, width, 3), BACKGROUND, np.uint8)
    texts: list[tuple[tuple[float, float], str, Color]] = [((10.0, 6.0), title, TEXT)]
    for place, camera in enumerate(order):
        top = header + (place // style.columns) * cell_height
        left = (place % style.columns) * style.cell_width
        cell = _camera_cell(frame, camera, shown, truth, style.cell_width, cell_height)
        canvas[top : top + cell_height, left : left + style.cell_width] = cell
        absent = "" if frame.images[camera] is not None else "  (no image)"
        texts.append(((left + 8.0, top + 5.0), names[camera] + absent, TEXT))
    canvas[header:, width - side :] = view_from_above(shown, side, style, truth, paths)
    legend_left = float(width - side + 8)
    texts.append(((legend_left, header + 5.0), "from above", TEXT))
    if truth is not None:
        texts.append(((legend_left, header + 22.0), "ground truth", GROUND_TRUTH))
    if (shown.track_id < 0).any():
        for line, label in enumerate(np.unique(shown.label[shown.track_id < 0])):
            position = (legend_left, header + 39.0 + 17 * line)
            texts.append((position, NUSCENES_CLASSES[int(label)], class_color(int(label))))
    write_texts(canvas, texts, size=14)
    return canvas


def _camera_cell(
    frame: Frame, camera: int, boxes: Boxes3D, truth: Boxes3D | None, width: int, height: int
) -> Picture:
    image = frame.images[camera]
    if image is None:
        return np.full((height, width, 3), FAINT, np.uint8)
    cell = np.asarray(cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if truth is not None:
        draw_on_camera(cell, truth, frame, camera, GROUND_TRUTH, 2)
    draw_on_camera(cell, boxes, frame, camera, width=3)
    return np.asarray(cv2.resize(cell, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def write_video(path: Path, pictures: Sequence[Path], frames_per_second: float) -> None:
    """An MP4 (MPEG-4 part 2) of picture files (at least one) of one size."""
    with Image.open(pictures[0]) as first:
        width, height = first.width // 2 * 2, first.height // 2 * 2
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), frames_per_second, (width, height))
    try:
        for file in pictures:
            writer.write(cv2.imread(str(file))[:height, :width])
    finally:
        writer.release()
