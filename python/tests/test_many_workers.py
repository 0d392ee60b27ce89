"""The dashboard of a real scheduler with more workers than are drawn one by one; they pretend to work."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from browser import Browser, places
from clusters import isolate, until

from hpcdag import _binary

WORKERS = 150


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard of such a cluster, with what opens it."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("many")
        isolate(directory, patch)
        binary, file = _binary.find(), directory / "scheduler.json"
        named = ["--scheduler-file", str(file)]

        def status() -> dict:
            done = subprocess.run(
                [binary, "status", "--json", *named], capture_output=True, timeout=60, check=True
            )
            return dict(json.loads(done.stdout))

        subprocess.run([binary, "scheduler", "--detach", *named], check=True, timeout=60, capture_output=True)
        command = [binary, "bench", "sessions", *named, "-n", str(WORKERS)]
        pretended = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            until(lambda: len(status()["workers"]) == WORKERS)
            yield str(status()["dashboard"])
        finally:
            pretended.kill()
            pretended.wait()
            subprocess.run([binary, "down", *named], timeout=60, capture_output=True, check=False)


def test_all_workers_are_there_and_the_pages_say_so(address: str, browser: Browser) -> None:
    browser.open("about:blank")
    # What the browser's own first page has asked for.
    browser.requests()
    browser.open(f"{address}#/workers")
    names = browser.until(lambda: {row["Worker"] for row in browser.rows("Workers")})
    assert len(names) == WORKERS
    for page in ("overview", "memory", "actions", "stream"):
        browser.open(f"{address}#/{page}")
        browser.until(lambda: browser.text("#state") == "idle")
        browser.until(lambda: browser.text("main section.panel h2"))
        assert not browser.run("return document.querySelector('.notice.fault').hidden === false")
    assert browser.complaints() == []
    assert places(browser.requests()) <= {urlsplit(address).netloc, "data"}


def test_what_is_asked_for_wrongly_is_told(address: str) -> None:
    token = urlsplit(address).query.removeprefix("token=")
    for path, status in (
        ("api/v1/tasks?limit=many", 400),
        ("api/v1/groups?run=00000000-0000-0000-0000-000000000000", 404),
        ("api/v1/task?key=none", 404),
        ("api/v1/nothing", 404),
    ):
        request = urllib.request.Request(f"http://{urlsplit(address).netloc}/{path}")
        request.add_header("Authorization", f"Bearer {token}")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)
        with caught.value as answer:
            said = json.load(answer)
        assert answer.code == status and said["error"]["message"], (path, said)
