// Opens a report in headless Chromium: reads { url, views: [{ scheme?, width?, height?, screenshot? }] } from stdin, writes
// [what it saw] to stdout.

import { readFileSync } from "node:fs";

import { browsing } from "./chromium.mjs";

/** The page as a person sees it. Runs in the page. */
function look() {
  const boxes = [...document.querySelectorAll("svg")].map((svg) => {
    const frame = svg.getBoundingClientRect();
    const outside = [...svg.querySelectorAll("text, rect, circle")].filter((shape) => {
      const box = shape.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    });
    return {
      label: svg.getAttribute("aria-label"),
      width: frame.width,
      shapes: svg.querySelectorAll("rect, circle, polyline").length,
      outside: outside.map((shape) => shape.textContent),
    };
  });
  return {
    title: document.title,
    text: document.body.innerText,
    boxes,
    wide: document.documentElement.scrollWidth > window.innerWidth,
    scripts: document.scripts.length,
  };
}

const { url, views } = JSON.parse(readFileSync(0, "utf8"));
const seen = await browsing(url, {}, async (context, requests) => {
  const found = [];
  for (const { scheme = "light", width = 1060, height = 900, screenshot } of views) {
    const errors = [];
    const page = await context.newPage();
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height });
    requests.length = 0;
    await page.goto(url);
    if (screenshot) await page.screenshot({ path: screenshot });
    found.push({ ...(await page.evaluate(look)), requests: [...requests], errors });
  }
  return found;
});
console.log(JSON.stringify(seen));
