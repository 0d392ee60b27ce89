// Lines and areas over time on a canvas, and the store of what was measured.
"use strict";
(() => {
  const { h, fmt } = HD;

  // ---- what was measured --------------------------------------------------------------------------------------

  const KEPT = 3700;
  // Asks only for what is new; several pages share what has come.
  HD.series = {
    time: [], total: {}, workers: new Map(), asked: -Infinity,
    async load(workers) {
      const last = this.time.length ? this.time[this.time.length - 1] : 0;
      const now = performance.now();
      const fresh = now - this.asked < 700 && (!workers || this.withWorkers);
      if (fresh) return;
      const whole = workers && !this.withWorkers;
      const answer = await HD.get("series", { after: whole || !last ? 0 : Math.max(0, last - 4), workers: workers ? 1 : null });
      this.asked = now;
      if (whole) this.withWorkers = true;
      this.join(answer);
    },
    join(answer) {
      this.append(this, this.total, answer.time || [], answer.total || {});
      for (const [name, given] of Object.entries(answer.workers || {})) {
        if (!this.workers.has(name)) this.workers.set(name, { time: [], columns: {} });
        const kept = this.workers.get(name);
        this.append(kept, kept.columns, given.time || [], given);
      }
    },
    append(kept, columns, time, given) {
      const last = kept.time.length ? kept.time[kept.time.length - 1] : -Infinity;
      let from = 0;
      while (from < time.length && time[from] <= last) from += 1;
      if (from === time.length) return;
      const before = kept.time.length;
      for (let k = from; k < time.length; k += 1) kept.time.push(time[k]);
      for (const [name, values] of Object.entries(given)) {
        if (name === "time" || !Array.isArray(values)) continue;
        const column = (columns[name] = columns[name] || []);
        while (column.length < before) column.push(null);
        for (let k = from; k < time.length; k += 1) column.push(values[k] ?? null);
      }
      const extra = kept.time.length - KEPT;
      if (extra > 200) {
        kept.time.splice(0, extra);
        for (const column of Object.values(columns)) column.splice(0, extra);
      }
    },
    // What a running total grew by a second.
    rate(time, totals) {
      const rates = [];
      for (let k = 0; k < time.length; k += 1) {
        let from = k - 1;
        while (from > 0 && time[k] - time[from] < 1.5 && k - from < 3) from -= 1;
        const seconds = from >= 0 ? time[k] - time[from] : 0;
        const grown = from >= 0 ? totals[k] - totals[from] : 0;
        rates.push(seconds > 0 && totals[k] !== null ? Math.max(0, grown / seconds) : null);
      }
      return rates;
    },
  };

  // ---- charts -------------------------------------------------------------------------------------------------

  HD.canvas = (canvas, height) => {
    const width = canvas.clientWidth || canvas.parentElement?.clientWidth || 300;
    const scale = Math.min(window.devicePixelRatio || 1, 3);
    const [w, t] = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== w || canvas.height !== t) {
      canvas.width = w;
      canvas.height = t;
      canvas.style.height = `${height}px`;
    }
    const g = canvas.getContext("2d");
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.clearRect(0, 0, width, height);
    return { g, width, height };
  };
  HD.ticks = (most, count, binary) => {
    if (!(most > 0)) return [0];
    const unit = binary ? 1024 ** Math.floor(Math.log(most) / Math.log(1024)) : 1;
    const raw = most / unit / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= raw * 0.999) * unit;
    const ticks = [];
    for (let k = 0; k * step <= most * 1.0001; k += 1) ticks.push(k * step);
    return ticks;
  };
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  HD.timeStep = (span, count) => {
    // Times since 1970 have room for no less than a microsecond: what is added to them must not vanish.
    const raw = Math.max(span / Math.max(count, 1), 1e-6);
    if (raw < 1) {
      const power = 10 ** Math.floor(Math.log10(raw));
      return [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw);
    }
    return STEPS.find((s) => s >= raw) || 86400 * Math.ceil(raw / 86400);
  };

  // A chart {label, height, format, binary, seconds}. draw({time, lines: [{name, colour, values, fill}], stacked, most, marks}).
  HD.chart = ({ label, height = 150, format = fmt.short, binary = false, seconds = 300 }) => {
    const canvas = h("canvas", { role: "img", "aria-label": label });
    const element = h("div.chart", {}, canvas);
    let data = null, hover = null, frame = 0, scaleX = null;
    const LEFT = 58, RIGHT = 8, TOP = 8, BOTTOM = 20;
    const later = () => { if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); }); };
    const paint = () => {
      if (!data || !canvas.isConnected) return;
      const { g, width } = HD.canvas(canvas, height);
      const { time, lines, stacked, marks = [] } = data;
      const end = time.length ? time[time.length - 1] : 0;
      // A young cluster fills the width; a minute is the least.
      const begin = HD.report ? Math.min(time[0] || 0, end - 1) : Math.max(end - element.seconds, Math.min(end - 60, time[0] ?? 0));
      let first = 0;
      while (first < time.length - 1 && time[first + 1] < begin) first += 1;
      let most = data.most || 0;
      for (let k = first; k < time.length; k += 1) {
        let sum = 0;
        for (const line of lines) {
          const v = line.values[k] || 0;
          sum = stacked && !line.apart ? sum + v : Math.max(sum, v);
        }
        most = Math.max(most, sum);
      }
      for (const mark of marks) most = Math.max(most, mark.value || 0);
      most = most > 0 ? most * 1.06 : 1;
      const x = (t) => LEFT + ((t - begin) / (end - begin || 1)) * (width - LEFT - RIGHT);
      const y = (v) => height - BOTTOM - (v / most) * (height - TOP - BOTTOM);
      scaleX = { x, begin, end, first };
      g.font = `11px ${getComputedStyle(canvas).fontFamily}`;
      g.textBaseline = "middle";
      g.lineWidth = 1;
      g.textAlign = "right";
      for (const tick of time.length ? HD.ticks(most, Math.max(2, Math.floor(height / 34)), binary) : [0]) {
        g.strokeStyle = HD.css("--line");
        g.beginPath();
        g.moveTo(LEFT, Math.round(y(tick)) + 0.5);
        g.lineTo(width - RIGHT, Math.round(y(tick)) + 0.5);
        g.stroke();
        g.fillStyle = HD.css("--faint");
        g.fillText(format(tick), LEFT - 6, y(tick));
      }
      g.textAlign = "center";
      const step = HD.timeStep(end - begin, Math.floor(width / 110));
      for (let t = Math.ceil(begin / step) * step; t <= end && time.length; t += step) {
        g.fillStyle = HD.css("--faint");
        if (x(t) > LEFT + 20 && x(t) < width - 26) g.fillText(fmt.clock(t), x(t), height - 8);
      }
      g.save();
      g.beginPath();
      g.rect(LEFT, 0, width - LEFT - RIGHT, height);
      g.clip();
      const floor = new Float64Array(time.length);
      for (const line of lines) {
        const piled = stacked && !line.apart;
        let run = [];
        const close = () => {
          if (!run.length) return;
          const top = (k) => y((line.values[k] || 0) + (piled ? floor[k] : 0));
          if (line.fill || piled) {
            g.beginPath();
            g.moveTo(x(time[run[0]]), y(piled ? floor[run[0]] : 0));
            for (const k of run) g.lineTo(x(time[k]), top(k));
            for (let r = run.length - 1; r >= 0; r -= 1) g.lineTo(x(time[run[r]]), y(piled ? floor[run[r]] : 0));
            g.globalAlpha = piled ? 0.85 : 0.14;
            g.fillStyle = line.colour;
            g.fill();
            g.globalAlpha = 1;
          }
          if (!piled) {
            g.beginPath();
            for (const k of run) g.lineTo(x(time[k]), top(k));
            g.strokeStyle = line.colour;
            g.lineWidth = 1.6;
            g.lineJoin = "round";
            g.stroke();
          }
          run = [];
        };
        for (let k = first; k < time.length; k += 1) {
          if (line.values[k] === null || line.values[k] === undefined) close();
          else run.push(k);
        }
        close();
        if (piled) for (let k = first; k < time.length; k += 1) floor[k] += line.values[k] || 0;
      }
      for (const mark of marks) {
        if (!fmt.known(mark.value)) continue;
        g.strokeStyle = mark.colour || HD.css("--soft");
        g.setLineDash([5, 4]);
        g.beginPath();
        g.moveTo(LEFT, y(mark.value));
        g.lineTo(width, y(mark.value));
        g.stroke();
        g.setLineDash([]);
        const [above, wide] = [y(mark.value) + (y(mark.value) < 16 ? 9 : -8), g.measureText(mark.name).width];
        g.fillStyle = HD.css("--panel");
        g.globalAlpha = 0.8;
        g.fillRect(width - RIGHT - wide - 8, above - 7, wide + 8, 14);
        g.globalAlpha = 1;
        g.fillStyle = HD.css("--soft");
        g.textAlign = "right";
        g.fillText(mark.name, width - RIGHT - 4, above);
      }
      if (hover !== null && time.length) {
        g.strokeStyle = HD.css("--line-strong");
        g.beginPath();
        g.moveTo(x(time[hover]), TOP);
        g.lineTo(x(time[hover]), height - BOTTOM);
        g.stroke();
      }
      g.restore();
      if (!time.length) {
        g.textAlign = "center";
        g.fillStyle = HD.css("--faint");
        g.fillText("nothing measured yet", width / 2, height / 2);
      }
      const last = lines.map((line) => `${line.name} ${format(line.values[time.length - 1])}`).join(", ");
      canvas.setAttribute("aria-label", `${label}: ${last}`);
    };
    canvas.addEventListener("pointermove", (event) => {
      if (!data || !data.time.length || !scaleX) return;
      const at = event.clientX - canvas.getBoundingClientRect().left;
      let best = null, near = Infinity;
      for (let k = scaleX.first; k < data.time.length; k += 1) {
        const far = Math.abs(scaleX.x(data.time[k]) - at);
        if (far < near) { near = far; best = k; }
      }
      hover = best;
      later();
      const rows = data.lines.map((line) => HD.tipRow(line.colour, line.name, format(line.values[best])));
      HD.tip(event, h("div.soft", {}, fmt.clock(data.time[best])), data.stacked ? rows.reverse() : rows);
    });
    canvas.addEventListener("pointerleave", () => { hover = null; HD.noTip(); later(); });
    new ResizeObserver(later).observe(element);
    element.seconds = seconds;
    element.draw = (given) => { data = given; later(); };
    element.later = later;
    return element;
  };
  HD.windows = (charts, chosen, changed) => (HD.report ? h("span") : HD.switches("time shown", [[60, "1 min"], [300, "5 min"], [900, "15 min"], [3600, "1 h"]],
    chosen, (seconds) => { for (const c of charts) { c.seconds = seconds; c.later(); } if (changed) changed(seconds); }));

  // A small line without axes.
  HD.spark = (canvas, values, colour, most) => {
    if (!canvas.isConnected) return;
    const { g, width, height } = HD.canvas(canvas, 26);
    const shown = values.slice(-120);
    const top = Math.max(most || 0, ...shown.map((v) => v || 0)) || 1;
    const x = (k) => width - ((shown.length - 1 - k) / 119) * width;
    const y = (v) => height - 2 - ((v || 0) / top) * (height - 4);
    g.beginPath();
    shown.forEach((v, k) => g.lineTo(x(k), y(v)));
    g.strokeStyle = colour;
    g.lineWidth = 1.4;
    g.stroke();
    g.lineTo(width, height);
    g.lineTo(x(0), height);
    g.globalAlpha = 0.12;
    g.fillStyle = colour;
    g.fill();
    g.globalAlpha = 1;
  };
})();
