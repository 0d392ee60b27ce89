"""Executors that a real zygote has forked: calls, results, output, surroundings."""

import logging
import os
import pickle
import subprocess
import sys
import time

import pytest
from executors import RUN, receive

from hpcdag import _executor, _result


def test_a_call_and_who_it_is(executor):
    assert executor.run(lambda x: x + 1, 41) == 42

    def who():
        from hpcdag import _executor

        return _executor.current()

    now = executor.run(who, nthreads=25_000)
    assert (now.attempt, now.nthreads, now.run) == ((3, 2), 2, RUN)
    assert now.key.startswith("key-") and os.path.isdir(now.worker_directory)


def test_inputs_are_mapped_and_can_be_written(executor):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1_000_000.0)
    parts = _result.dumps({"a": array, "b": numpy.arange(2000)})
    assert [name for name, _ in parts] == ["", "1", "2"]

    def change(value):
        owner = value["a"]
        while isinstance(owner, numpy.ndarray):
            owner = owner.base
        value["a"] += 1
        value["b"][:] = 7
        return (
            type(getattr(owner, "obj", owner)).__name__,
            value["a"].sum(),
            value["b"].sum(),
            value["b"].flags.aligned,
        )

    for _ in range(2):  # What one call has written is not seen by the next.
        kind, total, small, aligned = executor.run(change, inputs=[parts])
        assert (kind, total, small, aligned) == ("mmap", array.sum() + 1_000_000, 14_000, True)
    assert array[0] == 0

    def mapped():
        with open("/proc/self/maps") as maps:
            return [line for line in maps if "hpcdag:" in line]

    assert executor.run(mapped) == []


def test_inputs_in_order_and_in_pieces(executor):
    assert executor.run(lambda *a: a, inputs=[_result.dumps(i) for i in range(5)]) == (0, 1, 2, 3, 4)
    numpy = pytest.importorskip("numpy")
    parts = _result.dumps([numpy.full(50_000, i) for i in range(6)])
    ident = executor.load(lambda x: [int(one[0]) for one in x], (_decode_input(0),))
    from hpcdag import _channel

    for i, (name, data) in enumerate(parts):
        place = {"Descriptor": memoryview(data).nbytes} if i else {"Inline": len(data)}
        fds = [_channel.memory_file(data)] if i else []
        message = [[["", "k", i > 0, [[name, place]]]]]
        executor.channel.send(_executor.INPUTS, message, [] if i else [data], fds)
        for fd in fds:
            os.close(fd)
    end, parts, _ = executor.done(executor.call(ident))
    assert _result.loads(parts) == [0, 1, 2, 3, 4, 5], end


def _decode_input(at):
    from hpcdag import _decode

    return _decode.Input(at)


def test_an_input_that_stays_in_place(executor, tmp_path):
    file = tmp_path / "value"
    file.write_bytes(pickle.dumps([1, 2]))
    stat = file.stat()
    ident = executor.load(lambda x: x, (_decode_input(0),))
    for mtime, expected in ((stat.st_mtime_ns, "Succeeded"), (1, "Raised")):
        place = {"Path": [os.fsencode(file), stat.st_size, mtime]}
        executor.channel.send(_executor.INPUTS, [[["", "k", False, [["", place]]]]])
        end, _, _ = executor.done(executor.call(ident))
        assert expected in end
    assert "has changed" in end["Raised"][0]


def test_a_large_result_is_a_memory_file(executor):
    numpy = pytest.importorskip("numpy")
    end, parts, places = executor.done(executor.start(lambda: numpy.full(12_500_000, 3.0)))
    assert (end, places[1]) == ("Succeeded", ["1", {"Descriptor": 100_000_000}])
    value = _result.loads(parts)
    value += 1
    assert value.sum() == 50_000_000.0


def test_many_buffers_fit_into_a_frame(executor):
    numpy = pytest.importorskip("numpy")

    def many():
        return [numpy.full(10_000, i) for i in range(400)] + [numpy.full(1000, i) for i in range(600)]

    got = executor.run(many)
    assert [int(a[-1]) for a in got] == [*range(400), *range(600)]


def test_a_result_beyond_what_is_allowed(executor):
    end, _, _ = executor.done(executor.start(lambda: b"x" * 5000, max_output=4000))
    assert "more than the 4000" in end["Unkept"]


