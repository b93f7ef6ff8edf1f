// Where: the token × layer maps of a causal trace; each cell says what putting that state back brings back.

import { el, put, button, field, say, number, figure, token } from "./dom.js";
import { working, copies, command, python, download } from "./parts.js";

export const title = "Where";

const KINDS = { hidden: ["hidden states", "h", "purple"], mlp: ["MLP outputs", "m", "green"], attn: ["attention outputs", "a", "red"],
  "hidden-mlp-severed": ["hidden states, MLP severed", "h", "blue"], "hidden-attn-severed": ["hidden states, attention severed", "h", "blue"] };
const GROUPS = [["all", "hidden, MLP, attention"], ["severed", "severed paths"], ["hidden", "hidden only"]];

export function draw(root, page) {
  const prompt = el("input", { type: "text", maxlength: page.server.limits.prompt, value: page.params.get("traced") ?? page.example?.trace.prompt ?? page.prompt(), autocomplete: "off" });
  const subject = el("input", { type: "text", maxlength: page.server.limits.name, value: page.get("subject"), autocomplete: "off" });
  const kinds = el("select", {}, GROUPS.map(([value, text]) => el("option", { value, selected: value === page.params.get("kinds") }, text)));
  const noise = el("select", {}, [["3s", "3 σ (the paper's)"], ["0.5", "0.5"], ["1", "1"], ["2", "2"], ["4", "4"]].map(([value, text]) => el("option", { value, selected: value === page.params.get("noise") }, text)));
  const window_ = el("input", { type: "number", min: 1, max: page.server.model?.n_layer ?? 200, value: page.params.get("window") ?? "", placeholder: "auto" });
  const seed = el("input", { type: "number", min: 0, max: 4294967295, value: page.params.get("seed") ?? 1 });
  const found = el("div", { class: "found" });
  put(root,
    el("p", { class: "lead" }, say("Blur the subject's name, and the model forgets the answer. Put one inner state back, and see whether the answer returns: where it does, the fact passes through.",
      "Causal tracing: noise N(0, ν²) on the subject's embeddings; a cell is P*[o] with the clean state at (token, layer) restored; its indirect effect is that minus the corrupted P.")),
    el("form", { class: "card", onsubmit: (event) => { event.preventDefault(); trace(); } },
      el("div", { class: "grid" }, field("Prompt", prompt), field("Subject in it", subject)),
      el("details", { class: "more" }, el("summary", {}, "Noise, window, seed"), el("div", { class: "grid" }, field("States", kinds), field("Noise ν", noise, "how much the subject is blurred"), field("Window", window_, "layers of MLP or attention put back together"), field("Seed", seed))),
      el("div", { class: "row" }, el("button", { type: "submit", class: "go", disabled: !page.ready() }, "Trace it"))), found);
  const stored = page.example?.trace;
  if (page.kept.trace?.prompt === prompt.value && page.kept.trace?.subject === subject.value) show(page.kept.trace);
  else if (stored && stored.prompt === prompt.value && stored.subject === subject.value) show(stored, `A stored trace of ${page.example.model}; press “Trace it” to compute it here.`);

  async function trace() {
    page.set({ traced: prompt.value, subject: subject.value, kinds: kinds.value === "all" ? null : kinds.value, noise: noise.value === "3s" ? null : noise.value, window: window_.value, seed: seed.value === "1" ? null : seed.value });
    const asked = { prompt: prompt.value, subject: subject.value, kinds: kinds.value, noise: noise.value, window: window_.value ? Number(window_.value) : null, seed: Number(seed.value) };
    const result = await working(found, "trace", asked);
    if (!result) return;
    page.kept.trace = result;
    show(result);
  }

  function show(result, note) {
    const effect = result.clean - result.corrupted;
    const said = el("p", { class: "reading", role: "status" }, "Point at a cell, or walk through the map with the arrow keys.");
    const known = effect > 0.05 ? null : el("p", { class: "warn" }, "The noise hardly changes the answer here, so there is little to find. The model may not know this fact: choose one it answers surely, or more noise.");
    put(found, note && el("p", { class: "note" }, note),
      el("section", { class: "card" }, el("h2", {}, "The answer falls when the subject is blurred"), sentence(result),
        el("div", { class: "bars" }, fall("clean", result.clean), fall("blurred", result.corrupted)), known),
      el("section", { class: "card" }, el("h2", {}, "Put one state back"), said,
        Object.entries(result.scores).map(([kind, grid]) => map(kind, grid, result, said, layers(result))),
        (result.notes ?? []).map((text) => el("p", { class: "note" }, text))),
      el("div", { class: "row tools" }, button("JSON", () => download("trace.json", "application/json", JSON.stringify(result, null, 1)), { class: "quiet" }),
        button("CSV", () => download("trace.csv", "text/csv", csv(result)), { class: "quiet" })),
      copies({ command: command("trace", page.modelName(), result.prompt, "--subject", result.subject, ...(result.seed === 1 ? [] : ["--seed", result.seed]), ...(window_.value ? ["--window", window_.value] : []), ...(noise.value === "3s" ? [] : ["--noise", noise.value]), "--plot", "trace.png"),
        "Python code": `from factedit import load, trace_fact\n\nmodel = load(${python(page.modelName())})\nresult = trace_fact(model, ${python(result.prompt)}, ${python(result.subject)}, noise=${result.noise}, window=${result.window}, samples=${result.samples}, seed=${result.seed})` }));
  }

  function layers(result) {
    const on = page.on().flatMap((row) => row.layers);
    return new Set(on.length ? on : result.edited_layers ?? []);
  }
}

