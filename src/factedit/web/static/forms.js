// Fields, and where one stands in them while a place is drawn again.

import { el } from "./dom.js";

export function field(label, input, hint) {
  const id = input.id || `f${(field.count = (field.count ?? 0) + 1)}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return el("div", { class: "field" }, el("label", { for: id }, label), input,
    hint && el("span", { class: "hint", id: `${id}-hint` }, hint));
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
