// Pieces that several pages use: tables, bars, legends, the tip beside the pointer, choices.
"use strict";
(() => {
  const { h, fmt } = HD;

  HD.panel = (title, tools, ...content) => {
    const element = h("section.panel", { "aria-label": title });
    if (title || tools) element.append(h("header", {}, h("h2", {}, title), h("span.grow"), tools || null));
    return HD.add(element, content);
  };
  HD.dot = (state) => h(`span.dot.${/^[a-z-]+$/.test(state) ? state : "idle"}`, { "aria-hidden": "true" });
  HD.stateOf = (state, text) => h("span.state", {}, HD.dot(state), text || state);
  HD.empty = (text) => h("p.empty", {}, text);

  // ---- the tip beside the pointer -----------------------------------------------------------------------------

  let tip = null;
  HD.tip = (event, ...content) => {
    if (!tip) document.body.append(tip = h("div.tip", { role: "status" }));
    HD.fill(tip, content);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = event.clientX + 14 + box.width > innerWidth ? event.clientX - box.width - 12 : event.clientX + 14;
    const y = Math.min(event.clientY + 14, innerHeight - box.height - 6);
    Object.assign(tip.style, { left: `${Math.max(4, x)}px`, top: `${Math.max(4, y)}px` });
  };
  HD.noTip = () => { if (tip) tip.hidden = true; };
  HD.tipRow = (colour, name, value) => h("div.row", {}, colour ? HD.swatch(colour) : null, h("span.grow", {}, name), h("b", {}, value));
  HD.swatch = (colour, hatch) => h(hatch ? "span.swatch.hatch" : "span.swatch", { style: { backgroundColor: colour } });

  // ---- bars ---------------------------------------------------------------------------------------------------

  // A bar of parts [[value, colour, name]] of a whole; marks are values with a line across.
  HD.bar = (tall) => {
    const element = h(tall ? "div.bar.tall" : "div.bar", { role: "img" });
    element.show = (parts, whole, marks, label) => {
      const sum = parts.reduce((a, [value]) => a + (value || 0), 0);
      const all = Math.max(whole || 0, sum) || 1;
      const lines = (marks || []).filter((value) => fmt.known(value) && value <= all);
      while (element.children.length > parts.length + lines.length) element.lastChild.remove();
      const at = (k, tag) => {
        let child = element.children[k];
        if (child && child.localName !== tag) { child.remove(); child = null; }
        if (!child) {
          child = h(tag);
          element.insertBefore(child, element.children[k] || null);
        }
        return child;
      };
      parts.forEach(([value, colour], k) => {
        const style = at(k, "i").style;
        style.width = `${(100 * (value || 0)) / all}%`;
        style.minWidth = value > 0 ? "1px" : "0";
        style.backgroundColor = colour;
      });
      lines.forEach((value, k) => { at(parts.length + k, "b").style.left = `${(100 * value) / all}%`; });
      element.setAttribute("aria-label", label || parts.filter(([v, , n]) => v && n).map(([v, , n]) => `${n} ${v}`).join(", "));
      element.title = label || "";
      return element;
    };
    return element;
  };
  HD.memoryParts = (memory) => [[memory.managed, HD.css("--m-managed"), "results"], [memory.unmanaged, HD.css("--m-unmanaged"), "other"]];
  HD.memoryLabel = (memory) => `results ${fmt.bytes(memory.managed)}, other memory ${fmt.bytes(memory.unmanaged)}, `
    + `on disk ${fmt.bytes(memory.spilled)}, limit ${fmt.bytes(memory.limit)}`;
  HD.stateParts = (counts) => HD.DONE_FIRST.map((state) => [counts[state] || 0, HD.stateColour(state), HD.stateWord[state]]);
  // A group's tasks; those of runs that are forgotten were done.
  HD.groupParts = (g) => {
    const known = HD.STATES.reduce((sum, state) => sum + (g.counts[state] || 0), 0);
    return HD.stateParts({ ...g.counts, released: (g.counts.released || 0) + Math.max(0, g.total - known) });
  };
  HD.DONE_FIRST = ["released", "memory", "processing", "queued", "waiting", "delayed", "cancelled", "erred"];
  HD.stateLegend = (counts) => h("div.legend", {}, HD.STATES.filter((s) => counts[s]).map((state) =>
    h("span.key", {}, HD.swatch(HD.stateColour(state)), `${HD.stateWord[state]} `, h("b", { "data-state": state }, fmt.count(counts[state])))));
  HD.keys = (entries) => h("div.legend", {}, entries.map(([name, colour, hatch]) =>
    h("span.key", {}, HD.swatch(colour, hatch), h("span", {}, name))));

  // ---- choices ------------------------------------------------------------------------------------------------

  HD.select = (label, entries, value, changed) => {
    const select = h("select", { "aria-label": label, onchange: () => changed(select.value) });
    select.offer = (list, chosen) => {
      const wanted = list.map(([v, text]) => `${v}\u0000${text}`).join("\u0001");
      if (select.offered !== wanted) {
        select.offered = wanted;
        HD.fill(select, list.map(([v, text]) => h("option", { value: v }, HD.name(text, 60))));
        for (let k = 0; k < list.length; k += 1) select.options[k].value = list[k][0];
      }
      if (document.activeElement !== select || select.value === "") select.value = chosen;
    };
    select.offer(entries, value);
    return select;
  };
  HD.search = (label, value, changed) => {
    let timer = 0;
    const input = h("input", { type: "search", placeholder: label, "aria-label": label, value, spellcheck: "false",
      autocomplete: "off", oninput: () => { clearTimeout(timer); timer = setTimeout(() => changed(input.value.trim()), 150); } });
    return input;
  };
  HD.switches = (label, entries, value, changed) => {
    const buttons = entries.map(([v, text]) => h("button", { type: "button", "aria-pressed": String(v === value),
      onclick: () => { for (const [k, b] of buttons.entries()) b.setAttribute("aria-pressed", String(entries[k][0] === v)); changed(v); },
    }, text));
    return h("span.tools.switches", { role: "group", "aria-label": label }, buttons);
  };

  // ---- tables -------------------------------------------------------------------------------------------------

  // Columns: {title, key, number, get(row) to sort by, show(row) text or node, update(cell, row)}.
  // Rows stay where they are while their figures change; `id(row)` says which is which.
  HD.table = ({ label, columns, id, sort, descending, empty, limit, rowClass }) => {
    const state = { sort: sort || null, descending: Boolean(descending), rows: [], all: false };
    const most = limit || 500;
    const body = h("tbody"), none = HD.empty(empty || "nothing here"), more = h("button", { type: "button", hidden: true });
    const head = columns.map((column) => {
      const th = h(column.number ? "th.number" : "th", { scope: "col", title: column.hint });
      if (column.get) {
        th.append(h("button", { type: "button", onclick: () => {
          state.descending = state.sort === column.title ? !state.descending : Boolean(column.number);
          state.sort = column.title;
          draw();
        } }, column.title));
      } else th.append(column.title);
      return th;
    });
    const table = h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, head)), body);
    const wrapped = h("div", {}, h("div.scroll", {}, table), none, more);
    const known = new Map();
    more.addEventListener("click", () => { state.all = true; draw(); });
    const order = (a, b) => {
      if (a === b) return 0;
      if (a === null || a === undefined) return 1;
      if (b === null || b === undefined) return -1;
      return typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    };
    const draw = () => {
      let rows = state.rows;
      const by = columns.find((column) => column.title === state.sort);
      if (by) {
        const values = new Map(rows.map((row) => [row, by.get(row)]));
        const empty = (v) => v === null || v === undefined;
        rows = [...rows].sort((a, b) => {
          const [x, y] = [values.get(a), values.get(b)];
          const sign = order(x, y);
          return state.descending && !empty(x) && !empty(y) ? -sign : sign;
        });
      }
      columns.forEach((column, k) => {
        if (column.title === state.sort) head[k].setAttribute("aria-sort", state.descending ? "descending" : "ascending");
        else head[k].removeAttribute("aria-sort");
      });
      const shown = state.all ? rows : rows.slice(0, most);
      const seen = new Set();
      shown.forEach((row, k) => {
        const key = String(id(row));
        if (seen.has(key)) return;
        seen.add(key);
        let tr = known.get(key);
        if (!tr) {
          tr = h("tr", {}, columns.map((column) => h(["td", column.class || "", column.number ? "number" : ""].filter(Boolean).join("."))));
          known.set(key, tr);
        }
        if (rowClass) tr.className = rowClass(row);
        columns.forEach((column, c) => {
          const cell = tr.children[c];
          if (column.update) { column.update(cell, row); return; }
          const value = column.show(row);
          if (!(value instanceof Node)) { HD.text(cell, value); return; }
          // A link that somebody is about to press stays the same element while it says the same.
          if (!cell.firstChild || !cell.firstChild.isEqualNode(value)) cell.replaceChildren(value);
        });
        if (body.children[k] !== tr) body.insertBefore(tr, body.children[k] || null);
      });
      for (const [key, tr] of known) if (!seen.has(key)) { tr.remove(); known.delete(key); }
      HD.toggle(table, shown.length > 0);
      HD.toggle(none, shown.length === 0);
      HD.toggle(more, rows.length > shown.length);
      HD.text(more, `show all ${fmt.count(rows.length)}`);
    };
    wrapped.show = (rows) => { state.rows = rows; draw(); };
    wrapped.say = (text) => HD.text(none, text);
    return wrapped;
  };
  // A bar in a table's cell: made once, then only told new figures.
  HD.barCell = (cell, parts, whole, marks, label) => {
    if (!cell.bar) { cell.classList.add("of-bar"); cell.append(cell.bar = HD.bar()); }
    cell.bar.show(parts, whole, marks, label);
  };
})();
