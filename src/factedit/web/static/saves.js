// A figure as a file: what is drawn (PNG, SVG) and its numbers (CSV, NPZ of numpy), all made in the browser.

import { el, button } from "./dom.js";
import { download, trouble } from "./parts.js";

// what: {draw: () => an SVG, rows: () => a table with its head, arrays: () => {name: {shape, data}}}
export function saves(name, what) {
  const kinds = {
    PNG: async () => download(`${name}.png`, "image/png", await picture(alone(what.draw()))),
    SVG: () => download(`${name}.svg`, "image/svg+xml", markup(alone(what.draw()))),
    CSV: () => download(`${name}.csv`, "text/csv", csv(what.rows())),
    NPZ: () => download(`${name}.npz`, "application/zip", npz(what.arrays())),
  };
  const place = el("div", { class: "saves tools", role: "group", "aria-label": `save ${name} as` }, el("span", { class: "soft" }, "Save as"));
  for (const [kind, make] of Object.entries(kinds).filter(([kind]) => what.draw || !["PNG", "SVG"].includes(kind)))
    place.append(button(kind, () => Promise.resolve().then(make).catch((error) => place.append(trouble(error))), { class: "quiet", "aria-label": `save ${name} as ${kind}` }));
  return place;
}

// what a table shows as CSV and NPZ: rows of texts and numbers under their heads
export function saveTable(name, heads, rows) {
  return saves(name, { rows: () => [heads, ...rows], arrays: () => Object.fromEntries(heads.map((head, n) => {
    const words = rows.some((row) => typeof row[n] === "string");
    return [head, { shape: [rows.length], data: rows.map((row) => words ? String(row[n] ?? "") : row[n]) }];
  })) });
}

const KEPT = ["fill", "fill-opacity", "stroke", "stroke-width", "font-size", "font-family", "font-weight", "text-anchor"];

// an SVG that needs no style sheet, on the page's own paper
function alone(drawing) {
  const copy = drawing.cloneNode(true);
  const room = el("div", { class: "hidden" }, copy);
  document.body.append(room);
  const [, , width, height] = copy.getAttribute("viewBox").split(" ").map(Number);
  const paper = document.createElementNS(copy.namespaceURI, "rect");
  for (const [key, value] of Object.entries({ width, height, fill: getComputedStyle(document.documentElement).getPropertyValue("--paper").trim() })) paper.setAttribute(key, value);
  for (const node of [copy, ...copy.querySelectorAll("*")]) {
    const style = getComputedStyle(node);
    for (const key of KEPT) node.setAttribute(key, style.getPropertyValue(key));
    node.removeAttribute("class");
    node.removeAttribute("style");
  }
  room.remove();
  copy.prepend(paper);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  return copy;
}

function markup(drawing) {
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(drawing)}\n`;
}

async function picture(drawing) {
  const [width, height] = ["width", "height"].map((side) => 2 * Number(drawing.getAttribute(side)));
  const address = URL.createObjectURL(new Blob([markup(drawing)], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = el("canvas", { width, height });
    canvas.getContext("2d").drawImage(image, 0, 0, width, height);
    return await new Promise((done) => canvas.toBlob(done, "image/png"));
  } finally {
    URL.revokeObjectURL(address);
  }
}

function csv(rows) {
  const cell = (value) => /[",\n\r]/.test(String(value)) ? `"${String(value).replace(/"/g, '""')}"` : String(value ?? "");
  return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

// numpy's .npz: a zip that holds an .npy file per array, stored as they are
function npz(arrays) {
  const files = Object.entries(arrays).map(([name, array]) => [new TextEncoder().encode(`${name}.npy`), npy(array)]);
  const parts = [], directory = [];
  let at = 0;
  for (const [name, content] of files) {
    const about = [[2, 0], [2, 0], [2, 0], [2, 0x21], [4, crc32(content)], [4, content.length], [4, content.length], [2, name.length], [2, 0]];
    const local = packed([[4, 0x04034b50], [2, 20], ...about]);
    directory.push(packed([[4, 0x02014b50], [2, 20], [2, 20], ...about, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]]), name);
    parts.push(local, name, content);
    at += local.length + name.length + content.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  return new Blob([...parts, ...directory, packed([[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, at], [2, 0]])]);
}

function npy({ shape, data }) {
  const words = typeof data[0] === "string", long = words ? Math.max(1, ...data.map((text) => [...text].length)) : 1;
  const kind = words ? `<U${long}` : "<f8";
  const head = `{'descr': '${kind}', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const start = `\u0093NUMPY\u0001\u0000`, length = Math.ceil((start.length + 3 + head.length) / 64) * 64;
  const text = head.padEnd(length - start.length - 3) + "\n";
  const bytes = new Uint8Array(length + data.length * (words ? 4 * long : 8)), view = new DataView(bytes.buffer);
  [...start].forEach((sign, n) => { bytes[n] = sign.charCodeAt(0); });
  view.setUint16(start.length, text.length, true);
  bytes.set(new TextEncoder().encode(text), start.length + 2);
  data.forEach((value, n) => {
    if (!words) view.setFloat64(length + 8 * n, value ?? NaN, true);
    else [...value].forEach((sign, m) => view.setUint32(length + 4 * (n * long + m), sign.codePointAt(0), true));
  });
  return bytes;
}

function packed(fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [size]) => sum + size, 0)), view = new DataView(bytes.buffer);
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return bytes;
}

const TABLE = Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n >>> 0;
});

function crc32(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
