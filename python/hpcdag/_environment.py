"""What a client's Python is like, and making a zygote's like it.

Owns the map that `describe` makes (fields below), which travels as MessagePack with a run and is the same
bytes for the same client, so that a worker needs one zygote for it:

    python    path of the client's interpreter
    version   its major.minor; functions do not load in another
    path      entries for sys.path that are not of the installation: the script's directory, the current one
    cwd       the current directory
    packages  versions of those packages whose objects travel
    preload   modules to import before executors are forked, beyond the usual ones
    loaded    of the usual ones, those that the client has imported
    env       environment variables to set
    files     {name: bytes} of modules, eggs and archives that the client brings (`upload_file`)
    compat    whether the stand-in for `distributed` is wanted
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from . import _msgpack

#: Imported by zygotes where installed: what the client has imported at once, the rest when there is time.
PRELOAD = ("cloudpickle", "numpy", "pandas", "pyarrow", "dask", "dask.array", "dask.dataframe", "xarray")

_PACKAGES = ("cloudpickle", "dask", "numpy", "pandas", "pyarrow", "xarray")
_ARCHIVES = (".zip", ".egg", ".whl")

# Directories of files that clients have brought.
_placed: list[str] = []


def describe(
    preload: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
    compat: bool = False,
) -> dict[str, Any]:
    """The map of this process. `files` are named without directories."""
    return {
        "python": sys.executable or "",
        "version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "path": _own_path(),
        "cwd": _cwd(),
        "packages": _versions(),
        "preload": list(preload),
        "loaded": _loaded(),
        "env": {str(k): str(v) for k, v in sorted((env or {}).items())},
        "files": {os.path.basename(k): bytes(v) for k, v in sorted((files or {}).items())},
        "compat": bool(compat),
    }


def packed(**kwargs: Any) -> bytes:
    """`describe(...)` as bytes."""
    return _msgpack.pack(describe(**kwargs))


def _loaded() -> list[str]:
    """What this process has imported of what zygotes import."""
    # The client imports dask itself, which says nothing of what tasks will need.
    users_dask = any(f"dask.{part}" in sys.modules for part in ("array", "bag", "dataframe"))
    return [name for name in PRELOAD if name in sys.modules and (name != "dask" or users_dask)]


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # It was deleted.


def _installed_directories() -> list[str]:
    """Where the standard library and installed packages are: the other side has its own."""
    found = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [sys.base_prefix + "/lib/python", sys.base_exec_prefix + "/lib/python"]
    archive = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    found.append(os.path.join(sys.base_prefix, "lib", archive))
    try:
        import site

        found += [*site.getsitepackages(), site.getusersitepackages()]
    except Exception:
        pass
    return [os.path.realpath(one) for one in found if one]


def _own_path() -> list[str]:
    installed = _installed_directories()
    path = []
    for entry in [*sys.path, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]:
        real = os.path.realpath(entry or ".")
        if not any(real == one or real.startswith((one + os.sep, one + ".")) for one in installed):
            full = os.path.abspath(entry or ".")
            if full not in path:
                path.append(full)
    # A script's directory is first in sys.path; a notebook's is the current one.
    cwd = _cwd()
    if cwd and cwd not in path:
        path.append(cwd)
    return path


def _versions() -> dict[str, str]:
    from importlib import metadata

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except Exception:
            pass  # Not installed, or its metadata is broken: it does not matter which.
    return versions


def apply(environment: Mapping[str, Any], notes: list[str]) -> None:
    """Makes this process like the one that `environment` was made in: variables, directory, `sys.path`.

    What cannot be done (a directory that is not here) is left, and noted where it matters.
    """
    for name, value in (environment.get("env") or {}).items():
        os.environ[str(name)] = str(value)
    cwd = environment.get("cwd")
    if cwd:
        try:
            os.chdir(cwd)
        except OSError:
            notes.append(f"the client's directory {cwd} is not here: tasks run in {_cwd()}")
    wanted = [p for p in environment.get("path") or () if os.path.exists(p)]
    wanted = _place_files(environment.get("files") or {}, notes) + wanted
    sys.path[:] = [*dict.fromkeys(wanted), *(p for p in sys.path if p not in wanted)]
    importlib.invalidate_caches()
    here = _versions()
    for name, version in (environment.get("packages") or {}).items():
        if here.get(name, version) != version:
            notes.append(f"{name} is {here[name]} here and {version} where the client is")


def _place_files(files: Mapping[str, bytes], notes: list[str]) -> list[str]:
    """Writes the client's files into a directory of their own; entries for `sys.path`."""
    if not files:
        return []
    digest = hashlib.blake2b(digest_size=8)
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    # Of this process, not shared: who else writes there can run things as this user.
    directory = tempfile.mkdtemp(prefix=f"hpcdag-files-{digest.hexdigest()}-", dir=worker_directory())
    _placed.append(directory)
    entries = [directory]
    for name, data in files.items():
        path = os.path.join(directory, os.path.basename(name))
        try:
            with open(path, "wb") as out:
                out.write(data)
        except OSError as error:
            notes.append(f"{name} could not be written: {error}")
        if name.endswith(_ARCHIVES):
            entries.append(path)
    return entries


def remove_files() -> None:
    """Removes the client's files that `apply` has written."""
    while _placed:
        shutil.rmtree(_placed.pop(), ignore_errors=True)


def worker_directory() -> str:
    """Where a worker's processes may keep files."""
    directory = os.environ.get("HPCDAG_WORKER_DIR", "")
    return directory if directory and os.path.isdir(directory) else tempfile.gettempdir()


def preload(environment: Mapping[str, Any], notes: list[str]) -> tuple[list[str], list[str]]:
    """Imports what is asked for by name: by the worker (HPCDAG_PYTHON_PRELOAD), by the client.

    What fails is noted, unless it is something usual that is not installed. With HPCDAG_PYTHON_BARE, the
    usual is left to those who need it.

    Returns:
        what is usual and still to be imported: what the client has imported, and the rest.
    """
    usual = () if os.environ.get("HPCDAG_PYTHON_BARE") else PRELOAD
    loaded = environment.get("loaded")
    first = [name for name in usual if loaded is None or name in loaded]
    here = [name.strip() for name in os.environ.get("HPCDAG_PYTHON_PRELOAD", "").split(",")]
    for name in ["cloudpickle", *filter(None, here), *(environment.get("preload") or ())]:
        preload_one(name, notes)
    if environment.get("compat"):
        try:
            importlib.import_module("hpcdag.compat")
        except ImportError as error:
            notes.append(f"the stand-in for distributed: {error}")
    return [name for name in first if name not in sys.modules], [name for name in usual if name not in first]


def preload_one(name: str, notes: list[str]) -> None:
    """Imports a module; notes it if that fails, unless it is something usual that is not installed."""
    try:
        importlib.import_module(name)
    except BaseException as error:
        missing = isinstance(error, ModuleNotFoundError) and name in PRELOAD
        if not missing:
            notes.append(f"preloading {name} failed: {type(error).__name__}: {error}")
