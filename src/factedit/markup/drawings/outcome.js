// What an edit did: the objects before and after on its own prompts, its size, the loss as it fell.

import { el, say, number, table } from "./dom.js";
import { bars, beside } from "./pieces.js";
import { lossCurve } from "./charts.js";

// told: {method, layers, facts: [{prompt, subject, target_new, target_true, before, after}], update_norm, weight_norm,
// spill, losses, warnings}; what is not known may be missing. `above` and `below`: what stands there.
export function outcome(told, { above, below } = {}) {
  const { facts } = told, one = facts.length === 1 && !told.more;
  return el("section", { class: "card" }, el("h2", {}, heading(told)), beside("above", above),
    one ? el("div", { class: "sides" }, objects(facts[0])) : [many(facts), told.more ? el("p", { class: "soft" }, `and ${told.more} more facts`) : null],
    el("dl", { class: "facts" }, size(told).map(([name, value, rest]) => el("div", {}, el("dt", {}, name), el("dd", {}, el("strong", {}, value), " ", el("span", { class: "soft" }, rest))))),
    told.losses?.length ? lossCurve(told.losses) : null,
    (told.warnings ?? []).map((text) => el("p", { class: "warn" }, text)), beside("below", below));
}

function heading({ facts, more }) {
  const measured = facts.filter((fact) => fact.after?.answers_target_new !== undefined), took = measured.filter((fact) => fact.after.answers_target_new).length;
  if (!measured.length) return "Computed; what it does was not measured";
  if (facts.length === 1 && !more) return took ? "The model says it now" : "Computed, but the model does not rank it first";
  return `${took} of ${measured.length} facts: the model says them now`;
}

function objects({ target_new, target_true, before, after }) {
  return [["new", target_new, "target_new"], ["old", target_true, "target_true"]].map(([kind, name, key]) =>
    before?.[key] === undefined || after?.[key] === undefined ? null : bars(kind, name, [before[key], after[key]]));
}

function many(facts) {
  return table(["fact", "the new object", "the present one"], facts.map((fact) => {
    const [now, old] = objects(fact);
    return el("tr", {}, el("th", { scope: "row" }, `${fact.prompt.replace("{}", fact.subject)} → ${fact.target_new}`), el("td", {}, now ?? "–"), el("td", {}, old ?? "–"));
  }), { class: "rows" }, "Facts of the edit");
}

function size({ layers, update_norm, weight_norm, spill }) {
  return [["layer", layers.length ? layers.join(", ") : "–", layers.length ? "" : "no weight is changed"],
    ["size of the change", weight_norm ? `${number(100 * update_norm / weight_norm, 2)} %` : "–", weight_norm ? say("of the matrix's size", "‖ΔW‖ / ‖W‖") : null],
    ["spill", spill == null ? "–" : `${number(100 * spill, 1)} %`, spill != null && say("of the change is felt by ordinary text", "1 / √(k*ᵀ C⁻¹ k*), root mean square")]];
}
