"""The `streampetr` command: a table from verb to function; a verb's module is imported only when it runs."""

from __future__ import annotations

import difflib
import importlib
import signal
import sys

VERBS: dict[str, tuple[str, str]] = {
    "demo": (
        "streampetr.demo:demo",
        "rendered drive -> bag -> ROS 2 nodes -> boxes, tracks, scores, pictures",
    ),
    "render": ("bag_tools.commands:render", "make drives of the rendered world, in the nuScenes format"),
    "convert": ("bag_tools.commands:convert", "turn a nuScenes-format root into ROS 2 bags (MCAP)"),
    "detect": ("bag_tools.commands:detect", "boxes from a bag or a nuScenes-format root"),
    "track": ("bag_tools.commands:track", "tracks from detections"),
    "evaluate": ("bag_tools.commands:evaluate", "official nuScenes metrics, and all else worth knowing of tracks"),
    "up": ("streampetr.commands:up", "start the perception and tracker nodes"),
    "replay": ("streampetr.commands:replay", "publish a bag to the nodes"),
    "record": ("streampetr.commands:record", "write the nodes' outputs to a bag"),
    "train": ("training.commands:train", "train a network on a nuScenes-format root or on rendered frames"),
    "verify": ("training.commands:verify", "compare network, losses and gradients with reference vectors"),
    "bench": ("streampetr_core.commands:bench", "measure where a frame's time goes"),
    "bench checkpoint": (
        "bag_tools.commands:bench_checkpoint",
        "what a checkpoint scores on unseen rendered drives",
    ),
    "bench tracking": ("bag_tools.commands:bench_tracking", "the tracker's time a frame, and its score on data"),
    "doctor": ("streampetr.commands:doctor", "say what is installed, what works and what a bag contains"),
}
"""verb, of one or two words -> ("package.module:function", one line of help). The function takes the rest of the
command line."""


def usage() -> str:
    """The text of `streampetr --help`."""
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {verb:<{width}}  {summary}" for verb, (_, summary) in VERBS.items())
    return (
        "usage: streampetr VERB [ARGUMENTS]\n\nCamera-only 3D detection and tracking for ROS 2.\n\n"
        f"{rows}\n\nstreampetr VERB --help   tells more, with an example"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 well, 1 the verb's own "no", 2 wrong input, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    words = 2 if " ".join(arguments[:2]) in VERBS else 1
    verb = " ".join(arguments[:words])
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; one of {', '.join(VERBS)}"
        print(f"streampetr: unknown verb '{verb}'{hint}", file=sys.stderr)
        return 2
    module_name, function_name = VERBS[verb][0].split(":")
    from streampetr_core.errors import StreamPETRError

    if argv is None:  # so that temporary outputs are removed as on Ctrl-C
        signal.signal(signal.SIGTERM, _terminate)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        return int(function(arguments[words:]) or 0)
    except StreamPETRError as error:
        print(f"streampetr {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"streampetr {verb}: interrupted", file=sys.stderr)
        return 130


def _terminate(number: int, _: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
