// Logs: what the scheduler or a worker has printed, those that are gone too.
"use strict";
(() => {
  const { h, fmt } = HD;
  HD.page({
    id: "logs", title: "Logs", group: "Look closer", needs: ["logs"],
    mount(root, polls, params) {
      let of = params.of || "scheduler", bytes = 65536;
      const gone = new Set();
      const who = HD.select("whose", [["scheduler", "scheduler"], ...(of === "scheduler" ? [] : [[of, of]])], of, (value) => HD.go("logs", { of: value }));
      const size = HD.select("how much", [[65536, "64 KiB"], [262144, "256 KiB"], [1048576, "1 MiB"]].map(([v, t]) => [String(v), t]), "65536", (value) => {
        bytes = Number(value);
        load();
      });
      const where = h("span.soft.small"), problem = h("div.notice", { hidden: true }), printed = h("div");
      const say = HD.outputs(printed);
      root.append(HD.panel("Log", h("span.tools", {}, where, who, HD.report ? null : size), problem, printed));
      const offer = (o) => {
        const names = new Set(["scheduler", ...(o?.workers || []).map((w) => w.name), ...gone, of]);
        who.offer([...names].map((name) => [name, name]), of);
      };
      polls.on("overview", offer);
      offer(HD.state.overview);
      if (HD.has("events")) {
        polls.every(10000, async () => {
          const { events } = await HD.get("events", { after: 0, limit: 10000 });
          for (const e of events.slice(-2000)) if ((e.kind === "worker-lost" || e.kind === "worker-left") && e.worker) gone.add(e.worker);
          offer(HD.state.overview);
        });
      }
      const load = async () => {
        try {
          const answer = await HD.get("logs", { of, bytes });
          HD.toggle(problem, false);
          HD.text(where, [answer.kind, answer.where && answer.where !== of ? `on ${HD.name(answer.where, 60)}` : "", answer.gone ? "gone: what it left behind" : ""].filter(Boolean).join(", "));
          say(answer);
          if (!answer.parts.some((part) => part.text)) { HD.text(problem, "nothing printed"); HD.toggle(problem, true); }
        } catch (error) {
          if (!error.status || error.status >= 500 || error.status === 401) throw error;
          HD.text(problem, HD.name(error.message, 400));
          HD.toggle(problem, true);
        }
      };
      polls.every(3000, load);
    },
  });
})();
