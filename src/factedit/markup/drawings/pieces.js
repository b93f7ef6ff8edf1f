// Pieces that several drawings have: probabilities as bars, the likeliest tokens, differences of words.

import { el, figure, token } from "./dom.js";

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

// what a page has beside a drawing, in it; it stays where the drawing is drawn again in a file
export function beside(name, content) {
  return content && el("div", { "data-beside": name }, content);
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
