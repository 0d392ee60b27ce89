"""What goes wrong in users' code, on a real cluster: the outcome, and whether the message says what to do."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import python, until

import hpcdag
from hpcdag import Client, KilledWorker, wait
from hpcdag._errors import RemoteError

np = pytest.importorskip("numpy")

# Read here: the tests themselves run without such variables.
_HUGE = bool(os.environ.get("HPCDAG_TEST_HUGE"))


def notes(error: BaseException) -> str:
    return "".join(getattr(error, "__notes__", ()))


def die(number: int, of: int) -> int:
    if number == of:
        print("so long", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_is_one_task_s_matter(client: Client) -> None:
    futures = client.map(die, range(30), of=11)
    error = futures[11].exception(60)
    assert isinstance(error, KilledWorker) and "signal 9 (SIGKILL)" in str(error)
    assert repr(futures[11].key) in str(error) and "so long" in str(error)
    del futures[11]
    assert client.gather(futures) == [i for i in range(30) if i != 11]
    assert len(client.nthreads()) == 2


def counted(path: str) -> Any:
    with open(path, "a") as file:
        file.write("x")
    return np.arange(300_000)


def test_a_result_that_is_lost_while_it_is_needed_is_made_again(client: Client, tmp_path: Path) -> None:
    path, event = tmp_path / "runs", hpcdag.Event("lost", client=client)
    needed = client.submit(counted, str(path))
    wait(needed, 30)
    gate = client.submit(lambda: hpcdag.Event("lost").wait(), pure=False)
    total = client.submit(lambda array, _: int(array.sum()), needed, gate)
    (holder,) = client.who_has(needed)[needed.key]
    os.kill(client.scheduler_info()["workers"][holder]["pid"], signal.SIGKILL)
    until(lambda: holder not in client.nthreads())
    event.set()
    assert total.result(60) == sum(range(300_000))
    assert path.read_text() == "xx"


class Session:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_arguments_that_cannot_be_pickled_are_named(client: Client) -> None:
    with pytest.raises(TypeError, match=r"argument 2 \('of'\) of die \(a .*Session\) cannot be sent.*lock"):
        client.submit(die, 1, Session())
    with pytest.raises(TypeError, match=r"argument 'of' of die .*lock"):
        client.submit(die, 1, of={"deep": [Session()]})
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"the function of .*<lambda> .*lock"):
        client.submit(lambda: lock)
    with open(os.devnull, "w") as file, pytest.raises(TypeError, match=r"argument 1 .*TextIOWrapper"):
        client.submit(die, file, 2)
    assert client.submit(die, 1, 2).result(30) == 1


def leave_open() -> Any:
    return Path(os.devnull).open("rb")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (threading.Lock, "the result, a _thread.lock"),
        (leave_open, "the result, a _io.BufferedReader"),
        (lambda: {"a": [Session()]}, r"result\['a'\]\[0\].*_thread.lock"),
    ],
    ids=["lock", "file", "deep"],
)
def test_results_that_cannot_be_pickled_are_named(client: Client, make: Any, named: str) -> None:
    future = client.submit(make, pure=False)
    with pytest.raises(TypeError, match=f"{named}.* cannot be pickled"):
        future.result(30)
    # Where it was made it is as good as any other.
    assert client.submit(str, future).result(30)


def test_a_module_that_only_the_client_has(client: Client, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "only_here_faults.py").write_text("def f(x):\n    return x + 1\nclass C:\n    pass\n")
    # Workers are told of what is on sys.path: it is there for the import only.
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        module = importlib.import_module("only_here_faults")
    for future in (client.submit(module.f, 1), client.submit(type, module.C())):
        error = future.exception(30)
        assert isinstance(error, ModuleNotFoundError) and error.name == "only_here_faults"
        assert "send it with client.upload_file(" in notes(error)
    client.upload_file(tmp_path / "only_here_faults.py")
    assert client.submit(module.f, 1, pure=False).result(60) == 2


def raise_theirs(directory: str) -> None:
    sys.path.insert(0, directory)
    importlib.import_module("only_there_faults").fail()


def test_an_exception_whose_class_only_the_worker_has(client: Client, tmp_path: Path) -> None:
    (tmp_path / "only_there_faults.py").write_text(
        "class Odd(ValueError): pass\ndef fail(): raise Odd('really', 7)\n"
    )
    with pytest.raises(RemoteError, match=r"only_there_faults\.Odd: .*'really', 7") as caught:
        client.submit(raise_theirs, str(tmp_path)).result(30)
    assert caught.value.type_name == "only_there_faults.Odd"
    assert "in fail" in notes(caught.value) and "only_there_faults.py" in notes(caught.value)


class Fussy(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Homesick(Exception):
    """Loads in the process that raised it, and nowhere else."""

    def __reduce__(self) -> Any:
        return at_home, (os.getpid(), *self.args)


def at_home(pid: int, text: str) -> Homesick:
    if pid != os.getpid():
        raise RuntimeError("not at home")
    return Homesick(text)


def raise_it(kind: type, *args: Any) -> None:
    raise kind(*args)


def test_exceptions_that_do_not_load(client: Client) -> None:
    for kind, args, said in ((Fussy, (1, 2), "1 and 2"), (Homesick, ("so far",), "so far")):
        with pytest.raises(RemoteError, match=rf"test_faults\.{kind.__name__}: .*{said}") as caught:
            client.submit(raise_it, kind, *args).result(30)
        assert "in raise_it" in notes(caught.value)


@pytest.mark.parametrize(
    "mib",
    [64, pytest.param(1024, marks=pytest.mark.skipif(not _HUGE, reason="takes long: HPCDAG_TEST_HUGE=1"))],
)
def test_large_arguments(client: Client, mib: int) -> None:
    array = np.arange(mib << 17, dtype=np.int64)
    assert array.nbytes == mib << 20
    future = client.submit(lambda a, by: (int(a[:: 1 << 10].sum()), a.nbytes + by), array, by=1)
    assert future.result(300) == (int(array[:: 1 << 10].sum()), array.nbytes + 1)


def squares(n: int, fails: bool = False) -> Iterator[int]:
    for i in range(n):
        yield i * i
    if fails:
        raise ValueError("ran dry")


def test_generators(client: Client) -> None:
    made = client.submit(squares, 4)
    assert made.result(30) == [0, 1, 4, 9]
    # The result can be read as often as one likes.
    assert client.gather([client.submit(sum, made), client.submit(max, made)]) == [14, 9]
    error = client.submit(squares, 4, True).exception(30)
    assert type(error) is ValueError and "in squares" in notes(error)
    with pytest.raises(TypeError, match=r"argument 1 .* of sum \(a builtins.generator\) cannot be sent"):
        client.submit(sum, squares(4))


def test_lambdas_and_closures(client: Client) -> None:
    factor, calls = 3, []

    def outer(n: int) -> int:
        calls.append(n)
        return factor * n + (outer(n - 1) if n else 0)

    assert client.submit(outer, 3).result(30) == 18 and calls == []
    assert [f.result(30) for f in [client.submit(lambda i=i: i) for i in range(3)]] == [0, 1, 2]
    # The values of the moment in which they were submitted.
    first = client.submit(lambda: factor)
    factor = 4
    second = client.submit(lambda: factor)
    assert (first.result(30), second.result(30)) == (3, 4)
    futures = []
    for n in (1, 2, 3, 4):
        factor = n
        futures.append(client.submit(outer, 1, pure=False))
    assert client.gather(futures) == [1, 2, 3, 4], "however soon one comes after the other"
    compose = client.submit(lambda f, g: lambda x: f(g(x)), lambda x: x + factor, outer)
    assert compose.result(30)(1) == 8 and client.submit(lambda h: h(0), compose).result(30) == 4


_MAIN = """
import dataclasses, enum, sys
from hpcdag import Client

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    colour: Colour = Colour.RED
    def moved(self, by):
        return Point(self.x + by, self.colour)

