// Prompts before and after an edit, part by part: probabilities of both objects, and what is written.

import { el } from "./dom.js";
import { bars, differences } from "./pieces.js";

const MARKS = { held: ["✓", "held"], half: ["~", "half: the new object is likelier, but not written; or, of a neighbour, another answer is written, but not the new object"], broken: ["✗", "broken"], "not measurable": ["–", "not measurable: the unedited model does not meet it either"] };

// told: {request, parts: {name: heading}, rows: [{part, prompt, new, old, text, state, wanted}]}. Where rows are judged
// they have a state; where no probabilities were asked, none.
export function answers({ request, parts, rows }) {
  const objects = [[request.target_new, "new"], [request.target_true ?? "", "old"]], judged = rows.some((row) => row.state);
  return Object.entries(parts).map(([part, heading]) => {
    const those = rows.filter((row) => row.part === part);
    return those.length ? section(heading, those, objects, judged) : null;
  });
}

function section(heading, rows, objects, judged) {
  const asked = rows.some((row) => row.new); // of free writing nothing but the text is
  const heads = [...(judged ? [""] : []), "prompt", ...(asked ? ["probabilities"] : []), "before it writes", "after it writes"];
  return el("section", { class: "card" }, el("h2", {}, heading), el("table", { class: `proof ${judged ? "marked" : ""}` },
    el("caption", { class: "hidden" }, heading),
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head || el("span", { class: "hidden" }, "state"))))),
    el("tbody", {}, rows.map((row) => line(row, objects, judged, asked)))));
}

function line(row, objects, judged, asked) {
  const [mark, words] = MARKS[row.state] ?? ["", ""];
  const names = row.wanted === "judged true" ? ["True", "False"] : objects.map(([name]) => name);
  const texts = differences(row.text[0], row.text[1], objects);
  return el("tr", { class: row.state?.replace(" ", "-") },
    judged && el("td", { class: "mark", title: words }, el("span", { "aria-hidden": "true" }, mark), el("span", { class: "hidden" }, words)),
    el("th", { scope: "row" }, el("bdi", {}, row.prompt), row.wanted && el("span", { class: "hint" }, `wanted: ${row.wanted}`)),
    asked && el("td", { "data-label": "probabilities" }, row.new && bars("new", names[0], row.new), row.old && bars("old", names[1], row.old)),
    el("td", { "data-label": "before" }, texts[0]), el("td", { "data-label": "after" }, texts[1]));
}
