// Compare: results of evaluations that the server was started with, as tables with their intervals.

import { el, put, say, field, number, table } from "./dom.js";
import { get } from "./talk.js";
import { trouble, command } from "./parts.js";

export const title = "Compare";

export function draw(root, page) {
  const folders = page.server.folders.filter((own) => own.kind === "results");
  const found = el("div", { class: "found" });
  put(root, el("p", { class: "lead" }, say("Methods side by side, each over many facts: how often the new fact is given, in other words too, and how often neighbours stay.",
    "ES, PS, NS: shares of records in which the right object is the likelier one; S their harmonic mean; ± half of the 95 % interval.")));
  if (!folders.length) {
    put(found, el("p", {}, "The server was started without results. Make some, and start it with their folder:"),
      el("pre", { tabindex: "0" }, `${command("evaluate", page.modelName(), "--dataset", "worldfacts", "--method", "rome,rome-original", "--records", "20", "--out", "runs/new")}\n${command("serve", page.modelName(), "--folder", "runs/new")}`));
    root.append(found);
    return;
  }
  const pick = el("select", { onchange: (event) => { page.set({ results: event.target.value }); show(event.target.value); } }, folders.map((own) => el("option", { value: own.number, selected: String(own.number) === page.params.get("results") }, own.name)));
  root.append(field("Results", pick), found);
  show(pick.value);

  async function show(which) {
    let got;
    put(found, el("p", { class: "soft", role: "status" }, "Reading the results and their intervals …"));
    try { got = await get(`/api/results/${which}`); } catch (error) { put(found, trouble(error)); return; }
    const names = [...new Set(Object.values(got.rows).flatMap((row) => Object.keys(row)))].filter((name) => Object.values(got.rows).some((row) => typeof row[name] === "number"));
    const shown = names.filter((name) => name !== "n");
    const best = Object.fromEntries(shown.map((name) => [name, Math.max(...Object.values(got.rows).map((row) => Math.abs(row[name] ?? 0)), 1e-9)]));
    put(found,
      el("section", { class: "card" }, el("h2", {}, got.name), table(["method", "n", ...shown], Object.entries(got.rows).map(([method, row]) => el("tr", {},
        el("th", { scope: "row" }, method), el("td", {}, row.n ?? got.counts[method]),
        shown.map((name) => el("td", { class: "score" }, row[name] === undefined || row[name] === null ? "–" : [el("data", { value: row[name], title: row[name] }, number(row[name], 1)), row.ci?.[name] == null ? null : el("span", { class: "soft" }, ` ±${number(row.ci[name], 1)}`),
          el("span", { class: "track" }, el("span", { class: "fill other", style: { width: `${100 * Math.abs(row[name]) / best[name]}%` } }))])))), { class: "rows" }, `Scores of ${got.name}`)),
      got.notes.map((text) => el("p", { class: "soft" }, text)),
      el("details", {}, el("summary", {}, "What it is of"), el("dl", {}, Object.entries(got.about).map(([name, value]) => [el("dt", {}, name), el("dd", {}, el("code", {}, value))]))));
  }
}
