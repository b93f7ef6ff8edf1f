// Methods by scores: each number with half of its 95 % interval and a bar.

import { el, button, say, figure, number, table } from "./dom.js";
import { beside } from "./pieces.js";

// the columns that hold numbers, in the order of the rows
export function columns(rows) {
  const names = [...new Set(Object.values(rows).flatMap((row) => Object.keys(row)))];
  return names.filter((name) => name !== "n" && Object.values(rows).some((row) => typeof row[name] === "number"));
}

// told: {name, rows: {method: {n, score: number, ci: {score: number}}}, counts, notes, words}. `open(method, score)`, if
// there is one, shows the records behind a number; `saved`: what stands below.
export function scores({ name: title, rows, counts, notes, words }, { open, saved } = {}) {
  const names = columns(rows);
  const most = (name) => Math.max(...Object.values(rows).map((row) => Math.abs(row[name] ?? 0)), 1e-9);
  const value = (method, row, name) => !open ? figure(row[name], 1)
    : button(figure(row[name], 1), () => open(method, name), { class: "number", title: `${row[name]}: the records behind it`, "aria-label": `${name} ${number(row[name], 1)} of ${method}: the records behind it` });
  const cell = (method, row, name) => row[name] === undefined || row[name] === null ? "–" : [value(method, row, name),
    row.ci?.[name] == null ? null : el("span", { class: "soft" }, ` ±${row.ci[name].toFixed(1)}`),
    el("span", { class: "track" }, el("span", { class: "fill other", style: { width: `${100 * Math.abs(row[name]) / most(name)}%` } }))];
  return el("section", { class: "card" }, el("h2", {}, title), open && el("p", { class: "soft" }, "Press a number to see the records behind it."),
    table(["method", "n", ...names], Object.entries(rows).map(([method, row]) => el("tr", {},
      el("th", { scope: "row" }, method), el("td", {}, row.n ?? counts?.[method] ?? "–"), names.map((name) => el("td", { class: "score" }, cell(method, row, name))))), { class: "rows" }, `Scores of ${title}`),
    el("p", { class: "soft" }, say("± says how sure a number is.", "± half of the 95 % interval.")),
    (notes ?? []).map((text) => el("p", { class: "soft" }, text)),
    Object.keys(words ?? {}).length ? el("details", {}, el("summary", {}, "What the columns say"), el("dl", { class: "terms" }, Object.entries(words).map(([name, what]) => [el("dt", {}, name), el("dd", {}, what)]))) : null,
    beside("saved", saved));
}