class Own(Exception):
    def __init__(self, point):
        super().__init__(point)
        self.point = point

OFFSET = 10

def shift(point):
    assert isinstance(point, Point) and point.colour is Colour.RED
    return point.moved(OFFSET)

def fail(point):
    raise Own(point)

if __name__ == "__main__":
    with Client(scheduler_file=sys.argv[1]) as client:
        once = client.submit(shift, Point(1))
        twice = client.submit(shift, once)
        assert type(twice.result(30)) is Point and twice.result() == Point(21), twice.result()
        assert twice.result().colour is Colour.RED
        assert client.submit(Point(5).moved, 1).result(30) == Point(6)
        try:
            client.submit(fail, once).result(30)
        except Own as error:
            assert error.point == Point(11)
            print("all well")
"""


def test_classes_of_main(client: Client, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_MAIN)
    done = run_script(script, client.scheduler_file)
    assert (done.returncode, done.stdout) == (0, "all well\n"), done.stderr


def run_script(script: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(hpcdag.__file__).parents[1])}
    command = [sys.executable, str(script), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)


def spoil(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value += 1
        return float(value.sum())
    value["a"].append(4)
    value["b"] = None
    return len(value["a"])


def test_work_in_place_leaves_what_is_stored(client: Client) -> None:
    # All on one worker: nothing but the store is between them.
    (name, *_) = [worker["name"] for worker in client.scheduler_info()["workers"].values()]
    for make, expected in (
        (lambda: np.zeros(10), 10.0),
        (lambda: np.zeros(2_000_000), 2_000_000.0),
        (lambda: {"a": [1, 2, 3], "b": 1}, 4),
    ):
        stored = client.submit(make, workers=name)
        for _ in range(3):
            assert client.submit(spoil, stored, pure=False, workers=name).result(30) == expected
        assert str(stored.result(30)) == str(make())
    given = {"a": [1, 2, 3], "b": 1}
    assert client.gather(client.map(spoil, [given] * 4, pure=False, workers=name)) == [4] * 4
    brought = client.scatter(np.zeros(500_000))
    assert client.gather([client.submit(spoil, brought, pure=False) for _ in range(3)]) == [500_000.0] * 3
    # What came to the client is the client's own.
    array = brought.result(30)
    array += 1
    assert client.submit(np.sum, brought).result(30) == 0


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exits_and_interrupts_are_failures(client: Client, kind: type) -> None:
    pids = client.run(os.getppid)
    future = client.submit(raise_it, kind, "enough")
    error = future.exception(30)
    # Not as itself: that would end the client's program.
    assert future.status == "error" and isinstance(error, hpcdag.RemoteError)
    assert kind.__name__ in str(error) and "enough" in str(error)
    assert f"raised by task {future.key!r} on" in notes(error) and "in raise_it" in notes(error)
    assert client.run(os.getppid) == pids


_PENDING = """
import sys, time
from hpcdag import Client
client = Client(scheduler_file=sys.argv[1])
futures = client.map(time.sleep, [1000 + i for i in range(50)])
after = client.submit(len, futures)
print(client.submit(int, "7", priority=100).key, flush=True)
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"), [("", 0), ("1 / 0", 1), ("sys.exit(3)", 3)], ids=["ends", "fails", "exits"]
)
def test_a_script_ends_with_work_pending(client: Client, end: str, code: int) -> None:
    begin = time.monotonic()
    done = python(_PENDING.format(end=end), client.scheduler_file)
    assert time.monotonic() - begin < 20
    assert done.returncode == code and done.stdout.startswith("int-"), done.stderr
    assert ("ZeroDivisionError" in done.stderr) if code == 1 else (done.stderr == "")
    # Nobody wants what it left: both workers are free.
    assert client.gather(client.map(str, range(10), pure=False)) == list("0123456789")


def complain(lines: int) -> None:
    for i in range(lines):
        print(f"complaint {i} of it", file=sys.stderr)
    raise ValueError("see above")


def test_what_a_failed_task_printed_is_in_its_error(client: Client) -> None:
    error = client.submit(complain, 2000).exception(30)
    assert type(error) is ValueError and error.args == ("see above",)
    assert "complaint 1999 of it" in notes(error) and "complaint 0 of it" not in notes(error)
    # What others printed in the same process is not this one's.
    for other in [client.submit(raise_it, ValueError, pure=False) for _ in range(4)]:
        assert "printed" not in notes(other.exception(30))  # type: ignore[arg-type]
