// Overview: what the cluster does, and what holds it back.
"use strict";
(() => {
  const { h, fmt } = HD;

  HD.runName = (run) => run.name || String(run.id).slice(0, 8);
  HD.runsTable = () => {
    const finished = (run) => Math.min(run.done || 0, run.tasks || 0);
    const table = HD.table({
      label: "Runs", id: (run) => run.id, empty: "no run yet", limit: 12,
      columns: [
        { title: "Run", class: "name", get: (r) => HD.runName(r), show: (r) => (r.calls ? h("span", {}, HD.name(HD.runName(r), 60), /call/.test(HD.runName(r)) ? null : h("span.soft", {}, " calls"))
          : h("a", { href: HD.link("progress", { run: r.id }), title: r.id }, HD.name(HD.runName(r), 80))) },
        { title: "State", get: (r) => r.state, show: (r) => HD.stateOf(r.state) },
        { title: "Progress", get: (r) => finished(r) / (r.tasks || 1), update: (cell, r) => HD.barCell(cell,
          [[finished(r), HD.stateColour("memory"), "done"], [r.failed || 0, HD.stateColour("erred"), "failed"]], r.tasks, [],
          `${fmt.count(r.done)} of ${fmt.count(r.tasks)} done, ${fmt.count(r.failed)} failed`) },
        { title: "Done", number: true, get: (r) => r.done, show: (r) => `${fmt.count(r.done)}\u202f/\u202f${fmt.count(r.tasks)}` },
        { title: "Failed", number: true, get: (r) => r.failed, show: (r) => (r.failed ? h("a.bad", { href: HD.link("events", { run: r.id }) }, fmt.count(r.failed)) : "0") },
        { title: "Left", number: true, get: (r) => r.eta, hint: "at the present rate", show: (r) => fmt.seconds(r.eta) },
      ],
    });
    // The newest first; calls, which have no beginning, last.
    const newest = (a, b) => (b.submitted ?? -1) - (a.submitted ?? -1);
    return Object.assign(table, { runs: (runs) => table.show([...runs].sort(newest)) });
  };

  // What nearly every page wants to see of failures: the last ones, each a click from its stderr.
  HD.failures = (limit) => {
    const list = h("div");
    const panel = HD.panel("Latest failures", h("a.small", { href: HD.link("events") }, "all failures"), list);
    panel.classList.add("failure");
    panel.hidden = true;
    panel.show = (tasks) => {
      panel.hidden = !tasks.length;
      HD.fill(list, tasks.slice(0, limit).map((event) => h("div.nowrap", { style: { overflow: "hidden", textOverflow: "ellipsis" } },
        h("span.soft", {}, `${fmt.clock(event.time)}  `), event.key ? HD.taskLink(event.key, event.run) : null, " ",
        h("span", { title: HD.name(event.text, 600) }, HD.name(event.key ? event.text.replace(event.key, "").trim() : event.text, 220)))));
    };
    return panel;
  };

  const tile = (what, link) => {
    const value = h("div.value"), canvas = h("canvas", { "aria-hidden": "true" });
    const element = h(link ? "a.tile" : "div.tile", { href: link ? HD.link(link) : null }, h("div.what", {}, what), value, canvas);
    element.show = (text, small, values, colour, most) => {
      HD.fill(value, text, small ? [" ", h("small", {}, small)] : null);
      if (values) HD.spark(canvas, values, colour || HD.css("--accent"), most);
    };
    return element;
  };

  const throughput = (height = 150) => HD.chart({ label: "Tasks done per second", height });
  const drawThroughput = (chart) => {
    const { time, total } = HD.series;
    const lines = [{ name: "done/s", colour: HD.stateColour("processing"), values: HD.series.rate(time, total.done || []), fill: true }];
    if ((total.failed || []).some((v) => v)) {
      lines.push({ name: "failed/s", colour: HD.stateColour("erred"), values: HD.series.rate(time, total.failed) });
    }
    chart.draw({ time, lines });
  };
  const cpu = (height = 150) => HD.chart({ label: "Threads busy and CPU", height });
  const drawCpu = (chart) => {
    const { time, total } = HD.series;
    chart.draw({ time, lines: [
      { name: "running tasks", colour: HD.stateColour("processing"), values: total.executing || [], fill: true },
      { name: "CPU in threads", colour: HD.css("--good"), values: total.cpu || [] }],
      marks: [{ value: (total.threads || []).at(-1), name: "threads" }] });
  };
  const network = (height = 150) => HD.chart({ label: "Between workers and disk", height, format: fmt.rate, binary: true });
  const drawNetwork = (chart) => {
    const { time, total } = HD.series;
    const line = (name, column, colour, fill) => ({ name, colour, fill, values: HD.series.rate(time, total[column] || []) });
    chart.draw({ time, lines: [line("transfers", "bytes-in", HD.kindColour("fetch"), true),
      line("disk write", "disk-write", HD.kindColour("spill-write")), line("disk read", "disk-read", HD.kindColour("spill-read"))] });
  };
  const alone = (title, make, draw) => ({
    title,
    mount(root, polls) {
      const chart = make(Math.max(150, innerHeight - 90));
      root.append(HD.panel(title, HD.windows([chart], 300), chart));
      polls.every(1000, async () => { await HD.series.load(); draw(chart); });
      polls.on("theme", () => draw(chart));
    },
  });

  const workersPanel = () => {
    const table = HD.table({
      label: "Workers", id: (w) => w.name, limit: 16, empty: "no worker is connected",
      columns: [
        { title: "Worker", class: "name", get: (w) => w.name, show: (w) => h("span.state", { title: HD.name(w.why || w.state) },
          HD.dot(w.state), h("a", { href: HD.link("workers", { worker: w.name }) }, HD.name(w.name, 40))) },
        { title: "Threads", get: (w) => w.executing, update: (cell, w) => HD.barCell(cell,
          [[w.executing, HD.stateColour("processing"), "running"]], w.threads, [], `${w.executing} of ${fmt.short(w.threads)} threads busy`) },
        { title: "Memory", get: (w) => (w.memory.managed + w.memory.unmanaged) / (w.memory.limit || 1), update: (cell, w) => HD.barCell(cell,
          HD.memoryParts(w.memory), w.memory.limit, [w.memory.target, w.memory.spill, w.memory.pause, w.memory.terminate], HD.memoryLabel(w.memory)) },
        { title: "used", number: true, get: (w) => w.memory.managed + w.memory.unmanaged, show: (w) => fmt.bytes(w.memory.managed + w.memory.unmanaged) },
        { title: "CPU", number: true, get: (w) => w.cpu, show: (w) => (fmt.known(w.cpu) ? w.cpu.toFixed(1) : fmt.none) },
      ],
    });
    return HD.panel("Workers", h("a.small", { href: HD.link("workers") }, "all figures"), table,
      HD.keys([["results", HD.css("--m-managed")], ["other memory", HD.css("--m-unmanaged")]])).table = table, table;
  };

  HD.page({
    id: "overview", title: "Overview", group: "Now", needs: ["overview"],
    plots: { throughput: alone("Tasks per second", throughput, drawThroughput), cpu: alone("Threads and CPU", cpu, drawCpu),
      bandwidth: alone("Transfers and disk", network, drawNetwork) },
    mount(root, polls) {
      const tiles = { rate: tile("Tasks done", "progress"), busy: tile("Threads busy", "workers"), memory: tile("Memory", "memory"),
        net: tile("Between workers"), disk: tile("On disk", "memory"), failed: tile("Failed", "events") };
      const bar = HD.bar(true), legend = h("div"), hold = h("p.soft", { id: "hold" });
      const queue = HD.panel("Tasks by state", null, bar, legend, hold);
      const charts = [throughput(), cpu()];
      const runs = HD.runsTable(), workers = workersPanel(), failures = HD.failures(4);
      const series = HD.has("series");
      HD.add(root, [h("div.tiles", {}, Object.values(tiles)), failures, queue,
        series ? h("div.grid", {}, HD.panel("Tasks done per second", null, charts[0]),
          HD.panel("Threads and CPU", HD.windows(charts, 300), charts[1])) : null,
        h("div.grid", {}, workers.closest("section"), HD.panel("Runs", null, runs))]);
      const show = () => {
        const o = HD.state.overview;
        if (!o) return;
        const { total, time } = HD.series;
        const { memory, rates } = o;
        const used = memory.managed + memory.unmanaged;
        tiles.rate.show(fmt.short(rates.tasks), "per second", HD.series.rate(time, total.done || []), HD.stateColour("processing"));
        tiles.busy.show(fmt.short(o.busy), `of ${fmt.short(o.threads)}`, total.executing || [], HD.stateColour("processing"), o.threads);
        tiles.memory.show(fmt.bytes(used), memory.limit ? `of ${fmt.bytes(memory.limit).replace(/\.\d+/, "")}` : "",
          (total.managed || []).map((v, k) => (v || 0) + (total.unmanaged[k] || 0)), HD.css("--m-managed"), memory.limit);
        tiles.net.show(fmt.rate(rates["bytes-in"]), "", HD.series.rate(time, total["bytes-in"] || []), HD.kindColour("fetch"));
        tiles.disk.show(fmt.bytes(memory.spilled), "", total.spilled || [], HD.css("--m-spilled"));
        tiles.failed.show(fmt.count(o.failed), o.failed ? "see why" : "", total.failed || [], HD.stateColour("erred"));
        tiles.failed.classList.toggle("alarm", o.failed > 0);
        bar.show(HD.stateParts(o.tasks), 0, [], HD.STATES.filter((s) => o.tasks[s]).map((s) => `${HD.stateWord[s]} ${fmt.count(o.tasks[s])}`).join(", "));
        HD.fill(legend, HD.stateLegend(o.tasks));
        if (!legend.firstChild.childElementCount) HD.fill(legend, h("span.soft", {}, "no tasks"));
        HD.text(hold, o.hold && o.state !== "idle" ? `What holds it back: ${HD.name(o.hold, 600)}` : "");
        workers.show(o.workers);
        runs.runs(o.runs);
      };
      polls.on("overview", show);
      polls.on("theme", () => { show(); if (series) { drawThroughput(charts[0]); drawCpu(charts[1]); } });
      show();
      if (series) polls.every(1000, async () => { await HD.series.load(); drawThroughput(charts[0]); drawCpu(charts[1]); show(); });
      polls.on("failures", (list) => failures.show(list));
      failures.show(HD.state.failures || []);
    },
  });
})();
