// Events and errors: failures first, then everything that happened.
"use strict";
(() => {
  const { h, fmt } = HD;
  const KEPT = 10000;
  const store = { after: -1, events: [] };
  const load = async () => {
    const answer = await HD.get("events", { after: Math.max(0, store.after), limit: store.after < 0 ? KEPT : 1000 });
    const fresh = answer.events.filter((e) => e.number > store.after);
    for (const e of fresh) store.after = Math.max(store.after, e.number);
    if (!fresh.length) return false;
    store.events = [...store.events, ...fresh].slice(-KEPT);
    return true;
  };
  const columns = [
    { title: "Time", show: (e) => h("span.nowrap", {}, fmt.clock(e.time, 2)) },
    { title: "What", show: (e) => h("span.state", {}, HD.dot(e.level), HD.name(e.kind, 40)) },
    { title: "Task", class: "name", show: (e) => (e.key ? HD.taskLink(e.key, e.run) : "") },
    { title: "Text", class: "text", show: (e) => HD.name(e.text, 1000) },
    { title: "Worker", class: "name", show: (e) => (e.worker ? h("a", { href: HD.link("workers", { worker: e.worker }) }, HD.name(e.worker, 40)) : "") },
  ];

  const mount = (root, polls, params) => {
    let level = params.level || "", text = "";
    const table = HD.table({ label: "Events", columns, id: (e) => e.number, limit: 300, empty: "nothing has happened yet" });
    const search = HD.search("text, task, worker", "", (value) => { text = value.toLowerCase(); show(); });
    search.id = "filter";
    const levels = HD.switches("level", [["", "all"], ["warning", "warnings and errors"], ["error", "errors"]], level, (value) => { level = value; show(); });
    const failed = HD.table({ label: "Failed tasks", columns: HD.taskColumns, id: (t) => `${t.run} ${t.key}`, limit: 50, empty: "no task has failed" });
    const panel = HD.panel("Failed tasks", h("a", { href: HD.link("tasks", { state: "erred" }) }, "all of them"), failed);
    panel.classList.add("failure");
    panel.hidden = true;
    root.append(panel, HD.panel("Events", h("span.tools", {}, search, levels), table));
    const show = () => {
      const wanted = { "": ["info", "warning", "error"], warning: ["warning", "error"], error: ["error"] }[level];
      const words = (e) => [e.text, e.key, e.worker, e.kind].join(" ").toLowerCase();
      const rows = store.events.filter((e) => wanted.includes(e.level) && (!params.run || !e.run || e.run === params.run) && words(e).includes(text));
      table.say(store.events.length ? "nothing matches" : "nothing has happened yet");
      table.show(rows.reverse());
    };
    show();
    polls.on("theme", show);
    polls.every(1000, async () => { if (await load()) show(); });
    if (HD.has("tasks")) {
      polls.every(2000, async () => {
        const answer = await HD.get("tasks", { state: "erred", run: params.run, limit: 50 });
        // In a report all tasks that were written into it come.
        const rows = answer.tasks.filter((t) => t.state === "erred");
        HD.toggle(panel, rows.length > 0);
        failed.show(rows);
      });
    }
  };
  const plot = { title: "Events", mount };
  HD.page({ id: "events", title: "Events and errors", nav: "Events, errors", group: "Look closer", needs: ["events"], plots: { events: plot }, mount });
})();
