"""Keeps a cluster of this process: a small shell between us and the cluster that outlives us by a moment.

Owns that nothing of a cluster is left when this process ends, however it ends: at a normal exit, after an
exception, and after SIGKILL. The shell reads from a pipe whose other end is only here. When that is closed,
by us or by the kernel, it ends the cluster. It has a session of its own, so that Ctrl-C in a terminal or a
notebook does not reach it or the cluster.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcdag import _binary
from hpcdag._binary import HpcdagError

# Arguments: the program, the scheduler file or nothing, our directory, the arguments that start the cluster.
# A pipe that nobody reads any more must not end it before it has cleared up.
_SCRIPT = r"""
trap '' PIPE HUP INT
program=$1 file=$2 own=$3
shift 3
said=$("$program" "$@") || exit
printf '%s\nready\n' "$said"
exec > /dev/null
home=$(printf '%s\n' "$said" | sed -n 's|^ *"log": "\(.*\)/scheduler\.log",\{0,1\}$|\1|p')
if [ -z "$file" ]; then
    file=$said home=$(dirname "$said")
fi
cat > /dev/null
code=0
if [ -e "$file" ]; then
    "$program" down --scheduler-file "$file" || code=$?
else
    # Somebody has stopped it by message; its logs are of no use to anybody now.
    rm -rf "$home"
fi
[ -e "$own/kept" ] || rm -rf "$own"
exit $code
"""

# How long the end may take until we stop waiting for it: workers hand over nothing, jobs are cancelled.
_PATIENCE = 60.0


class Keeper:
    """A cluster that ends with this process.

    Attributes:
        scheduler_file: path of its scheduler file.
        directory: a directory for what belongs to the cluster here; gone at the end.
        said: what the command that started the cluster printed.
    """

    def __init__(
        self,
        args: Sequence[str],
        *,
        own_file: bool,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Starts a cluster and waits until it is up.

        Args:
            args: arguments of the program that start it in the background.
            own_file: whether the scheduler file goes to our directory, by `--scheduler-file`. Else it is
                where the command says in its one line of output, and where the user's other commands find it.
            env: variables for it.

        Raises:
            HpcdagError: it did not come up. Nothing of it is left.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="hpcdag-"))
        file = str(self.directory / "scheduler.json") if own_file else ""
        args = [*args, *(["--scheduler-file", file] if own_file else [])]
        try:
            self._process = self._start(args, file, env)
            self.said = self._until_ready(args)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        self.scheduler_file = Path(file or self.said)
        _keepers.add(self)

    def _start(
        self, args: Sequence[str], file: str, env: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        with open(self.directory / "messages", "wb") as messages:
            return subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "hpcdag-keeper", _binary.find(), file, str(self.directory), *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                bufsize=0,
                env=_binary.environment(env),
                start_new_session=True,
            )

    def _until_ready(self, args: Sequence[str]) -> str:
        assert self._process.stdout is not None
        lines: list[str] = []
        try:
            for line in self._process.stdout:
                text = os.fsdecode(line).rstrip("\n")
                if text == "ready":
                    return "\n".join(lines)
                lines.append(text)
        except BaseException:
            # Ctrl-C while it comes up: it is ended as soon as it is up.
            self._close_pipe()
            raise
        code = self._process.wait()
        self._close_pipe()
        raise HpcdagError(_binary.said(args, self.messages() or "\n".join(lines)), code)

    def messages(self) -> str:
        """What the program has said about starting and ending the cluster."""
        try:
            return (self.directory / "messages").read_text(errors="replace")
        except OSError:
            return ""

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed it."""
        return not (self._process.stdin is None or self._process.stdin.closed)

    def close(self) -> None:
        """Ends the cluster and waits until nothing of it is left. Again does nothing.

        Raises:
            HpcdagError: the program could not end it; the text is what it said.
        """
        if not self.is_open:
            return
        _keepers.discard(self)
        # Its messages are wanted here if it fails.
        kept = self.directory / "kept"
        kept.touch()
        said_before = self.messages()
        self._close_pipe()
        try:
            code = self._process.wait(_PATIENCE)
            if code != 0:
                raise HpcdagError(_binary.said(["down"], self.messages()[len(said_before) :]), code)
        except subprocess.TimeoutExpired:
            raise HpcdagError(f"the cluster has not ended after {_PATIENCE:.0f} s") from None
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _close_pipe(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _forget(self) -> None:
        # In a forked child: the pipe is the parent's; our copy of it would keep the cluster alive.
        if self._process.stdin is not None:
            self._process.stdin.close()


_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()


def _close_all() -> None:
    for keeper in list(_keepers):
        try:
            keeper.close()
        except HpcdagError as error:
            import sys

            print(f"hpcdag: {error}", file=sys.stderr)


def _forget_all() -> None:
    for keeper in list(_keepers):
        keeper._forget()
    _keepers.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
