// Compare: edits of one fact side by side; results of evaluations as tables and curves, the records behind each number.

import { el, put, say, figure, number, table } from "./dom.js";
import { get, post } from "./talk.js";
import { trouble, command, copies, python, turn } from "./parts.js";
import { field } from "./forms.js";
import { bars, differences } from "./pieces.js";
import { curves, legend } from "./charts.js";
import { drawn } from "./drawings.js";
import { columns } from "./scores.js";
import { saves, saveTable } from "./saves.js";
import { named } from "./proof.js";

export const title = "Compare";

const SHOWN = 12; // records; the others are in the files

export function draw(root, page) {
  const folders = page.server.folders.filter((folder) => folder.kind === "results");
  const results = el("div", { class: "found" });
  put(root, el("p", { class: "lead" }, "Methods side by side: on one fact, as you changed it here; and over many facts: how often the new fact is given, in other words too, and how often neighbours stay."), ownEdits());
  if (!folders.length) {
    put(results, el("section", { class: "card" }, el("h2", {}, "Over many facts"), el("p", {}, "The server was started without results. Make some, and start it with their folder:"),
      el("pre", { tabindex: "0" }, `${command("evaluate", page.modelName(), "--dataset", "worldfacts", "--method", "rome,rome-original", "--records", "20", "--out", "runs/new")}\n${command("serve", page.modelName(), "--folder", "runs/new")}`)));
    root.append(results);
    return;
  }
  const pick = el("select", { onchange: (event) => { page.set({ results: event.target.value }); show(event.target.value); } }, folders.map((folder) => el("option", { value: folder.number, selected: String(folder.number) === page.params.get("results") }, folder.name)));
  root.append(field("Results", pick), results);
  show(pick.value);

  // edits of the ledger that change the same fact, by other methods or at other layers
  function ownEdits() {
    const groups = Map.groupBy(page.server.ledger.filter((row) => row.facts.length === 1 && row.told[0]?.after?.target_new !== undefined), (row) => JSON.stringify([row.facts[0].subject, row.facts[0].prompt]));
    const several = [...groups.values()].filter((rows) => rows.length > 1);
    if (!several.length) return el("p", { class: "soft" }, "Change one fact by two methods, or at two layers, and they stand here side by side. ", el("a", { href: "#/change?" + page.params }, "Change a fact"), ".");
    return several.map((rows) => el("section", { class: "card" }, el("h2", {}, `${rows[0].facts[0].prompt.replace("{}", rows[0].facts[0].subject)} …`),
      table(["edit", "the new object", "the present one", "size of the change"], rows.map((row) => {
        const [{ before, after }] = row.told, fact = row.facts[0];
        return el("tr", {}, el("th", { scope: "row" }, `${row.method}, layer ${row.layers.join(", ")} → ${fact.target_new}`),
          el("td", {}, bars("new", fact.target_new, [before.target_new, after.target_new])),
          el("td", {}, after.target_true === undefined ? "–" : bars("old", fact.target_true, [before.target_true, after.target_true])),
          el("td", {}, row.size.weight_norm ? [figure(100 * row.size.update_norm / row.size.weight_norm, 2), say(" % of the matrix", " % = ‖ΔW‖ / ‖W‖")] : "–"));
      }), { class: "rows" }, `Edits of ${named(rows[0])} side by side`)));
  }

  async function show(which) {
    const last = turn(results);
    put(results, el("p", { class: "soft", role: "status" }, "Reading the results and their intervals …"));
    const got = await get(`/api/results/${which}`).catch((error) => { if (last()) put(results, trouble(error)); });
    if (!got || !last() || !root.isConnected) return;
    const names = columns(got.rows), behind = el("div", { class: "found" });
    put(results,
      drawn("scores", got, { open: (method, score) => records(behind, which, method, score), saved: [
        saveTable("scores", ["method", ...names, ...names.map((name) => `${name}_half_width`)], Object.entries(got.rows).map(([method, row]) => [method, ...names.map((name) => row[name] ?? null), ...names.map((name) => row.ci?.[name] ?? null)])),
        el("details", {}, el("summary", {}, "What it is of"), el("dl", {}, Object.entries(got.about).map(([name, value]) => [el("dt", {}, name), el("dd", {}, el("code", {}, value))])))] }),
      behind, got.points.length ? retention(got) : null,
      copies({ command: command("report", `runs/${got.name}`),
        "Python code": `from pathlib import Path\n\nfrom factedit.work.results import read_results\n\nfolder = Path(${python(`runs/${got.name}`)})\nprint(read_results([folder])[folder].summary)` }));
    const [row, score] = [page.params.get("row"), page.params.get("score")];
    if (row && score && got.rows[row]) records(behind, which, row, score);
  }

  async function records(place, which, row, score) {
    page.set({ results: which, row, score });
    const last = turn(place);
    put(place, el("p", { class: "soft", role: "status" }, "Reading the records …"));
    const got = await post("records", { results: Number(which), row }).catch((error) => { if (last()) put(place, trouble(error)); });
    if (!got || !last()) return;
    const there = got.cases.filter((record) => typeof record.scores?.[score] === "number").sort((a, b) => a.scores[score] - b.scores[score]);
    const ids = there.slice(0, 10).map((record) => record.case).join(",");
    put(place, el("section", { class: "card records" }, el("h2", {}, `${score} of ${row}`),
      el("p", { class: "soft" }, there.length ? `${there.length} records, the lowest first${there.length > SHOWN ? `; the first ${SHOWN} are shown` : ""}.` : "This number is made of all records together, or of the whole model: no single record has one."),
      there.length ? table(["record", score, "it writes"], there.slice(0, SHOWN).map((record) => el("tr", {}, el("th", { scope: "row" }, record.fact || record.case, record.fact && el("span", { class: "hint" }, record.case)),
        el("td", {}, figure(record.scores[score], 2), record.failed && el("span", { class: "warn" }, " not edited")), el("td", {}, record.continuation ? differences(record.continuation, record.continuation)[1] : "–"))), { class: "rows" }, `Records behind ${score}`) : null,
      there.length ? saves("records", { rows: () => [["case", score], ...there.map((record) => [record.case, record.scores[score]])],
        arrays: () => ({ cases: { shape: [there.length], data: there.map((record) => record.case) }, [score]: { shape: [there.length], data: there.map((record) => record.scores[score]) } }) }) : null,
      there.length ? copies({ command: command("evaluate", page.modelName(), "--dataset", got.dataset, "--ids", ids) }) : null));
    place.scrollIntoView({ block: "nearest" });
  }

  function retention(got) {
    const names = [...new Set(got.points.map((point) => `${point.method}, ${point.regime}`))];
    const of = (name) => got.points.filter((point) => `${point.method}, ${point.regime}` === name);
    const lines = (score) => [...names.map((name) => ({ name, at: of(name).map((point) => point.facts), mean: of(name).map((point) => got.rows[point.row][score] ?? null), half: of(name).map((point) => got.rows[point.row].ci?.[score] ?? null) })), ...before(got, score)].filter((line) => line.at.length);
    const drawn = (score) => curves(`${got.pictures[score].title} against facts on the model`, lines(score), { x: "facts on the model", log: true, ...(got.pictures[score].percent ? { low: 0, high: 100, digits: 0 } : {}) });
    return el("section", { class: "card" }, el("h2", {}, "Many facts on one model"),
      el("p", { class: "soft" }, say("What is left as more and more facts are put on the same model. Bands: how sure the numbers are.", "Scores against the number of facts on the model, with 95 % bands; the unedited model beside them.")),
      legend([...names, "unedited"]),
      el("div", { class: "charts" }, Object.keys(got.pictures).map((score) => el("figure", {}, el("figcaption", {}, got.pictures[score].title), drawn(score), saves(`many-${score}`, {
        draw: () => drawn(score),
        rows: () => [["line", "facts", score, "half_width"], ...lines(score).flatMap((line) => line.at.map((at, n) => [line.name, at, line.mean[n], line.half[n]]))],
        arrays: () => Object.fromEntries(lines(score).flatMap((line) => [[`${line.name}/facts`, { shape: [line.at.length], data: line.at }], [`${line.name}/mean`, { shape: [line.at.length], data: line.mean }], [`${line.name}/half_width`, { shape: [line.at.length], data: line.half }]])),
      }))), got.ages.length ? ages(got, names) : null));
  }

  // of the longest sequence of every method: what is still written, by the age of the fact
  function ages(got, names) {
    const lines = names.map((name) => {
      const age = got.ages.find((row) => `${row.method}, ${row.regime}` === name);
      return { name: age ? `${name}, ${age.facts} facts` : name, at: age?.at ?? [], mean: age?.written ?? [], half: age?.at.map(() => null) ?? [] };
    });
    const drawn = () => curves("written by itself against the fact's place in the sequence", lines, { x: "place in the sequence, %: oldest facts left", low: 0, high: 100, digits: 0 });
    const there = lines.filter((line) => line.at.length);
    return el("figure", { class: "ages" }, el("figcaption", {}, say("Does it forget the old ones? The share of facts that the model still writes by itself, the oldest left: ", "Retention by age: % of facts still written by itself after the longest sequence, in tenths of its order: "), there.map((line) => line.name).join("; ")), drawn(),
      saves("by-age", { draw: drawn, rows: () => [["line", "place", "written"], ...there.flatMap((line) => line.at.map((at, n) => [line.name, at, line.mean[n]]))],
        arrays: () => Object.fromEntries(there.flatMap((line) => [[`${line.name}/place`, { shape: [line.at.length], data: line.at }], [`${line.name}/written`, { shape: [line.at.length], data: line.mean }]])) }));
  }

  function before(got, score) {
    const row = Object.keys(got.methods).find((name) => got.methods[name] === "unedited");
    const at = [...new Set(got.points.map((point) => point.facts))].sort((a, b) => a - b);
    const value = row === undefined ? undefined : got.rows[row][score];
    return value === undefined || !got.pictures[score].unedited ? [] : [{ name: "unedited", at, mean: at.map(() => value), half: at.map(() => null) }];
  }
}
