// How a result looks: legend, timeline and rows. Texts enter the page as text nodes alone, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const LOW_CONFIDENCE = 0.5;
const MANY = 60; // turns from which on the timeline has no shapes

/** Make an element; `properties` are set on it, `children` are elements or text. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function path(d, name = "") {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("d", d);
  if (name) element.setAttribute("class", name);
  return element;
}

function svg(box, name) {
  const element = document.createElementNS(SVG, "svg");
  element.setAttribute("viewBox", box);
  element.setAttribute("class", name);
  element.setAttribute("aria-hidden", "true");
  return element;
}

function clock(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((part, i) => (i ? String(part).padStart(2, "0") : part)).join(":");
}

/** Draws results of one model: `labels` in its order, `looks` as `/page/looks.json` has them. */
export class Drawing {
  constructor(labels, looks) {
    this.labels = labels;
    this.looks = looks;
  }

  shape(label) {
    const k = this.labels.indexOf(label);
    const drawn = svg("0 0 16 16", `shape e${k}`);
    drawn.append(path(this.looks.shapes[k]));
    return drawn;
  }

  chip(label) {
    return make("span", { className: `chip e${this.labels.indexOf(label)}` }, this.shape(label), label);
  }

  bar(share, name = "") {
    const inner = make("i", { className: name });
    inner.style.width = `${Math.min(100, Math.max(0, 100 * share))}%`;
    return make("span", { className: "bar", "aria-hidden": "true" }, inner);
  }

  /** Fill the legend: one switch for each emotion that occurs. */
  legend(place, turns, shown, toggle) {
    const counts = new Map();
    for (const turn of turns) counts.set(turn.label, (counts.get(turn.label) ?? 0) + 1);
    const order = this.looks.order.map((k) => this.labels[k]).filter((label) => counts.has(label));
    const focused = document.activeElement?.dataset?.label;
    place.replaceChildren(place.firstElementChild, ...order.map((label) => make("button", {
      type: "button",
      "data-label": label,
      "aria-pressed": String(shown.has(label)),
      onclick: () => toggle(label),
    }, this.shape(label), `${label} (${counts.get(label)})`)));
    if (focused) [...place.children].find((button) => button.dataset.label === focused)?.focus();
  }

  /** Draw a lane for each speaker and the probabilities below; only one turn is a tab stop. */
  timeline(place, turns, go) {
    place.classList.toggle("many", turns.length > MANY);
    const lanes = new Map();
    turns.forEach((turn, i) => {
      if (!lanes.has(turn.speaker)) lanes.set(turn.speaker, make("div", { className: "track" }));
      const link = make("a", {
        href: `#turn-${i + 1}`,
        className: `e${this.labels.indexOf(turn.label)}`,
        tabIndex: i === turns.length - 1 ? 0 : -1,
        title: `${i + 1}: ${turn.label}, ${percent(turn.confidence)}`,
        "aria-label": `Turn ${i + 1}, ${turn.speaker || "nobody named"}: ${turn.label}, ${percent(turn.confidence)} sure`,
        "data-turn": i,
        onclick: (event) => { event.preventDefault(); go(i); },
      }, this.shape(turn.label));
      link.style.left = `${(100 * i) / turns.length}%`;
      link.style.width = `max(2px, calc(${100 / turns.length}% - ${turns.length > MANY ? 0 : 2}px))`;
      lanes.get(turn.speaker).append(link);
    });
    const rows = [...lanes].map(([speaker, track]) =>
      make("div", { className: "lane" }, make("span", { title: speaker }, speaker || "–"), track));
    place.replaceChildren(...rows, make("div", { className: "lane" }, make("span", { className: "chance" }, "chances"), this.ribbon(turns)));
  }

  ribbon(turns) {
    const drawn = svg(`0 0 ${turns.length} 1`, "ribbon");
    drawn.setAttribute("preserveAspectRatio", "none");
    const base = turns.map(() => 1);
    for (const k of this.looks.order) {
      const d = turns.map((turn, i) => {
        const height = turn.probabilities[this.labels[k]];
        base[i] -= height;
        return `M${i} ${base[i].toFixed(4)}h1v${height.toFixed(4)}h-1z`;
      });
      drawn.append(path(d.join(""), `e${k}`));
    }
    return drawn;
  }

  row(turn, i, fresh = false) {
    const unsure = turn.confidence < LOW_CONFIDENCE;
    const when = turn.start_ms === undefined || turn.start_ms === null ? null
      : make("span", { className: "when" }, clock(turn.start_ms));
    const changed = turn.was ? make("p", { className: "changed" },
      `was ${turn.was.label}, ${percent(turn.was.confidence)} sure, before a later turn`) : null;
    const li = make("li", { id: `turn-${i + 1}`, tabIndex: -1, "data-label": turn.label },
      make("span", { className: "number", "aria-hidden": "true" }, String(i + 1)),
      make("span", { className: "who" }, turn.speaker || "–", when),
      make("span", { className: "said" }, turn.text),
      make("span", { className: "verdict" }, this.chip(turn.label)),
      make("span", { className: `sure e${this.labels.indexOf(turn.label)}` }, this.bar(turn.confidence),
        make("span", unsure ? { className: "low", title: "less than 50 % sure" } : {},
          percent(turn.confidence) + (unsure ? " ?" : ""))),
      changed,
      make("details", {}, make("summary", {}, "Why", make("span", { className: "unseen" }, ` turn ${i + 1} is ${turn.label}`)),
        this.reasons(turn)));
    li.classList.toggle("revised", Boolean(turn.was));
    li.classList.toggle("new", fresh);
    return li;
  }

  reasons(turn) {
    const probabilities = this.looks.order.map((k) => this.labels[k]).reverse().map((label) =>
      [label, turn.probabilities[label], `e${this.labels.indexOf(label)}`, this.shape(label)]);
    const parts = [this.list("Probabilities", probabilities)];
    if (turn.contributions) parts.push(this.list("How far each modality is trusted",
      Object.entries(turn.contributions).map(([name, share]) => [name, share, "", null])));
    if (turn.context_weight !== null && turn.context_weight !== undefined) {
      parts.push(this.list("How much of the conversation entered", [["context", turn.context_weight, "", null]]));
    }
    if (turn.influences) parts.push(this.influences(turn));
    return make("div", { className: "details" }, ...parts);
  }

  list(title, entries) {
    const cells = entries.flatMap(([name, share, colour, shape]) => [
      make("dt", {}, ...(shape ? [shape] : []), name),
      make("dd", { className: colour }, share === null ? "missing" : this.bar(share)),
      make("dd", {}, share === null ? "" : percent(share)),
    ]);
    return make("div", {}, make("h3", {}, title), make("dl", {}, ...cells));
  }

  influences(turn) {
    const strong = turn.influences.filter(({ change }) => Math.abs(change) >= 0.005);
    const items = strong.map(({ turn: other, change }) => make("li", {},
      make("a", { href: `#turn-${other}` }, `turn ${other}`),
      make("span", { className: change > 0 ? "for" : "against" },
        ` speaks ${change > 0 ? "for" : "against"} it by ${percent(Math.abs(change))}`)));
    return make("div", {}, make("h3", {}, "Turns that mattered most"),
      items.length ? make("ul", {}, ...items) : make("p", {}, "none by 1 % or more"));
  }
}