def test_generators_become_lists(executor):
    assert executor.run(lambda: (i * i for i in range(4))) == [0, 1, 4, 9]
    assert executor.run(lambda: map(str, range(2))) == ["0", "1"]
    assert list(executor.run(lambda: {"x": (i for i in range(3))})["x"]) == [0, 1, 2]

    def broken():
        yield 1
        raise ValueError("in a generator")

    assert executor.fail(broken)[0] == "ValueError: in a generator"


def test_calls_are_read_while_a_task_runs(executor, tmp_path):
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)

    def wait():
        with open(gate) as file:
            return file.read()

    first = executor.start(wait)
    # More than the socket holds: it would block if nobody read.
    rest = [executor.start(lambda x: len(x), inputs=[_result.dumps(b"x" * (40_000 + i))]) for i in range(100)]
    with open(gate, "w") as file:
        file.write("open")
    assert _result.loads(executor.done(first)[1]) == "open"
    for i, number in enumerate(rest):
        assert _result.loads(executor.done(number)[1]) == 40_000 + i


def test_short_and_long_calls_in_turn(executor):
    def spin(ms):
        end = time.monotonic() + ms / 1000
        while time.monotonic() < end:
            pass
        return ms

    times = [1, 25, 45, 0, 21, 62, 3, 0, 41, 19] * 4
    numbers = [executor.start(spin, ms) for ms in times[:20]]
    for ms, number in zip(times[:20], numbers, strict=True):
        assert _result.loads(executor.done(number)[1]) == ms
    for ms in times[20:]:
        assert executor.run(spin, ms) == ms


def test_a_batch_that_was_not_sent_or_was_dropped(executor):
    ident = executor.load(lambda: 5)
    assert executor.done(executor.call(ident))[0] == "Succeeded"
    assert executor.done(executor.call(ident))[0] == "Succeeded"
    executor.channel.send(_executor.DROP, [[ident]])
    end, _, _ = executor.done(executor.call(ident))
    assert "was not sent the batch" in end["Raised"][0]


def test_output_and_the_end_of_a_connection(executor):
    def task():
        import warnings

        print("printed")
        os.write(1, b"written\n")
        subprocess.run(["echo", "echoed"])
        warnings.warn("warned", stacklevel=1)
        logging.getLogger("a").warning("logged")
        return sys.stdin.read()

    assert executor.run(task) == ""
    executor.channel.socket.close()
    status, text = executor.exited()
    assert status == 0
    for one in ("printed\n", "written\n", "echoed\n", "UserWarning: warned", "logged\n"):
        assert one in text


def test_the_end_of_a_connection_ends_a_task(executor):
    number = executor.start(time.sleep, 1000)
    assert number
    executor.channel.socket.close()
    assert executor.exited()[0] == 0


def test_random_numbers_differ(zygote, executor):
    def draw():
        import random

        numbers = [random.random()]
        if "numpy" in sys.modules:
            numbers.append(float(sys.modules["numpy"].random.random()))
        return numbers

    other = zygote.executor()
    assert not set(executor.run(draw)) & set(other.run(draw))
    other.channel.socket.close()
    other.exited()


def test_threads_of_a_task(executor):
    def environment():
        return os.environ["OMP_NUM_THREADS"]

    assert executor.run(environment, nthreads=30_000) == "3"
    assert executor.run(environment, nthreads=5_000) == "1"
    pytest.importorskip("threadpoolctl")
    pytest.importorskip("numpy")

    def pools():
        import threadpoolctl

        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}

    assert executor.run(pools, nthreads=20_000) == {2}


def test_nested_dask_stays_in_the_process(executor):
    pytest.importorskip("dask")

    def task():
        import dask

        return dask.config.get("scheduler"), dask.delayed(os.getpid)().compute()

    assert executor.run(task) == ("synchronous", executor.pid)


def test_memory_is_given_back(executor):
    executor.channel.send(_executor.TRIM, None)
    receive(executor.channel, _executor.TRIMMED)
    assert executor.run(lambda: 1) == 1


def test_a_task_may_fork(executor):
    def child():
        os._exit(0 if _connections() == [] else 1)

    def _connections():
        return [fd for fd in os.listdir("/proc/self/fd") if _link(fd).startswith("socket")]

    def _link(fd):
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return ""

    def task():
        pid = os.fork()
        if pid == 0:
            child()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert executor.run(task) == 0

    def pool():
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as workers:
            return workers.map(abs, [-1, 2])

    assert executor.run(pool) == [1, 2]


def test_a_task_may_start_spawned_processes(executor):
    def pool():
        import multiprocessing

        with multiprocessing.get_context("spawn").Pool(1) as workers:
            return workers.map(abs, [-1, 2])

    assert executor.run(pool) == [1, 2]
