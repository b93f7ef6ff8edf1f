// Ledger: what is on the model, in order; switch, take back, show that nothing is left, export.

import { el, put, button, say, number, fold, table } from "./dom.js";
import { working, trouble, copies, command, python } from "./parts.js";
import { saveTable } from "./saves.js";
import { post, run } from "./talk.js";
import { named } from "./proof.js";

export const title = "Ledger";

export function draw(root, page) {
  const rows = page.server.ledger;
  const told = el("div", { class: "found", id: "told" }), shipped = el("div", { class: "found" }), past = el("div");
  put(root,
    el("p", { class: "lead" }, say("Everything that was changed, in order. The model itself is never overwritten here: an edit that is on is put on while you ask, and taken off again.",
      "W is kept to the bit; with the edits that are on, W + Σ ΔWᵢ is used inside one question. A SHA-256 over every tensor shows it.")),
    rows.length ? list() : el("p", {}, "Nothing yet. ", el("a", { href: "#/change?" + page.params }, "Change a fact"), "."),
    el("div", { class: "row" }, button("Take everything back, and show that nothing is left", undo, { class: "go", disabled: !page.ready() })), told,
    exporting(), shipped, past);
  put(past, happened());
  if (page.kept.told?.on === page.onKey()) put(told, page.kept.told.said);

  function list() {
    return el("ol", { class: "ledger" }, rows.map((row, n) => {
      const share = row.size.weight_norm ? ` · ‖ΔW‖/‖W‖ ${number(100 * row.size.update_norm / row.size.weight_norm, 2)} %` : "";
      return el("li", { class: "card" },
        el("button", { type: "button", role: "switch", "aria-checked": String(row.on), "aria-label": `${named(row)}: on the model`, class: "switch", onclick: () => act(() => run("switch", { edit: row.edit, on: !row.on })) }, el("span", { "aria-hidden": "true" }, row.on ? "on" : "off")),
        el("div", {}, el("p", {}, el("strong", {}, named(row))),
          el("p", { class: "soft" }, `${row.method}${row.layers.length ? `, layer ${row.layers.join(", ")}` : ", no weight changed"}${share} · ${row.came}, ${row.since.replace("T", " ").replace("+00:00", " UTC")} · `, el("code", {}, row.edit.slice(0, 12))),
          row.warnings.map((text) => el("p", { class: "warn" }, text))),
        el("div", { class: "moves" }, order(row, n, -1), order(row, n, 1)),
        row.on ? el("a", { href: `#/proof?edit=${row.edit}` }, "Prove") : button("Forget", () => act(() => post("forget", { edit: row.edit })), { class: "quiet", "aria-label": `Forget ${named(row)}` }));
    }));
  }

  // up or down, where the model stays the same to the bit; else the button says why not
  function order(row, n, by) {
    const pair = by < 0 ? n - 1 : n;
    if (rows.length < 2 || pair < 0 || pair >= rows.length - 1) return null;
    const why = page.server.exchange[pair];
    return button(by < 0 ? "↑" : "↓", () => why ? tell(el("p", { class: "note", role: "status" }, why)) : act(() => post("move", { edit: row.edit, by, past: rows[n + by].edit })),
      { class: "quiet", "aria-label": `${named(row)}: one place ${by < 0 ? "up" : "down"}`, "aria-disabled": why ? "true" : null, title: why || "the model stays the same to the bit" });
  }

  async function act(what) {
    let said = null;
    try { await what(); } catch (error) { said = trouble(error); }
    page.kept.ask = page.kept.proof = page.kept.damage = null;
    await page.refresh();
    tell(said);
  }

  // what is said of the ledger as it is now: it stays where the view is drawn again
  function tell(said) {
    page.kept.told = { said, on: page.onKey() };
    put(document.getElementById("told") ?? told, said);
  }

  async function undo() {
    const got = await working(told, "undo", {});
    if (!got) return;
    page.kept.ask = page.kept.proof = page.kept.damage = null;
    await page.refresh();
    tell(hashes(got));
  }

  function hashes(got) {
    const same = got.restored && got.after === got.at_start;
    const line = (name, hash) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, hash ? el("code", {}, hash) : "–"));
    return el("section", { class: "card", role: "status" }, el("h2", {}, same ? "Nothing is left: the same bits as before" : "The bits differ; please report this"),
      el("table", { class: "hashes" }, el("caption", { class: "hidden" }, "SHA-256 of all weights"), el("tbody", {}, line("at the start", got.at_start), line("before", got.before), line("edited", got.edited), line("taken back", got.after))));
  }

  // what was done, by whom and when, the last first
  function happened() {
    const lines = page.server.history.toReversed();
    if (!lines.length) return null;
    return el("section", { class: "card" }, el("h2", {}, "What was done"),
      table(["when", "who", "what"], lines.map(({ when, who, what }) => el("tr", {}, el("td", {}, when.replace("T", " ").replace("+00:00", " UTC")), el("td", {}, who), el("td", {}, what))), { class: "rows history" }, "History of the model"),
      saveTable("history", ["when", "who", "what"], page.server.history.map((event) => [event.when, event.who, event.what])));
  }

  function exporting() {
    const on = page.on(), where = page.server.exports;
    const names = on.map((row) => `edits/${row.edit.slice(0, 12)}`);
    const form = el("select", { "aria-label": "form", id: "form" }, Object.entries(where?.forms ?? {}).map(([name, what]) => el("option", { value: name }, `${name}: ${what}`)));
    const inWeights = on.every((row) => row.in_weights);
    return el("section", { class: "card" }, el("h2", {}, "Hand it on"),
      !where ? el("p", { class: "soft" }, "Start the server with --out FOLDER, and the edits that are on can be exported there.")
        : !on.length ? el("p", { class: "soft" }, "Nothing is on the model.")
        : !inWeights ? el("p", { class: "soft" }, "An edit that is on changes no weights (a text before prompts, or a memory); it cannot be exported as a model.")
        : el("div", { class: "row" }, form, button(`Export into ${where.folder}`, async () => {
          const got = await working(shipped, "export", { form: form.value });
          if (!got) return;
          await page.refresh();
          put(past, happened());
          put(shipped, el("section", { class: "card", role: "status" }, el("h2", {}, `${got.folder}: ${(got.bytes / 1e6).toFixed(2)} MB, loaded back and compared`),
            el("p", {}, `${got.same_first_token} of ${got.prompts} prompts have the same first token; largest difference of a probability ${number(got.largest_probability_difference, 6)}.`),
            got.advice && el("p", {}, got.advice),
            el("p", { class: "soft" }, say("To serve it, where THIS-FOLDER is the export and BASE the model it was made for; the second command asks it whether the edits are on:", "Serving (vLLM, llama.cpp), and the canaries of canaries.json:")),
            el("pre", { tabindex: "0", "aria-label": "commands that serve it" }, got.serve.join("\n")),
            fold("Its card (README.md)", el("pre", { tabindex: "0", "aria-label": "the export's card" }, got.card)), fold(`Licence ${got.licence}: whoever passes this on has to`, el("ul", {}, got.duties.map((duty) => el("li", {}, duty))))));
        }, { class: "go" })),
      copies({ command: `${command("apply", page.modelName(), ...names, "--out", "edited")} && factedit verify edited\n${command("ship", page.modelName(), ...names, "--as", "peft", "--out", "shipped")}`,
        "Python code": `from factedit import Edit, apply, load\n\nmodel = load(${python(page.modelName())})\nedits = [Edit.load(folder) for folder in [${names.map(python).join(", ")}]]\napply(model, edits, "edited")` }));
  }
}
