// Progress: how far each group of tasks is.
"use strict";
(() => {
  const { h, fmt } = HD;

  // The groups as the scheduler has them, without those that somebody filters out.
  const cell = (state) => ({ title: HD.stateWord[state], number: true, get: (g) => g.counts[state],
    show: (g) => (g.counts[state] ? h("a", { href: HD.link("tasks", { group: g.name, state }) }, fmt.count(g.counts[state])) : h("span.faint", {}, "0")) });
  const left = (g) => (g.counts.waiting || 0) + (g.counts.delayed || 0);
  const columns = [
    { title: "Group", class: "name", get: (g) => g.name, show: (g) => h("span.state", {}, HD.swatch(HD.colour(g.name)),
      h("a", { href: HD.link("tasks", { group: g.name }), title: HD.name(g.name, 600) }, HD.name(g.name, 60))) },
    { title: "Progress", get: (g) => g.done / (g.total || 1), update: (td, g) => HD.barCell(td, HD.groupParts(g), g.total, [],
      HD.STATES.filter((s) => g.counts[s]).map((s) => `${HD.stateWord[s]} ${fmt.count(g.counts[s])}`).join(", ")) },
    { title: "", number: true, show: (g) => fmt.percent(g.total ? g.done / g.total : 0) },
    { title: "Done", number: true, get: (g) => g.done, show: (g) => `${fmt.count(g.done)}\u202f/\u202f${fmt.count(g.total)}` },
    { title: "waiting", number: true, get: left, show: (g) => (left(g) ? h("a", { href: HD.link("tasks", { group: g.name, state: "waiting" }) }, fmt.count(left(g))) : h("span.faint", {}, "0")) },
    cell("queued"), cell("processing"), cell("memory"),
    { title: "failed", number: true, get: (g) => g.counts.erred, show: (g) => (g.counts.erred
      ? h("a.bad", { href: HD.link("tasks", { group: g.name, state: "erred" }) }, fmt.count(g.counts.erred)) : h("span.faint", {}, "0")) },
    { title: "Retried", number: true, hint: "attempts that failed", get: (g) => g["failed-attempts"],
      show: (g) => (g["failed-attempts"] ? fmt.count(g["failed-attempts"]) : h("span.faint", {}, "0")) },
    { title: "Each took", number: true, hint: "mean of what is done", get: (g) => (g.done ? g.seconds / g.done : null), show: (g) => fmt.seconds(g.done ? g.seconds / g.done : null) },
    { title: "Longest", number: true, get: (g) => g.longest, show: (g) => (g.longest ? fmt.seconds(g.longest) : fmt.none) },
    { title: "All took", number: true, get: (g) => g.seconds, show: (g) => (g.seconds ? fmt.seconds(g.seconds) : fmt.none) },
    { title: "Results", number: true, get: (g) => g.bytes, show: (g) => (g.bytes ? fmt.bytes(g.bytes) : "0") },
  ];

  const mount = (root, polls, params) => {
    let text = "", groups = [];
    const bar = HD.bar(true), legend = h("div"), runs = HD.runsTable(), note = h("span.soft.small");
    const table = HD.table({ label: "Groups of tasks", columns, id: (g) => `${g.id} ${g.name}`, limit: 200, empty: "no tasks yet" });
    const search = HD.search("group", "", (value) => { text = value.toLowerCase(); show(); });
    search.id = "filter";
    root.append(params.plot ? "" : HD.panel("Runs", null, runs), HD.panel("Groups of tasks", h("span.tools", {}, note, search), bar, legend, table));
    const show = () => {
      const rows = groups.filter((g) => g.name.toLowerCase().includes(text));
      const sum = {};
      for (const g of rows) for (const state of HD.STATES) sum[state] = (sum[state] || 0) + (g.counts[state] || 0);
      bar.show(HD.stateParts(sum), 0, [], HD.STATES.filter((s) => sum[s]).map((s) => `${HD.stateWord[s]} ${fmt.count(sum[s])}`).join(", "));
      HD.fill(legend, HD.stateLegend(sum));
      table.say(groups.length ? "no group matches" : "no tasks yet");
      table.show(rows);
    };
    const showRuns = () => {
      const o = HD.state.overview;
      if (o) runs.runs(params.run ? o.runs.filter((r) => r.id === params.run) : o.runs);
    };
    polls.on("overview", showRuns);
    polls.on("theme", () => { show(); showRuns(); });
    showRuns();
    polls.every(1000, async () => {
      const answer = await HD.get("groups", { run: params.run });
      groups = answer.groups;
      HD.text(note, answer.more ? `and ${fmt.plural(answer.more, "older group")}` : "");
      show();
    });
  };
  const plot = { title: "Progress", mount: (root, polls, params) => mount(root, polls, { ...params, plot: true }) };
  HD.page({ id: "progress", title: "Progress", group: "Now", needs: ["groups"], plots: { progress: plot }, mount });
})();
