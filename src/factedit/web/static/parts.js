// Pieces that several views draw: progress, probabilities, differences of words, copying, saving.

import { el, put, button, figure, spoken, token } from "./dom.js";
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

// P before and after as two bars in the colour of the object
export function bars(kind, name, pair) {
  const row = (when, value) => el("span", { class: "bar" },
    el("span", { class: "when" }, when),
    el("span", { class: "track" }, el("span", { class: `fill ${kind}`, style: { width: `${100 * Math.min(1, value)}%` } })),
    figure(value));
  return el("span", { class: "bars" }, el("span", { class: `name ${kind}` }, name),
    pair.map((value, n) => row(pair.length > 1 ? ["before", "after"][n] : "", value)));
}

// the likeliest next tokens, the two objects in their colours
export function topTable(reply, objects, caption) {
  const kind = (text) => objects.find(([name]) => name && name.trim().startsWith(text.trim()) && text.trim())?.[1] ?? "other";
  return el("table", { class: "top" }, el("caption", {}, caption),
    el("thead", { class: "hidden" }, el("tr", {}, el("th", { scope: "col" }, "token"), el("th", { scope: "col" }, "probability"))),
    el("tbody", {}, reply.top.map((likely) => el("tr", {},
      el("th", { scope: "row", class: kind(likely.text) }, token(likely.text)),
      el("td", {}, el("span", { class: "track" },
        el("span", { class: `fill ${kind(likely.text)}`, style: { width: `${100 * likely.probability}%` } })), figure(likely.probability))))));
}

// what is written after, with the words marked that were not there before
export function differences(before, after, objects = []) {
  const words = (text) => text.replace(/\n/g, " ⏎ ").split(/\s+/).filter(Boolean);
  const [old, now] = [words(before), words(after)];
  const common = longest(old, now);
  const show = (list, kept, tag) => list.map((word, n) => {
    const bare = word.replace(/[^\p{L}\p{N}]/gu, "");
    const kind = objects.find(([name]) => name && bare && name.split(/\s+/).includes(bare))?.[1];
    const inside = el("bdi", { class: kind }, word);
    return [n ? " " : "", kept.has(n) ? inside : el(tag, {}, inside)];
  });
  return [el("span", { class: "spoken" }, old.length ? show(old, common[0], "del") : "(nothing)"),
    el("span", { class: "spoken" }, now.length ? show(now, common[1], "ins") : "(nothing)")];
}

function longest(a, b) {
  const size = a.map(() => new Array(b.length + 1).fill(0)).concat([new Array(b.length + 1).fill(0)]);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      size[i][j] = a[i] === b[j] ? size[i + 1][j + 1] + 1 : Math.max(size[i + 1][j], size[i][j + 1]);
  const kept = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) { kept[0].add(i++); kept[1].add(j++); }
    else if (size[i + 1][j] >= size[i][j + 1]) i++;
    else j++;
  }
  return kept;
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

// the view as one file that needs nothing else: what is drawn, without what can be pressed
export async function freeze(view, title) {
  const root = document.documentElement, content = markup(view), name = document.title; // of now: the reader may leave
  const style = await (await fetch("/static/page.css")).text();
  const policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
  download(`factedit-${title}.html`, "text/html", [
    `<!doctype html>\n<html lang="en" class="${escaped(root.className)}" data-theme="${escaped(root.dataset.theme)}"><head><meta charset="utf-8">`,
    `<meta name="generator" content="factedit"><meta name="viewport" content="width=device-width, initial-scale=1">`,
    `<meta http-equiv="Content-Security-Policy" content="${policy}"><title>${escaped(name)}</title>`,
    `<style>${style}</style></head><body>${content}</body></html>\n`].join("\n"));
}

const GONE = "button, progress, datalist, script, .copies, .tools, a.go";
const escaped = (text) => String(text ?? "").replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

// an element as markup, every text escaped; what was typed becomes text
function markup(node) {
  if (node.nodeType === Node.TEXT_NODE) return escaped(node.data);
  if (node.nodeType !== Node.ELEMENT_NODE || node.matches(GONE)) return "";
  if (node.matches("input, textarea, select")) return `<span class="given">${escaped(node.value)}</span>`;
  const kept = [...node.attributes].filter(({ name }) => !/^(on|nonce|href|tabindex|for)/.test(name));
  if (node.matches("details")) kept.push({ name: "open", value: "" });
  const tag = node.matches("a") ? "span" : node.tagName.toLowerCase();
  const attributes = kept.map(({ name, value }) => ` ${name}="${escaped(value)}"`).join("");
  return `<${tag}${attributes}>${[...node.childNodes].map(markup).join("")}</${tag}>`;
}

export { spoken };
