// Errors of the libraries, as what happened and what to do about it.

/**
 * Pattern, what happened, what to do; the first match wins, and `$1` is what the pattern's group matched.
 *
 * ONNX Runtime throws bare numbers, the addresses of C++ exceptions, mostly when memory ends.
 */
const KNOWN = [
  [/context full: (.*)/, "The chat fills the model's context ($1).", "Start a new chat."],
  [
    /chat_template/,
    "This model has no chat template.",
    "Choose a chat model: the Instruct variant of this one, for instance.",
  ],
  [
    /leaves the message out/,
    "The model's chat template does not contain the message.",
    "Check chat_template in its tokenizer_config.json.",
  ],
  [
    /not found locally at "([^"]*)"/,
    "The server has no file $1.",
    "Export the model again, then reload this page.",
  ],
  [
    /protobuf parsing failed|external data|out of bounds of file/i,
    "The model's files are incomplete or damaged.",
    "Export the model again with --force, then reload this page.",
  ],
  [
    /bad_alloc|out of memory|allocation failed|memory access out of bounds|^Aborted|^\d+$/i,
    "There is not enough memory for this variant.",
    "Choose a smaller one, such as q4, or close other tabs.",
  ],
  [
    /webgpu|gpu adapter|device (was )?lost/i,
    "The GPU could not run this model.",
    "Run it on WebAssembly instead, or choose a smaller variant.",
  ],
  [
    /no available backend|worker could not start|dynamically imported module/i,
    "ONNX Runtime could not start.",
    "Run npm ci --prefix examples/web --ignore-scripts, then reload this page.",
  ],
  [/()/, "Something unforeseen went wrong.", "Reload this page; if it happens again, try another variant."],
];

/** `{ what, todo, detail }` of anything thrown; `detail` is the library's own text, for a bug report. */
export function explain(error) {
  const detail = String(error?.message ?? error);
  const [pattern, what, todo] = KNOWN.find(([candidate]) => candidate.test(detail));
  return { what: what.replace("$1", () => pattern.exec(detail)[1]), todo, detail };
}

/** The same, after asking whether the server is there at all: without it every file looks missing. */
export async function explainOnline(error, fetch = globalThis.fetch) {
  const explained = explain(error);
  try {
    await fetch("/models.json", { method: "HEAD" });
  } catch {
    const todo = "Start it again (serve.mjs), then reload this page.";
    return { ...explained, what: "The server of this page does not answer.", todo };
  }
  return explained;
}
