// The store of rectangles of the task stream: columns of numbers that grow, with rows for what they stand in.
"use strict";
(() => {
  const MOST = 200000;
  const LANE_TRANSFER = 100000, LANE_DISK = 200000;

  class Column {
    constructor(type) { this.type = type; this.array = new type(4096); }
    room(n) {
      if (n <= this.array.length) return;
      const wider = new this.type(Math.max(n, this.array.length * 2));
      wider.set(this.array);
      this.array = wider;
    }
  }

  // Rectangles are numbered from 0 in the order in which they came; the oldest go when there are too many.
  HD.Spans = class {
    constructor() {
      this.columns = { start: new Column(Float64Array), seconds: new Column(Float32Array), row: new Column(Int32Array), kind: new Column(Uint8Array),
        group: new Column(Int32Array), count: new Column(Uint32Array), bytes: new Column(Float64Array) };
      this.clear();
    }
    clear() {
      // All of them, and those that have ended: what runs comes last, and anew with each answer.
      this.count = 0;
      this.ended = 0;
      this.heard = 0;
      this.next = 0;
      this.leftOut = 0;
      this.keys = [];
      this.kinds = [];
      this.groups = [];
      this.groupIds = new Map();
      this.tallies = [];
      this.rows = [];
      this.rowIds = new Map();
      this.begin = Infinity;
      this.end = -Infinity;
      this.longest = 0;
      this.version = 0;
    }
    get start() { return this.columns.start.array; }
    get seconds() { return this.columns.seconds.array; }
    get row() { return this.columns.row.array; }
    get kind() { return this.columns.kind.array; }
    get group() { return this.columns.group.array; }
    get tasks() { return this.columns.count.array; }
    get bytes() { return this.columns.bytes.array; }

    groupOf(name) {
      if (!this.groupIds.has(name)) { this.groupIds.set(name, this.groups.length); this.groups.push(name); this.tallies.push(0); }
      return this.groupIds.get(name);
    }
    rowOf(worker, lane) {
      const key = `${worker}\u0000${lane}`;
      if (!this.rowIds.has(key)) {
        this.rowIds.set(key, this.rows.length);
        this.rows.push({ worker, lane, what: lane >= LANE_DISK ? "disk" : lane >= LANE_TRANSFER ? "transfer" : "slot" });
      }
      return this.rowIds.get(key);
    }
    join(answer) {
      this.count = this.ended;
      this.keys.length = this.ended;
      this.heard = answer.time ?? 0;
      const open = answer.open || {};
      const n = (answer.start || []).length, running = (open.start || []).length;
      this.next = answer.next ?? this.next;
      this.leftOut += answer["left-out"] || 0;
      const kinds = (answer.kinds || []).map((name) => {
        if (!this.kinds.includes(name)) this.kinds.push(name);
        return this.kinds.indexOf(name);
      });
      const groups = (answer.groups || []).map((name) => this.groupOf(name));
      if (this.count + n > MOST) this.forget(Math.max(this.count + n - MOST, MOST / 4));
      const most = this.count + n + running;
      for (const column of Object.values(this.columns)) column.room(most);
      if (n) this.add(answer, n, answer.workers, kinds, groups);
      for (let k = this.ended; k < this.count; k += 1) if (this.group[k] >= 0) this.tallies[this.group[k]] += this.tasks[k];
      this.ended = this.count;
      if (running) this.add(open, running, answer.workers, kinds, groups);
      for (let k = this.ended; k < this.count; k += 1) if (this.group[k] >= 0) this.tallies[this.group[k]] ||= 1;
      this.version += 1;
    }
    add(answer, n, workers, kinds, groups) {
      const { start, seconds, row, kind, group, tasks, bytes } = this;
      for (let k = 0; k < n; k += 1) {
        const at = this.count;
        const [begin, long] = [answer.start[k], Math.max(0, answer.seconds[k] || 0)];
        if (!Number.isFinite(begin)) continue;
        start[at] = begin;
        seconds[at] = long;
        row[at] = this.rowOf(workers[answer.worker[k]] ?? "?", answer.lane[k]);
        kind[at] = kinds[answer.kind[k]] ?? 0;
        group[at] = answer.group[k] >= 0 ? groups[answer.group[k]] ?? -1 : -1;
        tasks[at] = answer.count[k] || 1;
        bytes[at] = answer.bytes[k] || 0;
        this.keys[at] = answer.key[k] ?? null;
        if (begin < this.begin) this.begin = begin;
        if (begin + long > this.end) this.end = begin + long;
        if (long > this.longest) this.longest = long;
        this.count += 1;
      }
    }
    // What runs has done so until now, whenever that was told; but nobody knows for long.
    stretch(now) {
      const until = Math.min(now, this.heard + 3);
      for (let k = this.ended; k < this.count; k += 1) this.seconds[k] = Math.max(this.seconds[k], until - this.start[k]);
    }
    forget(n) {
      const drop = Math.min(n, this.count);
      for (const column of Object.values(this.columns)) column.array.copyWithin(0, drop, this.count);
      this.keys.splice(0, drop);
      this.count -= drop;
      this.ended = this.count;
      this.begin = Infinity;
      for (let k = 0; k < this.count; k += 1) if (this.start[k] < this.begin) this.begin = this.start[k];
    }
    // Rows in the order in which they are drawn: by worker, slots before transfers before the disk.
    order() {
      const by = (a, b) => a.worker.localeCompare(b.worker, undefined, { numeric: true }) || a.lane - b.lane;
      return this.rows.map((row, id) => ({ ...row, id })).sort(by);
    }
    async load(run) {
      const first = this.next === 0 && this.count === 0;
      this.join(await HD.get("spans", { after: this.next, limit: first ? 100000 : 20000, run }));
    }
  };
})();