function sentence(result) {
  const at = result.prompt.indexOf(result.subject), end = at + result.subject.length;
  return el("p", { class: "sentence" }, result.prompt.slice(0, at), el("mark", {}, result.prompt.slice(at, end)), result.prompt.slice(end), " ", el("strong", { class: "old" }, result.answer.trim()));
}

function fall(when, value) {
  return el("span", { class: "bar" }, el("span", { class: "when" }, when), el("span", { class: "track" }, el("span", { class: "fill old", style: { width: `${100 * value}%` } })), figure(value));
}

function map(kind, grid, result, said, edited) {
  const [name, , hue] = KINDS[kind] ?? [kind, "", "blue"];
  const flat = grid.flat();
  const low = Math.min(result.corrupted, ...flat), high = Math.max(...flat, low + 1e-9);
  const [begin, end] = result.subject_range;
  const title = kind.startsWith("hidden") ? name : `${name}, ${result.window} layers together`;
  const reach = (layer) => kind === "mlp" || kind === "attn" ? `layers ${Math.max(0, layer - Math.floor(result.window / 2))} to ${Math.min(grid[0].length - 1, layer + Math.ceil(result.window / 2) - 1)}` : `layer ${layer}`;
  const words = (row, layer) => `${name} at “${result.tokens[row].trim()}”, ${reach(layer)}: with this put back ${number(result.corrupted)} → ${number(grid[row][layer])}`
    + (grid[row][layer] > result.clean ? ` (more than the clean run's ${number(result.clean)})` : "");
  const cell = (value, row, layer) => el("td", { class: edited.has(layer) ? "edited" : null, tabindex: row === 0 && layer === 0 ? "0" : "-1", "aria-label": words(row, layer), "data-row": row, "data-layer": layer,
    style: { "--share": ((value - low) / (high - low)).toFixed(3) } });
  const table = el("table", { class: `map ${hue}`, onmouseover: tell, onfocusin: tell, onkeydown: walk },
    el("caption", {}, title, el("span", { class: "soft" }, ` · darkest ${number(high)}, lightest ${number(low)}`)),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "layer"), grid[0].map((_, layer) => el("th", { scope: "col", class: edited.has(layer) ? "edited" : null, title: edited.has(layer) ? "the edited layer" : null }, layer % 3 && !edited.has(layer) ? el("span", { class: "hidden" }, layer) : layer)))),
    el("tbody", {}, grid.map((row, n) => el("tr", {}, el("th", { scope: "row", class: n >= begin && n < end ? "subject" : null }, token(result.tokens[n]), n >= begin && n < end ? "*" : ""), row.map((value, layer) => cell(value, n, layer))))));
  return el("div", { class: "scroll", role: "group", "aria-label": title }, table);

  function tell(event) {
    const at = event.target.closest("td");
    if (at) said.textContent = words(Number(at.dataset.row), Number(at.dataset.layer));
  }
  function walk(event) {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const at = event.target.closest("td");
    if (!step || !at) return;
    const next = table.querySelector(`td[data-row="${Number(at.dataset.row) + step[0]}"][data-layer="${Number(at.dataset.layer) + step[1]}"]`);
    if (!next) return;
    event.preventDefault();
    at.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

function csv(result) {
  const rows = [["kind", "token", "text", "layer", "p_restored"]];
  for (const [kind, grid] of Object.entries(result.scores)) grid.forEach((row, n) => row.forEach((value, layer) => rows.push([kind, n, `"${result.tokens[n].replace(/"/g, '""')}"`, layer, value])));
  return rows.map((row) => row.join(",")).join("\n") + "\n";
}
