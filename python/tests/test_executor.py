"""Executors that a real zygote has forked: calls, results, failures, cancelling, output."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
from executors import RUN, receive

from hpcdag import _executor, _result
from hpcdag._errors import RemoteError


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
        return type(getattr(owner, "obj", owner)).__name__, value["a"].sum(), value["b"].sum(), value["b"].flags.aligned

    for _ in range(2):  # What one call has written is not seen by the next.
        kind, total, small, aligned = executor.run(change, inputs=[parts])
        assert (kind, total, small, aligned) == ("mmap", array.sum() + 1_000_000, 14_000, True)
    assert array[0] == 0

    def mapped():
        with open("/proc/self/maps") as maps:
            return [line for line in maps if "hpcdag-result" in line]

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
        end, parts, _ = executor.done(executor.call(ident))
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


def test_an_exception_as_it_was(executor):
    def inner():
        try:
            {}["a"]
        except KeyError as error:
            problem = ValueError("bad input", 7)
            if hasattr(problem, "add_note"):
                problem.add_note("a note")
            raise problem from error

    summary, text, error = executor.fail(inner)
    assert summary == "ValueError: ('bad input', 7)"
    assert "in inner" in text and "KeyError: 'a'" in text and "direct cause" in text
    assert "/_executor.py" not in text and "_decode.py" not in text
    assert type(error) is ValueError and error.args == ("bad input", 7)
    assert type(error.__cause__) is KeyError and error.__suppress_context__
    if sys.version_info >= (3, 11):
        assert error.__notes__ == ["a note"] and "a note" in text
    if error.__traceback__ is not None:
        pytest.importorskip("tblib")


def test_an_exception_of_a_class_that_came_by_value(executor):
    class Own(Exception):
        pass

    # Of __main__ in scripts: goes and comes by value, and is the same class.
    Own.__module__ = "__main__"
    Own.__qualname__ = "Own"

    def task():
        raise Own("mine")

    assert type(executor.fail(task)[2]) is Own


def test_an_exception_that_does_not_load(executor):
    class Fussy(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")

    class Unsendable(Exception):
        def __init__(self, lock):
            super().__init__(lock)

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    def raise_it(make):
        raise make()

    summary, text, error = executor.fail(raise_it, lambda: Fussy(1, 2))
    assert summary.endswith("Fussy: 1 and 2") and "in raise_it" in text
    assert type(error) is RemoteError and "Fussy" in error.type_name and "1 and 2" in str(error)

    import threading

    _, _, error = executor.fail(raise_it, lambda: Unsendable(threading.Lock()))
    assert type(error) is RemoteError and "lock" in str(error)
    summary, _, error = executor.fail(raise_it, lambda: Mute())
    assert "RuntimeError in its __str__" in summary
    _, _, error = executor.fail(raise_it, lambda: ValueError("x" * 10_000_000))
    assert type(error) is RemoteError and len(str(error)) < 10_000
    assert executor.run(lambda: 1) == 1


def test_an_exception_whose_class_only_the_worker_has(zygote, executor, tmp_path):
    def task(directory):
        import importlib

        sys.path.insert(0, directory)
        importlib.import_module("only_there").fail()

    (tmp_path / "only_there.py").write_text("class Odd(Exception): pass\ndef fail(): raise Odd('really')\n")
    summary, text, error = executor.fail(task, str(tmp_path))
    assert summary == "only_there.Odd: really" and "only_there.py" in text
    assert type(error) is RemoteError and "really" in str(error)


def test_what_would_end_a_process_does_not(executor):
    def leave(kind):
        raise kind("bye")

    for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, BaseException):
        assert type(executor.fail(leave, kind)[2]) is kind
    assert type(executor.fail(sys.exit, 3)[2]) is SystemExit

    def deep():
        return deep()

    assert executor.fail(deep)[0].startswith("RecursionError")
    assert executor.run(os.getpid) == executor.pid


def test_advice_on_missing_modules(executor):
    def task():
        import no_such_module_here.sub  # noqa: F401

    summary, text, error = executor.fail(task)
    assert summary == "ModuleNotFoundError: No module named 'no_such_module_here'"
    assert "upload_file('no_such_module_here.py')" in text and "sys.path" in text and sys.executable in text
    assert type(error) is ModuleNotFoundError and error.name == "no_such_module_here"
    # Functions of such a module fail when they are loaded.
    ident = RUN + b"\xff\xff\xff\xff"
    batch = b"\x80\x05cno_such_module_here\nf\n."
    executor.channel.send(_executor.LOAD, ["batch", ident], [batch])
    end, _, _ = executor.done(executor.call(ident))
    assert "upload_file" in end["Raised"][1] and end["Raised"][1].count("upload_file") == 1
    assert executor.run(lambda: 1) == 1


def test_a_batch_that_was_not_sent_or_was_dropped(executor):
    ident = executor.load(lambda: 5)
    assert executor.done(executor.call(ident))[0] == "Succeeded"
    assert executor.done(executor.call(ident))[0] == "Succeeded"
    executor.channel.send(_executor.DROP, [[ident]])
    end, _, _ = executor.done(executor.call(ident))
    assert "was not sent the batch" in end["Raised"][0]


def test_unpicklable_results_say_what_it_is(executor):
    def task():
        import threading

        return {"fine": 1, "a": [0, {"lock": threading.Lock()}]}

    end, parts, _ = executor.done(executor.start(task))
    assert end["Unkept"].startswith("result['a'][1]['lock'], a _thread.lock, cannot be pickled: TypeError")
    assert parts == []

    def bare():
        return open(os.devnull, "w")

    end, _, _ = executor.done(executor.start(bare))
    assert end["Unkept"].startswith("the result, a _io.TextIOWrapper, cannot be pickled")


@pytest.mark.parametrize("how", ["loop", "sleep", "process", "join"])
def test_cancelling(executor, tmp_path, how):
    began = tmp_path / "began"
    os.mkfifo(began)

    def task(how):
        with open(began, "w"):
            pass
        if how == "loop":
            while True:
                pass
        elif how == "sleep":
            time.sleep(1000)
        elif how == "process":
            subprocess.run(["sleep", "1000"])
        else:
            import threading

            threading.Event().wait()

    number = executor.start(task, how)
    with open(began):
        pass
    start = time.monotonic()
    executor.channel.send(_executor.CANCEL, [number])
    assert executor.done(number)[0] == "Cancelled"
    assert time.monotonic() - start < 5
    executor.channel.send(_executor.CANCEL, [number])  # Too late: nothing happens.
    assert executor.run(lambda: 3) == 3


def test_cancelling_cleans_up_and_takes_what_waits(executor, tmp_path):
    mark = str(tmp_path / "cleaned")
    began = tmp_path / "began"
    os.mkfifo(began)

    def task():
        try:
            with open(began, "w"):
                pass
            time.sleep(1000)
        except BaseException as error:
            raise RuntimeError("of cleaning up") from error
        finally:
            open(mark, "w").close()

    first = executor.start(task)
    second = executor.start(lambda: 2)
    third = executor.start(lambda: 3)
    with open(began):
        pass
    executor.channel.send(_executor.CANCEL, [second])
    executor.channel.send(_executor.CANCEL, [first])
    assert executor.done(first)[0] == "Cancelled"
    assert os.path.exists(mark)
    assert executor.done(second)[0] == "Cancelled"
    assert executor.done(third)[0] == "Succeeded"


def test_a_time_limit(executor):
    def task():
        while True:
            pass

    assert executor.done(executor.start(task, limit=200))[0] == "TimeLimit"
    assert executor.done(executor.start(lambda: 1, limit=60_000))[0] == "Succeeded"


def test_interrupts_from_elsewhere_are_nothing(executor):
    def task():
        os.kill(os.getpid(), signal.SIGINT)
        return "still here"

    assert executor.run(task) == "still here"
    os.kill(executor.pid, signal.SIGINT)

    def own():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    executor.run(own)
    number = executor.start(time.sleep, 1000)
    executor.channel.send(_executor.CANCEL, [number])
    assert executor.done(number)[0] == "Cancelled"


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


@pytest.mark.parametrize("how", ["exit", "segfault", "killed"])
def test_a_process_that_dies(executor, how):
    def task(how):
        print("before")
        if how == "exit":
            os._exit(9)
        elif how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        import ctypes

        ctypes.string_at(8)

    executor.start(task, how)
    status, text = executor.exited()
    expected = {"exit": 9, "segfault": -signal.SIGSEGV, "killed": -signal.SIGKILL}
    assert os.waitstatus_to_exitcode(status) == expected[how]
    assert "before\n" in text
    if how == "segfault":
        assert "Segmentation fault" in text and "in task" in text
    assert executor.channel.receive() is None


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
