"""The package as a whole: what it exports, and the program that it finds."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hpcdag
from hpcdag import _binary

LINES_MAX = 400

PACKAGE = Path(hpcdag.__file__).parent


def test_names_for_type_checkers_are_those_that_there_are() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: str(node.module).removeprefix("hpcdag.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == hpcdag._EXPORTS
    assert set(typed) <= set(dir(hpcdag))


@pytest.mark.parametrize("name", sorted(hpcdag._EXPORTS))
def test_every_name_is_there(name: str) -> None:
    value = getattr(hpcdag, name)
    assert value is getattr(importlib.import_module(f"hpcdag.{hpcdag._EXPORTS[name]}"), name)
    assert value.__doc__, f"{name} has no docstring"


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = hpcdag.Cleint


def test_importing_loads_nothing_of_others() -> None:
    heavy = ("dask", "numpy", "msgpack", "asyncio")
    code = f"import sys, hpcdag; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_too_long_and_each_says_what_it_is() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < LINES_MAX, path
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_the_program_is_found_and_speaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hpcdag.__version__ == _binary.version()
    assert hpcdag.__version__[0].isdigit()
    monkeypatch.setenv("HPCDAG_BINARY", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="HPCDAG_BINARY names"):
        _binary.find()


def test_what_the_program_says_becomes_the_error() -> None:
    with pytest.raises(_binary.HpcdagError, match="unexpected argument '--such'") as caught:
        _binary.run(["status", "--such"])
    assert caught.value.exit_code == 2
    assert "hpcdag status --such" in str(caught.value)


def test_a_build_of_the_repository_is_found_without_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPCDAG_BINARY", raising=False)
    assert os.path.basename(_binary.find()) == "hpcdag"
