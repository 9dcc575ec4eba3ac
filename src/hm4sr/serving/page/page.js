// State of the page, and its talk with the service.
import { column, fromField, make, nameOf, picture, toField } from "./view.js";

const at = (id) => document.getElementById(id);
const PAGE = 24;
const state = { runs: [], events: [], found: [], total: 0, off: new Set(), asked: 0, searched: 0 };
let token = sessionStorage.getItem("token") ?? "";

async function call(path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const reply = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  if (reply.status === 401) at("token-form").hidden = false;
  return reply;
}

async function ask(path, body) {
  const reply = await call(path, body);
  const told = await reply.json();
  if (!reply.ok) throw new Error(told.error);
  return told;
}

// Pictures are fetched with the token and shown from memory, a few at a time.
const pictures = new Map();
const waiting = [];
let loading = 0;

function loadPicture(id) {
  if (!pictures.has(id)) {
    pictures.set(id, new Promise((done) => {
      waiting.push([id, done]);
      loadNext();
    }));
  }
  return pictures.get(id);
}

async function loadNext() {
  if (loading >= 6 || !waiting.length) return;
  loading += 1;
  const [id, done] = waiting.shift();
  let url = null;
  try {
    if (hasPicture.get(id) !== false) {
      const reply = await call(`items/${encodeURIComponent(id)}/picture`);
      if (reply.ok) url = URL.createObjectURL(await reply.blob());
    }
  } catch { /* no picture then */ }
  loading -= 1;
  done(url);
  loadNext();
}

const hasPicture = new Map();

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

// History

function nextMoment() {
  const last = state.events.at(-1);
  const run = state.runs[0];
  return last ? last.time + (run.gap || 86400) : run.last_moment;
}

function addEvent(item) {
  state.events.push({ ...item, time: nextMoment() });
  showHistory();
  recommend();
}

function showHistory() {
  state.events.sort((one, other) => one.time - other.time);
  at("history").replaceChildren(...state.events.map((event) => {
    const when = make("input", {
      type: "datetime-local", step: "1", value: toField(event.time), "aria-label": `Time of ${nameOf(event)}, UTC`,
      onchange: (change) => setTime(event, change.target.value),
    });
    const remove = make("button", { type: "button", "aria-label": `Remove ${nameOf(event)}`, onclick: () => removeEvent(event) }, "✕");
    return make("li", {}, picture(event, loadPicture), make("span", { class: "title", title: nameOf(event) }, nameOf(event)), when, remove);
  }));
  at("history-empty").hidden = state.events.length > 0;
  at("spread").disabled = state.events.length < 3;
  at("clear").disabled = !state.events.length;
}

function setTime(event, text) {
  const seconds = fromField(text);
  if (Number.isNaN(seconds)) return;
  event.time = seconds;
  showHistory();
  at("history").children[state.events.indexOf(event)].querySelector("input").focus();
  recommend();
}

function removeEvent(event) {
  const place = state.events.indexOf(event);
  state.events.splice(place, 1);
  showHistory();
  const buttons = at("history").querySelectorAll("button");
  (buttons[Math.min(place, buttons.length - 1)] ?? at("words")).focus();
  recommend();
}

function spreadEvenly() {
  const first = state.events[0].time;
  const step = (state.events.at(-1).time - first) / (state.events.length - 1);
  state.events.forEach((event, place) => { event.time = Math.floor(first + place * step); });
  showHistory();
  recommend();
}

async function loadUser(id) {
  const told = await ask("explain", { users: [id], k: 1, num_reasons: 0 });
  state.events = told.explanations[0].events.map(({ item_id, title, time }) => ({ item_id, title, time }));
  showHistory();
  await recommend();
}

async function loadExample() {
  const run = state.runs[0];
  const places = [0, 1].map(() => Math.floor(Math.random() * Math.min(60, run.items)));
  const found = await Promise.all(places.map((first) => ask(`items?first=${first}&count=1`)));
  const seeds = found.map(({ items }) => items[0]);
  const alike = await ask("similar", { items: seeds.map((item) => item.item_id), k: 2 });
  const gap = Math.max(run.gap, 86400);
  const chosen = [...new Map(seeds.flatMap((item, place) => [item, ...alike.answers[place].items])
    .map((item) => [item.item_id, item])).values()];
  state.events = chosen.map(({ item_id, title }, place) => (
    { item_id, title, time: run.last_moment - gap * (chosen.length - 1 - place) ** 2 }));
  showHistory();
  await recommend();
}

// Search

