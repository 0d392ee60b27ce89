"""Zygotes: what they make of an environment, and that nothing outlives them."""

import os
import select
import signal
import sys

import pytest
from executors import PATIENCE_SECONDS, Zygote, receive

from hpcdag import _environment, _zygote


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _await_end(pid):
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with open(process, "rb", buffering=0) as file:
        ended, _, _ = select.select([file], [], [], PATIENCE_SECONDS)
    assert ended, f"{pid} still lives"


def test_an_environment_is_taken_over(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "own_module.py").write_text("import os\nVALUE = os.environ['A_VARIABLE']\n")
    (tmp_path / "cwd").mkdir()
    zygote = Zygote(
        preload=["own_module", "sent_module", "no_such_module"],
        path=[str(own), str(tmp_path / "nowhere"), *_environment.describe()["path"]],
        cwd=str(tmp_path / "cwd"),
        env={"A_VARIABLE": "set"},
        files={"sent_module.py": b"NAME = 'sent'"},
        packages={"cloudpickle": "0.0", "no such package": "1"},
    )
    executor = zygote.executor()

    def look():
        before = "own_module" in sys.modules
        import own_module
        import sent_module

        main = [name for name in vars(sys.modules["__main__"]) if not name.startswith("__")]
        return before, own_module.VALUE, sent_module.NAME, os.getcwd(), sys.path[:2], main

    before, value, name, cwd, path, main = executor.run(look)
    assert (before, value, name, cwd) == (True, "set", "sent", str(tmp_path / "cwd"))
    assert "hpcdag-files-" in path[0] and path[1] == str(own)
    assert main == []
    said = zygote.close()
    assert "preloading no_such_module failed: ModuleNotFoundError" in said
    assert "cloudpickle is" in said and "0.0 where the client is" in said
    assert said.count("failed") == 1
    assert not os.path.exists(path[0])


def test_what_the_client_has_not_imported_does_not_delay_the_first_executors():
    pytest.importorskip("numpy")
    pytest.importorskip("dask.array")
    zygote = Zygote(loaded=["numpy"])
    usual = ("cloudpickle", "numpy", "dask.array")

    def look():
        return [name for name in usual if name in sys.modules]

    executors = [zygote.executor() for _ in range(_zygote._EARLY_MAX + 1)]
    found = [executor.run(look) for executor in executors]
    assert found[0] == ["cloudpickle", "numpy"]
    assert found[-1] == list(usual), "those that come later have all"
    zygote.close()


def _place(directory, name, fifo):
    """A package that writes to `fifo` which process imports it."""
    package = directory / name
    package.mkdir(parents=True)
    text = f"import os\nwith open({str(fifo)!r}, 'w') as out:\n    out.write(f'{{os.getpid()}} ')\n"
    (package / "__init__.py").write_text(text + "from . import part\n")
    (package / "part.py").write_text("")
    os.mkfifo(fifo)


@pytest.mark.parametrize("how", ["with the environment", "later"])
def test_what_the_client_has_imported_is_imported_before_anybody_asks_for_an_executor(how, tmp_path):
    fifo = tmp_path / "fifo"
    _place(tmp_path / "own", "xarray", fifo)
    path = [str(tmp_path / "own"), *_environment.describe()["path"]]
    zygote = Zygote(loaded=["xarray"] if how == "with the environment" else [], path=path)
    if how == "later":
        zygote.want("no_usual_module", "xarray")
    assert int(fifo.read_text()) == zygote.process.pid
    executor = zygote.executor()
    assert executor.run(lambda: "xarray.part" in sys.modules) and not executor.cold
    assert zygote.close() == ""


def test_what_does_not_need_the_client_s_modules_does_not_wait_for_them():
    pytest.importorskip("numpy")
    zygote = Zygote(loaded=[])
    look = "lambda: 'numpy' in __import__('sys').modules"
    # So that it reads both at once.
    zygote.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, zygote.process.pid, os.WSTOPPED)
    zygote.want("numpy")
    early = zygote.executor(at_once=True, sent=lambda: zygote.process.send_signal(signal.SIGCONT))
    assert early.cold and not early.run(eval(look))
    warm = zygote.executor()
    assert not warm.cold and warm.run(eval(look))
    zygote.close()


def test_a_directory_that_is_not_there_is_said():
    zygote = Zygote(cwd="/no/such/directory", path=["/no/such", *_environment.describe()["path"]])
    assert zygote.executor().run(lambda: 1) == 1
    assert "/no/such/directory is not here" in zygote.close()


