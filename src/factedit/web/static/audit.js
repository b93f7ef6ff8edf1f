// Audit: was a model edited, how, and about what? Between the model and folders that the server was started with.

import { el, put, button, say, plain } from "./dom.js";
import { drawn } from "./drawings.js";
import { field } from "./forms.js";
import { topTable } from "./pieces.js";
import { working, copies, command, python, trouble, turn } from "./parts.js";
import { post } from "./talk.js";
import { saveTable } from "./saves.js";

export const title = "Audit";

export function draw(root, page) {
  const folders = page.server.folders.filter((folder) => folder.kind === "model");
  const results = el("div", { class: "found" });
  put(root, el("p", { class: "lead" }, say("Two models that should be the same: what differs, does it look like an edit, and which fact does it look like?",
    "The difference of every tensor and its rank are certain; suspects are candidates whose key lies in what the difference reads, in the metric of C: an inference.")));
  if (!folders.length) {
    put(results, el("p", {}, "The server was started without a model to look at. Folders are named when it is started, never in the browser:"),
      el("pre", { tabindex: "0" }, command("serve", page.modelName(), "--folder", "downloads/suspect")));
    root.append(results, puzzle(page));
    return;
  }
  const base = el("select", {}, el("option", { value: "" }, `${page.server.name} (in memory)`), folders.map((folder) => el("option", { value: folder.number, selected: String(folder.number) === page.params.get("base") }, folder.name)));
  const suspect = el("select", {}, folders.map((folder) => el("option", { value: folder.number, selected: String(folder.number) === page.params.get("suspect") }, folder.name)));
  root.append(el("form", { class: "card", onsubmit: (event) => { event.preventDefault(); compare(); } },
    el("div", { class: "grid" }, field("It is said to be", base), field("Is it?", suspect)), el("div", { class: "row" }, el("button", { type: "submit", class: "go", disabled: !page.ready() }, "Compare"))), results, puzzle(page));
  if (page.kept.audit) show(page.kept.audit);

  async function compare() {
    page.set({ base: base.value, suspect: suspect.value });
    const got = await working(results, "audit", { base: base.value === "" ? null : Number(base.value), suspect: Number(suspect.value) });
    if (!got) return;
    page.kept.audit = got;
    page.arrived(root, "audit", () => show(got));
  }

  function show(got) {
    put(results, drawn("findings", got),
      saveTable("audit", ["what", "name", "value"], [...got.differences.map((row) => ["differs (relative size)", row.tensor, row.relative]), ...got.suspicions.map((row) => ["suspected (score)", row.prompt, row.score])]),
      copies({ command: command("audit", got.base, got.suspect),
        "Python code": `from factedit.work.account import audit_model\nfrom factedit.work.inputs import load_model\n\noutcome = audit_model(load_model(${python(got.base)}), ${python(got.suspect)})\nprint(outcome.statement())` }));
  }
}

// Five models, of which one was edited: which, and about what?
function puzzle(page) {
  const place = el("div"), evidence = el("div", { class: "found" });
  const seed = el("input", { type: "number", min: 0, max: 4294967295, value: page.params.get("puzzle") ?? 1 });
  const editable = page.ready() && !page.server.model.not_editable;
  if (page.kept.puzzle && String(page.kept.puzzle.seed) === seed.value) lay(page.kept.puzzle);
  return el("section", { class: "card puzzle" }, el("h2", {}, "A puzzle: which of these five was edited, and about what?"),
    el("p", { class: "soft" }, say("Five copies of the model. In each, one matrix was changed by as much; in four of them at random, in one to write a new fact. Ask them, audit them, then say which.",
      "Four random rank-one ΔW of the norm of a ROME edit, in the same matrix; one is the edit. All five differ from W with rank one.")),
    el("form", { class: "row", onsubmit: (event) => { event.preventDefault(); make(); } }, el("label", {}, "Number of the puzzle ", seed),
      el("button", { type: "submit", disabled: !editable, title: editable ? null : "this needs a model that can be edited" }, "Make the puzzle")), place, evidence);

  async function make() {
    page.set({ puzzle: seed.value });
    turn(evidence);
    put(evidence);
    const got = await working(place, "puzzle", { seed: Number(seed.value) });
    if (!got) return;
    page.kept.puzzle = got;
    page.arrived(place, "audit", () => lay(got));
  }

  function lay({ names, seed: made }) {
    const prompt = el("input", { type: "text", maxlength: page.server.limits.prompt, value: page.prompt(), autocomplete: "off" });
    const each = (text, act, name) => names.map((letter, n) => button(letter, () => act(n, letter), { "aria-label": `${name} ${letter}` }));
    put(place, field("Ask one of them", prompt), el("div", { class: "row" }, el("span", {}, "Ask model"), each("ask", ask, "Ask model")),
      el("div", { class: "row" }, el("span", {}, "Audit model"), each("audit", look, "Audit model")), el("div", { class: "row" }, el("span", {}, "It is model"), each("guess", guess, "It is model")));

    async function ask(n, letter) {
      const got = await working(evidence, "puzzle-ask", { seed: made, which: n, prompt: prompt.value });
      if (got) put(evidence, el("h3", {}, `Model ${letter}: ${plain(got.prompt)}`), topTable({ top: got.after.top.slice(0, 5) }, page.objects(), "Likeliest next tokens"), el("p", { class: "writes" }, el("span", { class: "soft" }, "writes: "), el("bdi", {}, got.after.text.trim() || "(nothing)")));
    }
    async function look(n, letter) {
      const got = await working(evidence, "puzzle-audit", { seed: made, which: n });
      if (got) put(evidence, el("h3", {}, `Model ${letter}`), drawn("findings", got));
    }
    async function guess(n, letter) {
      const last = turn(evidence);
      try {
        const { right, which, fact } = await post("puzzle-guess", { seed: made, which: n });
        if (last()) put(evidence, el("p", { class: `verdict ${right ? "" : "broken"}`, role: "status" }, right ? `Right: it is model ${which}. ` : `Not ${letter}: it is model ${which}. `, "The fact: ", fact.prompt.replace("{}", fact.subject), " → ", el("strong", { class: "new" }, fact.target_new), ". Does the audit name it?"));
      } catch (error) { if (last()) put(evidence, trouble(error)); }
    }
  }
}
