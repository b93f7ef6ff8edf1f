// Where: the maps of a causal trace; what a cell's state says; averages over many facts.

import { el, put, say } from "./dom.js";
import { averageCurves } from "./averages.js";
import { drawn } from "./drawings.js";
import { saveMaps } from "./files.js";
import { field } from "./forms.js";
import { KINDS } from "./map.js";
import { topTable } from "./pieces.js";
import { working, copies, command, python } from "./parts.js";
import { run } from "./talk.js";
import { fall } from "./trace.js";
import { saves } from "./saves.js";

export const title = "Where";

const GROUPS = [["all", "hidden, MLP, attention"], ["severed", "severed paths"], ["hidden", "hidden only"]];
const FACTS = "worldfacts-known";

export function draw(root, page) {
  const kept = (name, usual) => page.params.get(name) ?? usual;
  const prompt = el("input", { type: "text", maxlength: page.server.limits.prompt, value: kept("traced", page.example?.trace.prompt.includes(page.get("subject")) ? page.example.trace.prompt : page.prompt()), autocomplete: "off" });
  const subject = el("input", { type: "text", maxlength: page.server.limits.name, value: page.get("subject"), autocomplete: "off" });
  const choice = (name, values) => el("select", {}, values.map(([value, text]) => el("option", { value, selected: value === page.params.get(name) }, text)));
  const kinds = choice("kinds", GROUPS);
  const usual_levels = page.server.noise_levels, levels = usual_levels.includes(kept("noise", "3s")) ? usual_levels : [...usual_levels, kept("noise", "3s")];
  const slider = el("input", { type: "range", min: 0, max: levels.length - 1, step: 1, value: levels.indexOf(kept("noise", "3s")), oninput: blur });
  const noise = { get value() { return levels[Number(slider.value)]; } };
  const level = el("output", { class: "level" });
  let fallen = null; // what is left of the answer at each level, once it was asked for
  const window_ = el("input", { type: "number", min: 1, max: page.server.model?.n_layer ?? 200, value: kept("window", ""), placeholder: "auto" });
  const seed = el("input", { type: "number", min: 0, max: 4294967295, value: kept("seed", 1) });
  const count = choice("facts", [10, 40, 100, 200].map((n) => [String(n), `${n} facts`]));
  const results = el("div", { class: "found" }), averages = el("div", { class: "found" });
  const press = (text, kind) => el("button", { type: "submit", class: kind, disabled: !page.ready() }, text);
  put(root,
    el("p", { class: "lead" }, say("Blur the subject's name, and the model forgets the answer. Put one inner state back, and see whether the answer returns: where it does, the fact passes through.",
      "Causal tracing: noise N(0, ν²) on the subject's embeddings; a cell is P*[o] with the clean state at (token, layer) restored; its indirect effect is that minus the corrupted P.")),
    el("form", { class: "card", onsubmit: (event) => { event.preventDefault(); trace(); } },
      el("div", { class: "grid" }, field("Prompt", prompt), field("Subject in it", subject)),
      el("div", { class: "slide" }, field("Noise: how much the subject is blurred", slider), level),
      el("details", { class: "more" }, el("summary", {}, "States, window, seed"), el("div", { class: "grid" }, field("States", kinds), field("Window", window_, "layers of MLP or attention put back together"), field("Seed", seed))),
      el("div", { class: "row" }, press("Trace it", "go"))), results,
    el("form", { class: "card", onsubmit: (event) => { event.preventDefault(); over(); } }, el("h2", {}, "Over many facts"),
      el("p", { class: "soft" }, say("One fact may be an exception. Here true facts that the model knows are traced one by one, with the settings above, and averaged by the part of the sentence.",
        "AIE per role of the token and layer, over the facts whose answer the clean run ranks first; bands are 95 % intervals with facts as the units.")),
      el("div", { class: "row" }, el("label", {}, el("span", { class: "hidden" }, "how many known facts"), count), press("Average over them"))), averages);

  sayLevel();
  const stored = page.example?.trace;
  const usual = !["kinds", "noise", "window", "seed"].some((name) => page.params.has(name));
  if (page.kept.trace && page.kept.trace.key === key()) show(page.kept.trace);
  else if (page.ready() && page.params.has("traced") && prompt.value.includes(subject.value) && !(usual && isStored())) trace({ state: page.params.get("state") }); // a link
  else if (stored && usual && isStored()) show(stored, `A stored trace of ${page.example.model}; press “Trace it” to compute it here.`);
  if (page.kept.averages) showAverages(page.kept.averages);
  else if (page.example?.averages) showAverages(page.example.averages, `Stored averages of ${page.example.model}; press the button to compute them here.`);

  function inSigmas(text) { return text.endsWith("s") ? `${text.slice(0, -1)} σ${text === "3s" ? " (the paper's)" : ""}` : `ν = ${text}`; }
  function sayLevel() {
    level.textContent = inSigmas(noise.value);
    slider.setAttribute("aria-valuetext", level.textContent);
  }

  // the slider: the answer's bar falls at once, the map is of the noise it was traced with
  async function blur() {
    sayLevel();
    const key = JSON.stringify([prompt.value, subject.value, seed.value]);
    if (!page.ready() || (results.dataset.stored && page.modelName() !== page.example.model) || (fallen?.key === key && !fallen.result)) return;
    if (fallen?.key !== key) {
      const mine = fallen = { key, result: null };
      try { mine.result = await run("fall", { prompt: prompt.value, subject: subject.value, seed: Number(seed.value) }); } catch { if (fallen === mine) fallen = null; }
      if (fallen !== mine) return;
    }
    if (results.dataset.of !== JSON.stringify([prompt.value, subject.value])) return; // the map is of another sentence
    const left = fallen?.result?.levels.find((fell) => fell.level === noise.value), place = results.querySelector(".fall");
    if (!left || !place) return;
    put(place, fall("clean", fallen.result.clean), fall("blurred", left.corrupted));
    results.querySelector(".stale").textContent = noise.value === place.dataset.noise ? "" : `The bar is at ${inSigmas(noise.value)}; the map below is at ${inSigmas(place.dataset.noise)}. Press “Trace it” for a map at this noise.`;
  }

  function isStored() { return stored && stored.prompt === prompt.value && stored.subject === subject.value; }
  function key() { return JSON.stringify([prompt.value, subject.value, kinds.value, noise.value, window_.value, seed.value]); }

  function settings() {
    page.set({ kinds: kinds.value === "all" ? null : kinds.value, noise: noise.value === "3s" ? null : noise.value, window: window_.value, seed: seed.value === "1" ? null : seed.value });
    return { kinds: kinds.value, noise: noise.value, window: window_.value ? Number(window_.value) : null, seed: Number(seed.value) };
  }

  function written() {
    return [...(kinds.value === "all" ? [] : ["--kind", kinds.value]), ...(seed.value === "1" ? [] : ["--seed", seed.value]), ...(window_.value ? ["--window", window_.value] : []), ...(noise.value === "3s" ? [] : ["--noise", noise.value])];
  }

  async function trace({ state = null } = {}) {
    page.set({ traced: prompt.value, subject: subject.value, state });
    const asked = { key: key(), asked_noise: noise.value, written: written() }; // the reader may go on typing
    const result = await working(results, "trace", { prompt: prompt.value, subject: subject.value, ...settings() });
    if (!result) return;
    page.kept.trace = { ...result, ...asked };
    if (root.isConnected) show(page.kept.trace); // else no state of it is read for nobody
  }

  async function over() {
    page.set({ facts: count.value === "10" ? null : count.value });
    const asked = written();
    const result = await working(averages, "averages", { records: Number(count.value), ...settings() });
    if (!result) return;
    page.kept.averages = { ...result, written: asked };
    showAverages(page.kept.averages);
  }

  function show(result, note) {
    results.dataset.stored = result === stored ? "yes" : "";
    results.dataset.of = JSON.stringify([result.prompt, result.subject]);
    const asked = result.asked_noise ?? (result === stored ? "3s" : null);
    const effect = result.clean - result.corrupted;
    const state = el("div", { class: "found" }), offers = el("span");
    const known = effect > 0.05 ? null : el("p", { class: "warn" }, "The noise hardly changes the answer here, so there is little to find. The model may not know this fact: choose one it answers surely, or more noise.", offers);
    if (known && page.ready()) offered(offers);
    put(results, note && el("p", { class: "note" }, note),
      drawn("trace", { ...result, ...layers(result) }, { open: (kind, row, layer) => open(state, result, kind, row, layer),
        fallen: [el("p", { class: "note stale", role: "status" }), known], saved: saveMaps(result) }), state,
      copies({ command: command("trace", page.modelName(), result.prompt, "--subject", result.subject, ...(result.written ?? []), "--plot", "trace.png"),
        "Python code": `from factedit import load, trace_fact\n\nmodel = load(${python(page.modelName())})\nresult = trace_fact(model, ${python(result.prompt)}, ${python(result.subject)}, noise=${result.noise}, window=${result.window}, samples=${result.samples}, seed=${result.seed})` }));
    results.querySelector(".fall").dataset.noise = asked ?? "3s";
    const [kind, row, layer] = (page.params.get("state") ?? "").split(":");
    if (layer && result.scores[kind]) open(state, result, kind, Number(row), Number(layer));
  }

  // facts that this model was just seen to know
  async function offered(place) {
    try {
      const { facts } = await run("known", { count: 5 });
      put(place, facts.length ? [" It knows: ", facts.map((fact, n) => [n ? "; " : "", el("a", { href: `#/where?${new URLSearchParams({ traced: fact.prompt, subject: fact.subject })}` }, fact.prompt)]), "."] : " Of the facts of the embedded set that were tried it knows none.");
    } catch { /* the warning stands without them */ }
  }

  // the layers of the edits that are on; else the one that would be edited
  function layers(result) {
    const on = page.on().flatMap((row) => row.layers);
    if (on.length) return { edited_layers: [...new Set(on)], marked: "which is edited" };
    const asked = /^layer *= *(\d+)$/m.exec(page.params.get("settings") ?? "")?.[1];
    const layer = asked ?? page.server.model?.edit_layer;
    return { edited_layers: layer === undefined ? result.edited_layers ?? [] : [Number(layer)], marked: "which “Change” would edit" };
  }

  async function open(place, result, kind, row, layer) {
    page.set({ state: `${kind}:${row}:${layer}` });
    if (!page.ready()) { put(place, el("p", { class: "note" }, "The model is being loaded; press the cell again in a moment.")); return; }
    if (result === stored && page.modelName() !== page.example.model) { put(place, el("p", { class: "note" }, `This is a stored trace of ${page.example.model}. Trace it here first, then press a cell.`)); return; }
    const states = kind.startsWith("hidden") ? "hidden" : kind;
    const got = await working(place, "state", { prompt: result.prompt, token: row, layer, kind: states });
    if (!got) return;
    const objects = [...page.objects(), [result.answer.trim(), "old"]];
    put(place, el("section", { class: "card state" }, el("h2", {}, `${KINDS[states][0]} at “${got.text.trim()}”, layer ${layer}: what does it say?`),
      el("div", { class: "sides" },
        el("div", {}, topTable({ top: got.lens }, objects, say("Read out at once, as if this were the last layer", "Logit lens: softmax of head(norm(state))"))),
        got.why_not ? el("p", { class: "soft" }, got.why_not) : el("div", {}, topTable({ top: got.repeated }, objects,
          say("Put into “cat -> cat; 1135 -> 1135; hello -> hello; ? ->” in place of the ?, the model goes on", "Patchscope (arXiv 2401.06102): the state replaces h at the “?” of a prompt of repetitions, at the same layer; P(next)")),
          el("p", { class: "writes" }, el("span", { class: "soft" }, "and writes: "), el("bdi", {}, got.written.replace(/\n/g, " ⏎ ").trim() || "(nothing)")))),
      copies({ command: command("trace", page.modelName(), result.prompt, "--subject", result.subject, ...(result.written ?? []), "--read", `${row}:${layer}${states === "hidden" ? "" : `:${states}`}`),
        "Python code": `from factedit import load, read_state\n\nmodel = load(${python(page.modelName())})\nsaid = read_state(model, ${python(result.prompt)}, ${row}, ${layer}, kind=${python(states)})\nprint(said.lens, said.repeated, said.written)` })));
  }

  function showAverages(result, note) {
    const names = Object.keys(Object.values(result.curves)[0]);
    const saved = (kind) => saves(`averages-${kind}`, {
      draw: () => averageCurves(kind, result),
      rows: () => [["role", "layer", "aie", "half_width", "n"], ...names.flatMap((name) => result.curves[kind][name].mean.map((value, layer) => [name, layer, value, result.curves[kind][name].half_width[layer], result.curves[kind][name].n]))],
      arrays: () => ({ roles: { shape: [names.length], data: names }, ...Object.fromEntries(["mean", "half_width"].map((key) => [key, { shape: [names.length, result.curves[kind][names[0]].mean.length], data: names.flatMap((name) => result.curves[kind][name][key]) }])) }),
    });
    put(averages, note && el("p", { class: "note" }, note), drawn("averages", result, { saved }),
      copies({ command: command("trace", page.modelName(), "--facts", FACTS, "--records", result.asked, ...(result.written ?? []), "--plot", "averages.png"),
        "Python code": `from pathlib import Path\n\nfrom factedit import load\nfrom factedit.work.trace import trace_known\n\nmodel = load(${python(page.modelName())})\ntraced = trace_known(model, ${python(FACTS)}, Path("runs"), records=${result.asked}, seed=${result.seed})\nprint(traced.averages)` }));
  }
}
