"""Messages: the same bytes as the Rust side writes (its golden file), and what columns and options refuse."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from hpcdag import _calls, _columns, _failures, _frames, _options, _session
from hpcdag._book import CANCELLED, DONE, FAILED, PENDING, Book, Run
from hpcdag._graph import Options
from hpcdag.errors import CancelledError, KilledWorker, OutOfMemory, TaskError, TimeLimitExceeded

GOLDEN = Path(__file__).parents[2] / "src/protocol/messages/tests/golden.txt"
UUID = bytes.fromhex("00112233445566778899aabbccddeeff")


def golden(name: str) -> bytes:
    lines = GOLDEN.read_text().splitlines()
    return bytes.fromhex(next(line.split()[1] for line in lines if line.startswith(name + " ")))


def parsed(frame: bytes) -> tuple[int, list, bytes]:
    header = _frames.unpack_header(frame)
    begin = _frames.HEADER_BYTES
    return (
        header.tag,
        _frames.unpack_control(frame[begin : begin + header.control]),
        frame[begin + header.control :],
    )


def test_calls_are_written_as_rust_writes_them() -> None:
    tag, control, body = parsed(golden("FromClient.Calls"))
    (priority, retries, slots, resources, workers, loose, memory, output_size, limit) = control[7][0]
    options = Options(
        priority=priority,
        retries=retries,
        slots=slots / 10_000,
        resources=tuple((name, amount / 10_000) for name, amount in resources.items()),
        workers=tuple(workers),
        loose=loose,
        memory=memory,
        output_size=output_size,
        time_limit=limit / 1000,
    )
    sent: list = []
    writer = _calls.RunWriter(UUID, "inc", b"e", lambda frame, last: sent.append((b"".join(frame), last)))
    writer.functions([tuple(code) for code in control[6]])
    option = writer.option(options)
    writer.batch(b"pickle", 1, option=option, deps=[[writer.external(UUID, 7)]], keys=["a-b"])
    writer.flush(True)
    assert tag == _calls.CALLS and sent == [(golden("FromClient.Calls"), True)] and body


@pytest.mark.parametrize("name", ["Release", "Want", "CancelCalls", "RetryCalls"])
def test_tasks_are_named_as_rust_names_them(name: str) -> None:
    tag, control, body = parsed(golden(f"FromClient.{name}"))
    tasks = _columns.Reader(body).column("I").tolist()
    frame = b"".join(_calls.tasks_frame(tag, control[0], tasks, control[1], control[2]))
    assert frame == golden(f"FromClient.{name}")
    expected = {"Release": _session.RELEASE, "Want": _session.WANT}
    expected |= {"CancelCalls": _session.CANCEL, "RetryCalls": _session.RETRY}
    assert tag == expected[name]


def test_large_runs_go_in_pieces() -> None:
    sent: list = []
    writer = _calls.RunWriter(UUID, "n", b"env", lambda frame, last: sent.append((b"".join(frame), last)))
    option = writer.option(_options.DEFAULT)
    for i in range(40):
        assert writer.batch(b"x" * 256, 256, option=option, keys=["k"] * 256) == 256 * i
    writer.flush(True)
    pieces = [(parsed(frame), last) for frame, last in sent]
    assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True] and len(pieces) > 2
    assert [control[1] for (_, control, _), _ in pieces] == list(range(len(pieces)))
    assert [bool(control[5]) for (_, control, _), _ in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [len(control[7]) for (_, control, _), _ in pieces] == [1] + [0] * (len(pieces) - 1)
    assert sum(len(_columns.Reader(body).column("I")) for (_, _, body), _ in pieces) == 40 * 256


def test_columns_refuse_what_does_not_fit() -> None:
    body = b"".join([*_columns.column([1, 2, 3], "I"), *_columns.column(b"abc")])
    reader = _columns.Reader(body)
    assert reader.column("I", 3).tolist() == [1, 2, 3] and bytes(reader.column("B")) == b"abc"
    reader.finish()
    for read in (
        lambda: _columns.Reader(body).column("Q"),
        lambda: _columns.Reader(body).column("I", 2),
        lambda: _columns.Reader(body[:12]).column("I"),
        lambda: _columns.Reader(body[:4]).column("I"),
        lambda: _columns.Reader(body).finish(),
    ):
        with pytest.raises(_frames.FrameError):
            read()


def test_failures_become_exceptions() -> None:
    failed = parsed(golden("ToClient.CallsFailed"))[1][1][0]
    error = _failures.exception_of(failed, "a-b")
    assert "ValueError" in str(error) and _failures.traceback_text(failed) == "Traceback"

    def of(kind: object, cancelled: bool = False) -> BaseException:
        return _failures.exception_of([7, cancelled, "k", "node7", 2, [kind, "", "last words\n", None]], "k")

    assert type(of({"Signal": 11})) is KilledWorker and "signal 11" in str(of({"Signal": 11}))
    assert "on node7, attempt 2" in str(of({"Signal": 11})) and "last words" in str(of({"Signal": 11}))
    assert type(of({"WorkersLost": ["a", "b"]})) is KilledWorker
    assert type(of("Cancelled", True)) is CancelledError
    assert type(of({"TimeLimit": 1500})) is TimeLimitExceeded and isinstance(
        of({"TimeLimit": 1}), TimeoutError
    )
    overrun = {"Overrun": [1 << 30, 3 << 30, "Cgroup"]}
    assert type(of(overrun)) is OutOfMemory and "declared 1 GiB and reached 3 GiB" in str(of(overrun))
    memory = [5 << 20, 0, 1 << 30, 0, []]
    assert isinstance(of({"Memory": memory}), MemoryError)
    outgrown = {"Outgrown": [[["w on h", True, memory]], {"BeyondAll": [1 << 30]}]}
    assert "alone on w on h" in str(of(outgrown)) and "limit is 1 GiB" in str(of(outgrown))
    assert type(of({"Prepare": "no Python"})) is TaskError and "no Python" in str(
        of({"Prepare": "no Python"})
    )


def test_options_have_units() -> None:
    options = _options.options(
        memory="1.5 GiB", time_limit=timedelta(minutes=1), resources={"gpus": 0.5}, workers="a", nthreads=2
    )
    assert options.memory == 3 << 29 and options.time_limit == 60 and options.resources == (("gpus", 0.5),)
    assert options.workers == ("a",) and options.slots == 2
    assert _options.options() is _options.DEFAULT and _options.options(priority=1) != _options.DEFAULT
    assert _options.parse_seconds("100 ms") == 0.1 and _options.parse_seconds("2h") == 7200
    assert _options.parse_size("10kB") == 10_000 and _options.parse_size(5) == 5
    for wrong in ("x", "5 parsecs"):
        with pytest.raises(ValueError):
            _options.parse_seconds(wrong)
        with pytest.raises(ValueError):
            _options.parse_size(wrong)


def test_the_book_counts_references() -> None:
    book, run = Book(), Run(UUID, "r", True)
    book.runs[UUID] = run
    run.take_new(0, 4)
    run.take(2)
    book.name(run, 2, "key")
    assert book.drop([(run, 0), (run, 2)]) == {(UUID, False): [0]} and book.keys == {"key": (run, 2)}
    run.later.add(1)
    assert book.drop([(run, 2), (run, 1)]) == {(UUID, False): [2], (UUID, True): [1]} and not book.keys
    assert book.drop([(run, 3)]) and UUID in book.runs, "it may have to be sent again"
    run.id = 1
    book.forget_if_idle(run)
    assert UUID not in book.runs
    assert book.drop([(run, 3)]) == {}, "a reference is dropped once"


def test_the_book_keeps_states() -> None:
    book, run = Book(), Run(UUID, "r", True)
    run.take_new(0, 6)
    called: list = []
    run.waiting[3] = [called.append]

    def done(tasks: list[int]) -> list[int]:
        columns = [(tasks, "I"), ([10] * len(tasks), "Q"), ([4] * len(tasks), "I")]
        reader = _columns.Reader(
            b"".join(piece for values, code in columns for piece in _columns.column(values, code))
        )
        n = reader.column("I")
        return book.done(run, n, reader.column("Q"), reader.column("I"))

    assert done([0, 1, 2]) == [] and done([5, 3]) == [3]
    assert list(run.state) == [DONE] * 4 + [PENDING, DONE] and run.holder[5] == 4
    assert book.failed(run, [[4, True, "k", "", 0, ["Cancelled", "", "", None]]]) == []
    assert run.state[4] == CANCELLED
    book.failed(run, [[0, False, "k", "", 0, ["Cancelled", "", "", None]]])
    assert run.state[0] == FAILED and 0 in run.failures
    book.pending(run, [0, 1])
    assert list(run.state[:2]) == [PENDING, PENDING] and 0 not in run.failures
