// What the page does: asks the service, keeps the turns, and has them drawn.

import { Drawing, make, percent } from "/page/drawing.js";

const EXAMPLE = `Ann: Did you hear? I got the job!
Ben: No way! Congratulations!
Ann: I start on Monday. I can hardly believe it.
Ben: Monday? But that is the day of our trip.
Ann: Oh no. I forgot all about it.
Ben: You forgot? I paid for everything!
Ann: I am so sorry, Ben. I will pay you back.
Ben: It is not about the money.`;

const at = (id) => document.getElementById(id);
const state = {
  models: [], limits: {}, drawing: null, key: "",
  model: "", conversation: "conversation", modalities: {}, turns: [], shown: new Set(),
  session: null, queue: Promise.resolve(),
};

class Refused extends Error {
  constructor(status, error) {
    super(error.where ? `${error.message} (${error.where})` : error.message);
    this.status = status;
    this.code = error.code;
  }
}

async function ask(method, path, body, options = {}) {
  const headers = state.key ? { "X-API-Key": state.key } : {};
  if (body !== undefined && !(body instanceof Blob)) headers["Content-Type"] = "application/json";
  if (body instanceof Blob) headers["Content-Type"] = "application/octet-stream";
  const sent = body === undefined || body instanceof Blob ? body : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: sent, ...options });
  } catch {
    throw new Refused(0, { code: "unreachable", message: "The service cannot be reached." });
  }
  if (answer.status === 204) return null;
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  const error = found.error ?? { code: "unknown", message: `The service answered with status ${answer.status}.` };
  if (answer.status === 401) at("key-form").hidden = false;
  throw new Refused(answer.status, error);
}

function say(text) {
  at("status").textContent = text;
}

/** Show what goes wrong; `work` has the page busy until it is done. */
async function trying(work) {
  at("problem").hidden = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    at("problem").textContent = error.message;
    at("problem").hidden = false;
    return undefined;
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

// Models and their looks

async function begin() {
  const { models, limits } = await ask("GET", "/v1/models");
  at("key-form").hidden = true;
  state.models = models;
  state.limits = limits;
  at("model").replaceChildren(...models.map((model) => make("option", {
    value: model.name,
    disabled: !model.reads_text,
    selected: model.name === models.find((m) => m.reads_text)?.name,
  }, model.reads_text ? model.name : `${model.name} (needs recordings)`)));
  at("explain-most").textContent = `(up to ${limits.max_explained} turns; takes longer)`;
}

/** Fetch how the emotions of the chosen model look. */
async function look() {
  if (!state.models.length) await begin();
  const name = at("model").value;
  const model = state.models.find((m) => m.name === name);
  const query = new URLSearchParams(model.labels.map((label) => ["label", label])).toString();
  const looks = await ask("GET", `/page/looks.json?${query}`);
  at("colours").href = `/page/colours.css?${query}`;
  state.drawing = new Drawing(model.labels, looks);
  state.model = name;
}

// What is shown

function show() {
  const { drawing, turns } = state;
  at("result").hidden = turns.length === 0;
  if (!turns.length) return;
  drawing.legend(at("legend"), turns, state.shown, toggle);
  drawing.timeline(at("timeline"), turns, go);
  const unsure = turns.filter((turn) => turn.confidence < 0.5).length;
  at("summary").textContent = `${state.conversation}: ${turns.length} ${turns.length === 1 ? "turn" : "turns"} by ${state.model}`
    + (unsure ? `; less than 50 % sure of ${unsure} (marked ?)` : "");
  const speakers = [...new Set(turns.map((turn) => turn.speaker))].filter(Boolean);
  at("speakers").replaceChildren(...speakers.map((value) => make("option", { value })));
  filter();
}

function rows() {
  at("rows").replaceChildren(...state.turns.map((turn, i) => state.drawing.row(turn, i)));
}

function toggle(label) {
  const { shown } = state;
  if (!shown.delete(label)) shown.add(label);
  show();
}

function filter() {
  for (const row of at("rows").children) {
    row.hidden = state.shown.size > 0 && !state.shown.has(row.dataset.label);
  }
}

function go(turn) {
  state.shown.clear();
  show();
  mark(turn);
  const row = at(`turn-${turn + 1}`);
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "center" });
}

function mark(turn) {
  for (const element of document.querySelectorAll(".at")) element.classList.remove("at");
  at(`turn-${turn + 1}`).classList.add("at");
  for (const link of document.querySelectorAll("#timeline a")) {
    const here = Number(link.dataset.turn) === turn;
    link.tabIndex = here ? 0 : -1;
    link.classList.toggle("at", here);
  }
}

at("timeline").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
  const from = event.target.dataset?.turn;
  if (step === undefined || from === undefined) return;
  event.preventDefault();
  const turn = Math.min(state.turns.length - 1, Math.max(0, Number(from) + step));
  mark(turn);
  document.querySelector(`#timeline a[data-turn="${turn}"]`).focus();
});

// A whole conversation

function empty() {
  const { session } = state;
  Object.assign(state, { turns: [], session: null, modalities: {}, conversation: "conversation" });
  state.shown.clear();
  if (session) ask("DELETE", `/v1/sessions/${session}`).catch(() => {}); // it may be over already
  at("rows").replaceChildren();
  at("answer").replaceChildren();
  show();
}

