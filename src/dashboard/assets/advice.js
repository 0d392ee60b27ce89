// Advice: what a report ends with. A live dashboard has none.
"use strict";
(() => {
  const { h } = HD;
  HD.page({
    id: "advice", title: "Advice", group: "Report", needs: ["advice"], onlyReport: true,
    mount(root) {
      const given = HD.report.advice;
      const entries = (Array.isArray(given) ? given : given.advice || []).map((one) => (typeof one === "string" ? { text: one } : one));
      root.append(HD.panel("Advice for the next run", null, entries.length ? entries.map((one) => h("section", {},
        one.title ? h("h2", {}, HD.dot(one.level || "info"), " ", HD.name(one.title, 200)) : null,
        h("p", {}, one.title ? null : [HD.dot(one.level || "info"), " "], HD.harmless(one.text || "")))) : HD.empty("Nothing stands out.")));
    },
  });
})();
