"""A cluster to look at, held in a state in which its figures stand still.

Owns the cluster, what runs on it and what the scheduler says of it; not what is shown of that.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from clusters import until

from hpcdag import LocalCluster, _binary

# What a program may print to harm who looks: markup, sequences for terminals, text that turns around.
HOSTILE = "<img src=x onerror=\"window.owned='stderr'\"><script>window.owned='script'</script>"
CONTROLS = "\x1b[2J\x1b]0;owned\x07 bell \x00 nul \u202e turned"

_GRAPH = """
version = 1
[task.quick]
for-each = {{ range = [0, 20] }}
shell = "echo {{item}}"
[task.slow]
for-each = {{ range = [0, 9] }}
from = {{ quick = "all" }}
shell = "echo started; while [ ! -e {gate} ]; do sleep 0.02; done"
[task.last]
from = {{ slow = "all" }}
shell = "cat {{inputs...}} > /dev/null"
[task.bad]
shell = "cat {stderr} >&2; exit 3"
[task.after]
from = {{ bad = "all" }}
shell = "true"
"""


class Watched:
    """A cluster of two workers with two threads each. Its tasks named `slow` run until `let_go`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.gate = directory / "gate"
        self.cluster = LocalCluster(2, nthreads=2, memory_limit="1 GiB")
        self.file = self.cluster.scheduler_file

    def run(self, *args: str) -> str:
        """What the program prints."""
        command = [_binary.find(), *args, "--scheduler-file", self.file]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """`hpcdag status --json`."""
        return dict(json.loads(self.run("status", "--json")))

    def submit(self) -> str:
        """Submits the graph and waits until four of `slow` run and nothing else moves. Returns its run."""
        stderr = self.directory / "stderr"
        # Three megabytes, of which the end is what matters.
        stderr.write_text(
            "x" * 79 + "\n" + ("y" * 99 + "\n") * 30000 + CONTROLS + HOSTILE + "\nthe end of it\n"
        )
        graph = self.directory / "watched.toml"
        graph.write_text(_GRAPH.format(gate=self.gate, stderr=stderr))
        run = self.run("submit", str(graph), "--detach").strip()
        try:
            until(lambda: self._held(self.status()))
        except AssertionError as error:
            raise AssertionError(json.dumps(self.status())) from error
        return run

    @staticmethod
    def _held(status: dict[str, Any]) -> bool:
        tasks = status["tasks"]
        executing = sum(worker["executing"] for worker in status["workers"])
        return executing == 4 and tasks["erred"] == 2 and tasks["processing"] + tasks["queued"] == 9

    def let_go(self) -> None:
        """Lets the slow ones end, and waits until everything has."""
        self.gate.touch()
        until(lambda: all(run["state"] not in ("running", "submitted") for run in self.status()["runs"]))

    @property
    def address(self) -> str:
        """Where the dashboard is, with what opens it."""
        return str(self.status()["dashboard"])

    def close(self) -> None:
        """Ends the cluster."""
        self.gate.touch()
        self.cluster.close()