def test_what_a_client_says_of_itself(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    said = _environment.describe(env={"B": 1}, files={"/a/b.py": b"x"}, preload=["m"])
    assert said["path"][0] == str(tmp_path) and said["cwd"] == str(tmp_path)
    installed = ("site-packages", sys.base_prefix + "/lib/python")
    package = os.path.dirname(os.path.dirname(_environment.__file__))
    assert package in said["path"] or any(one in package for one in installed)
    assert not any(one in path for path in said["path"] for one in installed)
    assert (said["python"], said["version"]) == (
        sys.executable,
        f"{sys.version_info[0]}.{sys.version_info[1]}",
    )
    assert "cloudpickle" in said["packages"]
    assert (said["env"], said["files"], said["preload"]) == ({"B": "1"}, {"b.py": b"x"}, ["m"])
    assert _environment.packed(env={"B": "1"}) == _environment.packed(env={"B": "1"})


def test_a_client_says_what_it_has_imported_but_not_what_only_this_package_has(monkeypatch):
    for name in _environment.PRELOAD:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delitem(sys.modules, "dask.bag", raising=False)
    assert _environment.describe()["loaded"] == []
    for name in ("dask", "xarray", "numpy"):
        monkeypatch.setitem(sys.modules, name, sys)
    assert _environment.describe()["loaded"] == ["numpy", "xarray"]
    monkeypatch.setitem(sys.modules, "dask.bag", sys)
    assert _environment.describe()["loaded"] == ["numpy", "dask", "xarray"]


@pytest.mark.parametrize("how", ["closed", "killed", "terminated"])
def test_nothing_outlives_a_zygote(how, tmp_path):
    zygote = Zygote()
    idle = zygote.executor()
    stuck = zygote.executor()
    began = tmp_path / "began"
    os.mkfifo(began)

    def hold(path):
        import ctypes
        import subprocess

        child = subprocess.Popen(["sleep", "1000"])
        with open(path, "w") as out:
            out.write(str(child.pid))
        ctypes.PyDLL(None).sleep(1000)  # With the lock of the interpreter: no Python code runs any more.

    stuck.start(hold, str(began))
    child = int(began.read_text())
    if how == "closed":
        zygote.channel.socket.close()
    elif how == "killed":
        zygote.process.kill()
    else:
        zygote.process.terminate()
    zygote.process.wait(PATIENCE_SECONDS)
    _await_end(stuck.pid)
    _await_end(idle.pid)
    if how == "killed":
        os.kill(child, signal.SIGKILL)  # This is the worker's to find.
    _await_end(child)
    zygote.process.stderr.close()


def test_what_an_executor_has_started_ends_with_it(zygote):
    executor = zygote.executor()

    def start():
        import subprocess

        return subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid

    child = executor.run(start)
    assert _is_alive(child)
    executor.channel.socket.close()
    assert executor.exited()[0] == 0
    _await_end(child)


def test_many_executors(zygote):
    before = len(os.listdir(f"/proc/{zygote.process.pid}/fd"))
    for _ in range(5):
        some = [zygote.executor() for _ in range(20)]
        numbers = [one.start(os.getpid) for one in some]
        for one, number in zip(some, numbers, strict=True):
            assert one.done(number)[0] == "Succeeded"
            one.channel.socket.close()
        ended = [receive(zygote.channel, _zygote.EXITED).control for _ in some]
        assert sorted(ended) == sorted([one.pid, 0] for one in some)
        for one in some:
            assert one.written() == ""
    assert len(os.listdir(f"/proc/{zygote.process.pid}/fd")) == before


def test_an_executor_has_only_its_own_descriptors(zygote):
    other = zygote.executor()
    executor = zygote.executor()

    def sockets():
        all_fds = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        links = [os.readlink(fd) for fd in all_fds if os.path.lexists(fd)]
        return [one for one in links if one.startswith(("socket", "pipe"))]

    found = executor.run(sockets)
    assert len([one for one in found if one.startswith("socket")]) == 1
    assert len({one for one in found if one.startswith("pipe")}) == 1
    for one in (other, executor):
        one.channel.socket.close()
        one.exited()


def test_a_wrong_message_ends_a_zygote():
    zygote = Zygote()
    zygote.channel.send(99, [])
    _, errors = zygote.process.communicate(timeout=PATIENCE_SECONDS)
    assert b"message 99 is not for zygotes" in errors and zygote.process.returncode == 1
