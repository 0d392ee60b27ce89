// Workers: all figures of each, and what holds one back.
"use strict";
(() => {
  const { h, fmt } = HD;
  const rate = (x) => (x ? fmt.rate(x) : fmt.known(x) ? "0" : fmt.none);
  const used = (w) => w.memory.managed + w.memory.unmanaged;
  const columns = [
    { title: "Worker", class: "name", get: (w) => w.name, show: (w) => h("a", { href: HD.link("workers", { worker: w.name }), title: HD.name(w.name) }, HD.name(w.name, 34)) },
    { title: "State", get: (w) => w.state, show: (w) => h("span", { title: w.why ? HD.name(w.why) : null }, HD.stateOf(w.state)) },
    { title: "Host", class: "name", get: (w) => w.host, show: (w) => HD.name(w.host, 30) },
    { title: "Job", get: (w) => w["job-id"], show: (w) => (w["job-id"] ? HD.name(w["job-id"], 24) : fmt.none) },
    { title: "Ends in", number: true, hint: "end of the allocation", get: (w) => w["ends-in"], show: (w) => fmt.seconds(w["ends-in"]) },
    { title: "Threads", number: true, hint: "running of all", get: (w) => w.executing, show: (w) => `${w.executing}\u202f/\u202f${fmt.short(w.threads)}` },
    { title: "CPU", number: true, hint: "in threads", get: (w) => w.cpu, show: (w) => (fmt.known(w.cpu) ? w.cpu.toFixed(1) : fmt.none) },
    { title: "Memory", get: (w) => used(w) / (w.memory.limit || 1), update: (cell, w) => HD.barCell(cell, HD.memoryParts(w.memory), w.memory.limit,
      [w.memory.target, w.memory.spill, w.memory.pause, w.memory.terminate], HD.memoryLabel(w.memory)) },
    { title: "used", number: true, get: used, show: (w) => fmt.bytes(used(w)) },
    { title: "On disk", number: true, get: (w) => w.memory.spilled, show: (w) => (w.memory.spilled ? fmt.bytes(w.memory.spilled) : "0") },
    { title: "In", number: true, hint: "from other workers", get: (w) => w.rates["bytes-in"], show: (w) => rate(w.rates["bytes-in"]) },
    { title: "Out", number: true, hint: "to other workers", get: (w) => w.rates["bytes-out"], show: (w) => rate(w.rates["bytes-out"]) },
    { title: "Disk", number: true, hint: "written and read", get: (w) => w.rates["disk-write"] + w.rates["disk-read"],
      show: (w) => rate(w.rates["disk-write"] + w.rates["disk-read"]) },
    { title: "Tasks/s", number: true, get: (w) => w.rates.tasks, show: (w) => fmt.short(w.rates.tasks) },
    { title: "Queue", number: true, hint: "tasks that wait on the worker", get: (w) => w.queued, show: (w) => fmt.count(w.queued) },
    { title: "Results", number: true, get: (w) => w.results, show: (w) => fmt.count(w.results) },
    { title: "Seen", number: true, hint: "seconds since its last word", get: (w) => w["last-seen"],
      show: (w) => h(w["last-seen"] > 15 ? "span.warn" : "span", {}, fmt.seconds(w["last-seen"] === null ? null : Math.round(w["last-seen"] * 10) / 10)) },
  ];

  const table = {
    title: "Workers",
    mount(root, polls, params) {
      let text = params.text || "";
      const all = HD.table({ label: "Workers", columns, id: (w) => w.name, sort: "Worker", limit: 300, empty: "no worker is connected" });
      const count = h("span.soft");
      const search = HD.search("name, host, job, state", text, (value) => { text = value; show(); });
      search.id = "filter";
      const one = h("div"), held = h("div.notice", { hidden: true });
      root.append(one, held, HD.panel("Workers", h("span.tools", {}, count, search), all,
        HD.keys([["results", HD.css("--m-managed")], ["other memory", HD.css("--m-unmanaged")]])));
      const show = () => {
        const o = HD.state.overview;
        if (!o) return;
        const words = (w) => [w.name, w.host, w["job-id"], w.state, w.why, w.pool].join(" ").toLowerCase();
        const rows = o.workers.filter((w) => words(w).includes(text.toLowerCase()));
        all.say(o.workers.length ? "no worker matches" : "no worker is connected");
        all.show(rows);
        const back = o.workers.filter((w) => w.why);
        HD.toggle(held, back.length > 0);
        HD.fill(held, back.slice(0, 5).map((w) => h("div", {}, h("b", {}, HD.name(w.name, 60)), ` is ${w.state}: ${HD.name(w.why)}`)),
          back.length > 5 ? `and ${back.length - 5} more` : null);
        HD.text(count, `${fmt.plural(o.workers.length, "worker")}, ${fmt.short(o.threads)} threads`);
        const chosen = params.worker && o.workers.find((w) => w.name === params.worker);
        if (chosen) card(one, chosen);
        else if (params.worker) HD.fill(one, h("div.notice", {}, `worker ${HD.name(params.worker)} is not here; `,
          h("a", { href: HD.link("logs", { of: params.worker }) }, "what it left behind")));
      };
      polls.on("overview", show);
      polls.on("theme", show);
      show();
    },
  };
  const card = (root, w) => {
    const m = w.memory;
    const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
    const bar = HD.bar(true).show([...HD.memoryParts(m)], m.limit, [m.target, m.spill, m.pause, m.terminate], HD.memoryLabel(m));
    HD.fill(root, HD.panel(`Worker ${HD.name(w.name, 80)}`, h("span.tools", {}, h("a", { href: HD.link("logs", { of: w.name }) }, "its log"),
      h("a", { href: HD.link("tasks", { worker: w.name }) }, "its tasks"), h("a", { href: HD.link("memory", { worker: w.name }) }, "its memory"),
      h("a", { href: HD.link("workers") }, "close")),
    h("div.grid", {}, h("dl.facts", {}, fact("state", [HD.stateOf(w.state), w.why ? ` ${HD.name(w.why)}` : ""]), fact("host", HD.name(w.host)),
      fact("job", w["job-id"] ? HD.name(w["job-id"]) : fmt.none), fact("pool", w.pool ? HD.name(w.pool) : fmt.none), fact("allocation ends in", fmt.seconds(w["ends-in"])),
      fact("tasks", `${w.executing} running, ${fmt.count(w.queued)} queued, ${fmt.count(w.results)} results`)),
    h("dl.facts", {}, fact("memory", bar), fact("results", fmt.bytes(m.managed)), fact("other memory", fmt.bytes(m.unmanaged)), fact("on disk", fmt.bytes(m.spilled)),
      fact("limit", fmt.bytes(m.limit)), fact("thresholds", ["target", "spill", "pause", "terminate"].map((n) => `${n} ${fmt.bytes(m[n])}`).join(", "))))));
  };
  HD.page({ id: "workers", title: "Workers", group: "Now", needs: ["overview"], plots: { workers: table }, mount: table.mount });
})();
