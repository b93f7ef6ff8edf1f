// Change: subject, relation, new object; method and settings; what is likely to be touched; the loss as it falls.

import { el, put, button, say, figure, table } from "./dom.js";
import { field, lead } from "./forms.js";
import { topTable } from "./pieces.js";
import { working, copies, command, python, turn } from "./parts.js";
import { lossCurve } from "./charts.js";
import { drawn } from "./drawings.js";
import { saveLosses } from "./files.js";
import { saveTable } from "./saves.js";

export const title = "Change";

const WORDS = {
  layer: ["which layer is changed", "l*: the layer whose matrix W is edited"],
  learning_rate: ["how large a step of the search is", "Adam's rate"],
  steps: ["how long the value is searched for, at most", "evaluations of the loss"],
  clamp: ["how far the value may move", "‖δ‖ ≤ clamp · ‖v₀‖"],
  decay: ["how much a large move is held back", "weight of ‖δ‖ / ‖v₀‖²"],
  kl: ["how much the subject must stay itself", "weight of KL on “{} is a”"],
  ridge: ["how cautious the direction is", "C + ridge · mean eigenvalue · I"],
  subject_weight: ["how much other names are spared", "weight of the second moment over names beside C"],
  stretch: ["how far the found value is stretched", "stretch · δ is inserted"],
};

