// Pieces that several views have: progress, copying, saving.

import { el, put, button } from "./dom.js";
import { numbersOf } from "./drawings.js";
import { run, cancel, Stopped } from "./talk.js";

// What was begun last in a place stands there: asks whether this is still it. An answer to an older question is dropped.
const newest = new WeakMap();
export function turn(place) {
  const mine = {};
  newest.set(place, mine);
  return () => newest.get(place) === mine;
}

// A place that runs a job and shows how far it is, then what it gave. Returns the result, or nothing. A job that was
// begun in the place before is cancelled.
export async function working(place, path, value, { live } = {}) {
  const last = turn(place);
  const bar = el("progress", { max: 1, "aria-label": "how far it is" });
  const words = el("span", { class: "soft" }, "waiting");
  const stop = button("Cancel", () => { stopped = true; end(); }, { class: "quiet" });
  const extra = el("div");
  let job = null, stopped = false; // the job may be cancelled before its name is known
  const end = () => { if (job && (stopped || !last())) cancel(job).catch(() => {}); };
  put(place, el("div", { class: "working" }, bar, words, stop), extra);
  place.setAttribute("aria-busy", "true");
  try {
    const result = await run(path, value, (now) => {
      job = now.job;
      if (["queued", "running"].includes(now.state)) end();
      if (!last()) return;
      words.textContent = inWords(now);
      if (now.fraction === null) bar.removeAttribute("value");
      else bar.value = now.fraction;
      if (live) live(extra, now);
    });
    return last() ? result : undefined;
  } catch (error) {
    if (last()) put(place, trouble(error));
    return undefined;
  } finally {
    if (last()) place.removeAttribute("aria-busy");
  }
}

function inWords(job) {
  if (job.state === "queued") return "waiting for the job before";
  const left = job.seconds_left === null ? "" : `, about ${Math.max(1, Math.round(job.seconds_left))} s left`;
  return `${job.part || job.what}, ${Math.round(job.seconds)} s${left}`;
}

export function trouble(error) {
  const kind = error instanceof Stopped ? "soft" : "error";
  return el("p", { class: kind, role: "alert" }, error.message);
}

// a word for a shell; what a terminal would obey is written as an escape, so that pasting it does nothing else
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;
const escapedSign = (sign) => CONTROL.test(sign) ? `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}` : `\\${sign}`;
function quoted(text) {
  if (/^[A-Za-z0-9_./:=-]+$/.test(text)) return text;
  return CONTROL.test(text) ? `$'${text.replace(/['\\\u0000-\u001f\u007f-\u009f]/g, escapedSign)}'` : `'${text.replace(/'/g, `'\\''`)}'`;
}
export function command(...words) { return ["factedit", ...words.filter((word) => word !== null)].map((word) => quoted(String(word))).join(" "); }
export const python = (value) => JSON.stringify(value);

export function copies(lines) {
  return el("details", { class: "copies" }, el("summary", {}, "The same from the terminal or from Python"),
    Object.entries(lines).map(([name, text]) => el("div", { class: "copy" }, el("pre", { tabindex: "0", "aria-label": name }, text),
      button(`Copy the ${name}`, async (event) => {
        const pressed = event.currentTarget;
        try { await navigator.clipboard.writeText(text); pressed.textContent = "Copied"; }
        catch { pressed.textContent = "Select it and copy by hand"; }
      }, { class: "quiet" }))));
}

export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 2000);
}

// The view as one file that needs nothing else: what is drawn, without what can be pressed, and the numbers and scripts
// of its drawings, which are drawn again where scripts run. `factedit.markup.frozen` writes the same.
export async function freeze(view, title) {
  const root = document.documentElement, told = []; // of now: the reader may leave
  const slots = { body: markup(view, told), title: escaped(document.title), root: ` class="${escaped(root.className)}" data-theme="${escaped(root.dataset.theme)}"`, numbers: embedded(told) };
  const form = await (await fetch("/static/frozen.txt")).text();
  download(`factedit-${title}.html`, "text/html", form.replace(/%%(\w+)%%/g, (_, slot) => slots[slot]));
}

// JSON that ends no script, whatever it holds
const embedded = (told) => JSON.stringify(told).replace(/[<\u007f-\uffff]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);

const GONE = "button, progress, datalist, script, .copies, .tools, a.go, .row a, input[type=range]"; // a slider's value stands beside it in words
const escaped = (text) => String(text ?? "").replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

// an element as markup, every text escaped; what was typed becomes text, and what was drawn is told from its numbers
function markup(node, told) {
  if (node.nodeType === Node.TEXT_NODE) return escaped(node.data);
  if (node.nodeType !== Node.ELEMENT_NODE || node.matches(GONE)) return "";
  if (node.matches("input, textarea, select")) return `<span class="given">${escaped(node.selectedOptions?.[0]?.text ?? node.value)}</span>`;
  if (node.dataset?.drawing) told.push(numbersOf(node));
  const kept = [...node.attributes].filter(({ name }) => !/^(on|nonce|href|tabindex|for)/.test(name));
  if (node.matches("details")) kept.push({ name: "open", value: "" });
  const tag = node.matches("a") ? "span" : node.tagName.toLowerCase();
  const attributes = kept.map(({ name, value }) => ` ${name}="${escaped(value)}"`).join("");
  return `<${tag}${attributes}>${[...node.childNodes].map((child) => markup(child, told)).join("")}</${tag}>`;
}
