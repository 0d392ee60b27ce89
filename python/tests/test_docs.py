"""The pages: every block of code in Python runs, and prints what stands beside it; examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "python.md"
EXAMPLES = sorted((REPOSITORY / "examples" / "python").glob("*.py"))

# `print(…)   # what it prints`
_PRINTED = re.compile(r"^print\(.*\) +# (.+)$", re.MULTILINE)


def blocks(language: str) -> list[str]:
    """The blocks of a language on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def run(path: Path, *args: str) -> str:
    """Runs a program to its end, which must be a success; what it printed."""
    done = subprocess.run(
        [sys.executable, str(path), *args], capture_output=True, text=True, timeout=110, cwd=path.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    code = "\n".join(blocks("python"))
    script = tmp_path / "page.py"
    script.write_text(code)
    said = run(script).splitlines()
    promised = _PRINTED.findall(code)
    assert len(promised) >= 3
    for line in promised:
        assert line in said, f"{line!r} is promised; it said\n" + "\n".join(said)
    assert "False" not in said


def test_what_needs_a_batch_system_is_python_at_least() -> None:
    found = blocks("py")
    assert found
    for block in found:
        compile(block, str(PAGE), "exec")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(example: Path, tmp_path: Path) -> None:
    copy = tmp_path / example.name
    copy.write_text(example.read_text())
    said = run(copy)
    # Each says at its end whether what it has computed is right.
    assert said.splitlines()[-1] == "equal to the eager result", said
