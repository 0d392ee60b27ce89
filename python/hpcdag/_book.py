"""What a client knows of its tasks: by run, in columns, with the number of futures that refer to each.

Owns no lock and no connection: `_session` holds its lock around every call.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Any

PENDING, DONE, FAILED, CANCELLED, LOST = range(5)

#: The words that `Future.status` uses.
STATUS = ("pending", "finished", "error", "cancelled", "lost")

_NONE = b"\0"


class Run:
    """A run of calls, of this client's or somebody else's, and the state of those of its tasks that it
    knows."""

    __slots__ = (
        "__weakref__",
        "brought",
        "complete",
        "failures",
        "first",
        "frames",
        "holder",
        "id",
        "keep",
        "keys",
        "later",
        "live",
        "mine",
        "name",
        "nbytes",
        "reason",
        "refs",
        "state",
        "uuid",
        "waiting",
    )

    def __init__(self, uuid: bytes, name: str, mine: bool) -> None:
        self.uuid = uuid
        self.name = name
        #: the scheduler's number for it, once accepted
        self.id: int | None = None
        #: what workers know its first task by
        self.first = 0
        #: data that the client brings once it is accepted: tasks and values
        self.brought: list[tuple[int, Any]] = []
        self.mine = mine
        #: whether its last piece is among `frames`
        self.complete = False
        #: pieces that the scheduler may have to be told again
        self.frames: list[list] = []
        #: futures that it depends on, until it is accepted
        self.keep: list[Any] = []
        #: tasks with references
        self.live = 0
        self.state = bytearray()
        self.nbytes = array("Q")
        self.holder = array("I")
        self.refs = array("I")
        self.failures: dict[int, list] = {}
        #: what is to be called, with the task's number, when a task ends
        self.waiting: dict[int, list[Callable[[Run, int], None]]] = {}
        #: keys by which tasks are found again
        self.keys: dict[int, Any] = {}
        #: tasks that go on without references
        self.later: set[int] = set()
        #: why it is not known to the scheduler
        self.reason = ""

    def __repr__(self) -> str:
        return f"<Run {self.name} {self.uuid.hex()}: {self.live} tasks>"

    def grow(self, count: int) -> None:
        """Makes room for tasks below `count`."""
        more = count - len(self.state)
        if more > 0:
            self.state += bytes(more)
            for column in (self.nbytes, self.holder, self.refs):
                column.frombytes(bytes(more * column.itemsize))

    def task(self, index: int) -> list[int]:
        """What workers and the scheduler know a task by; the run has been accepted."""
        return [self.id, self.first + index]

    def take(self, index: int) -> None:
        """One more reference."""
        if index >= len(self.state):
            self.grow(index + 1)
        if self.refs[index] == 0:
            self.live += 1
        self.refs[index] += 1

    def take_new(self, first: int, count: int) -> None:
        """A reference to each of `count` tasks that had none."""
        self.grow(first + count)
        self.refs[first : first + count] = array("I", [1]) * count
        self.live += count


class Book:
    """All runs of a session."""

    def __init__(self) -> None:
        self.runs: dict[bytes, Run] = {}
        self.peers: dict[int, str] = {}
        self.keys: dict[Any, tuple[Run, int]] = {}

    def name(self, run: Run, index: int, key: Any) -> None:
        """Makes a task findable by its key while something refers to it."""
        run.keys[index] = key
        self.keys[key] = (run, index)

    def drop(self, dropped: Iterable[tuple[Run, int]]) -> dict[tuple[bytes, bool], list[int]]:
        """Takes references away. Gives what is to be released now: tasks by run, and whether each is to end
        first."""
        released: dict[tuple[bytes, bool], list[int]] = {}
        for run, index in dropped:
            refs = run.refs
            if refs[index] > 1:
                refs[index] -= 1
            elif refs[index] == 1:
                refs[index] = 0
                run.live -= 1
                released.setdefault((run.uuid, index in run.later), []).append(index)
                run.later.discard(index)
                run.waiting.pop(index, None)
                run.failures.pop(index, None)
                key = run.keys.pop(index, run)
                if key is not run and self.keys.get(key) == (run, index):
                    del self.keys[key]
                if not run.live:
                    self.forget_if_idle(run)
        return released

    def forget_if_idle(self, run: Run) -> None:
        """Forgets a run that nothing refers to, unless the scheduler may have to be told of it again."""
        if not run.live and (run.id is not None or run.reason or not run.mine):
            self.runs.pop(run.uuid, None)

    def done(self, run: Run, tasks: memoryview, nbytes: memoryview, holders: memoryview) -> list[int]:
        """Results are there. Gives the tasks for which something waits."""
        n = len(tasks)
        if not n:
            return []
        first, last = tasks[0], tasks[n - 1]
        if (
            last - first + 1 == n
            and last < len(run.state)
            and (n < 3 or tasks.tolist() == list(range(first, last + 1)))
        ):
            run.state[first : last + 1] = bytes([DONE]) * n
            run.nbytes[first : last + 1] = array("Q", nbytes.tobytes())
            run.holder[first : last + 1] = array("I", holders.tobytes())
        else:
            run.grow(max(tasks) + 1)
            for task, size, holder in zip(tasks, nbytes, holders, strict=True):
                run.state[task] = DONE
                run.nbytes[task] = size
                run.holder[task] = holder
        if run.failures:
            for task in tasks:
                run.failures.pop(task, None)
        return [task for task in tasks if task in run.waiting] if run.waiting else []

    def failed(self, run: Run, failed: list[list]) -> list[int]:
        """Tasks will have no result (`FailedCall`s). Gives those for which something waits."""
        ended = []
        for failure in failed:
            task, cancelled = failure[0], failure[1]
            run.grow(task + 1)
            if not run.refs[task]:
                continue
            run.state[task] = CANCELLED if cancelled else FAILED
            run.failures[task] = failure
            if task in run.waiting:
                ended.append(task)
        return ended

    def pending(self, run: Run, tasks: Iterable[int]) -> None:
        """Tasks have no result any more, or not yet again."""
        for task in tasks:
            if task < len(run.state):
                run.state[task] = PENDING
                run.failures.pop(task, None)

    def failed_like(self, run: Run, tasks: list[int]) -> list[tuple[Run, list[int]]]:
        """Those of the tasks that have failed, and all others that have failed for the same reason, by run;
        the run of the tasks comes first."""
        blamed = {run.failures[task][2] for task in tasks if task in run.failures}
        found = [(run, [task for task, failure in run.failures.items() if failure[2] in blamed])]
        for other in self.runs.values():
            some = [task for task, failure in other.failures.items() if failure[2] in blamed]
            if some and other is not run:
                found.append((other, some))
        return found if blamed else []

    def given_up(self, run: Run, tasks: list[int]) -> list[int]:
        """Tasks that are of no interest any more, though something refers to them. Gives those for
        which something waits."""
        for task in tasks:
            run.state[task] = CANCELLED
            run.failures.pop(task, None)
            key = run.keys.pop(task, run)
            if key is not run and self.keys.get(key) == (run, task):
                del self.keys[key]
        return [task for task in tasks if task in run.waiting]

    def lost(self, run: Run, reason: str) -> list[int]:
        """The scheduler does not know the run. Gives the tasks for which something waits."""
        run.reason = reason
        run.frames.clear()
        run.keep.clear()
        run.state[:] = bytes([LOST]) * len(run.state)
        return list(run.waiting)
