"""joblib on the cluster of a client: `import hpcdag.joblib`, then `joblib.parallel_config("hpcdag")`.

    import hpcdag.joblib
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("hpcdag"):
        results = Parallel()(delayed(function)(i) for i in range(100))

Owns the backend that joblib calls. joblib decides how many calls make a batch; a batch is a task.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib import parallel_config, register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, SequentialBackend

from . import _tasks
from ._pickling import LARGE_BYTES, nbytes
from ._registry import get_client, in_task

__all__ = ["HpcdagBackend"]

#: Arguments from here on are sent once for all calls of a `Parallel`, bytes.
_SHARED_BYTES_MIN = LARGE_BYTES // 16


class HpcdagBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs the calls of `joblib.Parallel` on a cluster.

    Args:
        client: an `hpcdag.Client`; the default one if it is missing.
        scatter: values that many calls use, which are sent to the workers at once. Large arrays among the
            arguments are sent only once anyway.
        wait_for_workers_timeout: seconds to wait for a first worker.
        options: keywords of `Client.submit` for the tasks (`resources`, `memory`, `retries`, ...).

    A `Parallel` within a call runs in that call's process, unless it asks for more than one job; then its
    calls are tasks, too.
    """

    MIN_IDEAL_BATCH_DURATION = 0.2
    MAX_IDEAL_BATCH_DURATION = 1.0
    supports_retrieve_callback = True
    supports_inner_max_num_threads = False
    uses_threads = False
    supports_sharedmem = False
    default_n_jobs = -1

    def __init__(
        self,
        client: Any = None,
        scatter: Sequence[Any] | None = None,
        wait_for_workers_timeout: float = 60.0,
        nesting_level: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        if scatter is not None and not isinstance(scatter, (list, tuple)):
            raise TypeError(f"scatter is a list of values, not {type(scatter).__name__}")
        self._client = client
        if client is None and not in_task():
            try:
                self._client = get_client()
            except ValueError:
                words = "joblib needs an hpcdag client: make one with hpcdag.Client(...) first"
                raise ValueError(words) from None
        self.timeout = wait_for_workers_timeout
        self.options = options
        self._executor: Any = None
        self._pending: weakref.WeakSet[concurrent.futures.Future] = weakref.WeakSet()
        # By identity, with the values, so that no other ones get their identities.
        self._kept = dict(zip(map(id, scatter or ()), self._scatter(scatter or ()), strict=True))
        self._shared: dict[int, tuple[Any, Any]] = {}

    def __reduce__(self) -> tuple:
        return HpcdagBackend, (None, None, self.timeout, self.nesting_level)

    @property
    def client(self) -> Any:
        """The client; a task has one from when it needs one."""
        if self._client is None:
            self._client = get_client()
        return self._client

    def _scatter(self, values: Sequence[Any]) -> list[tuple[Any, Any]]:
        return list(zip(values, self.client.scatter(list(values)), strict=True)) if values else []

    # What joblib calls

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at the same time at most: `n_jobs`, or all slots if that is negative."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        slots = sum(self.client.nthreads().values())
        if not slots:
            # Also what makes an adaptive cluster grow.
            self.client.submit(_nothing, pure=False).result(self.timeout)
            slots = sum(self.client.nthreads().values())
        return max(1, int(slots) + 1 + (-1 if n_jobs is None else n_jobs))

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """joblib is about to begin. With one job the calls of a task are made in its own process."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1 and in_task():
            from joblib.parallel import FallbackToBackend

            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        return n_jobs

    def get_nested_backend(self) -> tuple[Any, int]:
        """What calls use for a `Parallel` of their own."""
        return HpcdagBackend(self._client, None, self.timeout, (self.nesting_level or 0) + 1), 1

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> concurrent.futures.Future:
        """A batch of calls becomes a task; `callback` is called with its future."""
        calls = [(function, self._sent(args), self._sent(kwargs)) for function, args, kwargs in func.items]
        nested, n_jobs = func._backend, func._n_jobs
        timeout, level = getattr(nested, "timeout", self.timeout), getattr(nested, "nesting_level", 1)
        if self._executor is None:
            self._executor = self.client.get_executor(**self.options)
        future = self._executor.submit(_call_all, calls, timeout, level, n_jobs)
        self._pending.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # What it was called before joblib 1.5.

    def retrieve_result_callback(self, out: concurrent.futures.Future) -> Any:
        """The results of a batch, or its error."""
        return out.result()

    def stop_call(self) -> None:
        """All is done: what was sent for all calls is not needed any more."""
        self._shared.clear()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancels what has not ended."""
        for future in list(self._pending):
            future.cancel()

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """joblib waits in this. A task that waits gives its slot to those that it waits for."""
        with _tasks.away():
            yield

    def _sent(self, arguments: Any) -> Any:
        """Positional arguments or keywords, with futures in place of what is large."""
        if isinstance(arguments, dict):
            return dict(zip(arguments, self._sent(tuple(arguments.values())), strict=True))
        return tuple([self._future_of(value) for value in arguments])

    def _future_of(self, value: Any) -> Any:
        known = self._kept.get(id(value)) or self._shared.get(id(value))
        if known is None:
            if nbytes(value) < _SHARED_BYTES_MIN:
                return value
            ((_, future),) = self._scatter([value])
            known = self._shared[id(value)] = (value, future)
        return known[1]


def _call_all(calls: list[tuple], timeout: float, level: int, n_jobs: int | None) -> list[Any]:
    """In a task: makes the calls of a batch."""
    with parallel_config(HpcdagBackend(None, None, timeout, level), n_jobs=n_jobs):
        return [function(*args, **kwargs) for function, args, kwargs in calls]


def _nothing() -> None:
    pass


register_parallel_backend("hpcdag", HpcdagBackend)
if os.environ.get("HPCDAG_COMPAT"):
    # joblib's own needs the real dask.distributed.
    register_parallel_backend("dask", HpcdagBackend)
