// Damage: true facts as a strip, sorted by how much their answer moved; one that is chosen shows both texts.

import { el, put, button, say } from "./dom.js";
import { drawn } from "./drawings.js";
import { saveStrip } from "./files.js";
import { working, copies, command, python } from "./parts.js";

export const title = "Damage";

export function draw(root, page) {
  const on = page.on();
  const count = el("select", { "aria-label": "how many facts" }, [24, 60, 120].map((n) => el("option", { value: n, selected: String(n) === page.params.get("panel") }, `${n} facts`)));
  const results = el("div", { class: "found" });
  put(root,
    el("p", { class: "lead" }, say("True facts that have nothing to do with the edit. Did they move?", "Known facts of the embedded set: P of the true object (length-normalised) with W + ΔW minus that with W.")),
    on.length ? el("div", { class: "row" }, count, button("Ask them before and after", ask, { class: "go" })) : el("p", {}, "Nothing is on the model, so nothing can have moved. ", el("a", { href: "#/change?" + page.params }, "Change a fact"), " first."), results);
  const stored = page.example?.damage;
  if (on.length && page.kept.damage?.key === page.onKey()) show(page.kept.damage.result);
  else if (!on.length && stored) show(stored, `A stored panel of ${page.example.model}, after the stored edit.`);

  async function ask() {
    page.set({ panel: count.value === "24" ? null : count.value });
    const key = page.onKey();
    const result = await working(results, "damage", { facts: Number(count.value) });
    if (!result) return;
    page.kept.damage = { result, key };
    page.arrived(root, "damage", () => show(result));
  }

  function show(result, note) {
    const { rows } = result, names = on.length ? on.map((row) => `edits/${row.edit.slice(0, 12)}`) : ["edits/new"];
    put(results, note && el("p", { class: "note" }, note), drawn("strip", result, { saved: saveStrip(rows) }),
      on.length ? el("p", { class: "row" }, el("a", { class: "go", href: "#/ledger?" + page.params }, "Take it back in the ledger")) : null,
      copies({ command: command("damage", page.modelName(), ...names, "--facts", rows.length),
        "Python code": `from factedit import Edit, load\nfrom factedit.work.damage import damage, true_facts\n\nmodel = load(${python(page.modelName())})\nedits = [Edit.load(folder) for folder in [${names.map(python).join(", ")}]]\nfor row in damage(model, true_facts(${rows.length}), edits):\n    print(row.prompt, row.answer, row.probability)` }));
  }
}
