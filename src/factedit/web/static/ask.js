// Ask: the likeliest next tokens and the greedy text, unedited and edited side by side.

import { el, put, button, say } from "./dom.js";
import { field, lead } from "./forms.js";
import { topTable, differences } from "./pieces.js";
import { working, copies, command, python } from "./parts.js";
import { saveTable } from "./saves.js";

export const title = "Ask";

export function draw(root, page) {
  const prompt = el("textarea", { rows: 2, maxlength: page.server.limits.prompt, value: page.params.get("prompt") ?? page.prompt() });
  const guess = el("input", { type: "text", maxlength: 60, autocomplete: "off" });
  const results = el("div", { class: "found" });
  const go = button("Ask the model", ask, { class: "go", disabled: !page.ready() });
  const guesses = fold(guess);
  put(root,
    el("p", { class: "lead" }, say("A language model goes on with a text, one piece of a word at a time. Here is what it thinks comes next, and what it writes by itself.",
      "P(next token | prompt): softmax of the logits at the last token; below it the greedy continuation (arg max at every step).")),
    el("form", { onsubmit: (event) => { event.preventDefault(); ask(); } }, field("Prompt", prompt), guesses, el("div", { class: "row" }, go)), results);

  const stored = page.example?.asked;
  if (page.kept.ask?.key === page.onKey() && page.kept.ask.asked.prompt === prompt.value) show(page.kept.ask);
  else if (stored && prompt.value === stored.prompt && !page.ready()) show({ asked: stored, guess: "" }, `A stored answer of ${page.example.model}, edited as in “Change”; the model is being loaded.`);
  else if (page.ready() && prompt.value) ask();

  async function ask() {
    page.set({ prompt: prompt.value === page.prompt() ? null : prompt.value });
    const key = page.onKey();
    const asked = await working(results, "ask", { prompt: prompt.value });
    if (!asked) return;
    page.kept.ask = { asked, guess: guess.value.trim(), key };
    show(page.kept.ask);
  }

  function show({ asked, guess: guessed }, note) {
    const objects = page.objects();
    const after = asked.after;
    const texts = after ? differences(asked.before.text, after.text, objects) : differences(asked.before.text, asked.before.text, objects);
    const side = (name, reply, text) => el("section", { class: "card" }, el("h2", {}, name), topTable(reply, objects, "Likeliest next tokens"),
      el("p", { class: "writes" }, el("span", { class: "soft" }, "writes: "), text));
    const shown = el("div", {}, el("div", { class: "sides" }, side("Unedited", asked.before, texts[0]),
      after ? side("Edited", after, texts[1]) : el("section", { class: "card empty" }, el("h2", {}, "Edited"), el("p", { class: "soft" }, "No edit is on the model. "), el("p", {}, el("a", { href: "#/change?" + page.params }, "Change a fact"), " and this side shows what it did."))));
    put(results, note && el("p", { class: "note" }, note));
    if (guessed) {
      const hit = asked.before.top.find((likely) => likely.text.trim() && guessed.toLowerCase().startsWith(likely.text.trim().toLowerCase()));
      const told = hit ? `You said “${guessed}”. The model gives it ${(100 * hit.probability).toFixed(1)} %.` : `You said “${guessed}”. It is not among the model's ten likeliest.`;
      const reveal = button("Show what the model says", () => { put(results, el("p", { class: "note" }, told), shown); }, { class: "go" });
      results.append(el("p", {}, "Your prediction is in. Ready?"), reveal);
      lead(reveal);
    } else results.append(shown);
    const both = [["unedited", asked.before], ...(after ? [["edited", after]] : [])];
    shown.append(saveTable("next-tokens", ["model", "rank", "token", "probability"], both.flatMap(([name, reply]) => reply.top.map((likely, n) => [name, n + 1, likely.text, likely.probability]))));
    const on = page.on().map((row) => row.edit.slice(0, 12));
    results.append(copies({
      command: command("ask", page.modelName(), asked.prompt, ...on.flatMap((edit) => ["--edit", `edits/${edit}`])),
      "Python code": `from factedit import load\nfrom factedit.work.ask import ask\n\nmodel = load(${python(page.modelName())})\n[asked] = ask(model, [${python(asked.prompt)}])\nprint(asked.before.top, asked.before.text)`,
    }));
  }
}

function fold(guess) {
  return el("details", { class: "guess" }, el("summary", {}, "Predict first (for teaching)"), field("What comes next?", guess, "Write it down, then ask; the answer is shown when you are ready."));
}
