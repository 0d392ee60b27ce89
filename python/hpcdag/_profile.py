"""Where the tasks of this executor spend their time: the stack of their thread, looked at now and then.

Owns the thread that looks, the sums of what it has seen, and the file they are written to, which the worker
reads (`docs/protocol.md`). Nothing is done on the way of a task: what it costs is the thread's own time, of
which there is little, and that the main thread hands Python's lock over: it looks as seldom as that needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from types import CodeType, FrameType
from typing import Any, Protocol

#: Seconds between two looks at least; 0 for never.
VARIABLE = "HPCDAG_PROFILE_INTERVAL"

# The part of a CPU that looking may take, and writing what was seen.
_SHARE = 0.007
_WRITE_SHARE = 0.002
# What a look costs the main thread, which hands the lock over and finds its caches used by others, seconds.
# The thread that looks cannot see that; scripts/bench-profile measures it.
_HANDED_OVER = 0.0004
# Where looking takes so long that less often than this would be too often, there is none, seconds.
_PAUSE_MAX = 5.0
# Frames of a stack, from the outermost. Readers of what is written go no deeper.
_DEPTH_MAX = 50
# Nodes of all trees; what does not fit counts for whoever called it.
_NODES_MAX = 20_000
# Runs that are kept apart.
_RUNS_MAX = 64
_WRITE_SECONDS = 1.0

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Call(Protocol):
    """What is read of a task."""

    key: str
    run: bytes


class Watched(Protocol):
    """What is read of an executor."""

    running: Any
    busy: threading.Event


class Tree:
    """Calls of functions by functions: each node has who calls it, the function and its own samples."""

    __slots__ = ("below", "nodes")

    def __init__(self) -> None:
        self.nodes: list[list[int]] = []
        self.below: dict[tuple[int, int], int] = {}

    def add(self, stack: list[int], samples: int, room: bool) -> int:
        """Adds samples of a stack of functions, the outermost first; how many nodes are new."""
        at, new = -1, 0
        for frame in stack:
            place = self.below.get((at, frame))
            if place is None:
                if not room:
                    break
                place = self.below[at, frame] = len(self.nodes)
                self.nodes.append([at, frame, 0])
                new += 1
            at = place
        if at >= 0:
            self.nodes[at][2] += samples
        return new

    def merge(self, other: Tree) -> None:
        """Adds what another one has."""
        places: list[int] = []
        for before, frame, own in other.nodes:
            at = places[before] if before >= 0 else -1
            place = self.below.get((at, frame))
            if place is None:
                place = self.below[at, frame] = len(self.nodes)
                self.nodes.append([at, frame, 0])
            self.nodes[place][2] += own
            places.append(place)


class Samples:
    """All that was seen."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.frames: dict[CodeType, int] = {}
        self.trees: dict[tuple[bytes | None, str], Tree] = {}
        self.nodes = 0
        self.names: dict[str, str] = {}

    def take(self, call: Call, frame: FrameType | None, outermost: CodeType, count: int = 1) -> None:
        """Counts a stack as so many samples: a task's frames below `outermost`, without ours around them."""
        codes: list[CodeType] = []
        while frame is not None and frame.f_code is not outermost:
            codes.append(frame.f_code)
            frame = frame.f_back
        while len(codes) > 1 and codes[-1].co_filename.startswith(_OWN):
            codes.pop()
        codes.reverse()
        frames = self.frames
        stack = [frames.setdefault(code, len(frames)) for code in codes[:_DEPTH_MAX]]
        key = (bytes(call.run), self._group(call.key))
        tree = self.trees.get(key)
        if tree is None:
            self._make_room()
            tree = self.trees[key] = Tree()
        self.nodes += tree.add(stack, count, self.nodes < _NODES_MAX)

    def _group(self, key: str) -> str:
        group = self.names.get(key)
        if group is None:
            if len(self.names) > 1000:
                self.names.clear()
            group = self.names[key] = key_split(key)
        return group

    def _make_room(self) -> None:
        if len({run for run, _ in self.trees if run is not None}) < _RUNS_MAX:
            return
        old, self.trees = self.trees, {}
        for (_, group), tree in old.items():
            self.trees.setdefault((None, group), Tree()).merge(tree)
        self.nodes = sum(len(tree.nodes) for tree in self.trees.values())

    def to_json(self) -> str:
        """As the worker reads it."""
        frames = [[_name(code), _file(code), code.co_firstlineno] for code in self.frames]
        groups = [
            {"run": None if run is None else run.hex(), "name": name, "nodes": tree.nodes}
            for (run, name), tree in self.trees.items()
        ]
        return json.dumps({"interval": self.interval, "frames": frames, "groups": groups})


