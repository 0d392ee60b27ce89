// Tasks: single tasks that match, a page at a time.
"use strict";
(() => {
  const { h, fmt } = HD;
  const PAGE = 100;

  HD.taskColumns = [
    { title: "Task", class: "name", show: (t) => HD.taskLink(t.key, t.run) },
    { title: "State", show: (t) => h("span.state", {}, HD.swatch(HD.stateColour(t.state)), HD.stateWord[t.state] || t.state) },
    { title: "Group", class: "name", show: (t) => (t.group ? h("a", { href: HD.link("tasks", { group: t.group }) }, HD.name(t.group, 60)) : fmt.none) },
    { title: "Worker", class: "name", show: (t) => (t.worker ? h("a", { href: HD.link("workers", { worker: t.worker }) }, HD.name(t.worker, 40)) : fmt.none) },
    { title: "Attempts", number: true, show: (t) => fmt.count(t.attempts) },
    { title: "Took", number: true, show: (t) => fmt.seconds(t.seconds) },
    { title: "Result", number: true, show: (t) => (t.bytes ? fmt.bytes(t.bytes) : fmt.none) },
  ];
  HD.tasksPanel = (root, polls, filter, title, tools) => {
    let skip = 0, version = 0;
    const table = HD.table({ label: title, columns: HD.taskColumns, id: (t) => `${t.run} ${t.key}`, limit: 1000, empty: "no task matches" });
    const note = h("span.soft.small", { "aria-live": "polite" });
    const page = (by) => () => { skip = Math.max(0, skip + by); load(); };
    const back = h("button", { type: "button", onclick: page(-PAGE) }, "Earlier"), on = h("button", { type: "button", onclick: page(PAGE) }, "Later");
    root.append(HD.panel(title, h("span.tools", {}, tools || null, note, back, on), table));
    const load = async () => {
      version += 1;
      const asked = version;
      const answer = await HD.get("tasks", { ...filter, skip: skip || null, limit: PAGE });
      if (asked !== version) return;
      const n = answer.tasks.length;
      HD.text(note, n ? `${fmt.count(skip + 1)} to ${fmt.count(skip + n)}${answer.more ? ", and more" : ""}` : "none");
      HD.toggle(back, skip > 0);
      HD.toggle(on, answer.more);
      table.show(answer.tasks);
    };
    polls.every(2000, load);
    polls.on("theme", load);
    return { refresh: (changed) => { Object.assign(filter, changed); skip = 0; return load(); } };
  };

  HD.page({
    id: "tasks", title: "Tasks", group: "Look closer", needs: ["tasks"],
    mount(root, polls, params) {
      const filter = { run: params.run, group: params.group, state: params.state, worker: params.worker, text: params.text };
      const changed = (values) => {
        Object.assign(filter, values);
        // The address says what is shown, without a new page for each letter.
        history.replaceState(null, "", HD.link("tasks", filter));
        panel.refresh(filter);
      };
      const search = HD.search("part of the key", params.text || "", (text) => changed({ text: text || null }));
      search.id = "filter";
      const states = HD.select("state", [["", "all states"], ...HD.STATES.map((s) => [s, HD.stateWord[s]])], params.state || "", (state) => changed({ state }));
      const groups = HD.select("group", [["", "all groups"], ...(params.group ? [[params.group, params.group]] : [])], params.group || "", (group) => changed({ group }));
      const workers = HD.select("worker", [["", "all workers"], ...(params.worker ? [[params.worker, params.worker]] : [])], params.worker || "", (worker) => changed({ worker }));
      const panel = HD.tasksPanel(root, polls, filter, "Tasks", [search, states, groups, workers]);
      polls.every(5000, async () => {
        const names = [...new Set((await HD.get("groups", { run: params.run })).groups.map((g) => g.name))];
        if (filter.group && !names.includes(filter.group)) names.push(filter.group);
        groups.offer([["", "all groups"], ...names.map((name) => [name, name])], filter.group || "");
      });
      polls.on("overview", (o) => {
        const names = o.workers.map((w) => w.name);
        if (filter.worker && !names.includes(filter.worker)) names.push(filter.worker);
        workers.offer([["", "all workers"], ...names.map((name) => [name, name])], filter.worker || "");
      });
    },
  });
})();
