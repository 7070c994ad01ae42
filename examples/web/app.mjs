// The page: pickers, loading, and the conversation between a person, a guard and a chat model.

import { Closed } from "./engine.mjs";
import { explainOnline } from "./errors.mjs";
import { VERDICT_TOKENS, parseVerdict } from "./guard.mjs";
import { Slot } from "./slot.mjs";
import { detectGpu, megabytes } from "./variants.mjs";
import { Log } from "./view.mjs";

const ANSWER_TOKENS = 512;
const byId = (id) => document.getElementById(id);

const log = new Log(byId("log"), byId("scroll"));
const input = byId("message");
const turns = [];
let slots = { chat: null, guard: null };
/** What Stop does at the moment; `null` while nothing runs. */
let stop = null;

async function start() {
  const models = await (await fetch("/models.json")).json();
  const gpu = await detectGpu();
  if (gpu) byId("device").append(new Option(`GPU (WebGPU, ${gpu.name})`, "webgpu"));
  const environment = () => ({ device: byId("device").value, gpu });
  const pickers = (name) => ({ model: byId(`${name}-model`), variant: byId(`${name}-variant`) });
  const slot = (name) => new Slot(models, pickers(name), environment);
  slots = { chat: slot("chat"), guard: slot("guard") };

  const talker = models.find(({ name }) => !/guard/i.test(name));
  byId("chat-model").value = talker?.id ?? "";
  byId("guard-model").value = talker ? "" : models[0].id;
  byId("settings").addEventListener("change", refresh);
  byId("settings").addEventListener("submit", (event) => run(event, load));
  byId("composer").addEventListener("submit", (event) => (stop ? halt(event) : run(event, send)));
  byId("new-chat").addEventListener("click", newChat);
  byId("toggle").addEventListener("click", () => showSettings(!document.body.classList.contains("settings-open")));
  for (const button of document.querySelectorAll("#welcome button")) {
    button.addEventListener("click", () => suggest(button.textContent));
  }
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!stop) byId("composer").requestSubmit();
    }
  });
  input.addEventListener("input", fit);
  document.addEventListener("keydown", (event) => event.key === "Escape" && stop?.());
  refresh();
  document.body.classList.add("started");
}

// --- Settings ------------------------------------------------------------------------------------------------------

function refresh() {
  for (const slot of Object.values(slots)) slot.refresh();
  byId("chat-variant-field").hidden = slots.chat.model === null;
  byId("guard-variant-field").hidden = slots.guard.model === null;
  const missing = unloaded();
  if (missing.length > 0) report("", null);
  document.body.classList.toggle("ready", missing.length === 0);
  const bytes = missing.reduce((sum, { choice }) => sum + choice.bytes, 0);
  byId("load").textContent = missing.length > 0 ? `Load ${megabytes(bytes)}` : "Loaded";
  byId("summary").textContent = summary();
  update();
}

/** The slots whose choice is not loaded. */
function unloaded() {
  return Object.values(slots).filter((slot) => slot.choice && !slot.ready);
}

function summary() {
  const named = ({ name, dtype }) => `${name} · ${dtype}`;
  const [chat, guard] = [slots.chat.choice, slots.guard.choice];
  if (chat && guard) return `${named(chat)}, guarded by ${named(guard)}`;
  if (chat) return named(chat);
  return guard ? `${named(guard)}, verdicts only` : "No model chosen";
}

function report(text, fraction) {
  byId("status").textContent = text;
  byId("progress").hidden = fraction === null;
  byId("progress").value = fraction ?? 0;
}

/** Buttons follow what is going on. */
function update() {
  const busy = stop !== null;
  const nothing = !slots.chat.choice && !slots.guard.choice;
  document.body.classList.toggle("busy", busy);
  byId("send").setAttribute("aria-label", busy ? "Stop" : "Send");
  byId("send").disabled = !busy && nothing;
  byId("load").disabled = busy || unloaded().length === 0;
  byId("new-chat").disabled = busy;
  for (const picker of byId("settings").querySelectorAll("select")) picker.disabled = busy;
}

function showSettings(open) {
  document.body.classList.toggle("settings-open", open);
  byId("toggle").setAttribute("aria-expanded", String(open));
}