def _name(code: CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)


def _file(code: CodeType) -> str:
    path = code.co_filename
    # What stands before says where it is installed.
    for mark in ("/site-packages/", "/dist-packages/"):
        _, found, rest = path.rpartition(mark)
        if found:
            return rest
    return path


def key_split(key: str) -> str:
    """The part of a key that those of one kind have in common, as the scheduler and Dask find it."""
    words = key.split("-")
    first = words[0]
    if not first[:1].isalpha():
        name = first.split(",")[0].strip("_'()\"")
        if not name:
            return key or "?"
        rest = key[key.find(name) + len(name) :]
        words = [name, *(rest.split("-")[1:] if rest.startswith("-") else [])]
    name = words[0]
    for word in words[1:]:
        is_hash = len(word) == 8 and all(c in "abcdef" for c in word)
        if not word.isalpha() or is_hash:
            break
        name += "-" + word
    if len(name) == 32 and all(c in "0123456789abcdef" for c in name):
        return "data"
    return name


def start(executor: Watched, outermost: CodeType, directory: str | None, thread: str = "") -> None:
    """Begins to look at the calling thread, unless it is switched off. `directory` is the worker's; `thread`
    says which one of several of this process it is."""
    try:
        interval = float(os.environ.get(VARIABLE, "0"))
    except ValueError:
        return
    if interval <= 0 or not directory:
        return
    path = os.path.join(directory, "profile", f"{os.getpid()}{thread}")
    args = (executor, threading.get_ident(), outermost, interval, path)
    threading.Thread(target=_look, args=args, name="hpcdag-profile", daemon=True).start()


def _look(executor: Watched, thread: int, outermost: CodeType, interval: float, path: str) -> None:
    try:
        _look_for_ever(executor, thread, outermost, interval, path)
    except Exception as error:
        # The tasks have nothing to do with it.
        with contextlib.suppress(Exception):
            print(f"hpcdag executor: no profile any more: {error!r}", file=sys.stderr)


def _look_for_ever(executor: Watched, thread: int, outermost: CodeType, interval: float, path: str) -> None:
    samples = Samples(interval)
    pause, write_pause, due = pause_after(interval, 0.0), _WRITE_SECONDS, 0.0
    is_new, written, used = False, 0.0, time.thread_time()
    while True:
        left = written + write_pause - time.monotonic()
        if is_new and left <= 0:
            begin = time.thread_time()
            # Without room, or in the moment in which the worker ends, there is none until the next time.
            with contextlib.suppress(OSError):
                _write(path, samples)
            used = time.thread_time()
            write_pause = max(_WRITE_SECONDS, (used - begin) / _WRITE_SHARE)
            is_new, written = False, time.monotonic()
        # What was seen of tasks that have ended is written, too, when that is due.
        if not executor.busy.wait(left if is_new else None):
            continue
        time.sleep(pause)
        call = executor.running
        if call is None:
            continue
        frame = sys._current_frames().get(thread)
        # A look stands for the time since the one before.
        due += pause / interval
        if executor.running is call:
            samples.take(call, frame, outermost, int(due))
            is_new = True
        due -= int(due)
        del frame  # With what it has.
        # To wake up and to wait for the lock take time too.
        before, used = used, time.thread_time()
        pause = pause_after(interval, used - before)
        if pause > max(interval, _PAUSE_MAX):
            print("hpcdag executor: no profile any more: looking at stacks takes too long", file=sys.stderr)
            _write(path, samples)
            return


def pause_after(interval: float, cost: float) -> float:
    """Seconds until the next look, if one takes the thread `cost` seconds of CPU."""
    return max(interval, (cost + _HANDED_OVER) / _SHARE)


def _write(path: str, samples: Samples) -> None:
    # Not the directory around it, which the worker removes at its end.
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.dirname(path), 0o700)
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(samples.to_json())
    os.replace(path + ".new", path)
