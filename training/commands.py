"""Verbs of training: `train`, and `verify`, whose training part the core cannot run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from streampetr_core.console import parse, progress


@dataclass
class VerifyArguments:
    """Compare the network with reference vectors; exits with 1 where one frame is beyond tolerance.

    Each file names its network; weights are made by the recipe, nothing is downloaded. Training files
    (golden_train_*) are compared loss by loss and gradient by gradient.
    """

    goldens: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Reference files, golden_*.npz; input files are looked up beside them."""
    jpeg: Path | None = None
    """Folder with the camera images the inputs were made from; `jpeg` beside the first file where there is one."""
    threads: int = 0
    """CPU threads; 0 = as torch chooses."""


def verify(argv: list[str]) -> int:
    """`streampetr verify GOLDEN.npz ...`; 0 = everything within tolerance, 1 = not."""
    arguments = parse(
        VerifyArguments, "verify", argv, "streampetr verify golden/golden_stream_stream_petr_r50_428q.npz"
    )
    import torch

    from streampetr_core.commands import verify_inference
    from streampetr_core.golden import GoldenError, open_golden

    if not arguments.goldens:
        raise GoldenError("no reference file given; name at least one golden_*.npz")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    goldens = [open_golden(path) for path in arguments.goldens]
    of_training = [golden for golden in goldens if golden.kind == "train"]
    others = [golden for golden in goldens if golden.kind != "train"]
    passed = True
    if others:
        passed &= verify_inference(others, arguments.jpeg)
    if of_training:
        from training.verify import verify_training
        from training.verify_table import print_training_reports

        total = sum(len(golden.frames) for golden in of_training)
        frames = (report for golden in of_training for report in verify_training(golden))
        passed &= print_training_reports(list(progress(frames, "training frames", total)))
    return 0 if passed else 1


def train(argv: list[str]) -> int:
    """`streampetr train RECIPE [--section.field value ...]`; 0 = trained to the end."""
    from training.recipes import RECIPES, recipe

    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, RECIPES))
        rows = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in RECIPES.items())
        print(
            "usage: streampetr train RECIPE [--section.field VALUE ...]\n\nTrain a network; what is not given is "
            f"the recipe's.\n\n{rows}\n\nstreampetr train RECIPE --help   lists every field with its value\n"
            "example: streampetr train r50_704_900q --data.root data/nuscenes --network.backbone resnet50.pth\n"
            "several processes: torchrun --nproc-per-node 8 -m streampetr_cli train RECIPE ..."
        )
        return 0 if argv else 2
    from training.config import RunConfig

    base = recipe(argv[0])
    example = f"streampetr train {argv[0]} --data.root data/nuscenes --train.batch 4"
    config = parse(RunConfig, f"train {argv[0]}", argv[1:], example, default=base)
    from training.train import train as run

    run(config)
    return 0