async function recognise(content, name) {
  const { conversations } = await ask("POST", `/v1/transcripts?name=${encodeURIComponent(name)}`, content);
  const [{ id, utterances }] = conversations;
  await look();
  const { model } = state;
  const explain = at("explain").checked && utterances.length <= state.limits.max_explained;
  const given = utterances.map(({ text, speaker, start_ms, end_ms }) => ({ text, speaker: speaker.slice(0, 200), start_ms, end_ms }));
  const found = await ask("POST", "/v1/predict", { id: id.slice(0, 200), utterances: given, model, explain });
  empty();
  Object.assign(state, { turns: found.utterances, conversation: found.conversation, modalities: found.modalities });
  rows();
  show();
  const left = conversations.length > 1 ? ` The file holds ${conversations.length} conversations; this is the first.` : "";
  say(`${found.utterances.length} turns recognised.${left}`);
  if (left) at("summary").append(left);
  at("result").focus({ preventScroll: true });
  at("result").scrollIntoView({ block: "nearest" });
}

at("whole").addEventListener("submit", (event) => {
  event.preventDefault();
  trying(() => recognise(new Blob([at("transcript").value]), "conversation.txt"));
});

function read(file) {
  at("transcript").value = "";
  trying(() => recognise(file, file.name));
}

at("file").addEventListener("change", (event) => {
  if (event.target.files.length) read(event.target.files[0]);
  event.target.value = ""; // so that the same file can be opened again
});
at("example").addEventListener("click", () => {
  at("transcript").value = EXAMPLE;
  at("whole").requestSubmit();
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("whole").addEventListener(kind, (event) => {
    event.preventDefault();
    at("whole").classList.toggle("dragged", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) read(event.dataTransfer.files[0]);
    else if (kind === "drop") at("transcript").value = event.dataTransfer.getData("text");
  });
}

// Turn by turn

async function append(utterance) {
  if (!state.session) {
    await look();
    const opened = await ask("POST", "/v1/sessions", { model: state.model });
    empty();
    Object.assign(state, { session: opened.session, conversation: opened.conversation });
    at("live-hint").textContent = opened.looks_ahead
      ? "This model looks ahead: a turn may change what was said of those before it."
      : "This model looks back only: what was said of a turn stays.";
  }
  let update;
  try {
    update = await ask("POST", `/v1/sessions/${state.session}/utterances`, utterance);
  } catch (error) {
    if (error.code === "no_such_session") state.session = null; // the next turn begins another
    throw error;
  }
  apply(utterance, update);
}

function apply(utterance, { turn, emotion, changes }) {
  const { turns, drawing } = state;
  const heard = [`Turn ${turn}: ${emotion.label}, ${percent(emotion.confidence)} sure.`];
  for (const change of changes) {
    const place = change.turn - 1;
    Object.assign(turns[place], change.after, { was: change.before });
    const row = at(`turn-${change.turn}`);
    const open = row.querySelector("details").open;
    const redrawn = drawing.row(turns[place], place);
    redrawn.querySelector("details").open = open;
    row.replaceWith(redrawn);
    if (change.before.label !== change.after.label) {
      heard.push(`Turn ${change.turn} changed from ${change.before.label} to ${change.after.label}.`);
    }
  }
  turns[turn - 1] = { turn, ...utterance, ...emotion };
  at("rows").append(drawing.row(turns[turn - 1], turn - 1, true));
  show();
  at("answer").replaceChildren(drawing.chip(emotion.label), heard.join(" "));
}

at("live").addEventListener("submit", (event) => {
  event.preventDefault();
  const utterance = { speaker: at("speaker").value.trim(), text: at("turn").value.trim() };
  if (!utterance.text) return;
  at("turn").value = "";
  at("turn").focus();
  // One after the other, in the order in which they were typed.
  state.queue = state.queue.then(() => trying(() => append(utterance)));
});
at("afresh").addEventListener("click", () => {
  empty();
  at("turn").focus();
  say("A new conversation begins.");
});
at("model").addEventListener("change", () => { if (state.session) empty(); });
addEventListener("pagehide", () => {
  if (state.session) ask("DELETE", `/v1/sessions/${state.session}`, undefined, { keepalive: true }).catch(() => {});
});

// Downloads

function download(name, kind, content) {
  const link = make("a", { href: URL.createObjectURL(new Blob([content], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function plain() {
  return state.turns.map(({ was, ...turn }) => turn);
}

/** The columns of `mmerc predict --format csv`. */
function table() {
  const turns = plain();
  const spread = turns.map(({ probabilities, contributions, influences, ...turn }) => ({
    dialogue_id: state.conversation, ...turn,
    ...Object.fromEntries(Object.entries(probabilities).map(([k, v]) => [`probability_${k}`, v])),
    ...Object.fromEntries(Object.entries(contributions ?? {}).map(([k, v]) => [`contribution_${k}`, v])),
  }));
  const first = ["dialogue_id", "turn", "speaker", "text", "start_ms", "end_ms", "label", "confidence", "context_weight"];
  const columns = [...new Set([...first, ...spread.flatMap(Object.keys)])];
  const quoted = (value) => (typeof value === "number" ? String(value) : value === null || value === undefined ? ""
    : `"${String(value).replaceAll('"', '""')}"`);
  return [columns, ...spread.map((row) => columns.map((name) => row[name]))]
    .map((cells) => `${cells.map(quoted).join(",")}\n`).join("");
}

at("json").addEventListener("click", () => {
  const document = { model: state.model, conversation: state.conversation, modalities: state.modalities, utterances: plain() };
  download("emotions.json", "application/json", `${JSON.stringify(document, null, 2)}\n`);
});
at("csv").addEventListener("click", () => download("emotions.csv", "text/csv", table()));

// Settings of the page

const darkness = matchMedia("(prefers-color-scheme: dark)");
function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  at("theme").setAttribute("aria-pressed", String(dark));
}
at("theme").addEventListener("click", () => theme(at("theme").getAttribute("aria-pressed") !== "true"));
darkness.addEventListener("change", () => theme(darkness.matches));
theme(darkness.matches);

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = at("key").value;
  trying(begin);
});

trying(begin);
