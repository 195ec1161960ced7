// The page: a conversation with the server's models.

import { ApiError, chat, models } from "./api.js";
import { draw, replay, saysFrame } from "./canvas.js";

const at = (id) => document.getElementById(id);
const log = at("log"), form = at("ask"), prompt = at("prompt"), options = at("options").querySelector("form");
const KEPT = "dgemma.turns";
let known = [], turns = [], running = null;

function made(kind, className, text = "") {
  const element = document.createElement(kind);
  element.className = className;
  element.textContent = text;
  element.dir = "auto";
  return element;
}

const facts = () => known.find((one) => one.id === at("model").value)?.dgemma ?? {};
const says = (text) => { at("status").textContent = text; };

function chosen() {
  const given = Object.fromEntries(new FormData(options));
  const body = { frames: true };
  for (const name of ["max_tokens", "seed", "temperature", "early_commit"]) if (given[name] !== "") body[name] = Number(given[name]);
  if (given.start_width) body.start_width = given.start_width === "auto" ? "auto" : Number(given.start_width);
  if (given.adaptive) body.adaptive = false;
  if (given.decoder) body.decoder = given.decoder;
  if (given.think && facts().thinking) body.think = true;
  return { body, key: given.key, system: facts().system ? given.system : "", compare: Boolean(given.compare) };
}

// What autoregressive decoding has no use for.
function forDecoder(body, decoder) {
  const one = { ...body, decoder };
  if (decoder !== "autoregressive") return one;
  for (const name of ["temperature", "early_commit", "start_width", "adaptive", "frames"]) delete one[name];
  return one;
}

function conversation(content, system) {
  const asked = { role: "user", content };
  if (facts().single_turns) return [asked];
  const before = turns.flatMap((turn) => [
    { role: "user", content: turn.asked }, { role: "assistant", content: turn.text },
  ]);
  return [...(system ? [{ role: "system", content: system }] : []), ...before.filter((one) => one.content), asked];
}

function remember() {
  try { sessionStorage.setItem(KEPT, JSON.stringify({ model: at("model").value, turns })); } catch { /* it is full, or off */ }
}

// One answer: its card, and what is shown in it while it comes.
class Card {
  constructor(title) {
    this.box = made("section", "answer");
    this.thought = made("details", "thought");
    this.thought.append(made("summary", "", "Thoughts"), made("div", ""));
    this.thought.hidden = true;
    this.canvas = made("div", "canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.text = made("p", "text");
    this.note = made("p", "note", "waiting …");
    this.box.append(...(title ? [made("h3", "", title)] : []), this.thought, this.canvas, this.text, this.note);
    this.frames = [];
    this.tokens = 0;
    this.started = performance.now();
    this.clock = setInterval(() => this.tick(), 100);
  }

  get seconds() { return (performance.now() - this.started) / 1000; }

  tick() {
    const last = this.frames.at(-1);
    this.note.textContent = `${this.seconds.toFixed(1)} s · ${last ? saysFrame(last) : this.text.textContent ? "writing" : "waiting for its turn"}`;
  }

  take(event) {
    if (event.frame) {
      this.frames.push({ ...event.frame, at: performance.now() });
      draw(this.canvas, this.frames, this.frames.length - 1);
    }
    if (event.thinking) {
      this.thought.hidden = false;
      this.thought.lastChild.textContent += event.thinking;
    }
    if (event.text) this.text.textContent += event.text;
    if (event.text && this.frames.length) this.text.hidden = true; // the canvas shows it until all is committed
    if (event.usage) this.usage = event.usage;
    if (event.finish) [this.finish, this.warnings] = [event.finish, event.warnings];
  }

  end(problem) {
    clearInterval(this.clock);
    this.canvas.hidden = true;
    this.text.hidden = false;
    const usage = this.usage;
    const parts = [];
    if (usage) {
      const computed = Math.max(usage.generation_s, 0.001);
      parts.push(`${usage.completion_tokens} tokens`, `${usage.steps} steps`, `${(usage.completion_tokens / computed).toPrecision(3)} tokens/s`);
      parts.push(`${this.seconds.toFixed(2)}\u00a0s, ${computed.toFixed(2)}\u00a0s of that computing`, `seed ${usage.seed}`);
    }
    if (this.finish === "length") parts.push("cut at the limit");
    this.note.textContent = [...parts, ...(this.warnings ?? [])].join(" · ");
    if (problem) {
      const error = made("p", "error", problem);
      error.setAttribute("role", "alert");
      this.box.append(error);
    }
    if (this.frames.length > 1) this.box.append(replay(this.frames, (index) => this.show(index)));
  }

  show(index) {
    const last = index === this.frames.length - 1;
    this.canvas.hidden = last;
    this.text.hidden = !last;
    draw(this.canvas, this.frames, index);
  }
}

function asked(text) {
  at("empty").hidden = true;
  log.append(made("div", "asked", text));
}

// Shows the end of the log after a change, unless whoever reads has scrolled up.
function staying(change) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (follows) log.scrollTop = log.scrollHeight;
}

