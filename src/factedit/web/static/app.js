// The page: which view is shown, what the server holds, and the address that brings a view back.

import { el, put, button } from "./dom.js";
import { keeping } from "./forms.js";
import { get, follow, whenLost } from "./talk.js";
import { freeze, trouble } from "./parts.js";
import * as ask from "./ask.js";
import * as where from "./where.js";
import * as change from "./change.js";
import * as proof from "./proof.js";
import * as damage from "./damage.js";
import * as ledger from "./ledger.js";
import * as compare from "./compare.js";
import * as audit from "./audit.js";

const VIEWS = { ask, where, change, proof, damage, ledger, compare, audit };
const FIRST = { subject: "The Space Needle", relation: "{} is located in the city of", new: "Paris", old: "Seattle" };
const main = document.getElementById("main");
const page = { server: null, example: null, suggestions: { relations: [] }, kept: {}, view: "", params: new URLSearchParams() };

// what a view may use
page.get = (name) => page.params.get(name) ?? FIRST[name] ?? "";
page.prompt = () => page.get("relation").replace("{}", page.get("subject"));
page.objects = () => [[page.get("new"), "new"], [page.get("old"), "old"]];
page.ready = () => Boolean(page.server?.model);
page.on = () => (page.server?.ledger ?? []).filter((row) => row.on);
page.onKey = () => page.on().map((row) => row.edit).join(" "); // what was answered holds while the same edits are on
page.isFirst = () => Object.entries(FIRST).every(([name, value]) => page.get(name) === value);
page.modelName = () => page.server?.name ?? "MODEL";

page.set = (values) => {
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === undefined || value === "") page.params.delete(name);
    else page.params.set(name, value);
  }
  if (location.hash !== shown) return; // the reader has gone elsewhere, and is not taken back
  history.replaceState(null, "", address(page.view));
  shown = location.hash;
  drawViews();
};
// what the server holds; what is drawn from it is drawn again where it changed
page.refresh = () => look().catch((error) => { if (!away) say(error.message, "error"); });
// An answer came to a view that was left. Where the same view is shown again it is drawn from what was kept; views that
// ask by themselves when they are drawn need no such thing.
page.arrived = (root, view, show) => {
  if (root.isConnected) show();
  else if (VIEWS[page.view] === VIEWS[view]) again();
};
page.suggested = new Promise((done) => { page.suggest = (all) => { page.suggestions = all; done(); }; });

const OF_LEDGER = ["ask", "proof", "damage", "ledger", "compare"];
let looks = 0, seen = 0;

async function look() {
  const mine = ++looks, server = await get("/api/state");
  if (mine < seen) return; // a later look was answered before
  seen = mine;
  const ready = page.ready(), ledger = JSON.stringify(page.server?.ledger);
  page.server = server;
  drawHead();
  const changed = ledger !== JSON.stringify(server.ledger) && OF_LEDGER.includes(page.view);
  if (!document.getElementById("title") || ready !== page.ready() || changed) again();
}

let shown = ""; // the address whose view is drawn
const address = (view) => `#/${view}?${page.params}`;

