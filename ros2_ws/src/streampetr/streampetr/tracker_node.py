"""tracker_node: boxes in, tracks with stable identities out."""

from __future__ import annotations

import sys

from streampetr.node_life import RunningNode, run_node


def main(argv: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 2 for a wrong parameter."""

    def make() -> RunningNode:
        from streampetr.tracker_ros import TrackerNode

        return TrackerNode()

    return run_node("tracker_node", make, argv)


if __name__ == "__main__":
    sys.exit(main())
