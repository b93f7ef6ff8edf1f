// Proof: what an edit changed, what it left alone, and tries to break it; red rows first, the verdict in the first line.

import { el, put, say } from "./dom.js";
import { drawn } from "./drawings.js";
import { field } from "./forms.js";
import { working, copies, command, python } from "./parts.js";
import { saveTable } from "./saves.js";

export const title = "Proof";

export function draw(root, page) {
  const on = page.on();
  const chosen = on.find((row) => row.edit === page.params.get("edit")) ?? on[on.length - 1];
  const results = el("div", { class: "found" });
  const stored = page.example?.proof;
  if (!chosen) {
    put(root, el("p", { class: "lead" }, "Nothing is on the model. ", el("a", { href: "#/change?" + page.params }, "Change a fact"), ", or switch an edit on in the ", el("a", { href: "#/ledger?" + page.params }, "ledger"), "."), results);
    if (stored) show(stored, `A stored proof of ${page.example.model}, so that you see what one looks like.`);
    return;
  }
  const pick = el("select", { onchange: (event) => { page.set({ edit: event.target.value, own: null }); draw(root, page); root.querySelector("select").focus(); } },
    on.map((row) => el("option", { value: row.edit, selected: row === chosen }, named(row))));
  const further = el("textarea", { rows: 2, maxlength: page.server.limits.prompt, value: page.params.get("own") ?? chosen.tests.join("\n"), placeholder: "To see the Space Needle, fly to" });
  put(root,
    el("p", { class: "lead" }, say("The same prompts are asked before and after: the edited one and other wordings, which should change; neighbours, which should not; and some that try to break it.",
      "Every prompt under W and W + ΔW: P of both objects (length-normalised) and the greedy text. Held: the new object is written where it should be, and nowhere else.")),
    el("form", { class: "card", onsubmit: (event) => { event.preventDefault(); prove(); } },
      field("Edit", pick), field("Prompts of your own, one a line; each should give the new object", further, "They are kept with the edit, and asked again in every proof of it."),
      el("div", { class: "row" }, el("button", { type: "submit", class: "go" }, "Prove it"))), results);
  const key = () => JSON.stringify([chosen.edit, on.map((row) => row.edit), further.value]);
  if (page.kept.proof?.key === key()) show(page.kept.proof.result);
  else prove();

  async function prove() {
    page.set({ own: further.value });
    const asked = key(); // the reader may go on typing
    const result = await working(results, "prove", { edit: chosen.edit, own: furtherPrompts() });
    if (!result) return;
    page.kept.proof = { key: asked, result };
    show(result);
  }

  function show(result, note) {
    const broken = result.rows.some((row) => row.part === "rewrite" && row.state !== "held");
    put(results, note && el("p", { class: "note" }, note),
      el("p", { class: `verdict ${broken ? "broken" : ""}`, role: "status" }, result.verdict),
      drawn("answers", { ...result, parts: page.server.parts }),
      chosen && el("p", { class: "row" }, el("a", { class: "go", href: "#/damage?" + page.params }, "Did other facts move?"), el("a", { href: "#/ledger?" + page.params }, "Take it back in the ledger")),
      saveTable("proof", ["part", "prompt", "wanted", "state", "new_before", "new_after", "old_before", "old_after", "writes_before", "writes_after"], result.rows.map((row) => [row.part, row.prompt, row.wanted, row.state, ...row.new, ...(row.old ?? [null, null]), ...row.text])),
      copies({ command: command("prove", page.modelName(), `edits/${(chosen?.edit ?? "new").slice(0, 12)}`, ...furtherPrompts().flatMap((line) => ["--prompt", line])),
        "Python code": `from factedit import Edit, load\nfrom factedit.work.proof import prove, record_of\n\nmodel = load(${python(page.modelName())})\nedit = Edit.load("edits/${(chosen?.edit ?? "new").slice(0, 12)}")\nproof = prove(model, record_of(edit.requests[0]), [edit], prompts=[${furtherPrompts().map(python).join(", ")}])\nprint(proof.verdict)` }));
  }

  function furtherPrompts() { return chosen ? further.value.split("\n").map((line) => line.trim()).filter(Boolean) : []; }
}

export function named(row) {
  const fact = row.facts[0];
  const more = row.facts.length > 1 ? ` and ${row.facts.length - 1} more` : "";
  return fact ? `${fact.prompt.replace("{}", fact.subject)} → ${fact.target_new}${more}` : row.edit.slice(0, 12);
}
