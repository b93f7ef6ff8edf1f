// Elements. Text goes in as text (textContent), never as markup; styles go through the style object.

export function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  return filled(node, attributes, children);
}

export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, setting] of Object.entries(value)) node.style.setProperty(key, setting);
    else if (name === "value") node.value = value;
    else if (name === "checked") node.checked = true;
    else node.setAttribute(name, value === true ? "" : SPOKEN.has(name) ? plain(String(value)) : String(value));
  }
  add(node, children);
  return node;
}

const SPOKEN = new Set(["title", "aria-label", "placeholder", "aria-description"]); // attributes that are shown or read out

export function add(node, children) {
  for (const child of children.flat(5)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(plain(String(child))));
  }
  return node;
}

export function put(node, ...children) {
  node.replaceChildren();
  return add(node, children);
}

// what would turn the order of letters or not be seen is written out, as the command line does
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]/g;

export function plain(text) {
  return text.replace(/[\ud800-\udbff][\udc00-\udfff]|[^]/g, (one) =>
    one.length > 1 ? (one.codePointAt(0) >>> 7 === 0xe0000 >>> 7 ? `\\u{${one.codePointAt(0).toString(16)}}` : one) : one.replace(UNSEEN, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0")));
}

// text of a model, with its white space made visible where it matters
export function spoken(text) {
  return el("bdi", { class: "spoken" }, text.replace(/\n/g, " ⏎ ").trim() || "(nothing)");
}

export function token(text) {
  return el("bdi", { class: "token" }, text.replace(/ /g, "␣").replace(/\n/g, "⏎") || "(empty)");
}

export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits ? value.toExponential(1) : value.toFixed(digits);
}

// a number as it is drawn, with all its digits where one points or reads the markup
export function figure(value, digits = 3) {
  return el("data", { value: value ?? "", title: value ?? "", class: "figure" }, number(value, digits));
}

// two wordings of one explanation; the switch in the head shows one of them
export function say(simple, formula) {
  return [el("span", { class: "simple" }, simple), el("span", { class: "formula" }, formula ?? simple)];
}

export function field(label, input, hint) {
  const id = input.id || `f${(field.count = (field.count ?? 0) + 1)}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return el("div", { class: "field" }, el("label", { for: id }, label), input,
    hint && el("span", { class: "hint", id: `${id}-hint` }, hint));
}

export function button(text, act, attributes) {
  return el("button", { type: "button", onclick: act, ...attributes }, text);
}

export function table(heads, rows, attributes, caption) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", attributes,
      el("caption", { class: "hidden" }, caption),
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows)));
}

// draw again what is in a place: what was typed, what is open and where one stands stay
export function keeping(place, redraw) {
  const fields = () => [...place.querySelectorAll("input, textarea, select")], folds = () => [...place.querySelectorAll("details")];
  const typed = fields().map((element) => [element.value, element.checked, element.selectionStart]), open = folds().map((element) => element.open);
  const at = place.contains(document.activeElement) ? document.activeElement : null;
  const name = (element) => `${element.tagName} ${element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent}`;
  const wanted = at && name(at);
  redraw();
  const now = fields();
  if (now.length === typed.length) now.forEach((element, n) => { element.value = typed[n][0]; if (element.type === "radio" || element.type === "checkbox") element.checked = typed[n][1]; });
  if (folds().length === open.length) folds().forEach((element, n) => { element.open = open[n]; });
  if (!at) return;
  const same = [...place.querySelectorAll(at.tagName)].find((element) => name(element) === wanted) ?? place;
  same.focus({ preventScroll: true });
  if (at.matches("input[type=text], textarea")) same.setSelectionRange?.(at.selectionStart, at.selectionEnd);
}

// the next step, where keys are not needed for what is being typed
export function lead(node) {
  if (!document.activeElement?.matches("input, textarea, select")) node?.focus({ preventScroll: true });
}

export function fold(title, ...content) {
  return el("details", {}, el("summary", {}, title), content);
}
