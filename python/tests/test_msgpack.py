"""Both ways of writing MessagePack agree, and wrong bytes are refused."""

import random

import pytest

from hpcdag import _frames, _msgpack

VALUES = [
    None, True, False, 0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1,
    -1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63),
    0.0, -1.5, 1e300, "", "a" * 31, "a" * 32, "é" * 200, "x" * 70000,
    b"", b"a" * 255, b"a" * 256, b"z" * 70000,
    [], [1] * 15, [1] * 16, [0] * 70000, {}, {i: str(i) for i in range(20)}, {"a": [b"\x00", {"b": None}]},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: repr(v)[:20])
def test_values_survive(value):
    packed = _msgpack.pack_pure(value)
    assert _msgpack.unpack_pure(packed) == value
    assert _msgpack.unpack(packed) == value
    assert _msgpack.pack(value) == packed


def test_the_package_writes_the_same():
    msgpack = pytest.importorskip("msgpack")
    for value in VALUES:
        assert msgpack.packb(value, use_bin_type=True) == _msgpack.pack_pure(value)


@pytest.mark.parametrize("unpack", [_msgpack.unpack_pure, _msgpack.unpack], ids=["pure", "chosen"])
def test_wrong_bytes_are_refused(unpack):
    for wrong in (b"", b"\xc1", b"\xa5ab", b"\x01\x02", b"\xa1\xff", b"\x91" * 5000, b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(_msgpack.UnpackError):
            unpack(wrong)
    source = random.Random(1)
    for _ in range(3000):
        noise = source.randbytes(source.randrange(30))
        try:
            unpack(noise)
        except _msgpack.UnpackError:
            pass


def test_what_does_not_fit_is_refused():
    for pack in (_msgpack.pack, _msgpack.pack_pure):
        with pytest.raises(OverflowError):
            pack(2**64)
        with pytest.raises(TypeError):
            pack(object())


def test_heads_of_frames():
    head = _frames.pack_head(7, [1, "a"], body_bytes=5, flags=2)
    header = _frames.unpack_header(head)
    assert header == (len(head) - 12 + 5, 7, 2, len(head) - 12)
    assert _frames.unpack_control(head[12:]) == [1, "a"]
    with pytest.raises(_frames.FrameError):
        _frames.pack_head(7, [], body_bytes=64 << 20)
    for wrong in (b"\xff" * 12, b"\x01\0\0\0\x01\0\0\0\x02\0\0\0"):
        with pytest.raises(_frames.FrameError):
            _frames.unpack_header(wrong)
