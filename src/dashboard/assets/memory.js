// Memory: what workers hold, against their thresholds, now and over time.
"use strict";
(() => {
  const { h, fmt } = HD;
  const used = (w) => w.memory.managed + w.memory.unmanaged;
  const lines = (columns) => [
    { name: "results", colour: HD.css("--m-managed"), values: columns.managed || [] },
    { name: "other memory", colour: HD.css("--m-unmanaged"), values: columns.unmanaged || [] },
    { name: "on disk", colour: HD.css("--m-spilled"), values: columns.spilled || [], apart: true }];
  const keys = () => HD.keys([["results", HD.css("--m-managed")], ["other memory", HD.css("--m-unmanaged")], ["on disk", HD.css("--m-spilled")]]);
  const chartOf = (label, height) => HD.chart({ label, height, format: fmt.bytes, binary: true });

  const total = {
    title: "Memory of the cluster",
    mount(root, polls) {
      const chart = chartOf("Memory of the cluster", 190);
      const draw = () => {
        const { time, total: t } = HD.series;
        chart.draw({ time, lines: lines(t), stacked: true, marks: [{ value: (t.limit || []).at(-1), name: "limit" }] });
      };
      root.append(HD.panel("Memory of the cluster", HD.windows([chart], 300), chart, keys()));
      polls.every(1000, async () => { await HD.series.load(); draw(); });
      polls.on("theme", draw);
    },
  };
  const byWorker = {
    title: "Memory by worker",
    mount(root, polls, params) {
      let chosen = params.worker || "", text = "";
      const table = HD.table({
        label: "Memory by worker", id: (w) => w.name, limit: 60, sort: "Used", descending: true, empty: "no worker is connected",
        columns: [
          { title: "Worker", class: "name", get: (w) => w.name, show: (w) => h("span.state", { title: w.why ? HD.name(w.why) : null }, HD.dot(w.state),
            h("a", { href: HD.link("memory", { worker: w.name }) }, HD.name(w.name, 40))) },
          { title: "Memory", update: (cell, w) => HD.barCell(cell, HD.memoryParts(w.memory), w.memory.limit,
            [w.memory.target, w.memory.spill, w.memory.pause, w.memory.terminate], HD.memoryLabel(w.memory)) },
          { title: "Used", number: true, get: used, show: (w) => fmt.bytes(used(w)) },
          { title: "of limit", number: true, get: (w) => (w.memory.limit ? used(w) / w.memory.limit : null), show: (w) => fmt.percent(w.memory.limit ? used(w) / w.memory.limit : null) },
          { title: "Results", number: true, get: (w) => w.memory.managed, show: (w) => fmt.bytes(w.memory.managed) },
          { title: "Other", number: true, get: (w) => w.memory.unmanaged, show: (w) => fmt.bytes(w.memory.unmanaged) },
          { title: "On disk", number: true, get: (w) => w.memory.spilled, show: (w) => (w.memory.spilled ? fmt.bytes(w.memory.spilled) : "0") },
          { title: "Target", number: true, hint: "results go to disk from here on", show: (w) => fmt.bytes(w.memory.target) },
          { title: "Spill", number: true, hint: "all memory: results go to disk", show: (w) => fmt.bytes(w.memory.spill) },
          { title: "Pause", number: true, hint: "starts no more tasks", show: (w) => fmt.bytes(w.memory.pause) },
          { title: "Terminate", number: true, hint: "is ended by its nanny", show: (w) => fmt.bytes(w.memory.terminate) },
          { title: "Limit", number: true, get: (w) => w.memory.limit, show: (w) => fmt.bytes(w.memory.limit) },
        ],
      });
      const search = HD.search("worker", "", (value) => { text = value.toLowerCase(); show(); });
      search.id = "filter";
      const one = h("div");
      const chart = chartOf("Memory of one worker", 170), title = h("h2");
      if (HD.has("series")) one.append(h("section.panel", { "aria-label": "One worker over time" }, h("header", {}, title, h("span.grow"), HD.windows([chart], 300)), chart, keys()));
      root.append(HD.panel("By worker", search, table, h("p.soft.small", {}, "The lines in a bar are target, spill, pause and terminate.")), one);
      const worker = () => HD.state.overview?.workers.find((w) => w.name === chosen) || null;
      const show = () => {
        const o = HD.state.overview;
        if (!o) return;
        table.show(o.workers.filter((w) => w.name.toLowerCase().includes(text)));
        if (!chosen && o.workers.length) chosen = [...o.workers].sort((a, b) => used(b) / (b.memory.limit || 1) - used(a) / (a.memory.limit || 1))[0].name;
        HD.toggle(one, Boolean(chosen));
        HD.text(title, `${HD.name(chosen, 60)} over time`);
      };
      const draw = () => {
        const kept = HD.series.workers.get(chosen), m = worker()?.memory || {};
        const marks = ["spill", "pause", "limit"].filter((name) => m[name]).map((name) => ({ name, value: m[name] }));
        chart.draw({ time: kept?.time || [], lines: lines(kept?.columns || {}), stacked: true, marks });
      };
      polls.on("overview", show);
      polls.on("theme", () => { show(); draw(); });
      show();
      if (HD.has("series")) polls.every(1000, async () => { await HD.series.load(true); draw(); });
    },
  };
  HD.page({
    id: "memory", title: "Memory", group: "Now", needs: ["overview"], plots: { memory: total, "memory-by-worker": byWorker },
    mount(root, polls, params) {
      if (HD.has("series")) total.mount(root, polls, params);
      byWorker.mount(root, polls, params);
    },
  });
})();
