// Traces averaged over many facts: curves with their bands, and where each is highest.

import { el, say, figure, number, table } from "./dom.js";
import { KINDS, together } from "./map.js";
import { curves, legend } from "./charts.js";

const wide = (kind, result) => kind.startsWith("hidden") ? KINDS[kind][0] : `${KINDS[kind][0]}, ${together(result.window)}`;
const percent = (list) => list.map((value) => value === null ? null : 100 * value);

// the curves of one kind of state
export function averageCurves(kind, result) {
  const lines = Object.entries(result.curves[kind]).map(([name, { mean, half_width }]) => ({ name, at: mean.map((_, n) => n), mean: percent(mean), half: percent(half_width) }));
  return curves(`AIE of ${KINDS[kind][0]} by layer, in percent`, lines, { x: "layer" });
}

// result: averages as JSON. `saved(kind)`: what stands below a drawing.
export function averages(result, { saved } = {}) {
  const [ate, half] = result.total_effect, names = Object.keys(Object.values(result.curves)[0]);
  return el("section", { class: "card averages" },
    el("h2", {}, `Over ${result.facts} facts that the model knows, of ${result.asked}`),
    el("p", {}, say("Blurring the subject costs the answer ", "ATE "), figure(100 * ate, 1), half === null ? null : ` ±${number(100 * half, 1)}`, say(" points on average. What one state brings back, by its place in the sentence:", " %. AIE (%) against layers, by role of the token, with 95 % bands:")),
    legend(names),
    el("div", { class: "charts" }, Object.keys(result.curves).map((kind) => el("figure", {}, el("figcaption", {}, wide(kind, result)), averageCurves(kind, result), saved?.(kind)))),
    el("details", {}, el("summary", {}, "Where each is highest, as a table"), table(["state and place", "tokens", "layer", "AIE, %"], highest(result), { class: "rows" }, "Highest average indirect effects")));
}

function highest(result) {
  return Object.entries(result.curves).flatMap(([kind, roles]) => Object.entries(roles).map(([name, { mean, half_width, n }]) => {
    const at = mean.indexOf(Math.max(...mean));
    return el("tr", {}, el("th", { scope: "row" }, `${wide(kind, result)}, ${name}`), el("td", {}, n), el("td", {}, at),
      el("td", {}, figure(100 * mean[at], 1), half_width[at] === null ? null : el("span", { class: "soft" }, ` ±${number(100 * half_width[at], 1)}`)));
  }));
}
