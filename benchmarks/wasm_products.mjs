// Milliseconds of one product in onnxruntime-web, one thread: node wasm_products.mjs MODEL.onnx ROWS WIDTH TYPE, best of 60 runs.

import { readFileSync } from "node:fs";

const ort = await import(new URL("../examples/web/node_modules/onnxruntime-web/dist/ort.node.min.mjs", import.meta.url));

const [path, rows, width, type] = process.argv.slice(2);
const n = Number(rows) * Number(width);
const data = type === "uint8" ? new Uint8Array(n).fill(70) : new Float32Array(n).map((_, i) => Math.sin(i * i));
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(path));
const x = new ort.Tensor(type, data, [Number(rows), Number(width)]);
let best = Infinity;
for (let i = 0; i < 63; i++) {
  const begin = performance.now();
  await session.run({ x });
  if (i >= 3) best = Math.min(best, performance.now() - begin);
}
console.log(best.toFixed(2));
