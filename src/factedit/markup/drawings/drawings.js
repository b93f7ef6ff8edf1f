// What can be drawn from its numbers alone: on the page, in a file that needs nothing else, and in a notebook.

import { el } from "./dom.js";
import { trace } from "./trace.js";
import { averages } from "./averages.js";
import { outcome } from "./outcome.js";
import { answers } from "./answers.js";
import { strip } from "./strip.js";
import { scores } from "./scores.js";
import { findings } from "./findings.js";

const DRAWINGS = { trace, averages, outcome, answers, strip, scores, findings };
const numbers = new WeakMap();

// A drawing by its name; `more` is what the page has beside it: what is done when something is pressed, buttons to save.
export function drawn(name, told, more) {
  const place = el("div", { "data-drawing": name }, DRAWINGS[name](told, more));
  numbers.set(place, told);
  return place;
}

// what a drawing was drawn from
export function numbersOf(place) {
  return numbers.get(place);
}
