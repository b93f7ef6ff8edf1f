// A causal trace: how far the answer falls when the subject is blurred, and the maps of what brings it back.

import { el, figure } from "./dom.js";
import { maps } from "./map.js";
import { beside } from "./pieces.js";

// result: a trace as JSON; with `edited_layers` and, in words, what is `marked` about them. `open`: see maps; `fallen`
// and `saved`: what stands below the bars and below the maps.
export function trace(result, { open, fallen, saved } = {}) {
  const how = result.other_subject ? `“${result.other_subject}” stands in the subject's place` : "the subject is blurred";
  const said = el("p", { class: "reading", role: "status" }, `Point at a cell, or walk through the map with the arrow keys${open ? "; press it to read the state there" : ""}.`);
  const edited = result.edited_layers ?? [];
  return [el("section", { class: "card" }, el("h2", {}, `The answer falls when ${how}`), sentence(result), runs(result), beside("fallen", fallen)),
    el("section", { class: "card" }, el("h2", {}, "Put one state back"),
      edited.length ? el("p", { class: "soft" }, `Marked: layer ${edited.join(", ")}, ${result.marked ?? "which is edited"}.`) : null, said,
      maps(result, said, open), (result.notes ?? []).map((text) => el("p", { class: "note" }, text)), beside("saved", saved))];
}

// the answer in the clean and in the blurred run: bars of probabilities; a difference of logits has none
function runs({ clean, corrupted, against, answer }) {
  if (against) return el("p", { class: "fall" }, `logit(${answer.trim()}) − logit(${against.trim()}): clean `, figure(clean), ", corrupted ", figure(corrupted));
  return el("div", { class: "bars fall" }, fall("clean", clean), fall("blurred", corrupted));
}

export function fall(when, value) {
  return el("span", { class: "bar" }, el("span", { class: "when" }, when), el("span", { class: "track" }, el("span", { class: "fill old", style: { width: `${100 * value}%` } })), figure(value));
}

// where the subject stands first as whole words, as it is found for the trace
function wholeWord(text, word) {
  const inside = (sign) => sign !== undefined && /[\p{L}\p{N}_]/u.test(sign);
  for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + 1))
    if (!inside(text[at - 1]) && !inside(text[at + word.length])) return at;
  return Math.max(0, text.indexOf(word));
}

function sentence(result) {
  const at = wholeWord(result.prompt, result.subject), end = at + result.subject.length;
  return el("p", { class: "sentence" }, result.prompt.slice(0, at), el("mark", {}, result.prompt.slice(at, end)), result.prompt.slice(end), " ", el("strong", { class: "old" }, result.answer.trim()));
}
