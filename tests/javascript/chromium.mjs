// Headless Chromium with an empty profile, in which a page can reach its own server and nothing else.

import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const { chromium } = createRequire(new URL("../../examples/web/package.json", import.meta.url))("playwright-core");

const QUIET = [
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const GPU = {
  wasm: ["--disable-gpu"],
  // A graphics processor made of software, for machines without one.
  webgpu: ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"],
};

/** Whether a request goes to the server of `url`. */
export function isHome(request, url) {
  return new URL(request).origin === new URL(url).origin;
}

/**
 * Calls `visit(context, requests)` with a browser context and the list of all that its pages ask for; what is asked of another
 * server than that of `url` is aborted.
 */
export async function browsing(url, { device = "wasm", ...options }, visit) {
  const profile = mkdtempSync(join(tmpdir(), "browser-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM,
    headless: true,
    args: [...QUIET, ...GPU[device]],
    ...options,
  });
  const requests = [];
  try {
    await context.route("**/*", (route) => {
      requests.push(route.request().url());
      return isHome(route.request().url(), url) ? route.continue() : route.abort();
    });
    return await visit(context, requests);
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}
