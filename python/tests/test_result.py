"""Values as parts and back."""

import copyreg
import pickle
import subprocess
import sys
import textwrap

import pytest

from hpcdag import _result
from hpcdag._errors import RemoteError, describe, payload


def _over(value):
    """`value` after a way over a wire into writable memory."""
    received = []
    for name, data in _result.dumps(value):
        room = _result.room(memoryview(data).nbytes)
        room[:] = memoryview(data).cast("B")
        received.append((name, room))
    return _result.loads(received)


def test_plain_values():
    for value in (None, 1, "a", [1, {"b": (2, b"c")}], b"x" * 10_000_000, {1, 2}, float):
        assert _over(value) == value
    assert _over(lambda x: x + 1)(2) == 3
    assert list(_over(i for i in range(3))) == [0, 1, 2]


def test_arrays_share_memory_and_can_be_written():
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(100_000.0).reshape(100, 1000)
    parts = _result.dumps({"a": array, "small": numpy.arange(3)})
    assert [name for name, _ in parts] == ["", "1"] and len(parts[0][1]) < 1000
    assert numpy.shares_memory(numpy.frombuffer(parts[1][1]), array)
    assert _result.size(parts) == array.nbytes + len(parts[0][1])
    dates = array.astype("M8[s]")
    for made in (array, numpy.asfortranarray(array), array[::2], array[:0], numpy.array(5.0), dates):
        got = _over(made)
        assert (got == made).all() and got.dtype == made.dtype and got.flags.writeable
    records = numpy.zeros(5000, dtype=[("a", "i4"), ("b", "f8")])
    assert (_over(records) == records).all()
    objects = numpy.array([{"a": 1}, None], dtype=object)
    assert (_over(objects) == objects).all()


def test_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": range(100_000), "b": 1.5, "c": ["x", "y"] * 50_000})
    got = _over(frame)
    pandas.testing.assert_frame_equal(got, frame)
    got.loc[0, "a"] = 7
    got["b"] += 1
    assert frame.loc[0, "a"] == 0


def test_what_a_script_defines_goes_by_value(tmp_path):
    file = tmp_path / "value"
    script = f"""
        from hpcdag import _result
        import pickle
        class Own:
            def __init__(self): self.a = 4
        parts = _result.dumps([Own()])
        again = _result.loads(parts)
        assert type(again[0]) is Own
        pickle.dump([(n, bytes(d)) for n, d in parts], open({str(file)!r}, "wb"))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=_env())
    assert _result.loads(pickle.loads(file.read_bytes()))[0].a == 4


def _env():
    import os
    from pathlib import Path

    return dict(os.environ) | {"PYTHONPATH": str(Path(_result.__file__).parents[1])}


class Holder:
    def __init__(self, value):
        self.held = value


class Refuses:
    def __reduce__(self):
        raise ValueError("never")


def test_what_cannot_be_pickled_is_named():
    import threading

    lock = threading.Lock()
    for value, path in (
        ({"x": [Holder({3: lock})]}, "result['x'][0].held[3], a _thread.lock, cannot be pickled: TypeError"),
        (lambda: lock, "result (its variable lock), a _thread.lock"),
        (Holder(Refuses()), "result.held, a test_result.Refuses, cannot be pickled: ValueError: never"),
        (lock, "the result, a _thread.lock, cannot be pickled"),
    ):
        with pytest.raises(_result.Unpicklable) as caught:
            _result.dumps(value)
        assert path in str(caught.value)
    endless = []
    for _ in range(100_000):
        endless = [endless]
    with pytest.raises(_result.Unpicklable, match="recursion"):
        _result.dumps(endless)


def test_a_result_without_parts():
    with pytest.raises(ValueError, match="without parts"):
        _result.loads([])


def test_chains_of_exceptions():
    def chain(n):
        if n == 0:
            raise KeyError("the first")
        try:
            chain(n - 1)
        except Exception as error:
            raise ValueError(n) from error

    with pytest.raises(ValueError) as caught:
        chain(3)
    error = pickle.loads(payload(caught.value))
    kinds = []
    while error is not None:
        kinds.append(type(error))
        error = error.__cause__
    assert kinds == [ValueError] * 3 + [KeyError]


@pytest.fixture(params=[False, True], ids=["plain", "with tblib"])
def registered(request):
    """With and without what `tblib` registers when distributed is imported."""
    before = dict(copyreg.dispatch_table)
    if request.param:
        pytest.importorskip("tblib.pickling_support").install()
    yield
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)


@pytest.mark.usefixtures("registered")
def test_a_cause_that_does_not_load_is_told():
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__(a)

    error = ValueError("outer")
    error.__cause__ = Odd("inner", 2)
    again = pickle.loads(payload(error))
    assert type(again) is ValueError and type(again.__cause__) is RemoteError
    assert "inner" in str(again.__cause__)
    error = ValueError("one")
    error.__context__ = KeyError("two")
    error.__context__.__context__ = error  # In a circle.
    assert type(pickle.loads(payload(error)).__context__) is KeyError
    assert describe(error)[0] == "ValueError: one"


def test_remote_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(RemoteError("a.B", "text")))
    assert (error.type_name, error.text, str(error)) == ("a.B", "text", "a.B: text")
