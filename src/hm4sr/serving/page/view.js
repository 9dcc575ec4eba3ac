// Elements of the page. Texts go in as text, never as markup.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export const nameOf = (item) => item.title || item.item_id;

export function picture(item, load) {
  const box = make("span", { class: "picture", "aria-hidden": "true" }, "no picture");
  load(item.item_id).then((url) => {
    if (url) box.replaceChildren(make("img", { src: url, alt: "" }));
  });
  return box;
}

const percent = (share) => `${Math.round(100 * share)} %`;

// Moments are shown and set in UTC, as they are stored.
export const toField = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 19);
export const fromField = (text) => Math.floor(Date.parse(`${text}Z`) / 1000);

export function modalityKey(modalities) {
  const parts = modalities.map((name, place) => make("span", {}, make("i", { class: `m${place % 5}` }), name));
  return make("p", { class: "key" }, "Share of the score:", ...parts,
    make("span", {}, make("i", { class: "m4 against" }), "striped: spoke against"));
}

function shareBar(shares, modalities) {
  const bar = make("div", { class: "bar", "aria-hidden": "true" });
  const words = [];
  modalities.forEach((name, place) => {
    const share = shares[name];
    if (share === undefined) return;
    const part = make("span", { class: `m${place % 5}${share < 0 ? " against" : ""}` });
    part.style.width = `${100 * Math.abs(share)}%`;
    bar.append(part);
    words.push(`${name} ${percent(share)}`);
  });
  if (!words.length) return [];
  return [bar, make("p", { class: "facts shares" }, words.join(" · "))];
}

function move(rank, before) {
  if (before === undefined) return make("span", { class: "moved new" }, "new here");
  if (before === rank) return make("span", { class: "moved" }, "same place");
  const up = before > rank;
  const words = `${up ? "▲" : "▼"} ${Math.abs(before - rank)}`;
  return make("span", { class: `moved ${up ? "up" : "down"}` }, `${words} (was ${before})`);
}

function timeFact(item) {
  if (item.rank_with_even_gaps === null) return "with even gaps: not in the list";
  if (item.rank_with_even_gaps === item.rank) return "with even gaps: same place";
  return `with even gaps: place ${item.rank_with_even_gaps}`;
}

function reasonList(reasons, events, load) {
  if (!reasons.length) return null;
  const items = reasons.map((reason) => {
    const event = events[reason.event];
    const sign = reason.change >= 0 ? "for" : "contra";
    const label = `${nameOf(event)}: ${sign === "for" ? "spoke for it" : "spoke against it"}`;
    return make("li", { title: label }, picture(event, load),
      make("span", { class: sign, "aria-hidden": "true" }, `${reason.change >= 0 ? "+" : "−"}${Math.abs(reason.change).toFixed(2)}`),
      make("span", { class: "sr" }, `${label}, ${reason.change.toFixed(2)}`));
  });
  return make("div", {}, make("p", { class: "facts" }, "Events that mattered most:"),
    make("ul", { class: "reasons" }, ...items));
}

function answerLine(item, why, explained, modalities, before, load) {
  const facts = make("p", { class: "facts" }, `score ${item.score.toFixed(2)}`);
  if (before) facts.append(" · ", move(item.rank, before.get(item.item_id)));
  if (why) facts.append(" · ", timeFact(why));
  const body = make("div", {},
    make("p", { class: "title" }, make("span", { class: "rank" }, `${item.rank}`), nameOf(item)), facts);
  if (why) {
    body.append(...shareBar(why.shares, modalities));
    const reasons = reasonList(why.reasons, explained.events, load);
    if (reasons) body.append(reasons);
  }
  return make("li", { "data-item": item.item_id }, picture(item, load), body);
}

function gateTable(events) {
  const gates = Object.keys(events[0]?.gates ?? {});
  if (!gates.length) return null;
  const rows = events.map((event) => make("tr", {}, make("td", { class: "name" }, nameOf(event)),
    ...gates.map((gate) => {
      const bar = make("span", { class: "experts", "aria-hidden": "true" });
      const weights = event.gates[gate];
      weights.forEach((weight, place) => {
        const part = make("span", { class: `m${place % 5}` });
        part.style.width = `${100 * weight}%`;
        bar.append(part);
      });
      const words = weights.map((weight, place) => `expert ${place + 1}: ${percent(weight)}`).join(", ");
      return make("td", { title: words }, bar, make("span", { class: "sr" }, words));
    })));
  const head = make("tr", {}, make("th", { scope: "col" }, "event"),
    ...gates.map((gate) => make("th", { scope: "col" }, gate)));
  return make("details", { class: "gates" }, make("summary", {}, "Experts that the gates chose"),
    make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Weights of the experts" },
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
}

function timeSentence(time, off) {
  if (!time) return "No known item in the history: these are the most popular items.";
  if (off) return "Times are switched off: the events count as evenly spread.";
  if (time.overlap === 1 && time.mean_shift === 0) return "Effect of time: none; even gaps give the same list.";
  const shift = time.mean_shift === null ? "" : `, which move by ${time.mean_shift.toFixed(1)} places on average`;
  return `Effect of time: with even gaps ${percent(time.overlap)} of these items stay${shift}.`;
}

function dropped(explained, full, load) {
  const now = new Set(explained.answer.items.map((item) => item.item_id));
  const gone = full.filter((item) => !now.has(item.item_id));
  if (!gone.length) return null;
  return make("div", { class: "gone" }, make("h4", {}, "No longer in the list"),
    make("ul", { class: "reasons" }, ...gone.map((item) => make("li", { title: nameOf(item) },
      picture(item, load), make("span", { "aria-hidden": "true" }, `was ${item.rank}`),
      make("span", { class: "sr" }, `${nameOf(item)}, was ${item.rank}`)))));
}

// One run's answer: `explained` as the service told it, `full` the list with nothing switched off, or null.
export function column(run, explained, full, timeOff, load) {
  const why = new Map(explained.items.map((item) => [item.item_id, item]));
  const before = full && new Map(full.map((item) => [item.item_id, item.rank]));
  const lines = explained.answer.items.map((item) =>
    answerLine(item, why.get(item.item_id), explained, run.modalities, before, load));
  const section = make("section", { class: "column", "data-run": run.name },
    make("h3", {}, run.name === run.model ? run.name : `${run.name} (${run.model})`),
    make("p", { class: "note" }, timeSentence(explained.time, timeOff)));
  if (explained.answer.unknown.length) {
    section.append(make("p", { class: "note" }, `Not in this catalogue: ${explained.answer.unknown.join(", ")}.`));
  }
  if (run.modalities.length && explained.items.length) section.append(modalityKey(run.modalities));
  section.append(make("ol", { class: "answers" }, ...lines));
  if (!lines.length) section.append(make("p", { class: "note" }, "No item is left to recommend."));
  for (const more of [full && dropped(explained, full, load), gateTable(explained.events)]) {
    if (more) section.append(more);
  }
  return section;
}
