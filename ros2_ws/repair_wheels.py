"""After `repair` the CMake files of the ROS 2 wheels name this machine's Python and numpy, not their builder's.

The wheels' exported targets (`share/*/cmake/*.cmake`) carry the include folders of the container they were built
in (`/opt/python/cp311-cp311/...`); CMake refuses targets whose include folders do not exist. Running it again
changes nothing.

    python ros2_ws/repair_wheels.py [PREFIX]
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

NUMPY_INCLUDE = re.compile(r"/opt/python/cp[^/;\"]+/lib/python3\.\d+t?/site-packages/numpy/_?core/include")
PYTHON_INCLUDE = re.compile(r"/opt/python/cp[^/;\"]+/include/python3\.\d+t?(?=[;\"\s]|$)")


def repair(prefix: Path, python_include: str, numpy_include: str) -> list[Path]:
    """Rewrite the container's folders in every `prefix/share/*/cmake/*.cmake`; returns the files that changed.

    A file is replaced by a rename, so an interruption leaves it as it was or repaired.
    """
    changed = []
    for path in sorted(prefix.glob("share/*/cmake/*.cmake")):
        text = path.read_text(encoding="utf-8")
        # a replacement function: folder names may contain backslashes or \1
        repaired = NUMPY_INCLUDE.sub(lambda _: numpy_include, text)
        repaired = PYTHON_INCLUDE.sub(lambda _: python_include, repaired)
        if repaired != text:
            temporary = path.with_suffix(".cmake.tmp")
            temporary.write_text(repaired, encoding="utf-8")
            os.replace(temporary, path)
            changed.append(path)
    return changed


def main(arguments: list[str]) -> int:
    """Repair the environment of this interpreter, or the one given as PREFIX."""
    import numpy

    prefix = Path(arguments[0]) if arguments else Path(sys.prefix)
    changed = repair(prefix, sysconfig.get_paths()["include"], numpy.get_include())
    if changed:
        print(f"repaired {len(changed)} CMake files of the ROS 2 wheels in {prefix}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
