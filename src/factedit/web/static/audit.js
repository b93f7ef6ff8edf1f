// Audit: was a model edited, how, and about what? Between the model and folders that the server was started with.

import { el, put, button, field, say, number, table, figure, token } from "./dom.js";
import { working, copies, command } from "./parts.js";

export const title = "Audit";

export function draw(root, page) {
  const folders = page.server.folders.filter((own) => own.kind === "model");
  const found = el("div", { class: "found" });
  put(root, el("p", { class: "lead" }, say("Two models that should be the same: what differs, does it look like an edit, and which fact does it look like?",
    "The difference of every tensor and its rank are certain; suspects are candidates whose key lies in what the difference reads, in the metric of C: an inference.")));
  if (!folders.length) {
    put(found, el("p", {}, "The server was started without a model to look at. Folders are named when it is started, never in the browser:"),
      el("pre", { tabindex: "0" }, command("serve", page.modelName(), "--folder", "downloads/suspect")));
    root.append(found);
    return;
  }
  const base = el("select", {}, el("option", { value: "" }, `${page.server.name} (in memory)`), folders.map((own) => el("option", { value: own.number }, own.name)));
  const suspect = el("select", {}, folders.map((own) => el("option", { value: own.number }, own.name)));
  root.append(el("form", { class: "card", onsubmit: (event) => { event.preventDefault(); compare(); } },
    el("div", { class: "grid" }, field("It is said to be", base), field("Is it?", suspect)), el("div", { class: "row" }, el("button", { type: "submit", class: "go", disabled: !page.ready() }, "Compare"))), found);
  if (page.kept.audit) show(page.kept.audit);

  async function compare() {
    const got = await working(found, "audit", { base: base.value === "" ? null : Number(base.value), suspect: Number(suspect.value) });
    if (!got) return;
    page.kept.audit = got;
    show(got);
  }

  function show(got) {
    put(found, el("p", { class: `verdict ${got.differences.length ? "broken" : ""}`, role: "status" }, `${got.base} and ${got.suspect}: ${got.verdict}.`),
      el("p", {}, got.statement),
      got.differences.length ? el("section", { class: "card" }, el("h2", {}, "What differs (certain)"), table(["tensor", "rank", "size"], got.differences.slice(0, 20).map((row) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, row.tensor)), el("td", {}, row.rank ?? "–"), el("td", {}, figure(row.relative, 4)))), { class: "rows" }, "Tensors that differ")) : null,
      got.suspicions.length ? el("section", { class: "card" }, el("h2", {}, "What it may be about (inferred)"), table(["candidate", "score", "tokens that rise there"], got.suspicions.map((row) => el("tr", {}, el("th", { scope: "row" }, row.prompt), el("td", {}, figure(row.score)), el("td", {}, row.promoted.slice(0, 3).map(([text, was, now]) => [token(text), ` ${number(was)} → ${number(now)} `])))), { class: "rows" }, "Facts it may be about")) : null,
      copies({ command: command("audit", got.base, got.suspect) }));
  }
}
