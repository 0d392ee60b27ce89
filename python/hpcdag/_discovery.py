"""Which scheduler file is meant: the order in which the command line looks for it, too.

An argument, `$HPCDAG_SCHEDULER_FILE`, the configuration's `network.scheduler-file`, the one cluster of mine
that answers.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor

from . import _wire
from .errors import HpcdagError, NoSchedulerError, RefusedError

FILE_VARIABLE = "HPCDAG_SCHEDULER_FILE"
_SITE_FILE = "/etc/hpcdag/config.toml"
_PROBE_TIMEOUT = 5.0


def find(scheduler_file: str | os.PathLike[str] | None = None, address: str | None = None) -> str:
    """The path of the scheduler file to use. Raises NoSchedulerError if there is none, RefusedError if
    several clusters are alive."""
    if scheduler_file is not None:
        return os.fspath(scheduler_file)
    named = os.environ.get(FILE_VARIABLE) or _configured()
    return named or _only_one(address)


def state_directories() -> list[str]:
    """Where this user's clusters may be, the place for new ones first."""
    internal = os.environ.get("HPCDAG_INTERNAL_STATE", "")
    if os.path.isabs(internal):
        return [internal]
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):
        home = os.path.expanduser("~/.local/state")
    found = [os.path.join(home, "hpcdag")]
    scratch = os.environ.get("SCRATCH", "")
    if os.path.isabs(scratch):
        found.append(os.path.join(scratch, ".hpcdag"))
    if any(os.environ.get(name) for name in ("SLURM_JOB_ID", "PBS_JOBID", "JOB_ID")):
        found.reverse()
    return found


def _only_one(address: str | None) -> str:
    files = []
    for root in state_directories():
        try:
            names = sorted(os.listdir(root))
        except OSError:
            continue
        found = [os.path.join(root, name, "scheduler.json") for name in names]
        files += [path for path in found if os.path.exists(path)]
    hint = "start one with hpcdag up, or name a scheduler file"
    if not files:
        raise NoSchedulerError(errno.ENOENT, f"no cluster of yours is running; {hint}")
    # All at the same time: each that is gone may cost a timeout.
    with ThreadPoolExecutor(min(len(files), 16)) as pool:
        answers = list(pool.map(lambda path: _probe(path, address), files))
    alive = [path for path, fault in zip(files, answers, strict=True) if fault is None]
    if len(alive) == 1:
        return alive[0]
    if alive:
        lines = "\n".join(f"  {path}" for path in alive)
        raise RefusedError(
            f"{len(alive)} clusters of yours are alive; name the scheduler file of one:\n{lines}"
        )
    lines = "\n".join(f"  {path}: {fault}" for path, fault in zip(files, answers, strict=True))
    raise NoSchedulerError(errno.ENOENT, f"no cluster of yours answers; {hint}:\n{lines}")


def _probe(path: str, address: str | None) -> str | None:
    """What is wrong with the scheduler of a file, if anything."""
    try:
        file = _wire.SchedulerFile.read(path, address)
        sock = _wire.connect(file.address, "scheduler", file.id, file.context(), _PROBE_TIMEOUT)
    except HpcdagError as error:
        return error.strerror or str(error) if isinstance(error, OSError) else str(error)
    sock.close()
    return None


def _configured() -> str | None:
    """`network.scheduler-file` of the configuration: the environment, the user's file, the site's."""
    value = os.environ.get("HPCDAG_NETWORK__SCHEDULER_FILE")
    for path in _config_files():
        if value:
            break
        value = _setting(path)
    return _expand(value) if value else None


def _config_files() -> list[str]:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.config")
    named = os.environ.get("HPCDAG_CONFIG")
    return [*([named] if named else []), os.path.join(base, "hpcdag/config.toml"), _SITE_FILE]


def _setting(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    try:
        import tomllib
    except ImportError:  # Python 3.10
        return _setting_by_hand(data.decode(errors="replace"))
    try:
        return tomllib.loads(data.decode()).get("network", {}).get("scheduler-file")
    except (ValueError, AttributeError) as error:
        raise RefusedError(f"{path} cannot be read: {error}") from None


def _setting_by_hand(text: str) -> str | None:
    section = ""
    for line in text.splitlines():
        if head := re.match(r"\s*\[([^\[\]]+)\]", line):
            section = head[1].strip()
        key = "scheduler-file" if section == "network" else "network.scheduler-file" if not section else None
        if key and (found := re.match(rf"\s*{re.escape(key)}\s*=\s*[\"']([^\"']*)[\"']", line)):
            return found[1]
    return None


def _expand(text: str) -> str:
    job = next((os.environ[n] for n in ("SLURM_JOB_ID", "PBS_JOBID", "JOB_ID") if os.environ.get(n)), "")
    text = text.replace("{host}", socket.gethostname()).replace("{job-id}", job)
    return os.path.expandvars(os.path.expanduser(text))
