// Transformers.js in headless Chromium: reads a request of probe.mjs and `url`, where examples/web/serve.mjs serves the model, from
// stdin; writes what the page found as JSON, and with it every request that did not go to that server.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { probe } from "./probe.mjs";

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

/** Keeps hold of the memories of WebAssembly, whose size nobody tells otherwise. Runs in the page before anything else. */
function watchHeaps() {
  globalThis.heaps = [];
  WebAssembly.Memory = class extends WebAssembly.Memory {
    constructor(descriptor) {
      super(descriptor);
      globalThis.heaps.push(this);
    }
  };
}

/** Runs in the page. */
function configured(library) {
  const wasm = `${location.origin}/vendor/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify`;
  library.env.allowRemoteModels = false;
  library.env.allowLocalModels = true;
  library.env.localModelPath = "/models/";
  library.env.useBrowserCache = false;
  library.env.useWasmCache = false;
  library.env.backends.onnx.wasm.wasmPaths = { mjs: `${wasm}.mjs`, wasm: `${wasm}.wasm` };
  return library;
}

const { url, ...request } = JSON.parse(readFileSync(0, "utf8"));
const profile = mkdtempSync(join(tmpdir(), "browser-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM,
  headless: true,
  args: [...QUIET, ...GPU[request.device]],
});
const foreign = [];
try {
  await context.route("**/*", (route) => {
    if (new URL(route.request().url()).origin === new URL(url).origin) return route.continue();
    foreign.push(route.request().url());
    return route.abort();
  });
  const page = await context.newPage();
  await page.addInitScript(watchHeaps);
  await page.goto(new URL("/models.json", url).href);
  const found = await page.evaluate(`
    import("/vendor/@huggingface/transformers/dist/transformers.min.js")
      .then((library) => (${probe})((${configured})(library), ${JSON.stringify(request)}))
      .then((found) => ({ ...found, heap: Math.max(0, ...heaps.map((memory) => memory.buffer.byteLength)) }))
  `);
  process.stdout.write(JSON.stringify({ ...found, foreign }));
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
