// The frame: navigation, what is on, the address, keys. Loaded last; starts the rest.
"use strict";
(() => {
  const { h, fmt } = HD;
  const SUMMARY = 1000;
  let polls = null, shown = null, failuresAfter = -1;
  HD.state.failures = [];
  const order = ["overview", "stream", "progress", "workers", "memory", "actions", "events", "tasks", "graph", "profile", "logs", "task", "advice"];
  HD.pages.sort((a, b) => order.indexOf(a.id) - order.indexOf(b.id));
  const pages = HD.pages.filter((page) => (page.needs || []).every((path) => HD.has(path)) && (!page.onlyReport || HD.report));

  const parse = () => {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    const own = location.pathname.split("/").pop();
    const params = Object.fromEntries(new URLSearchParams(query || ""));
    const plot = own.startsWith("individual-") && !path ? own.slice("individual-".length) : path.startsWith("plot/") ? path.slice(5) : null;
    return { page: path || pages[0]?.id, params, plot };
  };

  // ---- the frame ----------------------------------------------------------------------------------------------

  const mark = () => h("svg", { viewBox: "0 0 32 32", "aria-hidden": "true" }, h("rect", { width: 32, height: 32, rx: 7, fill: "#2563a8" }),
    h("path", { d: "M9 9l7 7M23 9l-7 7M16 16v7", stroke: "#fff", "stroke-width": 2.5, "stroke-linecap": "round" }),
    [[9, 9], [23, 9], [16, 16], [16, 24]].map(([cx, cy]) => h("circle", { cx, cy, r: 3.4, fill: "#fff" })));
  const badge = h("span.badge", { hidden: true });
  const links = new Map(pages.filter((page) => !page.hidden).map((page) => [page.id,
    h("a", { href: HD.link(page.id) }, page.nav || page.title, page.id === "events" ? badge : null)]));
  const nav = h("nav", { "aria-label": "Pages" }, ["Now", "Look closer", "Report"].map((group) => {
    const inside = pages.filter((page) => page.group === group && links.has(page.id));
    return inside.length ? [h("h2", {}, group), inside.map((page) => links.get(page.id))] : null;
  }));
  const foot = h("div.foot");
  const state = h("span.state"), hold = h("span.hold.soft"), main = h("main.main", { id: "main", tabindex: "-1" });
  const title = h("h1"), notice = h("div.notice.fault", { role: "alert", hidden: true });
  const run = HD.select("run", [["", "all runs"]], "", (value) => {
    const { page, params } = parse();
    HD.state.run = value;
    HD.go(page, { ...params, run: value });
  });
  const pause = h("button", { type: "button", "aria-pressed": "false", title: "stop the figures (p)", onclick: () => setPaused(!HD.state.paused) }, "Pause");
  const theme = h("button", { type: "button", title: "colours (t)", onclick: () => HD.nextTheme() });
  const setPaused = (on) => {
    HD.state.paused = on;
    pause.setAttribute("aria-pressed", String(on));
    HD.text(pause, on ? "Paused" : "Pause");
    HD.tell("paused");
  };
  const themed = () => HD.text(theme, { auto: "Auto", light: "Light", dark: "Dark" }[HD.theme]);
  HD.on("theme", themed);
  themed();

  const frame = () => {
    const top = h("header.top", {}, title, state, hold, h("span.grow"), run, HD.report ? null : pause, theme);
    HD.fill(document.getElementById("app"), h("div.frame", {},
      h("aside.side", {}, h("div.brand", {}, mark(), "hpcdag"), nav, foot), h("div", {}, top, main)));
  };

  // ---- what is on ---------------------------------------------------------------------------------------------

  const summary = async () => {
    const o = await HD.get("overview");
    HD.state.overview = o;
    HD.fill(state, HD.dot(o.state), o.state);
    state.id = "state";
    HD.text(hold, o.hold ? HD.name(o.hold, 400) : "");
    hold.title = o.hold ? HD.name(o.hold, 400) : "";
    HD.text(badge, fmt.short(o.failed));
    HD.toggle(badge, o.failed > 0);
    run.offer([["", "all runs"], ...o.runs.filter((r) => !r.calls).reverse().map((r) => [r.id, `${HD.runName(r)} · ${r.state}`])], HD.state.run);
    // A report is about one run, or has only what all have together.
    HD.toggle(run, !HD.report && (o.runs.length > 1 || HD.state.run));
    HD.fill(foot, h("div", {}, `cluster ${HD.name(o.cluster, 40)}`), h("div", {}, `up ${fmt.seconds(o.uptime)}`), h("div", {}, `hpcdag ${HD.name(o.version, 20)}`),
      HD.report ? h("div", {}, `as of ${fmt.clock(o.time)}`) : null);
    document.title = `${o.failed ? `(${fmt.short(o.failed)} failed) ` : ""}${shown ? `${shown.title} · ` : ""}hpcdag`;
    HD.tell("overview", o);
  };
  const failures = async () => {
    const answer = await HD.get("events", { after: Math.max(0, failuresAfter), limit: 1000 });
    const fresh = answer.events.filter((e) => e.number > failuresAfter);
    failuresAfter = Math.max(failuresAfter, ...fresh.map((e) => e.number));
    const failed = fresh.filter((e) => e.kind === "task-failed" || (e.level === "error" && e.kind !== "run-failed"));
    if (failed.length) HD.state.failures = [...failed.reverse(), ...HD.state.failures].slice(0, 20);
    HD.tell("failures", HD.state.failures);
  };
  HD.on("fault", (error) => {
    const text = error.status === 401 ? "The token is missing or no longer valid: open the address that hpcdag status shows."
      : `No answer: ${HD.name(error.message, 300)}. Asking again.`;
    HD.text(notice, text);
    // What one page asked for and was told not to be there is that page's matter.
    HD.toggle(notice, error.status !== 404 && error.status !== 400);
  });
  HD.on("answered", () => HD.toggle(notice, false));

  // ---- pages --------------------------------------------------------------------------------------------------

  const route = () => {
    const at = parse();
    if (polls) polls.end();
    HD.noTip();
    polls = new HD.Polls();
    HD.state.run = at.params.run || "";
    document.documentElement.classList.toggle("only", Boolean(at.plot));
    const page = at.plot ? HD.plots[at.plot] : pages.find((p) => p.id === at.page);
    shown = page || null;
    HD.text(title, page ? page.title : "Nothing here");
    for (const [id, link] of links) {
      if (id === at.page && !at.plot) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      link.href = HD.link(id);
    }
    run.value = HD.state.run;
    HD.fill(main, notice);
    main.setAttribute("data-page", at.plot || at.page || "");
    if (!page) main.append(HD.empty("There is no such page."), h("a", { href: HD.link(pages[0].id) }, "To the overview"));
    else page.mount(main, polls, at.params);
    document.title = `${page ? `${page.title} · ` : ""}hpcdag`;
  };

  // ---- keys ---------------------------------------------------------------------------------------------------

  addEventListener("keydown", (event) => {
    const typing = /^(input|select|textarea)$/i.test(event.target.localName);
    if (event.key === "Escape") { HD.noTip(); if (typing) event.target.blur(); }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      const filter = document.getElementById("filter");
      if (filter) { event.preventDefault(); filter.focus(); }
    } else if (event.key === "p" && !HD.report) setPaused(!HD.state.paused);
    else if (event.key === "t") HD.nextTheme();
    else if (/^[1-9]$/.test(event.key)) {
      const wanted = pages.filter((page) => links.has(page.id))[Number(event.key) - 1];
      if (wanted) HD.go(wanted.id);
    }
  });

  if (HD.theme !== "auto") HD.setTheme(HD.theme);
  if (!pages.length) { HD.fill(document.getElementById("app"), HD.empty("There is nothing to show.")); return; }
  frame();
  const always = new HD.Polls();
  if (HD.has("overview")) always.every(SUMMARY, summary);
  if (HD.has("events")) always.every(2000, failures);
  addEventListener("hashchange", () => { route(); main.focus({ preventScroll: true }); scrollTo(0, 0); });
  route();
})();
