"""What can go wrong, as exceptions. What a task itself raises comes as it was raised, not as one of these."""

from __future__ import annotations

import concurrent.futures

from ._binary import HpcdagError


class NoSchedulerError(HpcdagError, OSError):
    """There is no scheduler, or it does not answer. `errno` says how that showed."""

    def __init__(self, errno: int | None, message: str) -> None:
        OSError.__init__(self, errno, message)
        self.exit_code = None

    def __str__(self) -> str:
        return str(self.strerror)


class RefusedError(HpcdagError):
    """The scheduler, a worker or a check of ours refuses: other versions, exposed credentials, a bad
    request."""


class TaskError(HpcdagError):
    """A task has no result for a reason other than an exception of its own. `failure` names the kind."""

    def __init__(self, message: str, failure: str = "") -> None:
        super().__init__(message)
        self.failure = failure

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.failure)


class KilledWorker(TaskError):
    """What a task ran in was killed: its process by a signal, or its workers one after the other."""


class OutOfMemory(TaskError, MemoryError):
    """A task was ended because it, or its worker, ran out of memory."""


class TimeLimitExceeded(TaskError, TimeoutError):
    """A task ran longer than its `time_limit`."""


class LostRun(TaskError):
    """The scheduler does not know the task any more: it was started anew, or the client was away too long."""


class CancelledError(HpcdagError, concurrent.futures.CancelledError):
    """A task was cancelled, or the client was closed."""