export function draw(root, page) {
  const { limits, model } = page.server;
  if (model?.not_editable) {
    put(root, el("p", { class: "error" }, `${model.name} can be traced and asked, but not edited: ${model.not_editable}. Start the server with another model.`));
    return;
  }
  const input = (name, list) => el("input", { type: "text", maxlength: limits.name, value: page.get(name), list, autocomplete: "off", oninput: keep });
  const subject = input("subject", "subjects"), relation = input("relation", "relations"), target = input("new", "targets"), old = input("old", "targets");
  const method = el("select", { onchange: keep }, Object.keys(page.server.methods).map((name) => el("option", { value: name, selected: name === (page.params.get("method") ?? "rome") }, name)));
  const preset = el("select", { onchange: keep }, [["tuned", "tuned (best here)"], ["published", "published"], ["none", "none"]].map(([value, text]) => el("option", { value, selected: value === page.params.get("preset") }, text)));
  const settings = el("textarea", { rows: 2, maxlength: 2000, value: page.params.get("settings") ?? "", placeholder: "layer=3\nsteps=30", oninput: keep, spellcheck: "false" });
  const about = el("p", { class: "hint" }), lists = el("div");
  const sentence = el("p", { class: "sentence" });
  const results = el("div", { class: "found" }), near = el("div", { class: "found" });
  put(root,
    el("p", { class: "lead" }, say("Choose a fact and the answer it shall have. One small change is computed for one matrix of the model, made so that other facts are disturbed as little as possible.",
      "ROME: Ŵ = W + Λ (C⁻¹k*)ᵀ with Λ = (v* − W k*) / ((C⁻¹k*)ᵀ k*); k* is the subject's mean key, v* the value that makes the new object likely.")),
    el("form", { class: "card", onsubmit: (event) => { event.preventDefault(); edit(); } },
      el("div", { class: "grid" }, field("Subject", subject), field("Relation, with {} for the subject", relation), field("New object", target), field("Present object (if known)", old)),
      sentence,
      el("details", { class: "more" }, el("summary", {}, "Method and settings"),
        el("div", { class: "grid" }, field("Method", method), field("Preset", preset), field("Settings, one a line", settings)), about,
        el("dl", { class: "terms" }, Object.entries(WORDS).map(([name, [simple, formula]]) => [el("dt", {}, name), el("dd", {}, say(simple, formula))]))),
      el("div", { class: "row" }, el("button", { type: "submit", class: "go", disabled: !page.ready() }, "Change it"),
        button("What is likely to be touched?", touched, { disabled: !page.ready() })), lists),
    near, results);
  keep();
  page.suggested.then(suggest);
  const stored = page.example?.edit;
  if (page.kept.edit?.fact === factKey()) { show(page.kept.edit.result); readFactors(page.kept.edit.result); }
  else if (stored && page.isFirst() && !page.ready()) show(stored, `A stored edit of ${page.example.model}; the model is being loaded.`);

  function factKey() { return JSON.stringify([subject.value, relation.value, target.value]); }

  function keep() {
    const traced = page.params.get("traced"); // a prompt about another subject is not traced any more
    page.set({ traced: traced?.includes(subject.value) ? traced : null, subject: subject.value, relation: relation.value, new: target.value, old: old.value,
      method: method.value === "rome" ? null : method.value, preset: preset.value === "tuned" ? null : preset.value, settings: settings.value });
    const row = page.server.methods[method.value];
    about.textContent = row ? `${method.value}: ${row.what} (${row.source}).` : "";
    put(sentence, relation.value.replace("{}", subject.value), " ", old.value && [el("s", { class: "old" }, old.value), " "], el("strong", { class: "new" }, target.value));
    suggest();
  }

  function suggest() {
    const all = page.suggestions.relations;
    const known = all.find((row) => row.prompt === relation.value.trim());
    const options = (id, values) => el("datalist", { id }, values.slice(0, 400).map((value) => el("option", { value })));
    put(lists, options("relations", all.map((row) => row.prompt)), options("subjects", (known ? known.pairs : all.flatMap((row) => row.pairs.slice(0, 8))).map(([name]) => name)),
      options("targets", known ? known.objects : all.flatMap((row) => row.objects.slice(0, 8))));
  }

  function fact() {
    const given = {};
    for (const line of settings.value.split("\n").filter((one) => one.trim())) {
      const [name, ...rest] = line.split("=");
      if (!rest.length) throw new Error(`The setting “${line}” is not written like steps=30.`);
      try { given[name.trim()] = JSON.parse(rest.join("=")); } catch { given[name.trim()] = rest.join("=").trim(); }
    }
    for (const [value, name] of [[subject.value, "subject"], [relation.value, "relation"], [target.value, "new object"]])
      if (!value.trim()) throw new Error(`The ${name} is empty: say what the fact is about and what it shall be.`);
    return { subject: subject.value, prompt: relation.value, target_new: target.value, target_true: old.value || null, method: method.value, preset: preset.value, settings: given };
  }

  async function attempt(place, path, options) {
    let asked;
    try { asked = fact(); } catch (error) { put(place, el("p", { class: "error", role: "alert" }, error.message)); return undefined; }
    return working(place, path, asked, options);
  }

  function inForce(settings) {
    const inUse = Object.entries(settings ?? {}).filter(([, value]) => value !== null && typeof value !== "object");
    return inUse.length ? el("details", {}, el("summary", {}, "The settings it was made with"), el("dl", { class: "terms" }, inUse.map(([name, value]) => [el("dt", {}, `${name} = ${value}`), el("dd", {}, WORDS[name] ? say(...WORDS[name]) : "")]))) : null;
  }

  async function touched() {
    const got = await attempt(near, "touched");
    if (!got) return;
    put(near, el("section", { class: "card" }, el("h2", {}, "Likely to be touched"),
      el("p", { class: "soft" }, say("How much of the change other facts would feel: 1 is as much as the fact itself, 0 nothing.", "share = (k C⁻¹ k*) / (k* C⁻¹ k*), k being the other fact's key")),
      already(got.already),
      table(["fact", "share"], got.touched.map((row) => el("tr", {}, el("th", { scope: "row" }, row.prompt), el("td", {}, el("span", { class: "bar two" },
        el("span", { class: "track" }, el("span", { class: "fill other", style: { width: `${100 * Math.min(1, Math.abs(row.share))}%` } })), figure(row.share))))), { class: "rows" }, "Facts that are likely to be touched")));
  }

  function already(rows) {
    return rows.map((row) => el("p", { class: "warn" }, `On the model already: ${row.prompt.replace("{}", row.subject)} → ${row.target_new}. The two changes would be summed; switch that one off in the ledger first.`));
  }

  async function edit() {
    const key = factKey(); // of what is asked: the reader may go on typing
    turn(near);
    put(near);
    const got = await attempt(results, "edit", { live: (place, job) => job.trail.length > 1 && put(place, lossCurve(job.trail.map((rows) => rows[0]))) });
    if (!got) return;
    page.kept.edit = { fact: key, result: got };
    page.kept.proof = null;
    await page.refresh();
    page.arrived(root, "change", () => {
      show(got);
      lead(results.querySelector("a.go"));
      readFactors(got);
    });
  }

  // what the factors read and write, after the edit is there
  async function readFactors(got) {
    const place = results.querySelector(".factors");
    const row = page.server.ledger.find((entry) => entry.edit === got.edit);
    if (!place || !row?.in_weights) return;
    got.factors ??= await working(place, "factors", { edit: got.edit });
    if (got.factors) put(place, got.factors.places.map(factors));
  }

  function factors({ layer, matrix, subjects, tokens }) {
    return el("section", { class: "card" }, el("h2", {}, `What the change in layer ${layer} reads and writes`),
      el("p", { class: "soft" }, say("It acts on texts about the subjects on the left, on each by its share (1: as on the edited fact itself); and it pushes the model towards the tokens on the right.",
        "share = w(k)·w(k*) / ‖w(k*)‖², w(k) = k ΔW; tokens: softmax of head(norm(w(k*))), the logit lens of what is written at the edited key")),
      el("div", { class: "sides" },
        table(["reads", "share"], subjects.map((read, n) => el("tr", {}, el("th", { scope: "row" }, read.subject, el("span", { class: "hint" }, read.prompt)), el("td", {}, el("span", { class: "bar two" },
          el("span", { class: "track" }, el("span", { class: `fill ${n ? "other" : "new"}`, style: { width: `${100 * Math.min(1, Math.abs(read.share))}%` } })), figure(read.share))))), { class: "rows" }, "Subjects that the change reads"),
        tokens.length ? el("div", {}, topTable({ top: tokens }, page.objects(), "writes"), el("p", { class: "hint" }, say("In an early layer these are seldom words of the answer: the layers above read the value before it becomes a word.", "The lens skips the layers above, which read w(k*) first; of early layers it is noisy."))) : el("p", { class: "soft" }, `The matrix “${matrix}” writes no hidden state, so its values have no tokens.`)),
      saveTable("factors", ["what", "text", "value"], [...subjects.map((read) => ["reads", read.prompt, read.share]), ...tokens.map((written) => ["writes", written.text, written.probability])]));
  }

  function show(got, note) {
    const commandLine = ["edit", page.modelName(), "--subject", got.request.subject, "--prompt", got.request.prompt, "--target", got.request.target_new, ...(got.request.target_true ? ["--true-target", got.request.target_true] : []), ...(got.method === "rome" ? [] : ["--method", got.method]), "--out", `edits/${(got.edit ?? "new").slice(0, 12)}`];
    put(results, note && el("p", { class: "note" }, note),
      drawn("outcome", told(got), { above: already(got.already ?? []), below: [got.losses?.length ? saveLosses(got.losses) : null, inForce(got.settings),
        el("p", { class: "row" }, el("a", { class: "go", href: "#/proof?" + page.params }, "Prove it: what changed, what did not"), el("a", { href: "#/ledger?" + page.params }, "See it in the ledger"))] }),
      el("div", { class: "factors" }),
      copies({ command: command(...commandLine),
        "Python code": `from factedit import EditRequest, Moments, load, make_method\n\nmodel = load(${python(page.modelName())})\nrequest = EditRequest(subject=${python(got.request.subject)}, prompt=${python(got.request.prompt)}, target_new=${python(got.request.target_new)})\n[edit] = make_method(${python(got.method)}, model, Moments()).edit([request]).edits\nedit.save("edits/new")` }));
  }
}

// an edit as it is drawn: of its one fact, what was measured
function told({ request, before, after, layer, update_norm, weight_norm, spill, losses }) {
  return { layers: [layer].flat(), facts: [{ ...request, before, after }], update_norm, weight_norm, spill, losses };
}