function read() {
  shown = location.hash;
  const [view, query] = location.hash.replace(/^#\/?/, "").split("?");
  page.view = Object.hasOwn(VIEWS, view) ? view : "ask";
  page.params = new URLSearchParams(query ?? "");
}

function draw(focus = true) {
  const view = VIEWS[page.view];
  drawViews();
  document.title = `${view.title} · factedit`;
  const content = el("section", { "aria-labelledby": "title" });
  put(main, el("div", { class: "title" }, el("h1", { id: "title" }, view.title),
    el("div", { class: "tools" }, button("Save this view", () => freeze(content.parentElement, page.view).catch((e) => content.prepend(trouble(e))), { class: "quiet", title: "one HTML file that needs nothing else" }))), content);
  view.draw(content, page);
  if (focus) main.focus({ preventScroll: true });
}

// the same view again, with what was typed
const again = () => keeping(main, () => draw(false));

function drawViews() {
  const nav = document.getElementById("views"), scrolled = nav.firstChild?.scrollLeft ?? 0;
  put(nav, el("ol", {}, Object.entries(VIEWS).map(([name, view]) =>
    el("li", {}, el("a", { href: address(name), "aria-current": name === page.view ? "page" : null }, view.title,
      name === "ledger" && page.on().length ? el("span", { class: "count" }, ` ${page.on().length} on`) : null)))));
  const list = nav.firstChild, current = list.querySelector("[aria-current]"); // on a narrow screen the list is scrolled to where one is
  list.scrollLeft = scrolled;
  if (current && (current.offsetLeft < list.scrollLeft + list.offsetLeft || current.offsetLeft + current.offsetWidth > list.offsetLeft + list.scrollLeft + list.clientWidth)) list.scrollLeft = current.offsetLeft - list.offsetLeft - 24;
}

function drawHead() {
  const server = page.server;
  const state = server.model ? `${server.model.n_layer} layers, ${server.model.dtype}` : server.failed ? "could not be loaded" : "is being loaded …";
  put(document.getElementById("model"), el("strong", {}, server.name), " ", el("span", { class: "soft" }, state));
  put(document.getElementById("foot"), el("p", {}, `factedit ${server.version}. Nothing leaves this machine.`), server.notice && el("p", {}, server.notice));
  if (server.failed) say(server.failed, "error");
  drawViews();
}

function drawSwitches() {
  const root = document.documentElement;
  const pair = (key, label, values) => {
    const now = remembered(key) ?? values[0][0];
    root.classList.toggle(values[1][0], now === values[1][0]);
    return el("fieldset", { class: "pair" }, el("legend", { class: "hidden" }, label), values.map(([value, text]) =>
      el("label", {}, el("input", { type: "radio", name: key, value, checked: value === now, onchange: () => { remember(key, value); root.classList.toggle(values[1][0], value === values[1][0]); } }), el("span", {}, text))));
  };
  const themes = [["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]];
  const theme = remembered("theme") ?? "auto";
  root.dataset.theme = theme;
  put(document.getElementById("switches"),
    pair("words", "Explanations", [["words", "In simple words"], ["formulas", "With the formula"]]),
    el("label", { class: "theme" }, el("span", { class: "hidden" }, "Colours"), el("select", { onchange: (event) => { remember("theme", event.target.value); root.dataset.theme = event.target.value; } },
      themes.map(([value, text]) => el("option", { value, selected: value === theme }, text)))));
}

const remembered = (key) => { try { return sessionStorage.getItem(key); } catch { return null; } };
const remember = (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* a window that keeps nothing */ } };

function say(text, kind = "soft") { put(document.getElementById("status"), text && el("p", { class: kind }, text)); }

let away = false;
whenLost((now) => {
  if (now === away) return;
  away = now;
  say(now ? "The server does not answer. This page picks up again when it is back." : "");
  if (!now) page.refresh();
});

async function wait() {
  for (;;) {
    await new Promise((done) => setTimeout(done, page.ready() ? 5000 : 700));
    await page.refresh();
  }
}

async function start() {
  read();
  // listened to before anything is waited for: who follows a link meanwhile is brought there
  window.addEventListener("hashchange", () => { read(); if (page.server) draw(); });
  drawSwitches();
  document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
  try {
    [page.server, page.example] = await Promise.all([get("/api/state"), get("/static/example.json").catch(() => null)]);
    drawHead();
    draw(false);
    get("/api/suggestions").then(page.suggest, () => {}); // the server takes it for a sign that the first view is drawn
    const loading = page.server.jobs.find((job) => job.what.startsWith("loading"));
    if (loading) follow(loading.job).then(page.refresh, (error) => say(error.message, "error"));
  } catch (error) {
    put(main, trouble(error));
  }
  wait();
}

start();
