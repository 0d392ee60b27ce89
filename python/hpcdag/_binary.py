"""The hpcdag program: where it is, and how this package calls it.

Owns finding it and turning its failures into exceptions with its own words; not what it is asked to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

NAME = "hpcdag"


class HpcdagError(RuntimeError):
    """The program refused or failed.

    The text is what the program said. ``exit_code`` is its exit code, as docs/exit-codes.md lists them.
    """

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def find() -> str:
    """The path of the program.

    Looked for in this order: ``$HPCDAG_BINARY``; where this package's wheel has put it; beside the running
    interpreter; the debug or release build of the repository that this package lies in; ``PATH``.

    Raises:
        FileNotFoundError: there is none, or ``$HPCDAG_BINARY`` names none.
    """
    named = os.environ.get("HPCDAG_BINARY")
    if named:
        if not os.access(named, os.X_OK):
            raise FileNotFoundError(f"$HPCDAG_BINARY names {named}, which is not a program")
        return named
    places = _places()
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return str(place)
    found = shutil.which(NAME)
    if found is None:
        looked = ", ".join(str(place) for place in places)
        raise FileNotFoundError(f"the program {NAME} is not in {looked} nor in PATH; set HPCDAG_BINARY")
    return found


def _places() -> list[Path]:
    package = Path(__file__).resolve().parent
    repository = package.parent.parent
    places = []
    # A clone wins over what happens to be installed: its package and its program belong together.
    if (repository / "Cargo.toml").is_file():
        target = Path(os.environ.get("CARGO_TARGET_DIR") or repository / "target")
        builds = [target / kind / NAME for kind in ("debug", "release")]
        places += sorted(builds, key=lambda path: path.stat().st_mtime if path.exists() else 0, reverse=True)
    places.append(Path(sysconfig.get_path("scripts")) / NAME)
    return places


@cache
def version() -> str:
    """The version of the program, which is that of this package."""
    return run(["--version"]).split()[-1]


def run(
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """Runs the program to its end and returns what it printed.

    Args:
        args: arguments, without the program.
        env: variables that are set besides those of this process.
        timeout: seconds after which it is killed.

    Raises:
        HpcdagError: it failed; the text is what it said.
        FileNotFoundError: there is no program.
    """
    try:
        done = subprocess.run(
            [find(), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment(env),
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HpcdagError(f"`{shown(args)}` did not end within {timeout} s") from None
    if done.returncode != 0:
        raise HpcdagError(said(args, done.stderr or done.stdout), done.returncode)
    return done.stdout


def ask(args: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float | None = None) -> Any:
    """The same for a command that answers in JSON; the answer, decoded."""
    return json.loads(run([*args, "--json"], env=env, timeout=timeout))


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with more variables.

    Without `HPCDAG_SCHEDULER_FILE`: this package says which cluster is meant.
    """
    variables = {name: value for name, value in os.environ.items() if name != "HPCDAG_SCHEDULER_FILE"}
    variables.update(more or {})
    return variables


def shown(args: Sequence[str]) -> str:
    """A command as somebody would type it."""
    import shlex

    return shlex.join([NAME, *args])


def said(args: Sequence[str], text: str) -> str:
    """What the program said, as the text of an exception: its words, then the command."""
    words = text.strip().removeprefix("error: ") or "it said nothing"
    return f"{words}\n(from `{shown(args)}`)"
