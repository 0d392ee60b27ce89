"""`python -m hpcdag.run SCRIPT [ARGUMENT]...`: runs a script written for `distributed` on hpcdag, unchanged.

With a cluster around it (`hpcdag run`, or HPCDAG_SCHEDULER_FILE) it uses that one; else `Client()` and
`LocalCluster()` in the script start one on this machine. `-m MODULE` runs a module, as Python's own does.
"""

from __future__ import annotations

import os
import runpy
import sys


def main(args: list[str]) -> None:
    """Runs what `args` say: the script or `-m` and the module, then its arguments."""
    if not args or (args[0] == "-m" and len(args) < 2) or args[0] in ("-h", "--help"):
        print(__doc__, file=sys.stderr)
        raise SystemExit(0 if args[:1] in (["-h"], ["--help"]) else 2)
    import hpcdag.compat  # noqa: F401

    if args[0] == "-m":
        sys.argv = args[1:]
        sys.path.insert(1, os.getcwd())
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = args
        sys.path.insert(1, os.path.dirname(os.path.abspath(args[0])))
        runpy.run_path(args[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
