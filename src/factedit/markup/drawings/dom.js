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

function add(node, children) {
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

// a token, with its white space made visible
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

export function fold(title, ...content) {
  return el("details", {}, el("summary", {}, title), content);
}
