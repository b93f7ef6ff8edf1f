// The map of a kind of state: tokens × layers. A cell is blank (the paper's own colour) where nothing returns with that
// state put back, grey where less than nothing does, and the stronger in the kind's own hue the more returns.

import { el, number, plain, token } from "./dom.js";

export const KINDS = { hidden: ["hidden states", "purple"], mlp: ["MLP outputs", "green"], attn: ["attention outputs", "red"],
  "hidden-mlp-severed": ["hidden states, MLP severed", "blue"], "hidden-attn-severed": ["hidden states, attention severed", "blue"] };

// One table per kind. `said` is told what a cell holds; `open(kind, row, layer)`, if there is one, when a cell is chosen.
export function maps(result, said, open) {
  return Object.keys(result.scores).map((kind) => map(kind, result, said, open));
}

export const together = (window_) => window_ === 1 ? "one layer at a time" : `${window_} layers together`;

export function caption(kind, result) {
  const [name] = KINDS[kind] ?? [kind];
  return kind.startsWith("hidden") ? name : `${name}, ${together(result.window)}`;
}

// how far a kind's values go below and above the blurred run
function range(kind, result) {
  const flat = result.scores[kind].flat();
  return [Math.min(result.corrupted, ...flat), Math.max(result.corrupted, ...flat)];
}

// what the shades say, in words that hold on light and on dark paper
export function scale(kind, result) {
  const [low, high] = range(kind, result);
  return `blank ${number(result.corrupted)}, strongest ${number(high)}${low < result.corrupted ? `, grey down to ${number(low)}` : ""}`;
}

// how strong a value is drawn, 0 to 1, and the hue: both sides of the blurred run on one scale, as in the figures
export function shade(kind, result) {
  const [low, high] = range(kind, result), zero = result.corrupted, most = Math.max(high - zero, zero - low) || 1;
  return (value) => [(Math.abs(value - zero) / most).toFixed(3), value < zero ? "less" : KINDS[kind]?.[1] ?? "blue"];
}

function map(kind, result, said, open) {
  const [name] = KINDS[kind] ?? [kind], grid = result.scores[kind], edited = new Set(result.edited_layers ?? []);
  const [begin, end] = result.subject_range, shaded = shade(kind, result);
  const words = (row, layer) => `${name} at “${result.tokens[row].trim()}”, ${reach(kind, layer, result)}: with this put back ${number(result.corrupted)} → ${number(grid[row][layer])}`
    + (grid[row][layer] > result.clean ? ` (more than the clean run's ${number(result.clean)})` : "");
  const cell = (value, row, layer) => {
    const [share, hue] = shaded(value);
    return el("td", { class: `${hue}${edited.has(layer) ? " edited" : ""}`, tabindex: row === 0 && layer === 0 ? "0" : "-1", "aria-label": words(row, layer), "data-row": row, "data-layer": layer, "data-value": value,
      style: { "--share": share } });
  };
  const head = (layer) => el("th", { scope: "col", class: edited.has(layer) ? "edited" : null, title: edited.has(layer) ? "the edited layer" : null },
    layer % 3 && !edited.has(layer) ? el("span", { class: "hidden" }, layer) : layer);
  const rows = grid.map((row, n) => el("tr", {}, el("th", { scope: "row", class: n >= begin && n < end ? "subject" : null }, token(result.tokens[n]), n >= begin && n < end ? "*" : ""),
    row.map((value, layer) => cell(value, n, layer))));
  const table = el("table", { class: `map ${open ? "open" : ""}`, "data-kind": kind, onmouseover: tell, onfocusin: tell, onclick: choose, onkeydown: walk },
    el("caption", {}, caption(kind, result), el("span", { class: "soft" }, ` · ${scale(kind, result)}`)),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "layer"), grid[0].map((_, layer) => head(layer)))), el("tbody", {}, rows));
  return el("div", { class: "scroll", role: "group", "aria-label": caption(kind, result) }, table);

  function tell(event) {
    const at = event.target.closest("td");
    if (!at) return;
    for (const marked of table.querySelectorAll(".together")) marked.classList.remove("together");
    const [row, layer] = place(at);
    for (const near of window_(kind, layer, result)) table.querySelector(`td[data-row="${row}"][data-layer="${near}"]`)?.classList.add("together");
    said.textContent = plain(words(row, layer));
  }
  function choose(event) {
    const at = event.target.closest("td");
    if (at && open) open(kind, ...place(at));
  }
  function walk(event) {
    const at = event.target.closest("td");
    if (!at) return;
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(event); return; }
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    const [row, layer] = place(at);
    const next = table.querySelector(`td[data-row="${row + step[0]}"][data-layer="${layer + step[1]}"]`);
    if (!next) return;
    event.preventDefault();
    at.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

const place = (at) => [Number(at.dataset.row), Number(at.dataset.layer)];

// the layers that are put back together
function window_(kind, layer, result) {
  if (kind !== "mlp" && kind !== "attn") return [layer];
  const first = Math.max(0, layer - Math.floor(result.window / 2)), last = Math.min(result.scores[kind][0].length - 1, layer + Math.ceil(result.window / 2) - 1);
  return Array.from({ length: last - first + 1 }, (_, n) => first + n);
}

function reach(kind, layer, result) {
  const reached = window_(kind, layer, result);
  return reached.length > 1 ? `layers ${reached[0]} to ${reached[reached.length - 1]}` : `layer ${reached[0]}`;
}
