// Time per action: what the workers' time, the groups' time and the scheduler's own time went into.
"use strict";
(() => {
  const { h, fmt } = HD;
  const ACTIONS = [["compute", "compute"], ["fetch", "fetch"], ["spill", "spill-write"], ["wait", "wait"], ["paused", "paused"], ["idle", "idle"]];
  const WORD = { compute: "tasks", fetch: "transfers", spill: "disk", wait: "waiting for inputs", paused: "paused", idle: "idle" };
  const parts = (seconds) => ACTIONS.map(([name, kind]) => [seconds[name] || 0, HD.kindColour(kind), WORD[name]]);
  const sum = (seconds) => ACTIONS.reduce((a, [name]) => a + (seconds[name] || 0), 0);
  const label = (seconds) => ACTIONS.filter(([n]) => seconds[n]).map(([n]) => `${WORD[n]} ${fmt.seconds(seconds[n])}`).join(", ");

  const byWorker = {
    title: "Time per action",
    mount(root, polls) {
      const bar = HD.bar(true), legend = h("div");
      const table = HD.table({
        label: "Time per action by worker", id: (w) => w.name, limit: 100, sort: "Worker", empty: "no worker is connected",
        columns: [
          { title: "Worker", class: "name", get: (w) => w.name, show: (w) => h("a", { href: HD.link("workers", { worker: w.name }) }, HD.name(w.name, 40)) },
          { title: "Time", get: (w) => (w.seconds.compute || 0) / (sum(w.seconds) || 1), update: (cell, w) => HD.barCell(cell, parts(w.seconds), 0, [], label(w.seconds)) },
          ...ACTIONS.map(([name]) => ({ title: WORD[name], number: true, get: (w) => w.seconds[name], show: (w) => fmt.seconds(w.seconds[name]) })),
        ],
      });
      root.append(HD.panel("What the workers' time went into", null, bar, legend, h("p.soft.small", {}, "Seconds of threads, since each worker came."), table));
      const show = () => {
        const o = HD.state.overview;
        if (!o) return;
        const all = {};
        for (const w of o.workers) for (const [name] of ACTIONS) all[name] = (all[name] || 0) + (w.seconds[name] || 0);
        const whole = sum(all) || 1;
        bar.show(parts(all), 0, [], label(all));
        HD.fill(legend, h("div.legend", {}, ACTIONS.map(([name, kind]) => h("span.key", {}, HD.swatch(HD.kindColour(kind)), `${WORD[name]} `,
          h("b", {}, fmt.seconds(all[name] || 0)), h("span.soft", {}, ` ${fmt.percent((all[name] || 0) / whole)}`)))));
        table.show(o.workers);
      };
      polls.on("overview", show);
      polls.on("theme", show);
      show();
    },
  };
  const byGroup = {
    title: "Time per group",
    mount(root, polls, params) {
      let most = 1;
      const table = HD.table({
        label: "Time per group", id: (g) => `${g.id} ${g.name}`, limit: 25, sort: "All took", descending: true, empty: "nothing has run yet",
        columns: [
          { title: "Group", class: "name", get: (g) => g.name, show: (g) => h("span.state", {}, HD.swatch(HD.colour(g.name)), h("a", { href: HD.link("tasks", { group: g.name }) }, HD.name(g.name, 60))) },
          { title: "Time", update: (cell, g) => HD.barCell(cell, [[g.seconds, HD.colour(g.name), g.name]], most, [], fmt.seconds(g.seconds)) },
          { title: "All took", number: true, get: (g) => g.seconds, show: (g) => fmt.seconds(g.seconds) },
          { title: "Tasks", number: true, get: (g) => g.done, show: (g) => fmt.count(g.done) },
          { title: "Each", number: true, get: (g) => (g.done ? g.seconds / g.done : null), show: (g) => fmt.seconds(g.done ? g.seconds / g.done : null) },
          { title: "Longest", number: true, get: (g) => g.longest, show: (g) => fmt.seconds(g.longest) },
          { title: "Peak memory", number: true, hint: "largest of one task", get: (g) => g["memory-peak-max"], show: (g) => fmt.bytes(g["memory-peak-max"]) },
          { title: "Largest result", number: true, get: (g) => g["bytes-max"], show: (g) => fmt.bytes(g["bytes-max"]) },
        ],
      });
      root.append(HD.panel("What the tasks' time went into", null, table));
      polls.every(2000, async () => {
        const rows = (await HD.get("groups", { run: params.run })).groups.filter((g) => g.seconds > 0);
        most = Math.max(1e-9, ...rows.map((g) => g.seconds));
        table.show(rows);
      });
    },
  };
  const scheduler = {
    title: "The scheduler's own time",
    mount(root, polls) {
      const note = h("span.soft.small");
      let busy = 1;
      const table = HD.table({
        label: "Scheduler's time by kind of event", id: (k) => k.kind, sort: "Time", descending: true, limit: 30, empty: "nothing measured yet",
        columns: [
          { title: "Event", get: (k) => k.kind, show: (k) => HD.name(k.kind, 60) },
          { title: "", update: (cell, k) => HD.barCell(cell, [[k.seconds, HD.css("--accent"), k.kind]], busy, [], fmt.seconds(k.seconds)) },
          { title: "Time", number: true, get: (k) => k.seconds, show: (k) => fmt.seconds(k.seconds) },
          { title: "Count", number: true, get: (k) => k.count, show: (k) => fmt.count(k.count) },
          { title: "Each", number: true, get: (k) => (k.count ? k.seconds / k.count : null), show: (k) => fmt.seconds(k.count ? k.seconds / k.count : null) },
          { title: "Longest", number: true, get: (k) => k.longest, show: (k) => fmt.seconds(k.longest) },
        ],
      });
      root.append(HD.panel("The scheduler's own time", note, table));
      polls.every(2000, async () => {
        const answer = await HD.get("timings");
        busy = answer.busy || 1;
        HD.text(note, `busy for ${fmt.seconds(answer.busy)} of ${fmt.seconds(answer.seconds)} (${fmt.percent(answer.seconds ? answer.busy / answer.seconds : 0)})`);
        table.show(answer.kinds);
      });
    },
  };
  HD.page({
    id: "actions", title: "Time per action", group: "Now", needs: ["overview"],
    plots: { "time-per-action": byWorker, "time-per-group": byGroup, "scheduler": scheduler },
    mount(root, polls, params) {
      byWorker.mount(root, polls, params);
      if (HD.has("groups")) byGroup.mount(root, polls, params);
      if (HD.has("timings")) scheduler.mount(root, polls, params);
    },
  });
})();
