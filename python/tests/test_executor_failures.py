"""How calls fail in real executors: exceptions, cancelling, limits, processes that die."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from executors import RUN

from hpcdag import _executor, _result
from hpcdag._errors import RemoteError


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
    if hasattr(error, "add_note"):
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


def test_unpicklable_results_say_what_it_is(executor):
    def task():
        import threading

        return {"fine": 1, "a": [0, {"lock": threading.Lock()}]}

    end, parts, _ = executor.done(executor.start(task))
    assert end == "Pinned"
    with pytest.raises(TypeError, match="^" + re.escape("result['a'][1]['lock'], a _thread.lock, cannot be")):
        _result.loads(parts)

    def bare():
        return open(os.devnull, "w")

    end, parts, _ = executor.done(executor.start(bare))
    assert end == "Pinned"
    with pytest.raises(TypeError, match="^the result, a _io.TextIOWrapper, cannot be pickled.*depends on it"):
        _result.loads(parts)


def test_unpicklable_results_live_on_where_they_were_made_until_they_are_let_go(executor):
    def make():
        import threading

        return threading.Lock()

    number = executor.start(make)
    end, parts, _ = executor.done(number)
    assert end == "Pinned"
    assert executor.run(lambda lock: lock.acquire(blocking=False), inputs=[parts])
    assert executor.run(lambda lock: lock.locked(), inputs=[parts]), "it is the same one"
    executor.channel.send(_executor.LET_GO, [[number]])
    summary, _, _ = executor.fail(lambda lock: lock, inputs=[parts])
    assert "cannot be pickled" in summary and "where tasks that depend on it run" in summary


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


def test_what_fails_keeps_no_inputs(executor):
    numpy = pytest.importorskip("numpy")
    parts = _result.dumps(numpy.ones(100_000))

    def fail(array):
        problem = ValueError(1)
        fail.kept = problem  # As caches of modules do.
        raise problem

    def mapped():
        with open("/proc/self/maps") as maps:
            return [line for line in maps if "hpcdag-result" in line]

    assert executor.fail(fail, inputs=[parts])[0] == "ValueError: 1"
    assert executor.run(mapped) == []
