"""An evaluator of runs of calls in this process: through the bytes, in task order, without a scheduler."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle

from hpcdag import _decode
from hpcdag._graph import BROUGHT, EXTERNAL, WANTED, Calls, Graph


class InlineFuture:
    """A result of an earlier run."""

    def __init__(self, run: bytes, task: int, key: str = "") -> None:
        self.run, self.task, self.key = run, task, key


def in_columns(calls: list[tuple[tuple, list]], size: int = 100) -> Iterator[Calls]:
    """Calls (entry, dependencies) as `Graph.set_calls` takes them, so many at once, all of them wanted."""
    for at in range(0, len(calls), size):
        some = calls[at : at + size]
        keys = [f"k{at + i}" for i in range(len(some))]
        yield Calls([e for e, _ in some], [d for _, d in some], keys, 0, b"\1" * len(some))


def through(value: Any) -> Any:
    """A result as it comes out of the store."""
    return pickle.loads(cloudpickle.dumps(value, protocol=5))


class Inline:
    """Runs graphs; remembers the results of all tasks."""

    def __init__(self) -> None:
        self.results: dict[tuple[bytes, int], bytes] = {}
        self.keys: list[str] = []
        self.options: list[list[Any]] = []
        self.option_of: dict[str, list[Any]] = {}
        self.tasks = 0
        self.pieces = 0
        self.bytes = 0

    def graph(self, name: str = "run", **kwargs: Any) -> Graph:
        return Graph(name, lambda future: (future.run, future.task), InlineFuture, **kwargs)

    def run(self, graph: Graph) -> list[Any]:
        """The results that are wanted, in the caller's order."""
        functions: dict[bytes, bytes] = {}
        externals: list[Any] = []
        options: list[Any] = []
        batches: list[tuple[int, bytes]] = []
        deps: list[list[int]] = []
        flags = bytearray()
        keys: list[str] = []
        option: list[int] = []
        last = False
        for number, piece in enumerate(graph.pieces()):
            assert not last and piece.number == number
            last = piece.last
            functions.update(piece.functions)
            options += piece.options
            externals += piece.externals
            n = len(piece.option)
            assert len(piece.flags) == len(piece.deps_end) == n and len(piece.keys_end) in (0, n)
            assert list(piece.deps_end) == sorted(piece.deps_end) and len(piece.batch_end) == len(
                piece.bytes_end
            )
            assert (piece.deps_end[-1] if n else 0) == len(piece.deps)
            assert (piece.batch_end[-1] if n else 0) == n
            assert (piece.bytes_end[-1] if n else 0) == len(piece.bytes)
            start = 0
            for end in piece.deps_end:
                deps.append(list(piece.deps[start:end]))
                assert len(set(deps[-1])) == len(deps[-1])
                start = end
            start = first = 0
            for count, end in zip(piece.batch_end, piece.bytes_end, strict=True):
                assert count - first <= 256 or end == start
                batches.append((count - first, bytes(piece.bytes[start:end])))
                start, first = end, count
            start = 0
            for end in piece.keys_end:
                keys.append(bytes(piece.keys[start:end]).decode())
                start = end
            flags += piece.flags
            option += piece.option
            assert all(o < len(options) for o in option)
            self.pieces += 1
        assert last and graph.tasks == len(flags)
        assert not keys or len(set(keys)) == len(flags)
        if graph.map:
            assert not any(deps) and not any(option) and not keys and len(options) == 1
        self.tasks, self.keys, self.options = len(flags), keys, options
        self.bytes = sum(len(data) for _, data in batches)
        self.option_of = {key: options[o] for key, o in zip(keys, option, strict=False)}
        self._last = (graph, batches, functions, deps, flags, externals)
        self._evaluate(*self._last)
        wanted = [task for task, flag in enumerate(flags) if flag & WANTED]
        assert sorted(wanted) == sorted(graph.results), "what is wanted is what is told"
        return [self.result(graph.run, task) for task in graph.results]

    def run_again(self, graph: Graph) -> list[Any]:
        """The last graph once more with the same decoded batches, as after failures."""
        assert graph is self._last[0]
        self._evaluate(*self._last, decoded=self._decoded)
        return [self.result(graph.run, task) for task in graph.results]

    def result(self, run: bytes, task: int) -> Any:
        return pickle.loads(self.results[run, task])

    def _evaluate(
        self,
        graph: Any,
        batches: Any,
        functions: Any,
        deps: Any,
        flags: Any,
        externals: Any,
        decoded: Any = None,
    ) -> None:
        loaded: dict[bytes, Any] = {}

        def function(ident: bytes) -> Any:
            if ident not in loaded:
                loaded[ident] = _decode.load_function(functions[ident])
            return loaded[ident]

        brought = dict(graph.brought)
        task = 0
        self._decoded = []
        for number, (count, data) in enumerate(batches):
            batch = decoded[number] if decoded else None
            for index in range(count):
                if flags[task] & BROUGHT:
                    value = brought.pop(task)
                else:
                    batch = batch or _decode.Batch(data, function)
                    assert len(batch) == count
                    inputs = []
                    for dep in deps[task]:
                        if dep & EXTERNAL:
                            inputs.append(self.result(*externals[dep & ~EXTERNAL]))
                        else:
                            assert dep < task
                            inputs.append(self.result(graph.run, dep))
                    value = batch.run(index, inputs)
                self.results[graph.run, task] = cloudpickle.dumps(value, protocol=5)
                task += 1
            self._decoded.append(batch)
        assert not brought
