"""Official scores of a network while it trains, by the chain that `streampetr detect` and `evaluate` use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bag_tools.nuscenes_source import NuScenesSource
from bag_tools.pictures import Style, picture_of
from bag_tools.pipeline import detect_source, run
from streampetr_core.console import atomic_output, progress
from streampetr_core.detector import Detector
from streampetr_core.model import StreamPETR
from tracking import evaluate_detection
from training.config import RunConfig

_NAMES = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE", "attr_err": "mAAE"}


def score(network: StreamPETR, config: RunConfig, out: Path, device: torch.device) -> tuple[dict[str, float], Any]:
    """Scores by their official names, and a picture (H, W, 3) of one key frame.

    Writes detections.json, scores.json and picture.jpg to `out`. `network` is used up: it becomes a detector's.
    """
    root = config.evaluate.root or config.data.root
    assert root is not None
    version = config.evaluate.version or config.data.version
    source = NuScenesSource(root, version, config.evaluate.split)
    detector = Detector(network, weights_name="training", device=str(device))
    results = run(progress(detect_source(source, detector), "evaluating", len(source)))
    file = results.write_detections(out)
    summary = evaluate_detection(file, root, version, config.evaluate.split).summary
    scores = {"mAP": float(summary["mean_ap"]), "NDS": float(summary["nd_score"])}
    scores |= {name: float(summary["tp_errors"][key]) for key, name in _NAMES.items()}
    picture = _picture(source, detector, min(config.evaluate.picture, len(source) - 1))
    with atomic_output(out / "scores.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(scores, indent=1) + "\n")
    with atomic_output(out / "picture.jpg", overwrite=True) as temporary:
        Image.fromarray(picture).save(temporary, "JPEG", quality=88)
    return scores, picture


def _picture(source: NuScenesSource, detector: Detector, number: int) -> np.ndarray:
    """The frame of that number with its boxes, the memory filled by up to four frames before."""
    detector.reset()
    boxes = frame = None
    for index in range(max(0, number - 4), number + 1):
        frame = source[index]
        boxes = detector.step(frame) if frame.present.any() else None
    assert frame is not None
    return picture_of(frame, boxes, f"{frame.scene} {frame.sample_token}", Style(min_score=0.25))
