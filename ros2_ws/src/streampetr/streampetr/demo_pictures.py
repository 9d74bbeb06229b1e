"""The demo's pictures: one of every frame with images, and a video of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from bag_tools.bag_reader import BagReader
from bag_tools.pictures import Style, picture_of, write_video
from streampetr_core.boxes import Boxes3D
from streampetr_core.console import progress
from streampetr_core.frame import Frame
from streampetr_core.geometry import apply, inverse

TRAIL_FRAMES = 8
FRAMES_PER_SECOND = 2.0


def draw_pictures(
    bags: list[Path],
    detected: dict[int, Boxes3D],
    tracks: dict[int, Boxes3D],
    out: Path,
    *,
    title: str,
    trained: bool,
) -> list[Path]:
    """Write `out/frame_*.png` and `out/drive.mp4`; the pictures' paths in order.

    Args:
        bags: where images and ground truth come from.
        detected: stamp -> boxes; shown where there are no tracks.
        tracks: stamp -> tracks in the map, with identities.
        out: folder.
        title: stands above every picture.
        trained: False shows only the few best boxes, whatever their scores.
    """
    style = Style() if trained else Style(min_score=0.0, max_boxes=12)
    files: list[Path] = []
    for bag in bags:
        trails: dict[int, list[np.ndarray]] = {}
        for frame in progress(BagReader(bag), f"drawing {bag.stem}"):
            boxes = tracks.get(frame.stamp_ns, detected.get(frame.stamp_ns))
            if boxes is None or not frame.present.any() or not frame.is_key_frame:
                continue
            if boxes.frame_id == "map":
                _extend(trails, boxes)
            header = f"{bag.stem}  {len(files):03d}   {title}"
            picture = picture_of(frame, boxes, header, style, _in_base(trails, frame))
            path = out / f"frame_{len(files):03d}.png"
            Image.fromarray(picture).save(path)
            files.append(path)
    if files:
        write_video(out / "drive.mp4", files, FRAMES_PER_SECOND)
    return files


def _extend(trails: dict[int, list[np.ndarray]], boxes: Boxes3D) -> None:
    for track_id, center in zip(boxes.track_id.tolist(), boxes.center, strict=True):
        trails.setdefault(track_id, []).append(center)
        del trails[track_id][:-TRAIL_FRAMES]


def _in_base(trails: dict[int, list[np.ndarray]], frame: Frame) -> dict[int, np.ndarray]:
    """Past centres (K, 2) of every track, in base_link of the frame."""
    base_from_map = inverse(frame.map_from_ego)
    return {track_id: apply(base_from_map, np.array(trail))[:, :2] for track_id, trail in trails.items()}
