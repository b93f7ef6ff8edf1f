// Damage: true facts as a strip, sorted by how much their answer moved; one that is chosen shows both texts.

import { el, svg, put, button, say, number, table, figure } from "./dom.js";
import { working, bars, copies, command, differences, python } from "./parts.js";
import { saves } from "./saves.js";

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

  function show({ rows }, note) {
    const most = Math.max(...rows.map((row) => Math.abs(row.moved)), 0.1);
    const names = on.length ? on.map((row) => `edits/${row.edit.slice(0, 12)}`) : ["edits/new"];
    const detail = el("div", { "aria-live": "polite" });
    const lost = rows.filter((row) => row.moved < -0.05).length;
    const bar = (row, n) => button("", () => choose(n), { class: `strip ${row.moved < 0 ? "down" : "up"}`, tabindex: n ? "-1" : "0", "aria-label": `${row.prompt} ${row.answer}: ${number(row.probability[0])} → ${number(row.probability[1])}`, style: { "--share": (Math.abs(row.moved) / most).toFixed(3) }, title: `${row.prompt} ${row.answer}: ${number(row.moved)}` });
    put(results, note && el("p", { class: "note" }, note),
      el("p", { class: `verdict ${lost ? "broken" : ""}` }, lost ? `${lost} of ${rows.length} true facts lost more than 5 points.` : `None of ${rows.length} true facts lost more than 5 points.`),
      el("section", { class: "card" }, el("h2", {}, "Each bar is a fact, the ones that lost most first"), el("p", { class: "soft" }, `A bar of full height moved by ${number(100 * most, 0)} points.`), el("div", { class: "panel", role: "group", "aria-label": "facts by how much they moved; the arrow keys walk through them", onkeydown: walk }, rows.map(bar)), detail, saveStrip(rows, most)),
      el("details", {}, el("summary", {}, "The same as a table"), table(["fact", "before", "after", "moved"], rows.map((row) => el("tr", {}, el("th", { scope: "row" }, `${row.prompt} ${row.answer}`), el("td", {}, figure(row.probability[0])), el("td", {}, figure(row.probability[1])), el("td", {}, figure(row.moved)))), { class: "rows" }, "True facts before and after")),
      on.length ? el("p", { class: "row" }, el("a", { class: "go", href: "#/ledger?" + page.params }, "Take it back in the ledger")) : null,
      copies({ command: command("damage", page.modelName(), ...names, "--facts", rows.length),
        "Python code": `from factedit import Edit, load\nfrom factedit.work.damage import damage, true_facts\n\nmodel = load(${python(page.modelName())})\nedits = [Edit.load(folder) for folder in [${names.map(python).join(", ")}]]\nfor row in damage(model, true_facts(${rows.length}), edits):\n    print(row.prompt, row.answer, row.probability)` }));
    if (rows.length) choose(0);

    function walk(event) {
      const bars = [...event.currentTarget.children], step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const next = bars[bars.indexOf(event.target) + step];
      if (!step || !next) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
      choose(bars.indexOf(next));
    }

    function choose(n) {
      const row = rows[n], texts = differences(row.text[0], row.text[1], [[row.answer, "old"]]);
      put(detail, el("p", { class: "sentence" }, row.prompt, " ", el("strong", { class: "old" }, row.answer)), bars("old", row.answer, row.probability), el("p", {}, el("span", { class: "soft" }, "before: "), texts[0]), el("p", {}, el("span", { class: "soft" }, "after: "), texts[1]));
    }
  }
}

// the strip as a file: a bar per fact, by how much it moved
function saveStrip(rows, most) {
  const [bar, height] = [10, 120];
  return saves("damage", {
    draw: () => svg("svg", { viewBox: `0 0 ${rows.length * bar} ${height + 18}`, role: "img", "aria-label": "facts by how much they moved" },
      rows.map((row, n) => svg("rect", { class: row.moved < 0 ? "fell" : "rose", x: n * bar + 1, width: bar - 2, y: height * (1 - Math.abs(row.moved) / most), height: height * Math.abs(row.moved) / most })),
      svg("text", { class: "tick", x: 0, y: height + 14 }, `full height: ${number(100 * most, 0)} points`)),
    rows: () => [["prompt", "answer", "before", "after", "moved"], ...rows.map((row) => [row.prompt, row.answer, ...row.probability, row.moved])],
    arrays: () => ({ prompts: { shape: [rows.length], data: rows.map((row) => row.prompt) }, probability: { shape: [rows.length, 2], data: rows.flatMap((row) => row.probability) }, moved: { shape: [rows.length], data: rows.map((row) => row.moved) } }),
  });
}