// Follows one stream to its end; what was committed stays, whatever happens.
async function follow(card, body, key, signal) {
  let problem;
  try {
    for await (const event of chat(body, key, signal)) staying(() => card.take(event));
  } catch (error) {
    if (signal.aborted) problem = "Stopped. What was committed is kept.";
    else if (error instanceof ApiError) problem = error.message;
    else problem = "The connection broke. What was committed is kept; ask again to continue.";
  }
  staying(() => card.end(problem));
  return card.text.textContent;
}

async function ask(content) {
  const { body, key, system, compare } = chosen();
  const stop = new AbortController();
  running = stop;
  busy(true);
  asked(content);
  const turn = { asked: content, text: "" };
  const request = { ...body, model: at("model").value, messages: conversation(content, system) };
  const decoders = compare ? ["diffusion", "autoregressive"] : [request.decoder ?? "diffusion"];
  const cards = decoders.map((decoder) => new Card(compare ? decoder : ""));
  const row = made("div", "answers");
  row.append(...cards.map((card) => card.box));
  log.append(row);
  log.scrollTop = log.scrollHeight;
  turns.push(turn);
  says("The model answers.");
  const texts = await Promise.all(cards.map((card, i) => follow(card, forDecoder(request, decoders[i]), key, stop.signal)));
  turn.text = texts[0];
  remember();
  busy(false);
  says(`Answer: ${texts.join("; ") || "none"}`);
}

function busy(yes) {
  at("send").hidden = yes;
  at("stop").hidden = !yes;
  at("model").disabled = yes;
  log.setAttribute("aria-busy", String(yes));
  if (!yes) { running = null; prompt.focus(); }
}

function restore() {
  let kept = null;
  try { kept = JSON.parse(sessionStorage.getItem(KEPT)); } catch { /* none */ }
  if (!kept?.turns?.length) return;
  if (known.some((one) => one.id === kept.model)) at("model").value = kept.model;
  turns = kept.turns;
  for (const turn of turns) {
    asked(turn.asked);
    const row = made("div", "answers"), card = made("section", "answer");
    card.append(made("p", "text", turn.text || "(no answer was kept)"));
    row.append(card);
    log.append(row);
  }
}

function showFacts() {
  const about = facts();
  const size = about.parameters ? `${(about.parameters / 1e6).toPrecision(3)} M parameters · ` : "";
  at("facts").textContent = about.context ? `${size}${about.recipe ?? ""} · canvas ${about.canvas_length} · context ${about.context}` : "";
  at("single").hidden = !about.single_turns;
  for (const label of options.querySelectorAll("[data-needs]")) label.hidden = !about[label.dataset.needs];
}

async function connect() {
  try {
    known = await models(options.elements.key.value);
    at("model").replaceChildren(...known.map((one) => new Option(one.id, one.id)));
    showFacts();
    return true;
  } catch (error) {
    says(error.message);
    at("facts").textContent = error instanceof ApiError ? error.message : "The server cannot be reached.";
    return false;
  }
}

function fresh() {
  running?.abort();
  turns = [];
  remember();
  log.replaceChildren(at("empty"));
  at("empty").hidden = false;
  showFacts();
}

function theme(next) {
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("dgemma.theme", next); } catch { /* off */ }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const content = prompt.value.trim();
  if (!content || running) return;
  prompt.value = "";
  prompt.style.height = "";
  ask(content);
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
});
prompt.addEventListener("input", () => { prompt.style.height = ""; prompt.style.height = `${prompt.scrollHeight + 2}px`; });
addEventListener("keydown", (event) => { if (event.key === "Escape" && running && !at("options").open) running.abort(); });
at("stop").addEventListener("click", () => running?.abort());
at("new").addEventListener("click", fresh);
at("model").addEventListener("change", fresh);
at("settings").addEventListener("click", () => at("options").showModal());
at("options").addEventListener("close", () => {
  try { sessionStorage.setItem("dgemma.key", options.elements.key.value); } catch { /* off */ }
  if (!known.length) connect();
});
at("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

let stored = null;
try { stored = localStorage.getItem("dgemma.theme"); options.elements.key.value = sessionStorage.getItem("dgemma.key") ?? ""; } catch { /* off */ }
document.documentElement.dataset.theme = stored ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
if (await connect()) restore();
prompt.focus();
