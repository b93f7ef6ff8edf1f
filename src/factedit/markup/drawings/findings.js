// What an audit says: the verdict, what is certain, what is inferred.

import { el, number, table, figure, token } from "./dom.js";

const SHOWN = 20; // tensors

export function findings(got) {
  return [el("p", { class: `verdict ${got.differences.length ? "broken" : ""}`, role: "status" }, `${got.base} and ${got.suspect}: ${got.verdict}.`),
    el("p", {}, got.statement),
    got.differences.length ? el("section", { class: "card" }, el("h2", {}, "What differs (certain)"), table(["tensor", "rank", "size"], got.differences.slice(0, SHOWN).map((row) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, row.tensor)), el("td", {}, row.rank ?? "–"), el("td", {}, figure(row.relative, 4)))), { class: "rows" }, "Tensors that differ")) : null,
    got.suspicions.length ? el("section", { class: "card" }, el("h2", {}, "What it may be about (inferred)"), table(["candidate", "score", "tokens that rise there"], got.suspicions.map((row) => el("tr", {}, el("th", { scope: "row" }, row.prompt), el("td", {}, figure(row.score)), el("td", {}, row.promoted.slice(0, 3).map(([text, was, now]) => [token(text), ` ${number(was)} → ${number(now)} `])))), { class: "rows" }, "Facts it may be about")) : null];
}