async function load() {
  const missing = unloaded();
  if (missing.length === 0) return;
  const begin = performance.now();
  const counts = new Map(missing.map((slot) => [slot, { loaded: 0, total: slot.choice.bytes }]));
  const sum = (field) => [...counts.values()].reduce((total, count) => total + count[field], 0);
  const show = (text) => report(text, sum("loaded") / sum("total"));
  const count = () => show(`Loading: ${megabytes(sum("loaded"))} of ${megabytes(sum("total"))}`);
  let threads = 1;
  for (const slot of missing) {
    stop = () => slot.close();
    update();
    count();
    ({ threads } = await slot.load((loaded, total) => {
      counts.set(slot, { loaded, total });
      if (loaded < total) count();
      else show(`Starting ${slot.choice.name} …`);
    }));
  }
  const seconds = ((performance.now() - begin) / 1000).toFixed(1);
  const where = missing[0].choice.device === "wasm" ? `${threads} ${threads === 1 ? "thread" : "threads"}` : "GPU";
  refresh();
  report(`Ready: ${megabytes(sum("total"))} in ${seconds} s, ${where}`, 1);
  showSettings(false);
}

// --- Conversation --------------------------------------------------------------------------------------------------

async function send() {
  const text = input.value.trim();
  if (text === "") return;
  input.value = "";
  fit();
  document.body.classList.add("talking");
  const message = log.user(text);
  try {
    await load();
    if (slots.guard.choice && !(await passes(text, message))) return;
    if (slots.chat.choice) await answer(text);
  } catch (error) {
    message.remove();
    if (input.value === "") input.value = text;
    fit();
    throw error;
  }
}

/** Whether the guard calls the message safe; says so at the message, and why it stays unanswered. */
async function passes(text, message) {
  const { engine, choice } = slots.guard;
  stop = () => engine.stop();
  message.verdict({ kind: "judging" });
  update();
  const found = await engine.generate([{ role: "user", content: text }], VERDICT_TOKENS);
  if (found.ended === "stopped") {
    message.withdraw();
    log.note("Stopped before there was a verdict.");
    return false;
  }
  const verdict = parseVerdict(found.text);
  message.verdict(verdict);
  const refusal = slots.chat.choice ? "Not answered: " : "";
  if (verdict.kind === "unclear") {
    log.note(`${refusal}“${shortened(found.text)}” is no verdict. Is ${choice.name} a Llama Guard model?`);
  } else if (verdict.kind === "unsafe" && refusal) {
    log.note(`${refusal}${choice.name} calls this message unsafe.`);
  }
  return verdict.kind === "safe";
}

async function answer(text) {
  const { engine, choice } = slots.chat;
  stop = () => engine.stop();
  update();
  const reply = log.assistant();
  const asked = { role: "user", content: text };
  try {
    const made = await engine.generate([...turns, asked], ANSWER_TOKENS, reply.append);
    const said = made.text.trim();
    reply.finish(said, facts(made, choice));
    if (said !== "") turns.push(asked, { role: "assistant", content: said });
  } catch (error) {
    reply.fail();
    throw error;
  }
}

function facts({ tokens, tokensPerSecond, firstMs, promptTokens, ended }, { dtype, device }) {
  const speed = tokensPerSecond === null ? [] : [`${tokensPerSecond.toFixed(1)} tokens/s`];
  const first = `first token after ${(firstMs / 1000).toFixed(2)} s`;
  const counts = `${promptTokens} tokens read, ${tokens} written`;
  const why = { finished: [], stopped: ["stopped"], full: ["cut off"] }[ended];
  return [...speed, first, counts, `${dtype}, ${device}`, ...why].join(" · ");
}

function shortened(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 60)}…` : line;
}

function newChat() {
  turns.length = 0;
  log.clear();
  document.body.classList.remove("talking");
  input.focus();
}

function suggest(text) {
  input.value = text;
  byId("composer").requestSubmit();
}

/** The box is as high as its text, up to where CSS stops it. */
function fit() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

// --- Around everything ---------------------------------------------------------------------------------------------

/** Run a job that Stop can end, and show in the page what goes wrong. */
async function run(event, job) {
  event.preventDefault();
  if (stop) return;
  let aborted = false;
  try {
    await job();
  } catch (error) {
    aborted = error instanceof Closed;
    if (!aborted) problem(await explainOnline(error));
  }
  stop = null;
  refresh();
  if (aborted) report("Loading was stopped.", null);
  input.focus({ preventScroll: true });
}

function halt(event) {
  event.preventDefault();
  stop();
}

function problem(words) {
  document.body.classList.add("talking");
  log.problem(words);
}

start().catch(async (error) => problem(await explainOnline(error)));
