// Task: why it failed or does not run, what happened to it, what it printed.
"use strict";
(() => {
  const { h, fmt } = HD;
  const SHOWN = 200000;

  // Output of a program: the last of it, harmless, and what there is more.
  HD.output = (part) => {
    const note = h("span.soft.small"), pre = h("pre.output", { tabindex: "0", "aria-label": part.name });
    const all = h("button", { type: "button", hidden: true }, "show all of it");
    const element = h("section", {}, h("header.tools", {}, h("h2", {}, HD.name(part.name, 60)), note, all), pre);
    let text = null, whole = false;
    element.show = (given) => {
      if (given.text === text) return;
      const below = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
      text = given.text;
      const cut = !whole && text.length > SHOWN;
      HD.text(pre, HD.harmless(cut ? text.slice(-SHOWN) : text) || "nothing");
      const missing = (given["left-out"] || 0) + (cut ? text.length - SHOWN : 0);
      HD.text(note, missing ? `${fmt.bytes(missing)} before this ${cut ? "not shown" : "are no longer kept"}` : "");
      HD.toggle(all, cut);
      if (below) pre.scrollTop = pre.scrollHeight;
    };
    all.addEventListener("click", () => { const t = text; whole = true; text = null; element.show({ ...part, text: t }); });
    element.show(part);
    return element;
  };
  HD.outputs = (root) => {
    const shown = new Map();
    return (logs) => {
      const parts = logs?.parts || [];
      for (const [name, element] of shown) if (!parts.some((p) => p.name === name)) { element.remove(); shown.delete(name); }
      for (const part of parts) {
        if (shown.has(part.name)) shown.get(part.name).show(part);
        else { const made = HD.output(part); shown.set(part.name, made); root.append(made); made.querySelector("pre").scrollTop = 1e9; }
      }
    };
  };

  const worker = (name) => h("a", { href: HD.link("workers", { worker: name }) }, HD.name(name, 60));
  const listed = (names, show, most = 20) => [names.slice(0, most).map((name, k) => [k ? ", " : "", show(name)]), names.length > most ? ` and ${names.length - most} more` : ""];

  const explain = (root, e) => {
    if (e.state === null || e.state === undefined) {
      HD.fill(root, HD.panel(HD.name(e.key, 200), null, h("p", {}, `This is a family: ${fmt.count(e.done)} of ${fmt.count(e.elements)} tasks are done. `,
        h("a", { href: HD.link("tasks", { group: e.key }) }, "Its tasks"))));
      return;
    }
    const fact = (name, ...value) => (value.flat(9).some((v) => v !== null && v !== "") ? [h("dt", {}, name), h("dd", {}, value)] : null);
    const task = (key) => HD.taskLink(key, e.run);
    const missing = e["missing-inputs"] || { count: 0, first: [] };
    const failure = e.failure;
    const facts = h("dl.facts", {}, fact("state", h("span.state", { id: "task-state", "data-state": e.state }, HD.swatch(HD.stateColour(e.state)), HD.stateWord[e.state] || e.state)),
      fact("why", h("span", { id: "task-why" }, HD.name(e.why || "", 1000))), fact("run", e["run-name"] || e.run ? h("a", { href: HD.link("progress", { run: e.run }) }, HD.name(e["run-name"] || e.run, 100)) : null),
      fact("attempts", `${fmt.count(e.attempts)}${e["failed-attempts"] ? `, ${e["failed-attempts"]} failed` : ""}`), fact("worker", e.worker ? worker(e.worker) : null),
      fact("tried again in", fmt.known(e["retry-in"]) ? fmt.seconds(e["retry-in"]) : null), fact("failed on", listed(e["failed-hosts"] || [], (x) => HD.name(x, 60))),
      fact("because of", e.blame ? (typeof e.blame === "string" ? task(e.blame) : HD.name(JSON.stringify(e.blame), 200)) : null),
      fact("workers lost while it ran", listed(e["workers-lost"] || [], (x) => HD.name(x, 60))), fact("result", e.bytes ? fmt.bytes(e.bytes) : null),
      fact("held by", listed(e.holders || [], worker)), fact("inputs missing", missing.count && e.state === "waiting" ? [fmt.count(missing.count), ": ", listed(missing.first || [], task)] : null),
      fact("needed by", fmt.plural(e["needed-by"] || 0, "task")));
    const reasons = (e.workers || []).length ? HD.table({ label: "Why not there", id: (w) => w.worker, limit: 50, columns: [
      { title: "Worker", class: "name", show: (w) => worker(w.worker) }, { title: "Why it does not run there", class: "text", show: (w) => HD.name(w.why, 400) }] }) : null;
    if (reasons) reasons.show(e.workers);
    const failed = failure ? HD.panel(`${HD.name(failure.what || "failed", 300)} on ${HD.name(failure.host || "?", 60)}`, null,
      failure.command && failure.command !== e.key ? [h("p.soft.small", {}, "command"), h("pre.output", {}, HD.harmless(failure.command.slice(0, 4000)))] : null,
      failure.stderr ? [h("p.soft.small", {}, "stderr, its end"), h("pre.output", { id: "failure-stderr", tabindex: "0" }, HD.harmless(failure.stderr.slice(-SHOWN)))] : null) : null;
    if (failed) failed.classList.add("failure");
    HD.fill(root, failed, HD.panel("What is with it", null, facts, reasons, e["more-workers"] ? h("p.soft", {}, `and ${fmt.count(e["more-workers"])} more workers`) : null));
    // What it said last is why it failed.
    const stderr = root.querySelector("#failure-stderr");
    if (stderr) stderr.scrollTop = stderr.scrollHeight;
  };

  HD.page({
    id: "task", title: "Task", group: "Look closer", needs: ["task"],
    mount(root, polls, params) {
      const key = h("input", { type: "search", "aria-label": "key of the task", placeholder: "key of a task, e.g. filter[17]", value: params.key || "",
        spellcheck: "false", autocomplete: "off", size: 48, id: "filter" });
      root.append(h("form.tools", { onsubmit: (event) => { event.preventDefault(); if (key.value.trim()) HD.go("task", { key: key.value.trim() }); } },
        key, h("button", { type: "submit" }, "Look"), params.key ? h("a", { href: HD.link("tasks") }, "all tasks") : null));
      if (!params.key) { root.append(HD.empty("Name a task by its key, or choose one under Tasks, in the task stream or among the failures.")); return; }
      root.append(h("h2.mono", { title: HD.name(params.key, 2000), style: { overflowWrap: "anywhere" } }, HD.name(params.key, 400)));
      const what = h("div.main", { style: { padding: 0 } }), printed = h("section.panel", { "aria-label": "What it printed", hidden: true }), story = h("div");
      const say = HD.outputs(printed), problem = h("div.notice", { hidden: true });
      const table = HD.table({ label: "What happened", id: (r) => `${r.time} ${r.from} ${r.to}`, limit: 200, empty: "nothing is remembered of it: it has not changed yet, or too long ago", columns: [
        { title: "Time", show: (r) => fmt.clock(typeof r.time === "number" ? r.time : Date.parse(r.time) / 1000, 3) }, { title: "From", show: (r) => HD.stateWord[r.from] || r.from || fmt.none },
        { title: "To", show: (r) => h("span.state", {}, HD.swatch(HD.stateColour(r.to)), HD.stateWord[r.to] || r.to) }, { title: "Attempt", number: true, show: (r) => fmt.count(r.attempt) },
        { title: "Worker", class: "name", show: (r) => (r.worker ? worker(r.worker) : fmt.none) }, { title: "Cause", show: (r) => HD.name(r.cause || "", 100) }] });
      story.append(HD.panel("What happened to it", null, table));
      HD.add(root, [problem, what, printed, story]);
      let before = "";
      polls.every(2000, async () => {
        let answer;
        try {
          answer = await HD.get("task", { key: params.key, run: params.in || params.run });
        } catch (error) {
          if (error.status === 404 || error.status === 400) { HD.text(problem, HD.name(error.message, 600)); HD.toggle(problem, true); return; }
          throw error;
        }
        HD.toggle(problem, false);
        // Nothing that somebody may be marking is made again while it says the same.
        const now = JSON.stringify(answer.explain) + HD.css("--bg");
        if (now !== before) { before = now; explain(what, answer.explain); }
        table.show(answer.story || []);
        HD.toggle(printed, Boolean(answer.logs?.parts?.some((p) => p.text)));
        say(answer.logs);
      });
    },
  });
})();
