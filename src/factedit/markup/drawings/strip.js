// True facts as a strip, sorted by how much their answer moved; one that is chosen shows both texts.

import { el, put, button, number, table, figure } from "./dom.js";
import { bars, beside, differences } from "./pieces.js";

export const fullHeight = (rows) => Math.max(...rows.map((row) => Math.abs(row.moved)), 0.1);

// told: {rows: [{prompt, answer, probability, moved, text}]}. `saved`: what stands below the strip.
export function strip({ rows }, { saved } = {}) {
  const most = fullHeight(rows), lost = rows.filter((row) => row.moved < -0.05).length;
  const detail = el("div", { "aria-live": "polite" });
  const bar = (row, n) => button("", () => choose(n), { class: `strip ${row.moved < 0 ? "down" : "up"}`, tabindex: n ? "-1" : "0", "aria-label": `${row.prompt} ${row.answer}: ${number(row.probability[0])} → ${number(row.probability[1])}`, style: { "--share": (Math.abs(row.moved) / most).toFixed(3) }, title: `${row.prompt} ${row.answer}: ${number(row.moved)}` });
  const all = el("div", { class: "panel", role: "group", "aria-label": "facts by how much they moved; the arrow keys walk through them", onkeydown: walk }, rows.map(bar));
  if (rows.length) choose(0);
  return [el("p", { class: `verdict ${lost ? "broken" : ""}` }, lost ? `${lost} of ${rows.length} true facts lost more than 5 points.` : `None of ${rows.length} true facts lost more than 5 points.`),
    el("section", { class: "card" }, el("h2", {}, "Each bar is a fact, the ones that lost most first"), el("p", { class: "soft" }, `A bar of full height moved by ${number(100 * most, 0)} points.`), all, detail, beside("saved", saved)),
    el("details", {}, el("summary", {}, "The same as a table"), table(["fact", "before", "after", "moved"], rows.map((row) => el("tr", {}, el("th", { scope: "row" }, `${row.prompt} ${row.answer}`), el("td", {}, figure(row.probability[0])), el("td", {}, figure(row.probability[1])), el("td", {}, figure(row.moved)))), { class: "rows" }, "True facts before and after"))];

  function walk(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], each = [...all.children];
    const next = each[each.indexOf(event.target) + step];
    if (!step || !next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    choose(each.indexOf(next));
  }

  function choose(n) {
    const row = rows[n], texts = differences(row.text[0], row.text[1], [[row.answer, "old"]]);
    put(detail, el("p", { class: "sentence" }, row.prompt, " ", el("strong", { class: "old" }, row.answer)), bars("old", row.answer, row.probability), el("p", {}, el("span", { class: "soft" }, "before: "), texts[0]), el("p", {}, el("span", { class: "soft" }, "after: "), texts[1]));
  }
}
