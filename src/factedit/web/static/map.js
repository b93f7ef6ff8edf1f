// The map of a kind of state: tokens × layers, a cell's shade is what was measured with that state put back.

import { el, svg, number, plain, token } from "./dom.js";
import { saves } from "./saves.js";

export const KINDS = { hidden: ["hidden states", "purple"], mlp: ["MLP outputs", "green"], attn: ["attention outputs", "red"],
  "hidden-mlp-severed": ["hidden states, MLP severed", "blue"], "hidden-attn-severed": ["hidden states, attention severed", "blue"] };

// One table per kind. `said` is told what a cell holds; `open(kind, row, layer)` when one is chosen.
export function maps(result, edited, said, open) {
  return Object.keys(result.scores).map((kind) => map(kind, result, edited, said, open));
}

export const together = (window_) => window_ === 1 ? "one layer at a time" : `${window_} layers together`;

function title(kind, result) {
  const [name] = KINDS[kind] ?? [kind];
  return kind.startsWith("hidden") ? name : `${name}, ${together(result.window)}`;
}

function range(kind, result) {
  const flat = result.scores[kind].flat();
  return [Math.min(result.corrupted, ...flat), Math.max(...flat, result.corrupted + 1e-9)];
}

function map(kind, result, edited, said, open) {
  const [name, hue] = KINDS[kind] ?? [kind, "blue"], grid = result.scores[kind];
  const [low, high] = range(kind, result), [begin, end] = result.subject_range;
  const words = (row, layer) => `${name} at “${result.tokens[row].trim()}”, ${reach(kind, layer, result)}: with this put back ${number(result.corrupted)} → ${number(grid[row][layer])}`
    + (grid[row][layer] > result.clean ? ` (more than the clean run's ${number(result.clean)})` : "");
  const cell = (value, row, layer) => el("td", { class: edited.has(layer) ? "edited" : null, tabindex: row === 0 && layer === 0 ? "0" : "-1", "aria-label": words(row, layer), "data-row": row, "data-layer": layer,
    style: { "--share": ((value - low) / (high - low)).toFixed(3) } });
  const head = (layer) => el("th", { scope: "col", class: edited.has(layer) ? "edited" : null, title: edited.has(layer) ? "the edited layer" : null },
    layer % 3 && !edited.has(layer) ? el("span", { class: "hidden" }, layer) : layer);
  const rows = grid.map((row, n) => el("tr", {}, el("th", { scope: "row", class: n >= begin && n < end ? "subject" : null }, token(result.tokens[n]), n >= begin && n < end ? "*" : ""),
    row.map((value, layer) => cell(value, n, layer))));
  const table = el("table", { class: `map ${hue}`, "data-kind": kind, onmouseover: tell, onfocusin: tell, onclick: choose, onkeydown: walk },
    el("caption", {}, title(kind, result), el("span", { class: "soft" }, ` · darkest ${number(high)}, lightest ${number(low)}`)),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "layer"), grid[0].map((_, layer) => head(layer)))), el("tbody", {}, rows));
  return el("div", { class: "scroll", role: "group", "aria-label": title(kind, result) }, table);

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
    if (at) open(kind, ...place(at));
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

// the maps as files; rows and arrays are those of `factedit trace --arrays`
export function saveMaps(result) {
  return saves("trace", {
    draw: () => drawing(result),
    rows: () => [["fact", "kind", "position", "token", "subject", "layer", "value", "effect"], ...rows(result)],
    arrays: () => ({
      ...Object.fromEntries(Object.entries(result.scores).map(([kind, grid]) => [`prompt/${kind}`, { shape: [grid.length, grid[0].length], data: grid.flat() }])),
      "prompt/tokens": { shape: [result.tokens.length], data: result.tokens },
      "prompt/subject_range": { shape: [2], data: result.subject_range },
      "prompt/effects": { shape: [2], data: [result.clean, result.corrupted] },
    }),
  });
}

function rows(result) {
  const [begin, end] = result.subject_range;
  return Object.entries(result.scores).flatMap(([kind, grid]) => grid.flatMap((row, n) => row.map((value, layer) =>
    ["prompt", kind, n, result.tokens[n], n >= begin && n < end ? "True" : "False", layer, value, value - result.corrupted])));
}

function drawing(result) {
  const [cell, label, top] = [16, 96, 34], kinds = Object.keys(result.scores);
  const [across, down] = [result.scores[kinds[0]][0].length, result.tokens.length];
  const each = label + across * cell + 18, [begin, end] = result.subject_range;
  const one = (kind, n) => {
    const [low, high] = range(kind, result), left = n * each + label;
    return [svg("text", { class: "tick strong", x: left, y: 14 }, title(kind, result)),
      result.tokens.map((text, row) => svg("text", { class: "tick", x: left - 6, y: top + row * cell + 12, "text-anchor": "end" }, `${text.replace(/\n/g, "⏎")}${row >= begin && row < end ? "*" : ""}`)),
      result.scores[kind].flatMap((values, row) => values.map((value, layer) => svg("rect", { class: `shade ${KINDS[kind]?.[1] ?? "blue"}`, x: left + layer * cell, y: top + row * cell, width: cell - 1, height: cell - 1,
        style: { "--share": ((value - low) / (high - low)).toFixed(3) } }))),
      Array.from({ length: across }, (_, layer) => layer % 3 ? null : svg("text", { class: "tick", x: left + layer * cell + cell / 2, y: top - 5, "text-anchor": "middle" }, layer)),
      svg("text", { class: "tick", x: left, y: top + down * cell + 14 }, `${result.answer.trim()}: lightest ${number(low)}, darkest ${number(high)}`)];
  };
  return svg("svg", { viewBox: `0 0 ${kinds.length * each} ${top + down * cell + 22}`, role: "img", "aria-label": `causal trace of ${result.prompt}` }, kinds.map(one));
}
