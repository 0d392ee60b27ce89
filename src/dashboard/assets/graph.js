// Graph: groups of tasks and how they depend on each other, in layers from left to right.
"use strict";
(() => {
  const { h, fmt } = HD;
  const W = 172, H = 50, GAP_X = 56, GAP_Y = 18;

  // Places for nodes: layers by the longest way from a source, then a few sweeps that pull neighbours together.
  HD.layers = (ids, edges) => {
    const after = new Map(ids.map((id) => [id, []])), before = new Map(ids.map((id) => [id, []]));
    for (const { from, to } of edges) {
      if (from === to || !after.has(from) || !after.has(to)) continue;
      after.get(from).push(to);
    }
    // Groups may depend on each other in a circle although tasks do not: the edge that closes it counts for nothing here.
    const mark = new Map(), sorted = [];
    for (const root of ids) {
      if (mark.has(root)) continue;
      const stack = [[root, 0]];
      mark.set(root, 1);
      while (stack.length) {
        const top = stack[stack.length - 1], next = after.get(top[0])[top[1]];
        top[1] += 1;
        if (next === undefined) { mark.set(top[0], 2); sorted.push(top[0]); stack.pop(); }
        else if (!mark.has(next)) { mark.set(next, 1); before.get(next).push(top[0]); stack.push([next, 0]); }
        else if (mark.get(next) === 2) before.get(next).push(top[0]);
      }
    }
    sorted.reverse();
    const depth = new Map();
    for (const id of sorted) depth.set(id, before.get(id).reduce((most, b) => Math.max(most, depth.get(b) + 1), 0));
    // A source stands close to what needs it.
    const forward = new Map(ids.map((id) => [id, []]));
    for (const id of ids) for (const b of before.get(id)) forward.get(b).push(id);
    for (const id of [...sorted].reverse()) {
      if (!before.get(id).length && forward.get(id).length) depth.set(id, Math.min(...forward.get(id).map((n) => depth.get(n))) - 1);
    }
    const layers = [];
    for (const id of sorted) (layers[depth.get(id)] = layers[depth.get(id)] || []).push(id);
    const rank = new Map();
    const number = () => layers.forEach((layer) => layer.forEach((id, k) => rank.set(id, k - (layer.length - 1) / 2)));
    number();
    for (let sweep = 0; sweep < 8; sweep += 1) {
      const near = sweep % 2 ? forward : before;
      for (const layer of sweep % 2 ? [...layers].reverse() : layers) {
        const mean = new Map(layer.map((id) => {
          const others = near.get(id);
          return [id, others.length ? others.reduce((sum, o) => sum + rank.get(o), 0) / others.length : rank.get(id)];
        }));
        layer.sort((a, b) => mean.get(a) - mean.get(b));
        layer.forEach((id, k) => rank.set(id, k - (layer.length - 1) / 2));
      }
    }
    const places = new Map();
    layers.forEach((layer, x) => layer.forEach((id) => places.set(id, { x: x * (W + GAP_X), y: rank.get(id) * (H + GAP_Y) })));
    return places;
  };

  const mount = (root, polls, params) => {
    const scene = h("g"), svg = h("svg.graph", { role: "group", "aria-label": "Groups of tasks and their dependencies" }, scene);
    if (params.plot) svg.style.height = "calc(100vh - 110px)";
    const note = h("span.soft.small"), below = h("div"), none = HD.empty("no tasks yet");
    const view = { x: 0, y: 0, scale: 1, own: false };
    let shape = "", places = new Map(), nodes = new Map(), lines = [], chosen = params.group || null, groups = [];
    const place = () => scene.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);
    // As high as it needs to be, and no higher than leaves room for what is below.
    const size = (all) => {
      if (params.plot || !all.length) return;
      const [xs, ys] = [all.map((p) => p.x), all.map((p) => p.y)];
      const scale = Math.min(1.15, svg.getBoundingClientRect().width / (Math.max(...xs) - Math.min(...xs) + W + 40));
      const high = `${Math.round(Math.min(Math.max(200, innerHeight - 250), Math.max(170, (Math.max(...ys) - Math.min(...ys) + H + 60) * scale)))}px`;
      if (svg.style.height !== high) svg.style.height = high;
    };
    const fit = () => {
      const all = [...places.values()];
      size(all);
      const box = svg.getBoundingClientRect();
      if (!all.length || !box.width) return;
      const [left, right] = [Math.min(...all.map((p) => p.x)) - 20, Math.max(...all.map((p) => p.x)) + W + 20];
      const [top, bottom] = [Math.min(...all.map((p) => p.y)) - 20, Math.max(...all.map((p) => p.y)) + H + 20];
      view.scale = Math.min(1.15, box.width / (right - left), box.height / (bottom - top));
      view.x = (box.width - (right - left) * view.scale) / 2 - left * view.scale;
      view.y = (box.height - (bottom - top) * view.scale) / 2 - top * view.scale;
      view.own = false;
      place();
    };
    const zoom = (factor, x, y) => {
      const scale = Math.min(3, Math.max(0.05, view.scale * factor)), by = scale / view.scale;
      Object.assign(view, { x: x - (x - view.x) * by, y: y - (y - view.y) * by, scale, own: true });
      place();
    };
    const middle = (factor) => { const box = svg.getBoundingClientRect(); zoom(factor, box.width / 2, box.height / 2); };
    const button = (text, title, f) => h("button", { type: "button", title, "aria-label": title, onclick: f }, text);
    root.append(HD.panel("Graph of groups", h("span.tools", {}, note, button("+", "zoom in", () => middle(1.3)), button("−", "zoom out", () => middle(1 / 1.3)),
      button("Fit", "everything in view", fit)), none, svg, HD.keys(HD.STATES.map((s) => [HD.stateWord[s], HD.stateColour(s)]))), below);

    const short = (name, most) => { const clean = HD.name(name, 80); return clean.length > most ? `${clean.slice(0, most - 1)}…` : clean; };
    const node = (g) => {
      const at = places.get(g.id);
      const bars = HD.DONE_FIRST.map(() => h("rect", { y: H - 12, height: 5 }));
      const counts = h("text.soft", { x: 10, y: 32 }), title = h("title");
      const link = h("a", { href: HD.link("graph", { group: g.name }), transform: `translate(${at.x} ${at.y})` });
      const svgLink = document.createElementNS("http://www.w3.org/2000/svg", "a");
      for (const { name, value } of link.attributes) svgLink.setAttribute(name, value);
      HD.add(svgLink, [title, h("rect.box", { width: W, height: H, rx: 6 }), h("rect", { width: 4, height: H - 14, x: 0, y: 7, fill: HD.colour(g.name) }),
        h("text", { x: 10, y: 18 }, short(g.name, 24)), counts, bars]);
      return { element: svgLink, bars, counts, title };
    };
    const tell = (g) => {
      const made = nodes.get(g.id);
      let x = 10;
      HD.groupParts(g).forEach(([count, colour], k) => {
        const w = (count / (g.total || 1)) * (W - 20);
        made.bars[k].setAttribute("x", x);
        made.bars[k].setAttribute("width", Math.max(0, w));
        made.bars[k].setAttribute("fill", colour);
        x += w;
      });
      const extra = g.counts.erred ? `, ${fmt.short(g.counts.erred)} failed` : g.counts.processing ? `, ${fmt.short(g.counts.processing)} processing` : "";
      HD.text(made.counts, `${fmt.short(g.done)} of ${fmt.short(g.total)}${extra}`);
      made.counts.setAttribute("class", g.counts.erred ? "bad" : "soft");
      HD.text(made.title, `${HD.name(g.name, 400)}: ${fmt.count(g.done)} of ${fmt.count(g.total)} done`);
      made.element.classList.toggle("chosen", g.name === chosen);
    };
    const draw = (answer) => {
      groups = answer.groups;
      HD.toggle(none, !groups.length);
      svg.style.display = groups.length ? "" : "none";
      const edges = answer.edges || [];
      const now = JSON.stringify([groups.map((g) => [g.id, g.name]), edges.map((e) => [e.from, e.to]), HD.state.run]);
      if (now !== shape) {
        shape = now;
        places = HD.layers(groups.map((g) => g.id), edges);
        nodes = new Map(groups.map((g) => [g.id, node(g)]));
        const byId = new Map(groups.map((g) => [g.id, g]));
        lines = edges.filter((e) => byId.has(e.from) && byId.has(e.to)).map((e) => {
          const [a, b] = [places.get(e.from), places.get(e.to)];
          const own = e.from === e.to;
          const [x1, y1, x2, y2] = [a.x + W, a.y + H / 2, b.x, b.y + H / 2], bend = Math.max(30, Math.abs(x2 - x1) / 2);
          const d = own ? `M${a.x + W - 30} ${a.y} c0 -22 24 -22 24 0` : `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2 - 2} ${y2}`;
          const names = `${HD.name(byId.get(e.from).name, 80)} → ${HD.name(byId.get(e.to).name, 80)}`;
          const pairs = fmt.known(e.tasks) ? `: ${fmt.count(e.tasks)} dependencies${fmt.known(e.bytes) ? `, ${fmt.bytes(e.bytes)}` : ""}` : "";
          const path = h("path.edge", { d }, h("title", {}, names + pairs));
          const label = fmt.known(e.tasks) ? h("text.pairs", { x: own ? a.x + W - 18 : (x1 + x2) / 2, y: own ? a.y - 18 : (y1 + y2) / 2 - 4 }, fmt.short(e.tasks)) : null;
          return { ...e, path, label };
        });
        HD.fill(scene, lines.map((l) => [l.path, l.label]), [...nodes.values()].map((n) => n.element));
        if (!view.own) fit();
      }
      groups.forEach(tell);
      const picked = groups.find((g) => g.name === chosen);
      for (const l of lines) l.path.classList.toggle("lit", Boolean(picked) && (l.from === picked.id || l.to === picked.id));
      HD.text(note, `${fmt.plural(groups.length, "group")}${answer.more ? `, ${fmt.count(answer.more)} older not shown` : ""}`);
    };
    let drag = null;
    svg.addEventListener("pointerdown", (event) => { drag = { x: event.clientX - view.x, y: event.clientY - view.y, from: event.clientX + event.clientY }; });
    svg.addEventListener("pointermove", (event) => {
      if (!drag) return;
      if (!(event.buttons & 1)) { drag = null; return; }
      Object.assign(view, { x: event.clientX - drag.x, y: event.clientY - drag.y, own: true });
      place();
    });
    addEventListener("pointerup", () => { drag = null; });
    svg.addEventListener("click", (event) => { if (drag && Math.abs(event.clientX + event.clientY - drag.from) > 6) event.preventDefault(); }, true);
    svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = svg.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    new ResizeObserver(() => { if (!view.own) fit(); }).observe(svg);
    let last = null;
    polls.on("theme", () => { if (last) { shape = ""; draw(last); } });
    polls.every(2000, async () => { last = await HD.get("graph", { run: params.run }); draw(last); });
    if (chosen && HD.has("tasks")) HD.tasksPanel(below, polls, { run: params.run, group: chosen }, `Tasks of ${HD.name(chosen, 80)}`);
  };
  const plot = { title: "Graph", mount: (root, polls, params) => mount(root, polls, { ...params, plot: true }) };
  HD.page({ id: "graph", title: "Graph", group: "Look closer", needs: ["graph"], plots: { graph: plot }, mount });
})();
