// Drawings: lines with their bands, the loss as it falls. Each is an SVG that is drawn from its numbers alone.

import { el, svg, number } from "./dom.js";

const ROOM = { width: 340, height: 190, left: 40, right: 16, top: 10, bottom: 34 };
const COLOURS = 6; // --l0 … in the style sheet, as in the figures of the command line

// Lines against layers or numbers of facts. A line: {name, at, mean, half}; half may hold nothing (null).
export function curves(title, lines, { x = "", log = false, low, high, digits = 1 } = {}) {
  const { width, height, left, right, top, bottom } = ROOM;
  const all = lines.flatMap((line) => line.mean.flatMap((value, n) => value === null ? [] : [value - (line.half[n] ?? 0), value + (line.half[n] ?? 0)]));
  const least = low ?? Math.min(0, ...all), most = high ?? Math.max(...all, least + 1e-9);
  const places = [...new Set(lines.flatMap((line) => line.at.map((at) => Math.round(10 * at) / 10)))].sort((a, b) => a - b);
  const scale = (value) => log ? Math.log(value) : value;
  const [first, last] = [scale(places[0]), scale(places[places.length - 1])];
  const across = (value) => left + (last > first ? (scale(value) - first) / (last - first) : 0.5) * (width - left - right);
  const up = (value) => top + (1 - (value - least) / (most - least)) * (height - top - bottom);
  const shown = places.length > 9 ? places.filter((_, n) => n % Math.ceil(places.length / 9) === 0) : places;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "curves", role: "img", "aria-label": spoken(title, lines, digits) },
    ticks(least, most).map(([value, text]) => [svg("line", { class: "grid", x1: left, x2: width - right, y1: up(value), y2: up(value) }),
      svg("text", { class: "tick", x: left - 5, y: up(value) + 4, "text-anchor": "end" }, text)]),
    shown.map((value) => svg("text", { class: "tick", x: across(value), y: height - bottom + 14, "text-anchor": "middle" }, value)),
    x && svg("text", { class: "tick", x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, x),
    lines.map((line, n) => drawn(line, n, across, up)));
}

// round numbers within a range, three or so: each with how it is written
function ticks(least, most) {
  const raw = (most - least) / 3, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((n) => n * power >= raw) * power, digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(least / step - 1e-9), last = Math.floor(most / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, n) => [(first + n) * step, ((first + n) * step).toFixed(digits)]);
}

function drawn(line, n, across, up) {
  const there = line.at.map((_, i) => i).filter((i) => line.mean[i] !== null);
  const point = (i, by) => `${across(line.at[i]).toFixed(1)},${up(line.mean[i] + by * (line.half[i] ?? 0)).toFixed(1)}`;
  const kind = `l${n % COLOURS}`;
  const band = [...there.map((i) => point(i, 1)), ...there.toReversed().map((i) => point(i, -1))].join(" ");
  return [svg("polygon", { class: `band ${kind}`, points: band }),
    svg("polyline", { class: `curve-line ${kind}`, points: there.map((i) => point(i, 0)).join(" ") },
      svg("title", {}, line.name)),
    there.length > 12 ? null : there.map((i) => svg("circle", { class: `dot ${kind}`, cx: across(line.at[i]).toFixed(1), cy: up(line.mean[i]).toFixed(1), r: 2.4 }))];
}

function spoken(title, lines, digits) {
  return `${title}: ${lines.map((line) => {
    const best = line.mean.reduce((at, value, n) => value !== null && (at < 0 || value > line.mean[at]) ? n : at, -1);
    return best < 0 ? line.name : `${line.name}, highest ${number(line.mean[best], digits)} at ${line.at[best]}`;
  }).join("; ")}`;
}

export function legend(names) {
  return el("ul", { class: "legend" }, names.map((name, n) => el("li", {}, el("span", { class: `swatch l${n % COLOURS}`, "aria-hidden": "true" }), name)));
}

// a loss against its evaluations: all of it, and −log P of the new object
export function lossCurve(losses) {
  const [width, height, left, bottom] = [520, 150, 40, 22];
  const top = Math.max(...losses.map((row) => row[0]), 0.1);
  const x = (n) => left + (n / Math.max(1, losses.length - 1)) * (width - left - 10);
  const y = (value) => 8 + (1 - value / top) * (height - bottom - 8);
  const line = (at, kind) => svg("polyline", { class: `line ${kind}`, points: losses.map((row, n) => `${x(n).toFixed(1)},${y(row[at]).toFixed(1)}`).join(" ") });
  const last = losses[losses.length - 1];
  return el("figure", { class: "curve" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `loss, ${losses.length} evaluations, from ${number(losses[0][0], 2)} to ${number(last[0], 2)} nats` },
      ticks(0, top).map(([value, text]) => [svg("line", { class: "grid", x1: left, x2: width - 10, y1: y(value), y2: y(value) }),
        svg("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text)]),
      line(0, "total"), line(1, "nll"),
      svg("text", { class: "tick", x: width - 10, y: height - 4, "text-anchor": "end" }, `${losses.length} evaluations`)),
    el("figcaption", { class: "soft" }, `loss in nats: ${number(losses[0][0], 2)} → ${number(last[0], 2)} (of it −log P of the new object: ${number(last[1], 2)})`));
}
