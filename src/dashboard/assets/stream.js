// Task stream: a row for each slot, a rectangle for each task, transfer and use of the disk.
"use strict";
(() => {
  const { h, fmt } = HD;
  const GUTTER = 132, AXIS = 22, RIGHT = 6;
  const WORDS = { compute: "task", running: "running", failed: "failed", fetch: "transfer", "spill-write": "written to disk", "spill-read": "read from disk", wait: "waits" };
  const isTask = (kind) => kind === "compute" || kind === "running";
  const kept = new Map();
  // Kept while the page is open: coming back to it does not ask for everything again.
  const spansOf = (run) => {
    if (!kept.has(run)) { kept.clear(); kept.set(run, new HD.Spans()); }
    return kept.get(run);
  };

  const hex = (colour) => [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));
  const pool = [];
  const SHADES = 5;

  // What is thinner than a pixel is summed up by pixel: how much of it is covered, and by what mostly. Rows of pixels are
  // written as such; a rectangle for each of 100,000 tasks would take a tenth of a second.
  const paintThin = (g, bins, palette, places, scale) => {
    const ground = hex(HD.css("--panel"));
    const shades = palette.map((colour) => {
      const rgb = colour ? hex(colour) : ground;
      return Array.from({ length: SHADES }, (_, k) => {
        const [r, gr, b] = rgb.map((c, n) => Math.round(ground[n] + (c - ground[n]) * (0.25 + 0.75 * (k / (SHADES - 1)))));
        return ((255 << 24) | (b << 16) | (gr << 8) | r) >>> 0;
      });
    });
    for (const id of bins) {
      const { covered, most, fill, pixels } = pool[id], place = places[id];
      const top = Math.round(place.top * scale), lines = Math.max(1, Math.round((place.top + place.height) * scale) - top);
      const image = new ImageData(pixels, lines), words = new Uint32Array(image.data.buffer);
      for (let at = 0; at < pixels; at += 1) {
        if (fill[at]) words[at] = shades[fill[at]][most[at] >= 1000 ? SHADES - 1 : Math.min(SHADES - 1, Math.floor(covered[at] * SHADES))];
      }
      for (let line = 1; line < lines; line += 1) words.copyWithin(line * pixels, 0, pixels);
      g.putImageData(image, Math.round(GUTTER * scale), top - Math.round(g.shift * scale));
    }
  };
  // Draws spans into a canvas. view: {from, to} in seconds; places: row id -> {top, height} or undefined.
  const paint = (g, spans, view, places, width, height, hidden) => {
    const density = g.canvas.width / width, inner = width - GUTTER - RIGHT, pixels = Math.ceil(inner * density);
    const scale = inner / (view.to - view.from);
    const colours = spans.groups.map((name) => HD.colour(name));
    const kindColours = spans.kinds.map((kind) => (isTask(kind) ? null : HD.kindColour(kind)));
    const plain = HD.kindColour("compute"), wide = width - RIGHT;
    const skip = spans.kinds.map((kind) => hidden.kinds.has(kind)), skipGroup = spans.groups.map((name) => hidden.groups.has(name));
    const failed = spans.kinds.indexOf("failed"), running = spans.kinds.indexOf("running");
    const { start, seconds, row, kind, group, count } = spans;
    const palette = [null, plain, ...colours, ...kindColours], first = 2 + colours.length;
    const bins = new Set(), thick = [], hatched = [];
    for (let k = 0; k < count; k += 1) {
      const begin = start[k], long = seconds[k];
      if (begin > view.to || begin + long < view.from || !places[row[k]]) continue;
      if (skip[kind[k]] || (group[k] >= 0 && skipGroup[group[k]])) continue;
      if (long * scale >= 1.5) { thick.push(k); continue; }
      const at = Math.floor((begin - view.from) * scale * density);
      if (at < 0 || at >= pixels) continue;
      const id = row[k];
      if (!bins.has(id)) {
        bins.add(id);
        if (!pool[id] || pool[id].pixels !== pixels) {
          pool[id] = { pixels, covered: new Float32Array(pixels), most: new Float32Array(pixels), fill: new Uint16Array(pixels) };
        } else { pool[id].covered.fill(0); pool[id].most.fill(0); pool[id].fill.fill(0); }
      }
      const bin = pool[id], fill = kindColours[kind[k]] ? first + kind[k] : 2 + group[k], bonus = kind[k] === failed ? 1000 : 0.02;
      let from = (begin - view.from) * scale * density, left = Math.max(long * scale * density, 0.02);
      for (let pixel = at; left > 0 && pixel < pixels; pixel += 1) {
        const share = Math.min(left, pixel + 1 - from);
        bin.covered[pixel] += share;
        if (share + bonus > bin.most[pixel]) { bin.most[pixel] = share + bonus; bin.fill[pixel] = fill; }
        left -= share;
        from = pixel + 1;
      }
    }
    paintThin(g, bins, palette, places, density);
    const ground = HD.css("--panel");
    let colour = 0;
    for (const k of thick) {
      const fill = kindColours[kind[k]] ? first + kind[k] : 2 + group[k], place = places[row[k]];
      const x = GUTTER + (start[k] - view.from) * scale, left = Math.max(x, GUTTER), right = Math.min(x + seconds[k] * scale, wide);
      if (fill !== colour) { g.fillStyle = palette[fill]; colour = fill; }
      g.fillRect(left, place.top, Math.max(right - left - (right - left > 4 ? 0.6 : 0), 0.6), place.height);
      if (kind[k] === running) {
        // Paler, with an edge where it goes on.
        g.fillStyle = ground;
        g.globalAlpha = 0.45;
        g.fillRect(left, place.top, right - left, place.height);
        g.globalAlpha = 1;
        g.fillStyle = palette[fill];
        g.fillRect(Math.max(left, right - 2), place.top, Math.min(2, right - left), place.height);
      }
      if (kind[k] === failed && right - left > 5) hatched.push(left, place.top, right - left, place.height);
    }
    g.globalAlpha = 1;
    g.strokeStyle = "rgba(255,255,255,.7)";
    g.lineWidth = 1.2;
    for (let k = 0; k < hatched.length; k += 4) {
      const [x, y, w, t] = [hatched[k], hatched[k + 1], hatched[k + 2], hatched[k + 3]];
      g.save();
      g.beginPath();
      g.rect(x, y, w, t);
      g.clip();
      g.beginPath();
      for (let s = x - t; s < x + w; s += 5) { g.moveTo(s, y + t); g.lineTo(s + t, y); }
      g.stroke();
      g.restore();
    }
    return thick.length;
  };

  const mount = (root, polls, params) => {
    const run = params.run || "";
    const spans = spansOf(run);
    const view = { from: 0, to: 0, seconds: HD.report ? 0 : 60, follow: true };
    const hidden = { kinds: new Set(), groups: new Set() };
    const places = [];
    let layout = { rows: [], height: 0, version: -1, size: 0 }, frame = 0, over = -1, drag = null, skew = 0, listed = "";
    const text = { worker: "" };

    const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": "Task stream", id: "stream" });
    const spacer = h("div", { "aria-hidden": "true" });
    const stage = h("div.stage", {}, canvas, spacer);
    const legend = h("div.legend"), note = h("span.soft.small");
    const follow = h("button", { type: "button", "aria-pressed": "true", title: "stay at the newest (f)", onclick: () => setFollow(!view.follow) }, "Follow");
    const button = (label, title, f) => h("button", { type: "button", title, "aria-label": title, onclick: () => { f(); later(); } }, label);
    const search = HD.search("worker", "", (value) => { text.worker = value.toLowerCase(); layout.version = -1; later(); });
    search.id = "filter";
    const tools = h("span.tools", {}, note, search, HD.report ? null : follow, button("+", "zoom in (+)", () => zoom(0.6)), button("−", "zoom out (-)", () => zoom(1 / 0.6)),
      button("All", "everything that is kept (0)", () => whole()));
    const list = HD.table({
      label: "Longest in view", id: (row) => row.id, limit: 8, empty: "nothing in view",
      columns: [
        { title: "Longest in view", class: "name", show: (row) => (row.key ? HD.taskLink(row.key, run || null) : HD.name(row.what, 60)) },
        { title: "Kind", show: (row) => WORDS[row.kind] || row.kind },
        { title: "Worker", class: "name", show: (row) => HD.name(row.worker, 40) },
        { title: "Began", number: true, show: (row) => fmt.clock(row.start, 2) },
        { title: "Took", number: true, get: (row) => row.seconds, show: (row) => fmt.seconds(row.seconds) },
        { title: "Bytes", number: true, get: (row) => row.bytes, show: (row) => fmt.bytes(row.bytes) },
      ],
    });
    root.append(HD.panel("Task stream", tools, stage, legend), HD.panel("", null, list));

    // ---- where things are -------------------------------------------------------------------------------------

    const arrange = () => {
      const room = Math.max(220, innerHeight - stage.getBoundingClientRect().top - scrollY - (params.plot ? 60 : 190));
      if (layout.version === spans.rows.length && layout.size === room) return;
      const rows = spans.order().filter((row) => row.worker.toLowerCase().includes(text.worker));
      const units = rows.reduce((sum, row) => sum + (row.what === "slot" ? 1 : 0.5), 0), workers = new Set(rows.map((row) => row.worker)).size;
      const height = Math.max(7, Math.min(22, (room - AXIS - workers * 4) / Math.max(1, units)));
      places.length = 0;
      let top = AXIS + 2, before = null;
      for (const row of rows) {
        if (before !== null && row.worker !== before) top += 4;
        const tall = row.what === "slot" ? height : Math.max(4, height / 2);
        row.top = top;
        row.first = row.worker !== before;
        places[row.id] = { top, height: tall - 1 };
        top += tall;
        before = row.worker;
      }
      layout = { rows, height: Math.max(top + 4, 120), version: spans.rows.length, size: room };
      const shown = Math.min(layout.height, room);
      stage.style.height = `${shown + 2}px`;
      spacer.style.height = `${Math.max(0, layout.height - shown)}px`;
      layout.shown = shown;
    };
    const now = () => (HD.report ? spans.end : Math.max(spans.end, Date.now() / 1000 - skew));
    const whole = () => {
      if (!spans.count) return;
      const pad = (spans.end - spans.begin) * 0.01 || 1;
      setFollow(false);
      Object.assign(view, { from: spans.begin - pad, to: spans.end + pad, seconds: spans.end - spans.begin + 2 * pad });
    };
    const zoom = (factor, centre) => {
      const at = centre ?? (view.follow ? view.to : (view.from + view.to) / 2);
      const seconds = Math.min(Math.max((view.to - view.from) * factor, 1e-4), 86400 * 30);
      const left = (at - view.from) / (view.to - view.from);
      Object.assign(view, { from: at - left * seconds, to: at + (1 - left) * seconds, seconds });
    };
    const setFollow = (on) => {
      view.follow = on;
      follow.setAttribute("aria-pressed", String(on));
      later();
    };

    // ---- drawing ----------------------------------------------------------------------------------------------

    const later = () => { if (!frame && polls.live) frame = requestAnimationFrame(draw); };
    const draw = () => {
      frame = 0;
      if (!canvas.isConnected) return;
      const first = view.to === 0 && HD.report;
      if (first) whole();
      arrange();
      if (first) longest();
      if (view.follow && !HD.state.paused && !drag) { view.to = now() + view.seconds * 0.02; view.from = view.to - view.seconds; }
      const began = performance.now();
      if (!HD.report && !HD.state.paused) spans.stretch(now());
      canvas.style.width = `${stage.clientWidth}px`;
      const { g, width, height } = HD.canvas(canvas, layout.shown);
      const shift = stage.scrollTop;
      g.save();
      g.beginPath();
      g.rect(0, AXIS, width, height);
      g.clip();
      g.translate(0, -shift);
      g.shift = shift;
      for (const row of layout.rows) {
        if (!row.first) continue;
        g.fillStyle = HD.css("--line");
        g.fillRect(0, row.top - 2.5, width, 1);
      }
      const seen = [];
      for (const row of layout.rows) {
        const place = places[row.id];
        if (place.top + place.height > shift + AXIS - 4 && place.top < shift + height) seen[row.id] = place;
      }
      const drawn = paint(g, spans, view, seen, width, height, hidden);
      g.font = `11.5px ${getComputedStyle(canvas).fontFamily}`;
      g.textBaseline = "top";
      g.textAlign = "left";
      let lowest = -Infinity;
      for (const row of layout.rows) {
        if (!row.first || row.top < lowest) continue;
        lowest = row.top + 13;
        g.fillStyle = HD.css("--soft");
        let name = HD.name(row.worker, 40);
        while (name.length > 4 && g.measureText(name).width > GUTTER - 14) name = `${name.slice(0, -2)}…`;
        g.fillText(name, 8, row.top + 1);
      }
      g.restore();
      g.clearRect(0, 0, width, AXIS - 1);
      g.fillStyle = HD.css("--faint");
      g.textAlign = "center";
      g.textBaseline = "middle";
      const span = view.to - view.from, step = HD.timeStep(span, (width - GUTTER) / 120);
      const fine = step >= 1 ? 0 : Math.min(3, Math.ceil(-Math.log10(step)));
      for (let t = Math.ceil(view.from / step) * step; t <= view.to; t += step) {
        const x = GUTTER + ((t - view.from) / span) * (width - GUTTER - RIGHT);
        if (x < GUTTER + 24 || x > width - 30) continue;
        g.fillText(fmt.clock(t + 1e-7, fine), x, 11);
        g.globalAlpha = 0.35;
        g.fillRect(Math.round(x), AXIS - 3, 1, 4);
        g.globalAlpha = 1;
      }
      if (over >= 0 && seen[spans.row[over]]) {
        const place = seen[spans.row[over]], scale = (width - GUTTER - RIGHT) / span;
        const x = GUTTER + (spans.start[over] - view.from) * scale;
        g.strokeStyle = HD.css("--text");
        g.lineWidth = 1.5;
        g.strokeRect(Math.max(x, GUTTER) - 0.5, place.top - shift - 0.5, Math.max(2, spans.seconds[over] * scale), place.height + 1);
      }
      if (!spans.count) { g.textAlign = "center"; g.fillText("nothing has run yet", width / 2, height / 2); }
      canvas.dataset.drawn = String(drawn);
      canvas.dataset.count = String(spans.count);
      canvas.dataset.running = String(spans.count - spans.ended);
      canvas.dataset.milliseconds = (performance.now() - began).toFixed(1);
      if (view.follow && !HD.state.paused && !HD.report && spans.count) setTimeout(later, view.seconds > 300 ? 500 : 120);
    };
    const describe = () => {
      const words = [fmt.plural(spans.count, "rectangle")];
      if (spans.count > spans.ended) words.push(`${fmt.count(spans.count - spans.ended)} running`);
      if (spans.leftOut) words.push(`${fmt.count(spans.leftOut)} left out`);
      HD.text(note, words.join(", "));
      canvas.setAttribute("aria-label", `Task stream: ${words.join(", ")}, ${fmt.plural(spans.rows.length, "row")}. The longest are in the table below.`);
      const groups = spans.groups.map((name, k) => [name, spans.tallies[k]]).filter(([, n]) => n).sort((a, b) => b[1] - a[1]).slice(0, 24);
      const kinds = spans.kinds.filter((kind) => kind !== "compute");
      const wanted = JSON.stringify([groups.map(([name]) => name), kinds, HD.theme, HD.css("--bg")]);
      if (wanted === listed) return;
      listed = wanted;
      const key = (set, name, label, colour, hatch) => h("button.key", { type: "button", "aria-pressed": String(!set.has(name)), title: `show or hide ${HD.name(label)}`,
        onclick: (event) => {
          if (!set.delete(name)) set.add(name);
          event.currentTarget.setAttribute("aria-pressed", String(!set.has(name)));
          later();
        } }, HD.swatch(colour, hatch), h("span", {}, HD.name(label, 60)));
      HD.fill(legend, groups.map(([name]) => key(hidden.groups, name, name, HD.colour(name))),
        kinds.map((kind) => key(hidden.kinds, kind, WORDS[kind] || kind, HD.kindColour(kind), kind === "failed")));
    };
    const longest = () => {
      const found = [];
      for (let k = 0; k < spans.count; k += 1) {
        if (spans.start[k] > view.to || spans.start[k] + spans.seconds[k] < view.from || !places[spans.row[k]]) continue;
        if (found.length === 8 && spans.seconds[k] <= spans.seconds[found[7]]) continue;
        found.push(k);
        found.sort((a, b) => spans.seconds[b] - spans.seconds[a]);
        if (found.length > 8) found.pop();
      }
      list.show(found.map((k) => ({ id: `${spans.keys[k]} ${spans.start[k]} ${spans.kind[k]}`, ...about(k) })));
    };

    // ---- pointer and keys -------------------------------------------------------------------------------------

    const about = (k) => ({ key: spans.keys[k], kind: spans.kinds[spans.kind[k]], group: spans.groups[spans.group[k]], worker: spans.rows[spans.row[k]].worker,
      lane: spans.rows[spans.row[k]].lane, start: spans.start[k], seconds: spans.seconds[k], bytes: spans.bytes[k], count: spans.tasks[k],
      what: spans.groups[spans.group[k]] ?? WORDS[spans.kinds[spans.kind[k]]] });
    const timeAt = (x) => view.from + ((x - GUTTER) / (stage.clientWidth - GUTTER - RIGHT)) * (view.to - view.from);
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top + stage.scrollTop;
      const row = layout.rows.find((r) => y >= places[r.id].top - 0.5 && y < places[r.id].top + places[r.id].height + 1);
      if (!row || x < GUTTER) return -1;
      const time = timeAt(x), slack = (2 * (view.to - view.from)) / stage.clientWidth;
      let best = -1, near = Infinity;
      for (let k = spans.count - 1; k >= 0; k -= 1) {
        if (spans.row[k] !== row.id || hidden.kinds.has(spans.kinds[spans.kind[k]])) continue;
        const far = Math.max(spans.start[k] - time, time - spans.start[k] - spans.seconds[k], 0);
        if (far < near) { near = far; best = k; if (far === 0) break; }
      }
      return near <= slack ? best : -1;
    };
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, from: view.from, to: view.to, top: stage.scrollTop, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        const by = event.clientX - drag.x;
        if (Math.abs(by) + Math.abs(event.clientY - drag.y) > 4) drag.moved = true;
        if (drag.moved) {
          const seconds = (by / (stage.clientWidth - GUTTER - RIGHT)) * (drag.to - drag.from);
          Object.assign(view, { from: drag.from - seconds, to: drag.to - seconds });
          stage.scrollTop = drag.top - (event.clientY - drag.y);
          setFollow(false);
          HD.noTip();
        }
        return;
      }
      over = at(event);
      canvas.classList.toggle("points", over >= 0 && Boolean(spans.keys[over]));
      later();
      if (over < 0) { HD.noTip(); return; }
      const r = about(over);
      const colour = isTask(r.kind) ? HD.colour(r.group || "") : HD.kindColour(r.kind);
      HD.tip(event, h("div", {}, h("b", {}, HD.name(r.key || r.what || "", 120))),
        HD.tipRow(colour, WORDS[r.kind] || r.kind, fmt.seconds(r.seconds)), r.count > 1 ? HD.tipRow(null, "in a row", fmt.plural(r.count, "task")) : null,
        r.bytes ? HD.tipRow(null, "bytes", fmt.bytes(r.bytes)) : null, HD.tipRow(null, "began", fmt.clock(r.start, 3)), HD.tipRow(null, "worker", HD.name(r.worker, 50)));
    });
    canvas.addEventListener("pointerup", (event) => {
      const click = drag && !drag.moved;
      drag = null;
      later();
      if (!click) { longest(); return; }
      const k = at(event);
      if (k >= 0 && spans.keys[k]) HD.go("task", { key: spans.keys[k], in: run || null });
    });
    canvas.addEventListener("pointercancel", () => { drag = null; });
    canvas.addEventListener("pointerleave", () => { over = -1; HD.noTip(); later(); });
    canvas.addEventListener("wheel", (event) => {
      const scrolls = spacer.offsetHeight > 0 && !event.ctrlKey && !event.shiftKey && !event.altKey;
      if (scrolls && Math.abs(event.deltaY) > Math.abs(event.deltaX)) return;
      event.preventDefault();
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan(event.deltaX / stage.clientWidth);
      else zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 300))), view.follow ? undefined : timeAt(event.clientX - canvas.getBoundingClientRect().left));
      later();
    }, { passive: false });
    const pan = (share) => {
      const by = (view.to - view.from) * share;
      setFollow(false);
      Object.assign(view, { from: view.from + by, to: view.to + by });
    };
    canvas.addEventListener("keydown", (event) => {
      const acts = { ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), 0: whole,
        f: () => setFollow(!view.follow), l: toWidest, End: () => setFollow(true), Home: () => pan((spans.begin - view.from) / (view.to - view.from)) };
      if (!acts[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      acts[event.key]();
      later();
    });
    stage.addEventListener("scroll", later);
    new ResizeObserver(() => { layout.version = -1; later(); }).observe(root);

    polls.on("theme", () => { listed = ""; describe(); later(); });
    polls.on("paused", later);
    polls.on("overview", (o) => { skew = Date.now() / 1000 - o.time; });
    polls.every(1000, async () => { await spans.load(run); describe(); later(); longest(); });
    // The longest task in view, and where it is.
    const widest = () => {
      let best = -1;
      for (let k = 0; k < spans.count; k += 1) {
        const inside = spans.start[k] < view.to && spans.start[k] + spans.seconds[k] > view.from && places[spans.row[k]];
        if (inside && spans.keys[k] && spans.rows[spans.row[k]].what === "slot" && !(spans.seconds[k] <= spans.seconds[best])) best = k;
      }
      return best;
    };
    const toWidest = () => {
      const k = widest();
      if (k < 0) return;
      setFollow(false);
      const seconds = Math.max(spans.seconds[k], 1e-5);
      Object.assign(view, { from: spans.start[k] - seconds, to: spans.start[k] + 2 * seconds });
    };
    // For who tests it: the key and the middle of what is longest in view.
    stage.widest = () => {
      const k = widest(), scale = (stage.clientWidth - GUTTER - RIGHT) / (view.to - view.from);
      if (k < 0) return null;
      const place = places[spans.row[k]];
      return { key: spans.keys[k], x: GUTTER + (spans.start[k] + spans.seconds[k] / 2 - view.from) * scale, y: place.top + place.height / 2 - stage.scrollTop };
    };
    // For who measures how it draws: milliseconds for a picture of everything.
    stage.measure = (n) => { whole(); draw(); const t = performance.now(); for (let k = 0; k < n; k += 1) draw(); return (performance.now() - t) / n; };
  };
  const plot = { title: "Task stream", mount: (root, polls, params) => mount(root, polls, { ...params, plot: true }) };
  HD.page({ id: "stream", title: "Task stream", group: "Now", needs: ["spans"], plots: { "task-stream": plot }, mount });
})();
