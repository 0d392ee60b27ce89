"""The dashboard in a real browser against a real cluster: pages open, say what `status` says, harm nobody."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from browser import Browser, places
from clusters import isolate
from watched import HOSTILE, Watched

PAGES = {
    "overview": "Tasks by state",
    "stream": "Task stream",
    "progress": "Groups of tasks",
    "workers": "Workers",
    "memory": "By worker",
    "actions": "What the workers' time went into",
    "events": "Events",
    "tasks": "Tasks",
    "graph": "Graph of groups",
    "profile": "Stacks of Python tasks",
    "logs": "Log",
    "task": "Name a task by its key",
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One cluster for all tests here, with a run on it that stands still."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("watched")
        isolate(directory, patch)
        made = Watched(directory)
        try:
            made.submit()
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.fixture
def at(watched: Watched, browser: Browser) -> Iterator[Any]:
    """Opens a page by its fragment. In the end nothing was complained about or asked for elsewhere."""
    browser.complaints()
    browser.requests()
    address = watched.address
    home = urlsplit(address).netloc

    def go(page: str) -> Browser:
        browser.open(f"{address}#/{page}")
        browser.until(lambda: browser.run("return document.querySelector('main[data-page]') !== null"))
        return browser

    yield go
    requests = browser.requests()
    assert places(requests) <= {home}, requests
    assert [url for url, status in requests if status not in (None, 200, 303, 404)] == []
    assert browser.complaints() == []
    assert browser.run("return window.owned ?? null") is None


@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens(at: Any, page: str) -> None:
    browser = at(page)
    browser.until(lambda: PAGES[page] in browser.text("main"))
    browser.until(lambda: browser.text("#state") == "running")
    link = browser.run("return document.querySelector('nav a[aria-current=page]').getAttribute('href')")
    assert link == f"#/{page}"
    assert not browser.run("return document.querySelector('.notice.fault').hidden === false")
    # It fits on a laptop's screen: only tables may be wider, and these scroll by themselves.
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_the_token_does_not_stay_in_the_address(at: Any, watched: Watched) -> None:
    browser = at("workers")
    token = watched.address.split("token=")[1]
    assert token and token not in browser.driver.current_url
    assert token not in browser.run("return document.documentElement.outerHTML + document.cookie")


def test_the_overview_says_what_status_says(at: Any, watched: Watched) -> None:
    browser = at("overview")
    status = watched.status()
    wanted = {state: str(count) for state, count in status["tasks"].items() if count}

    def shown() -> dict[str, str]:
        found = "[...document.querySelectorAll('main [data-state]')]"
        return dict(browser.run(f"return {found}.map(e => [e.dataset.state, e.innerText])"))

    browser.until(lambda: shown() == wanted)
    tiles = {tile.split("\n")[0]: tile for tile in browser.texts("main .tile")}
    assert "of 4" in tiles["Threads busy"]
    assert str(status["tasks"]["erred"]) in tiles["Failed"].split("\n")[1]
    workers = browser.rows("Workers")
    assert sorted(row["Worker"] for row in workers) == sorted(worker["name"] for worker in status["workers"])
    run = browser.rows("Runs")[0]
    assert (run["Run"], run["State"], run["Done"]) == ("watched", "running", "20 / 32")
    assert browser.text("#hold").startswith("What holds it back: ")


def test_the_workers_are_those_of_status(at: Any, watched: Watched) -> None:
    browser = at("workers")
    workers = {worker["name"]: worker for worker in watched.status()["workers"]}
    rows = browser.until(lambda: browser.rows("Workers"))
    assert {row["Worker"] for row in rows} == set(workers)
    for row in rows:
        worker = workers[row["Worker"]]
        assert row["State"] == worker["state"] and row["Host"] == worker["host"]
        assert row["Threads"] == f"{worker['executing']} / {worker['threads']:.0f}"
    first = min(workers)
    browser.type("#filter", first)
    browser.until(lambda: [row["Worker"] for row in browser.rows("Workers")] == [first])
    browser.type("#filter", "none of them")
    browser.until(lambda: "no worker matches" in browser.text("main"))
    browser.type("#filter", first)
    browser.click("main td.name a")
    browser.until(lambda: f"Worker {first}" in browser.text("main"))
    assert "1.00 GiB" in browser.text("dl.facts:nth-of-type(2)")


def test_groups_their_tasks_and_one_task(at: Any, watched: Watched) -> None:
    browser = at("progress")
    rows = browser.until(lambda: {row["Group"]: row for row in browser.rows("Groups of tasks")})
    assert (rows["quick"]["Done"], rows["slow"]["Done"], rows["bad"]["failed"]) == ("20 / 20", "0 / 9", "1")
    running = watched.status()["tasks"]["processing"]
    assert rows["slow"]["processing"] == str(running)
    browser.type("#filter", "slo")
    browser.until(lambda: [row["Group"] for row in browser.rows("Groups of tasks")] == ["slow"])
    browser.click("main a[href*='state=processing']")
    browser.until(lambda: len(browser.rows("Tasks")) == running)
    assert {row["State"] for row in browser.rows("Tasks")} == {"processing"}
    assert {row["Group"] for row in browser.rows("Tasks")} == {"slow"}
    browser.type("#filter", "quick[7]")
    for label in ("state", "group"):
        browser.choose(label, "")
    browser.until(lambda: [row["Task"] for row in browser.rows("Tasks")] == ["quick[7]"])
    browser.click("main td.name a")
    browser.until(lambda: browser.text("#task-why"))
    assert "done" in browser.text("#task-why") or browser.text("#task-state") == "in memory"
    browser.until(lambda: [row["To"] for row in browser.rows("What happened")])


def test_a_failed_task_is_one_click_from_its_stderr(at: Any, watched: Watched) -> None:
    browser = at("overview")
    browser.until(lambda: "Latest failures" in browser.text("main"))
    browser.click("section.failure a[href^='#/task']")
    stderr = browser.until(lambda: browser.text("#failure-stderr"))
    assert HOSTILE in stderr and "the end of it" in stderr
    # Nothing of it is markup, and nothing turns the text around or clears a screen.
    assert browser.run("return document.querySelectorAll('main img, main script').length") == 0
    raw = browser.run("return document.querySelector('main').textContent")
    assert not set("\x00\x07\x1b\u202e") & set(raw)
    assert "exit status 3" in browser.text("main section.failure h2")
    assert browser.text("#task-state") == "failed"
    assert browser.rows("What happened")[-1]["To"] == "failed"


def test_events_by_level_and_text(at: Any) -> None:
    browser = at("events")
    browser.until(lambda: [row["Task"] for row in browser.rows("Failed tasks") if row["Task"] == "bad"])
    rows = browser.until(lambda: browser.rows("Events"))
    assert sum(row["What"] == "worker-joined" for row in rows) == 2
    browser.run("[...document.querySelectorAll('main button')].find(b => b.innerText === 'errors').click()")
    rows = browser.rows("Events")
    assert "task-failed" in {row["What"] for row in rows} and "worker-joined" not in {
        row["What"] for row in rows
    }
    browser.run("[...document.querySelectorAll('main button')].find(b => b.innerText === 'all').click()")
    browser.type("#filter", "run-submitted")
    browser.until(lambda: {row["What"] for row in browser.rows("Events")} == {"run-submitted"})


def test_the_stream_is_drawn_moved_and_clicked(at: Any) -> None:
    browser = at("stream")
    # Short tasks in a row share one.
    count = "return Number(document.getElementById('stream').dataset.count)"
    browser.until(lambda: browser.run(count) >= 5)
    longest = browser.until(
        lambda: browser.rows("Longest in view") or browser.click("button[aria-label^=everything]")
    )
    assert {row["Kind"] for row in longest} <= {
        "task",
        "running",
        "failed",
        "transfer",
        "waits",
        "written to disk",
        "read from disk",
    }
    browser.keys("#stream", "0")
    browser.until(
        lambda: browser.run("return document.querySelector('button[title^=stay]').ariaPressed") == "false"
    )
    # A click on the longest leads to its task; nothing moves meanwhile.
    browser.keys("#stream", "p")
    browser.keys("#stream", "l")
    place = browser.until(lambda: browser.run("return document.querySelector('.stage').widest()"))
    from selenium.webdriver import ActionChains

    canvas = browser.driver.find_element("id", "stream")
    corner = canvas.size["width"] / 2, canvas.size["height"] / 2
    ActionChains(browser.driver).move_to_element_with_offset(
        canvas, int(place["x"] - corner[0]), int(place["y"] - corner[1])
    ).perform()
    browser.until(lambda: place["key"] in browser.text(".tip"))
    ActionChains(browser.driver).click().perform()
    browser.until(
        lambda: browser.run("return location.hash").startswith(f"#/task?key={quote(place['key'], safe='')}")
    )


def test_what_runs_is_in_the_stream_and_in_a_report(at: Any, watched: Watched) -> None:
    running = "return document.getElementById('stream').dataset.running"

    def open_tasks() -> list[str]:
        rows = browser.rows("Longest in view")
        return sorted(row["Longest in view"][:5] for row in rows if row["Kind"] == "running")

    browser = at("stream")
    browser.until(lambda: browser.run(running) == "4" and open_tasks() == ["slow["] * 4)
    run = watched.status()["runs"][0]["id"]
    file = watched.directory / "running.html"
    watched.run("report", str(file), "--run", run, "--trace", str(watched.directory / "trace.json"))
    trace = json.loads((watched.directory / "trace.json").read_text())["traceEvents"]
    assert [event["name"] for event in trace if event.get("cat") == "running"] == ["slow"] * 4
    browser.open(f"{file.as_uri()}#/stream")
    browser.until(lambda: browser.run(running) == "4" and open_tasks() == ["slow["] * 4)
    # What is asked of the file is not asked of another host.
    assert places(browser.requests()) <= {urlsplit(watched.address).netloc, "file", "data"}


def test_the_graph_links_its_groups(at: Any) -> None:
    browser = at("graph")
    boxes = "return [...document.querySelectorAll('.graph a title')].map(t => t.textContent)"
    names = browser.until(lambda: browser.run(boxes))
    assert "quick: 20 of 20 done" in names and "slow: 0 of 9 done" in names
    edges = browser.run("return [...document.querySelectorAll('.graph .edge title')].map(t => t.textContent)")
    assert any(edge.startswith("quick → slow") for edge in edges), edges
    browser.click(".graph a[href*='group=slow'] .box")
    browser.until(lambda: len(browser.rows("Tasks of slow")) == 9)


def test_logs_of_scheduler_and_worker(at: Any, watched: Watched) -> None:
    browser = at("logs")
    browser.until(lambda: browser.texts("main pre.output"))
    worker = watched.status()["workers"][0]["name"]
    browser = at(f"logs?of={worker}")
    browser.until(lambda: browser.texts("main pre.output"))


def test_each_plot_has_its_own_address(at: Any, watched: Watched) -> None:
    browser = at("overview")
    address = urlsplit(watched.address)
    request = urllib.request.Request(f"http://{address.netloc}/individual-plots.json")
    request.add_header("Authorization", f"Bearer {address.query.removeprefix('token=')}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        plots = json.load(answer)
    assert len(plots) >= 10
    for title, path in plots.items():
        browser.open(f"http://{address.netloc}{path}")
        browser.until(lambda: browser.text("main section.panel h2") or browser.text("main canvas"))
        assert browser.run("return getComputedStyle(document.querySelector('.side')).display") == "none", (
            title
        )


def test_colours_pause_and_keys(at: Any) -> None:
    browser = at("overview")
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(colour)
    browser.keys("main", "t")
    browser.keys("main", "t")
    browser.until(lambda: browser.run(colour) != light)
    browser.keys("main", "t")
    browser.until(lambda: browser.run(colour) == light)
    browser.keys("main", "p")
    browser.until(lambda: "Paused" in browser.text(".top"))
    browser.keys("main", "p")
    browser.keys("main", "4")
    browser.until(lambda: browser.run("return location.hash") == "#/workers")
    browser.keys("main", "/")
    assert browser.run("return document.activeElement.id") == "filter"


def test_what_is_not_there(at: Any) -> None:
    browser = at("task?key=none%5B1%5D")
    browser.until(lambda: browser.text("main .notice:not([hidden])"))
    browser = at("nowhere")
    browser.until(lambda: "no such page" in browser.text("main"))


def test_a_wrong_token_opens_nothing(watched: Watched, browser: Browser, tmp_path: Any) -> None:
    address = urlsplit(watched.address)
    browser.driver.delete_all_cookies()
    browser.open(f"http://{address.netloc}/")
    assert "hpcdag status" in browser.text("body") or "unauthorized" in browser.text("body")
    assert "quick" not in browser.text("body")
    browser.complaints()


def test_python_calls_with_hostile_keys(at: Any, watched: Watched, browser: Browser) -> None:
    from hpcdag import Client

    key = HOSTILE + "\u202e" + "k" * 3000
    with Client(watched.file) as client:
        watched.let_go()
        future = client.submit(pow, 2, 5, key=key)
        assert future.result(timeout=60) == 32
        at("tasks?text=onerror")
        browser.until(lambda: [row for row in browser.rows("Tasks") if row["Task"].startswith("<img")])
        browser.click("main td.name a")
        browser.until(lambda: browser.text("#task-state"))
        for page in ("progress", "graph", "overview", "stream"):
            at(page)
            browser.until(lambda: browser.text("#state") in ("idle", "running"))
            assert browser.run("return document.querySelectorAll('main img').length") == 0
        at("overview")
        failed = str(watched.status()["tasks"]["erred"])
        browser.until(lambda: browser.text("[data-state=erred]") == failed)
        browser.until(lambda: browser.text("[data-state=processing]") == "")


def test_a_report_opens_from_disk(watched: Watched, browser: Browser) -> None:
    watched.let_go()
    run = next(run["id"] for run in watched.status()["runs"] if run["name"] == "watched")
    file = watched.directory / "report.html"
    watched.run("report", str(file), "--run", run)
    browser.complaints()
    browser.requests()
    browser.open(file.as_uri())
    browser.until(lambda: [row["Done"] for row in browser.rows("Runs")] == ["30 / 32"])
    assert browser.text("[data-state=erred]") == "2"
    rows = {}
    browser.open(f"{file.as_uri()}#/progress")
    rows = browser.until(lambda: {row["Group"]: row for row in browser.rows("Groups of tasks")})
    assert (rows["slow"]["Done"], rows["bad"]["failed"]) == ("9 / 9", "1")
    browser.open(f"{file.as_uri()}#/stream")
    browser.until(
        lambda: [row for row in browser.rows("Longest in view") if row["Longest in view"].startswith("slow")]
    )
    browser.open(f"{file.as_uri()}#/task?key=bad")
    assert HOSTILE in browser.until(lambda: browser.text("#failure-stderr"))
    browser.open(f"{file.as_uri()}#/advice")
    browser.until(lambda: "Advice" in browser.text("main"))
    # Data in addresses are pictures that are written into the page.
    assert places(browser.requests()) <= {"file", "data"}
    assert browser.complaints() == [] and browser.run("return window.owned ?? null") is None
