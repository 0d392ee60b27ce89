// Profile: where Python tasks spend their time, as a flame graph; and what commands used.
"use strict";
(() => {
  const { h, fmt } = HD;
  const ROW = 19;

  const mount = (root, polls, params) => {
    let root_ = null, focus = null, boxes = [], text = "", answer = null, picked = params.group || "", asked = 0;
    const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": "Flame graph" });
    const holder = h("div.chart", {}, canvas), note = h("span.soft.small"), path = h("div.soft.small");
    const groups = HD.select("group", [["", "all groups"]], picked, (value) => { picked = value; focus = null; asked = 0; load(); });
    const search = HD.search("function or file", "", (value) => { text = value.toLowerCase(); paint(); });
    search.id = "filter";
    const whole = h("button", { type: "button", onclick: () => { focus = null; paint(); } }, "All");
    const nothing = HD.empty("No stacks yet: Python tasks are sampled while they run (worker.profile.interval).");
    const own = HD.table({
      label: "Functions by own time", id: (f) => f.id, limit: 25, sort: "Own", descending: true, empty: "no samples yet",
      columns: [
        { title: "Function", class: "name", get: (f) => f.name, show: (f) => HD.name(f.name, 80) },
        { title: "Where", class: "name", get: (f) => f.file, show: (f) => h("span", { title: HD.name(f.file || "", 600) }, HD.name(f.file ? `${f.file.split("/").slice(-2).join("/")}:${f.line}` : "", 60)) },
        { title: "Own", number: true, get: (f) => f.own, show: (f) => `${fmt.seconds(f.own * (answer.interval || 0.01))}` },
        { title: "", number: true, show: (f) => fmt.percent(answer.samples ? f.own / answer.samples : 0) },
        { title: "With what it calls", number: true, get: (f) => f.all, show: (f) => fmt.seconds(f.all * (answer.interval || 0.01)) },
      ],
    });
    const commands = HD.table({
      label: "What commands used", id: (g) => g.name, limit: 100, empty: "no commands",
      columns: [
        { title: "Commands of", class: "name", get: (g) => g.name, show: (g) => HD.name(g.name, 60) },
        { title: "Count", number: true, get: (g) => g.commands.count, show: (g) => fmt.count(g.commands.count) },
        { title: "CPU user", number: true, get: (g) => g.commands.user, show: (g) => fmt.seconds(g.commands.user) },
        { title: "CPU system", number: true, get: (g) => g.commands.system, show: (g) => fmt.seconds(g.commands.system) },
        { title: "Peak memory", number: true, hint: "largest of one", get: (g) => g.commands["memory-peak-max"], show: (g) => fmt.bytes(g.commands["memory-peak-max"]) },
        { title: "Read", number: true, get: (g) => g.commands.read, show: (g) => fmt.bytes(g.commands.read) },
        { title: "Written", number: true, get: (g) => g.commands.written, show: (g) => fmt.bytes(g.commands.written) },
      ],
    });
    const commandsPanel = HD.panel("What commands used", null, commands);
    const flame = HD.panel("Stacks of Python tasks", h("span.tools", {}, note, search, groups, whole), path, holder, nothing);
    const functions = HD.panel("Functions", null, own);
    HD.add(root, [flame, params.plot ? null : functions, params.plot ? null : commandsPanel]);

    const paint = () => {
      if (!root_ || !canvas.isConnected) return;
      const from = focus || root_;
      let depth = 0;
      boxes = [];
      const lay = (node, x, width, level) => {
        if (width < 0.0008 || level > 120) return;
        depth = Math.max(depth, level);
        boxes.push({ node, x, width, level });
        let at = x;
        for (const child of node.children || []) {
          const w = node.samples ? (child.samples / node.samples) * width : 0;
          lay(child, at, w, level + 1);
          at += w;
        }
      };
      lay(from, 0, 1, 0);
      const { g, width } = HD.canvas(canvas, (depth + 1) * ROW + 4);
      g.font = `11.5px ${getComputedStyle(canvas).fontFamily}`;
      g.textBaseline = "middle";
      for (const box of boxes) {
        const [x, w, y] = [box.x * width, box.width * width, box.level * ROW];
        const name = box.node.name || "all";
        const hit = text && `${name} ${box.node.file || ""}`.toLowerCase().includes(text);
        g.globalAlpha = text && !hit ? 0.35 : 1;
        const colour = hit ? "#f2c14e" : HD.anyColour(`${name} ${box.node.file || ""}`);
        g.fillStyle = box.node === root_ ? HD.css("--track") : colour;
        g.fillRect(x, y, Math.max(w - 0.7, 0.5), ROW - 1);
        if (w > 34) {
          g.fillStyle = box.node === root_ ? HD.css("--text") : HD.ink(colour);
          const shown = HD.name(name, Math.max(3, Math.floor(w / 6.4)));
          g.fillText(shown, x + 5, y + ROW / 2, w - 8);
        }
      }
      g.globalAlpha = 1;
      HD.toggle(whole, Boolean(focus));
      HD.text(path, focus ? `${HD.name(focus.name)} and what it calls; Escape or All shows everything` : "");
      canvas.setAttribute("aria-label", `Flame graph of ${fmt.plural(root_.samples, "sample")}; the functions are in the table below`);
    };
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const [x, level] = [(event.clientX - box.left) / box.width, Math.floor((event.clientY - box.top) / ROW)];
      return boxes.find((b) => b.level === level && x >= b.x && x < b.x + b.width);
    };
    canvas.addEventListener("pointermove", (event) => {
      const box = at(event);
      if (!box) { HD.noTip(); return; }
      const seconds = box.node.samples * (answer.interval || 0.01);
      HD.tip(event, h("b", {}, HD.name(box.node.name || "all", 120)), box.node.file ? h("div.soft", {}, HD.name(`${box.node.file}:${box.node.line}`, 200)) : null,
        HD.tipRow(null, "samples", fmt.count(box.node.samples)), HD.tipRow(null, "about", fmt.seconds(seconds)), HD.tipRow(null, "of all", fmt.percent(box.node.samples / (root_.samples || 1))));
    });
    canvas.addEventListener("pointerleave", HD.noTip);
    canvas.addEventListener("click", (event) => { const box = at(event); if (box) { focus = box.node === root_ ? null : box.node; HD.noTip(); paint(); } });
    canvas.addEventListener("keydown", (event) => { if (event.key === "Escape") { focus = null; paint(); } });
    new ResizeObserver(paint).observe(holder);
    const tally = () => {
      const found = new Map();
      const walk = (node, above) => {
        const id = `${node.name}\u0000${node.file}`;
        const inside = (node.children || []).reduce((sum, child) => sum + child.samples, 0);
        if (node !== root_) {
          if (!found.has(id)) found.set(id, { id, name: node.name, file: node.file, line: node.line, own: 0, all: 0 });
          const f = found.get(id);
          f.own += Math.max(0, node.samples - inside);
          if (!above.has(id)) f.all += node.samples;
        }
        const under = new Set(above).add(id);
        for (const child of node.children || []) walk(child, under);
      };
      walk(root_, new Set());
      return [...found.values()];
    };
    const load = async () => {
      asked += 1;
      const mine = asked;
      const got = await HD.get("profile", { run: params.run, group: picked, worker: params.worker });
      if (mine !== asked) return;
      // Somebody who looks into one function keeps what is there.
      const keep = focus && focus.name;
      answer = got;
      root_ = got.root;
      focus = null;
      if (keep) { const find = (n) => (n.name === keep ? n : (n.children || []).reduce((f, c) => f || find(c), null)); focus = find(root_); }
      const any = got.samples > 0;
      HD.toggle(holder, any);
      HD.toggle(nothing, !any);
      HD.text(note, any ? `${fmt.plural(got.samples, "sample")}, one each ${fmt.seconds(got.interval)}` : "");
      groups.offer([["", "all groups"], ...got.groups.filter((g) => g.samples).map((g) => [g.name, g.name])], picked);
      const used = got.groups.filter((g) => g.commands);
      HD.toggle(commandsPanel, used.length > 0);
      HD.toggle(functions, any);
      commands.show(used);
      own.show(any ? tally() : []);
      paint();
    };
    polls.every(3000, load);
    polls.on("theme", paint);
  };
  const plot = { title: "Profile", mount: (root, polls, params) => mount(root, polls, { ...params, plot: true }) };
  HD.page({ id: "profile", title: "Profile", group: "Look closer", needs: ["profile"], plots: { profile: plot }, mount });
})();
