// The one global name of the dashboard: elements, formats, colours, and where the data comes from.
"use strict";
window.HD = (() => {
  const HD = { pages: [], plots: {}, state: { run: "", paused: false, overview: null } };

  // ---- elements -----------------------------------------------------------------------------------------------

  // h("div.a.b", {title: "…", onclick: f}, "text", node, [more]) makes an element. Strings become text, never markup.
  HD.h = (what, attributes, ...children) => {
    const [tag, ...classes] = what.split(".");
    const svg = HD.h.svg.has(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    if (classes.length) element.setAttribute("class", classes.join(" "));
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "style") Object.assign(element.style, value);
      else if (name === "value" && !svg) element.value = value;
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    HD.add(element, children);
    return element;
  };
  HD.h.svg = new Set(["svg", "g", "path", "rect", "line", "circle", "text", "defs", "marker", "polygon", "tspan"]);
  HD.add = (element, children) => {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      element.append(child instanceof Node ? child : String(child));
    }
    return element;
  };
  HD.fill = (element, ...children) => {
    element.replaceChildren();
    return HD.add(element, children);
  };
  // Sets a text only if it is another one: nothing is laid out again for what stays.
  HD.text = (element, text) => {
    const wanted = String(text);
    if (element.textContent !== wanted) element.textContent = wanted;
  };
  HD.toggle = (element, on) => { if (element.hidden === Boolean(on)) element.hidden = !on; };

  // ---- texts from outside -------------------------------------------------------------------------------------

  const DIRECTION = /[\u061c\u200b-\u200f\u202a-\u202e\u2028\u2029\u2060-\u2069\ufeff]/g;
  const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;
  const picture = (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`;
  // What programs print, with nothing left in it that moves a cursor or turns the direction of text around.
  HD.harmless = (text) => String(text)
    .replace(/\u001b\[[0-9;:?]*[A-Za-z]/g, "")
    .replace(/\r\n/g, "\n")
    .replace(CONTROL, picture)
    .replace(DIRECTION, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  // A name on one line and of a length that a page can bear.
  HD.name = (text, most = 200) => {
    const clean = HD.harmless(String(text).slice(0, most * 2)).replace(/[\n\t]/g, " ");
    return clean.length > most ? `${clean.slice(0, most - 1)}…` : clean;
  };

  // ---- formats ------------------------------------------------------------------------------------------------

  const NONE = "–";
  const known = (x) => typeof x === "number" && Number.isFinite(x);
  const grouped = (x) => String(Math.round(x)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const digits = (x) => (x >= 99.95 ? x.toFixed(0) : x >= 9.995 ? x.toFixed(1) : x.toFixed(2));
  HD.fmt = {
    none: NONE,
    known,
    count: (x) => (known(x) ? grouped(x) : NONE),
    // Short, for axes and tiles.
    short: (x) => {
      if (!known(x)) return NONE;
      const a = Math.abs(x);
      for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
        if (a >= size) return `${digits(x / (unit === "k" ? 1e3 : size))}${unit}`;
      }
      return Number.isInteger(x) || a >= 1000 ? grouped(x) : a >= 99.95 ? x.toFixed(0) : x.toFixed(1);
    },
    bytes: (x) => {
      if (!known(x)) return NONE;
      let size = Math.abs(x), unit = 0;
      while (size >= 1023.5 && unit < 6) { size /= 1024; unit += 1; }
      return `${x < 0 ? "-" : ""}${unit ? digits(size) : size.toFixed(0)}\u202f${["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit]}`;
    },
    rate: (x) => (known(x) ? `${HD.fmt.bytes(x)}/s` : NONE),
    seconds: (x) => {
      if (!known(x)) return NONE;
      const a = Math.abs(x);
      if (a === 0) return "0\u202fs";
      if (a < 1e-3) return `${digits(x * 1e6)}\u202fµs`;
      if (a < 1) return `${digits(x * 1e3)}\u202fms`;
      if (a < 60) return `${digits(x)}\u202fs`;
      const whole = Math.round(a);
      const two = (n) => String(n).padStart(2, "0");
      if (whole < 3600) return `${Math.floor(whole / 60)}:${two(whole % 60)}\u202fmin`;
      if (whole < 86400) return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}\u202fh`;
      return `${Math.floor(whole / 86400)}\u202fd ${Math.floor(whole / 3600) % 24}\u202fh`;
    },
    percent: (x) => (known(x) ? `${(100 * x).toFixed(x > 0 && x < 0.1 ? 1 : 0)}\u202f%` : NONE),
    clock: (x, fine) => {
      if (!known(x)) return NONE;
      const date = new Date(x * 1000);
      if (Number.isNaN(date.getTime())) return NONE;
      const two = (n) => String(n).padStart(2, "0");
      const base = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
      return fine ? `${base}.${String(date.getMilliseconds()).padStart(3, "0").slice(0, fine)}` : base;
    },
    plural: (n, one, many) => `${HD.fmt.count(n)} ${n === 1 ? one : many || `${one}s`}`,
  };

  // ---- colours ------------------------------------------------------------------------------------------------

  HD.STATES = ["processing", "queued", "waiting", "delayed", "memory", "released", "erred", "cancelled"];
  HD.stateWord = { processing: "processing", queued: "queued", waiting: "waiting", delayed: "delayed", memory: "in memory",
    released: "done, released", erred: "failed", cancelled: "cancelled" };
  let cache = new Map();
  HD.css = (name) => {
    if (!cache.has(name)) cache.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
    return cache.get(name);
  };
  HD.stateColour = (state) => HD.css(`--s-${state}`);
  HD.kindColour = (kind) => HD.css(`--k-${kind}`) || HD.css("--k-wait");
  // Hues that mean nothing else: failures are red, transfers magenta, the disk orange.
  const PALETTE = ["#4a86c5", "#3f9d6b", "#c9a227", "#7a6fc9", "#33a1a8", "#8a9a3b", "#6fa8dc", "#9c7a5b", "#2f6f9f", "#86bf7f",
    "#a99be0", "#5f7f8f", "#d9c46a", "#2e7d5b", "#5b57a6", "#7fc6c4", "#8fa8b8", "#b9a08a"];
  const taken = new Map(), used = new Set();
  const hashed = (name) => {
    let hash = 2166136261;
    for (let i = 0; i < name.length; i += 1) hash = Math.imul(hash ^ name.charCodeAt(i), 16777619) >>> 0;
    return hash % PALETTE.length;
  };
  // The colour of what takes none away from groups.
  HD.anyColour = (name) => PALETTE[hashed(name)];
  // A group's colour: by its name; the next free one if another group that is shown has it.
  HD.colour = (name) => {
    if (taken.has(name)) return taken.get(name);
    let slot = hashed(name);
    if (used.size < PALETTE.length) while (used.has(slot)) slot = (slot + 5) % PALETTE.length;
    used.add(slot);
    if (taken.size > 5000) taken.clear();
    taken.set(name, PALETTE[slot]);
    return PALETTE[slot];
  };

  // What can be read on a colour.
  HD.ink = (colour) => {
    const [r, g, b] = [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#14202c" : "#ffffff";
  };

  const THEMES = ["auto", "light", "dark"];
  const stored = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  HD.theme = THEMES.includes(stored("hpcdag-theme")) ? stored("hpcdag-theme") : "auto";
  HD.setTheme = (theme) => {
    HD.theme = theme;
    if (theme === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.setAttribute("data-theme", theme);
    try { localStorage.setItem("hpcdag-theme", theme); } catch { /* Pages from disk may not keep anything. */ }
    cache = new Map();
    HD.tell("theme");
  };
  HD.nextTheme = () => HD.setTheme(THEMES[(THEMES.indexOf(HD.theme) + 1) % THEMES.length]);

  // ---- who listens --------------------------------------------------------------------------------------------

  const listeners = new Map();
  HD.on = (what, f) => {
    if (!listeners.has(what)) listeners.set(what, new Set());
    listeners.get(what).add(f);
    return () => listeners.get(what).delete(f);
  };
  HD.tell = (what, ...values) => { for (const f of [...(listeners.get(what) || [])]) f(...values); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { cache = new Map(); HD.tell("theme"); });

  // ---- data ---------------------------------------------------------------------------------------------------

  HD.report = window.HPCDAG_DATA || null;
  HD.has = (path) => !HD.report || HD.report[path] !== undefined;
  const matching = (answer, { group, state, worker, text, skip, limit }) => {
    const fits = (t) => (!group || t.group === group) && (!state || t.state === state) && (!worker || t.worker === worker)
      && (!text || t.key.includes(text));
    const tasks = answer.tasks.filter(fits), from = skip || 0, to = from + (limit || 100);
    return { tasks: tasks.slice(from, to), more: answer.more || tasks.length > to };
  };
  // The answer of one path of the interface. In a report from disk: what is written into it.
  HD.get = async (path, params) => {
    if (HD.report) {
      if (!HD.has(path)) throw Object.assign(new Error("this is not in the report"), { kind: "not-found", status: 404 });
      // Of single tasks a report has those that somebody will ask for, by key.
      if (path === "tasks") return matching(HD.report.tasks, params || {});
      if (path !== "task") return HD.report[path];
      const task = HD.report.task[params.key];
      if (!task) throw Object.assign(new Error("this task is not in the report"), { kind: "not-found", status: 404 });
      return task;
    }
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(params || {})) {
      if (value !== null && value !== undefined && value !== "") query.set(name, value);
    }
    const answer = await fetch(`api/v1/${path}${query.size ? `?${query}` : ""}`, {
      credentials: "same-origin", cache: "no-store", redirect: "error", signal: AbortSignal.timeout(15000),
    });
    let body = null;
    try { body = await answer.json(); } catch { /* Said below. */ }
    if (!answer.ok || body === null) {
      const said = body && body.error ? body.error : {};
      throw Object.assign(new Error(said.message || `the scheduler answered ${answer.status}`),
        { kind: said.kind || "http", status: answer.status });
    }
    return body;
  };
  // What asks again and again while a page is open. A page's polls end with it; none asks while nobody looks.
  HD.Polls = class {
    constructor() { this.live = true; this.timers = new Set(); this.undo = []; }
    every(ms, ask, always) {
      let again = () => {};
      const wait = (delay) => {
        const timer = setTimeout(() => { this.timers.delete(timer); again(); }, delay);
        this.timers.add(timer);
      };
      let first = true, faults = 0;
      again = async () => {
        if (!this.live) return;
        if (!first && (document.hidden || (HD.state.paused && !always))) { wait(300); return; }
        try {
          await ask();
          faults = 0;
          first = false;
          if (this.live) HD.tell("answered");
        } catch (error) {
          faults += 1;
          if (this.live) HD.tell("fault", error);
          if (!["AbortError", "TypeError", "TimeoutError"].includes(error.name) && !error.kind) console.error(error);
        }
        if (this.live && !HD.report) wait(Math.min(ms * (1 + faults), 10000));
      };
      again();
    }
    on(what, f) { this.undo.push(HD.on(what, f)); }
    end() {
      this.live = false;
      for (const timer of this.timers) clearTimeout(timer);
      for (const undo of this.undo) undo();
    }
  };

  // ---- addresses ----------------------------------------------------------------------------------------------

  // Pages are fragments, so that any prefix of a proxy works: #/task?key=…
  HD.link = (page, params) => {
    const query = new URLSearchParams();
    const all = { run: HD.state.run, ...params };
    for (const [name, value] of Object.entries(all)) {
      if (value !== null && value !== undefined && value !== "") query.set(name, value);
    }
    return `#/${page}${query.size ? `?${query}` : ""}`;
  };
  HD.go = (page, params) => { location.hash = HD.link(page, params); };
  HD.taskLink = (key, run) => (HD.report && !(HD.report.task || {})[key] ? HD.h("span", { title: HD.name(key, 600) }, HD.name(key, 120)) : HD.h("a", { href: HD.link("task", { key, in: run }), title: HD.name(key, 600) },
    HD.name(key, 120)));
  HD.page = (page) => { HD.pages.push(page); for (const [name, plot] of Object.entries(page.plots || {})) HD.plots[name] = plot; };
  return HD;
})();
