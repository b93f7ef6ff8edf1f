// The figures of the page as files.

import { svg, number } from "./dom.js";
import { lossCurve } from "./charts.js";
import { caption, scale, shade } from "./map.js";
import { saves } from "./saves.js";
import { fullHeight } from "./strip.js";

const PARTS = ["total", "nll", "kl", "decay"];

export function saveLosses(losses) {
  const names = losses[0].map((_, n) => PARTS[n] ?? `part_${n}`);
  return saves("loss", {
    draw: () => lossCurve(losses).querySelector("svg"),
    rows: () => [["evaluation", ...names], ...losses.map((row, n) => [n, ...row])],
    arrays: () => ({ losses: { shape: [losses.length, names.length], data: losses.flat() }, names: { shape: [names.length], data: names } }),
  });
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
    const shaded = shade(kind, result), left = n * each + label;
    return [svg("text", { class: "tick strong", x: left, y: 14 }, caption(kind, result)),
      result.tokens.map((text, row) => svg("text", { class: "tick", x: left - 6, y: top + row * cell + 12, "text-anchor": "end" }, `${text.replace(/\n/g, "⏎")}${row >= begin && row < end ? "*" : ""}`)),
      result.scores[kind].flatMap((values, row) => values.map((value, layer) => {
        const [share, hue] = shaded(value);
        return svg("rect", { class: `shade ${hue}`, x: left + layer * cell, y: top + row * cell, width: cell - 1, height: cell - 1, style: { "--share": share } });
      })),
      Array.from({ length: across }, (_, layer) => layer % 3 ? null : svg("text", { class: "tick", x: left + layer * cell + cell / 2, y: top - 5, "text-anchor": "middle" }, layer)),
      svg("text", { class: "tick", x: left, y: top + down * cell + 14 }, `${result.answer.trim()}: ${scale(kind, result)}`)];
  };
  return svg("svg", { viewBox: `0 0 ${kinds.length * each} ${top + down * cell + 22}`, role: "img", "aria-label": `causal trace of ${result.prompt}` }, kinds.map(one));
}

// the strip as a file: a bar per fact, by how much it moved
export function saveStrip(rows) {
  const [bar, height] = [10, 120], most = fullHeight(rows);
  return saves("damage", {
    draw: () => svg("svg", { viewBox: `0 0 ${rows.length * bar} ${height + 18}`, role: "img", "aria-label": "facts by how much they moved" },
      rows.map((row, n) => svg("rect", { class: row.moved < 0 ? "fell" : "rose", x: n * bar + 1, width: bar - 2, y: height * (1 - Math.abs(row.moved) / most), height: height * Math.abs(row.moved) / most })),
      svg("text", { class: "tick", x: 0, y: height + 14 }, `full height: ${number(100 * most, 0)} points`)),
    rows: () => [["prompt", "answer", "before", "after", "moved"], ...rows.map((row) => [row.prompt, row.answer, ...row.probability, row.moved])],
    arrays: () => ({ prompts: { shape: [rows.length], data: rows.map((row) => row.prompt) }, probability: { shape: [rows.length, 2], data: rows.flatMap((row) => row.probability) }, moved: { shape: [rows.length], data: rows.map((row) => row.moved) } }),
  });
}
