// Drives the chat page in headless Chromium: reads a scenario as JSON from stdin, writes what it saw as JSON to stdout.
//
// { url, steps: [{ do: name, ... }], gpu?, scheme?, width?, height? } -> { seen: [...], requests: [...], errors: [...] }
// `seen` has an entry for each step that sees. Requests to another origin are aborted, and listed with the others.

import { readFileSync } from "node:fs";

import { browsing } from "../javascript/chromium.mjs";

const PATIENCE = 300_000;
const IMPATIENCE = 10_000;

/** Steps that do something. */
const ACTIONS = {
  choose: (page, { label, option }) => page.getByLabel(label, { exact: true }).selectOption(option),
  write: (page, { text }) => page.getByLabel("Message", { exact: true }).fill(text),
  press: (page, { key }) => page.keyboard.press(key),
  click: (page, { button }) => page.getByRole("button", { name: button }).click(),
  rest: (page) => page.locator("body.started:not(.busy)").waitFor({ timeout: PATIENCE }),
  text: (page) => page.locator("#log > .assistant:last-child > .text:not(:empty)").waitFor({ timeout: PATIENCE }),
  screenshot: (page, { path }) => page.screenshot({ path }),
  scheme: (page, { scheme }) => page.emulateMedia({ colorScheme: scheme }),
  size: (page, { width, height }) => page.setViewportSize({ width, height }),
};

/** Steps that see something. */
const VIEWS = {
  options: (page, { label }) => page.getByLabel(label, { exact: true }).locator("option").allTextContents(),
  read: (page) => page.evaluate(readPage),
  reach: (page, { url }) => page.evaluate(reach, url),
};

/** The page as a person sees it. Runs in the page. */
function readPage() {
  const text = (selector, within = document) => within.querySelector(selector)?.textContent ?? null;
  return {
    summary: text("#summary"),
    status: text("#status"),
    load: text("#load"),
    progress: document.querySelector("#progress").hidden ? null : document.querySelector("#progress").value,
    send: document.querySelector("#send").getAttribute("aria-label"),
    message: document.querySelector("#message").value,
    focused: document.activeElement.id,
    isolated: window.crossOriginIsolated,
    log: [...document.querySelectorAll("#log > li")].map((item) => ({
      kind: item.classList[0],
      text: text(".text", item) ?? item.textContent,
      chips: [...item.querySelectorAll(".chip")].map((chip) => chip.textContent),
      facts: text(".facts", item),
    })),
  };
}

/** Whether the page gets an answer from an address. Runs in the page. */
async function reach(url) {
  try {
    await fetch(url, { mode: "no-cors" });
    return true;
  } catch {
    return false;
  }
}

/** A `navigator.gpu` that has an adapter, with or without shader-f16, but computes nothing. Runs in the page. */
function pretendGpu(features) {
  const adapter = { features: new Set(features), info: { vendor: "pretended" } };
  Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => adapter } });
}

async function main() {
  const { url, steps, gpu, scheme = "light", width = 1280, height = 800 } = JSON.parse(readFileSync(0, "utf8"));
  const errors = [];
  const seen = [];
  const options = { colorScheme: scheme, viewport: { width, height } };
  const asked = await browsing(url, options, async (context, requests) => {
    context.setDefaultTimeout(IMPATIENCE);
    const page = await context.newPage();
    if (gpu) await page.addInitScript(pretendGpu, gpu);
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.goto(url);
    await ACTIONS.rest(page);
    for (const { do: name, ...step } of steps) {
      if (name in VIEWS) seen.push(await VIEWS[name](page, step));
      else await ACTIONS[name](page, step);
    }
    return [...requests];
  });
  console.log(JSON.stringify({ seen, requests: asked, errors }));
}

await main();
