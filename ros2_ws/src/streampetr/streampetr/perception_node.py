"""perception_node: camera topics in, 3D boxes out."""

from __future__ import annotations

import sys

from streampetr.node_life import RunningNode, run_node


def main(argv: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 2 for a wrong parameter, model or checkpoint."""

    def make() -> RunningNode:
        from streampetr.perception_ros import PerceptionNode  # seconds of imports, during which a signal is heard

        return PerceptionNode()

    return run_node("perception_node", make, argv)


if __name__ == "__main__":
    sys.exit(main())
