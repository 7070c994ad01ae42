// What the variants of a model are called, where each can run, and which one to begin with.

const WORDS = {
  q4f16: "4-bit, float16",
  q4: "4-bit",
  int8: "8-bit",
  q8: "8-bit",
  fp16: "float16",
  fp32: "float32",
};

const NEEDS_FLOAT16 = ["q4f16", "fp16"];

/**
 * Fastest first. WebAssembly multiplies the integers of q8 as they are; the other packed variants it unpacks for every token
 * (ONNX Runtime has no kernel for them there), five to ten times as slowly.
 */
const FASTEST = {
  wasm: ["q8", "fp32", "fp16", "q4", "q4f16", "int8"],
  webgpu: ["q4f16", "q4", "fp16", "int8", "fp32", "q8"],
};
/** Bytes worth waiting for; WebAssembly has at most 4 GB for the file and what it unpacks to. */
const LIGHT = 1.5e9;

/** `q4 · 101 MB · 4-bit`. */
export function label({ dtype, bytes }) {
  return `${dtype} · ${megabytes(bytes)} · ${WORDS[dtype]}`;
}

/** Megabytes as downloads are counted: a million bytes each. */
export function megabytes(bytes) {
  const millions = bytes / 1e6;
  return `${millions.toFixed(millions < 10 ? 1 : 0)} MB`;
}

/** The variants that run on `device`; `gpu` is what `detectGpu` found. */
export function offered(variants, device, gpu) {
  return variants.filter(({ dtype }) => device !== "webgpu" || gpu.float16 || !NEEDS_FLOAT16.includes(dtype));
}

/** The variant to begin with, of those offered: the fastest that is light, or else the smallest. */
export function preferred(variants, device) {
  const light = variants.filter(({ bytes }) => bytes <= LIGHT);
  const order = FASTEST[device];
  const first = (all, rank) => [...all].sort((a, b) => rank(a) - rank(b))[0];
  return first(light, ({ dtype }) => order.indexOf(dtype)) ?? first(variants, ({ bytes }) => bytes);
}

/** `{ name, float16 }` of the GPU that WebGPU offers, or `null` where there is none. */
export async function detectGpu(gpu = navigator.gpu) {
  try {
    const adapter = await gpu?.requestAdapter();
    if (!adapter) return null;
    const name = adapter.info?.description || adapter.info?.vendor || "WebGPU";
    return { name, float16: adapter.features.has("shader-f16") };
  } catch {
    return null;
  }
}
