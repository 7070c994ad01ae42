// Transformers.js in headless Chromium: reads a request of probe.mjs and `url`, where examples/web/serve.mjs serves the model, from
// stdin; writes what the page found as JSON, and with it every request that did not go to that server.

import { readFileSync } from "node:fs";

import { browsing, isHome } from "./chromium.mjs";
import { probe } from "./probe.mjs";

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
const answer = await browsing(url, { device: request.device }, async (context, requests) => {
  const page = await context.newPage();
  await page.addInitScript(watchHeaps);
  await page.goto(new URL("/models.json", url).href);
  const found = await page.evaluate(`
    import("/vendor/@huggingface/transformers/dist/transformers.min.js")
      .then((library) => (${probe})((${configured})(library), ${JSON.stringify(request)}))
      .then((found) => ({ ...found, heap: Math.max(0, ...heaps.map((memory) => memory.buffer.byteLength)) }))
  `);
  return { ...found, foreign: requests.filter((asked) => !isHome(asked, url)) };
});
process.stdout.write(JSON.stringify(answer));