async function search(more = false) {
  const asked = ++state.searched;
  const first = more ? state.found.length : 0;
  const words = encodeURIComponent(at("words").value.slice(0, 200));
  const told = await ask(`items?words=${words}&first=${first}&count=${PAGE}`);
  if (asked !== state.searched) return;
  told.items.forEach((item) => hasPicture.set(item.item_id, item.picture));
  state.found = more ? [...state.found, ...told.items] : told.items;
  state.total = told.total;
  const buttons = told.items.map((item) => make("li", {}, make("button", {
    type: "button", "aria-label": `Add ${nameOf(item)}`, title: nameOf(item), onclick: () => addEvent(item),
  }, picture(item, loadPicture), make("span", { class: "title" }, nameOf(item)))));
  if (more) at("found").append(...buttons);
  else at("found").replaceChildren(...buttons);
  const count = state.total.toLocaleString("en");
  at("found-count").textContent = state.total === 1 ? "1 item" : `${count} items`;
  at("more").hidden = state.found.length >= state.total;
}

function walk(press) {
  const buttons = [...at("found").querySelectorAll("button")];
  const place = buttons.indexOf(document.activeElement);
  if (!buttons.length || (place < 0 && press.key !== "ArrowDown")) return;
  const tops = buttons.map((button) => button.offsetTop);
  const wide = Math.max(1, tops.filter((top) => top === tops[0]).length);
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide };
  if (!(press.key in steps)) return;
  press.preventDefault();
  const next = place < 0 ? 0 : place + steps[press.key];
  if (next < 0) at("words").focus();
  else buttons[Math.min(next, buttons.length - 1)].focus();
}

// Answers

function question(run, without) {
  const category = at("category").value;
  return {
    histories: [state.events.map(({ item_id, time }) => ({ item_id, time }))],
    k: Math.min(Math.max(Number.parseInt(at("k").value, 10) || 8, 1), state.limits.explain_k),
    filter_seen: !at("seen").checked,
    categories: category ? [category] : null,
    run: run.name,
    without: without.filter((name) => name === "time" || run.modalities.includes(name)),
  };
}

async function answerOf(run) {
  const off = [...state.off];
  const body = question(run, off);
  const explained = ask("explain", { ...body, num_reasons: 4 });
  const full = body.without.length ? ask("recommend", question(run, [])) : null;
  const [why, all] = await Promise.all([explained, full]);
  return column(run, why.explanations[0], all && all.answers[0].items, state.off.has("time"), loadPicture);
}

async function recommend() {
  const asked = ++state.asked;
  say("Asking …");
  try {
    const columns = await Promise.all(state.runs.map(answerOf));
    if (asked !== state.asked) return;
    const open = [...document.querySelectorAll("details.gates")].some((details) => details.open);
    at("columns").replaceChildren(...columns);
    document.querySelectorAll("details.gates").forEach((details) => { details.open = open; });
    say(`${columns[0].querySelectorAll(".answers > li").length} items after ${state.events.length} events.`);
  } catch (error) {
    if (asked === state.asked) say(error.message, true);
  }
}

function showRuns() {
  const names = [...new Set(state.runs.flatMap((run) => run.modalities))];
  at("runs").textContent = state.runs
    .map((run) => `${run.name === run.model ? run.name : `${run.name} (${run.model})`} knows ${run.items.toLocaleString("en")} items.`)
    .join(" ");
  at("switches").replaceChildren(...[...names, "time"].map((name) => make("label", { class: "check" },
    make("input", { type: "checkbox", checked: !state.off.has(name), "data-modality": name, onchange: (change) => {
      if (change.target.checked) state.off.delete(name);
      else state.off.add(name);
      recommend();
    } }), name)));
  const categories = state.runs[0].categories;
  at("category-field").hidden = !categories.length;
  at("category").replaceChildren(make("option", { value: "" }, "all"),
    ...categories.map((name) => make("option", { value: name }, name)));
  at("k").max = state.limits.explain_k;
}

async function begin() {
  const told = await ask("runs");
  Object.assign(state, told);
  at("token-form").hidden = true;
  showRuns();
  showHistory();
  await Promise.all([search(), loadExample()]);
}

const tell = (error) => say(error.message, true);
let typing;

at("words").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => search().catch(tell), 150);
});
at("build").addEventListener("keydown", (press) => {
  if (press.target === at("words") || at("found").contains(press.target)) walk(press);
});
at("words").addEventListener("keydown", async (press) => {
  if (press.key !== "Enter") return;
  clearTimeout(typing);
  try {
    await search(); // what is shown may belong to the words before
    at("found").querySelector("button")?.click();
  } catch (error) { tell(error); }
});
at("more").addEventListener("click", () => search(true).catch(tell));
at("example").addEventListener("click", () => loadExample().catch(tell));
at("spread").addEventListener("click", spreadEvenly);
at("clear").addEventListener("click", () => { state.events = []; showHistory(); recommend(); at("words").focus(); });
at("options").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["k", "category", "seen"]) at(id).addEventListener("change", recommend);
at("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  loadUser(at("user").value).catch(tell);
});
at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  sessionStorage.setItem("token", token);
  begin().catch(tell);
});
begin().catch(tell);
