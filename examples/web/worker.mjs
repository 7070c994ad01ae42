// One model in a thread of its own: loads it, and answers conversations token by token. engine.mjs talks to it.

import {
  InterruptableStoppingCriteria,
  TextStreamer,
  env,
  pipeline,
} from "/vendor/@huggingface/transformers/dist/transformers.min.js";

import { renderChat } from "./prompt.mjs";

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/models/";
// An export that is made again keeps its URLs, and the cache would go on with the old one.
env.useBrowserCache = false;
env.useWasmCache = false;
const wasm = new URL("/vendor/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify", self.location.href).href;
env.backends.onnx.wasm.wasmPaths = { mjs: `${wasm}.mjs`, wasm: `${wasm}.wasm` };

const stopping = new InterruptableStoppingCriteria();
const channel = new MessageChannel();
let loaded;

const jobs = {
  async load({ model, dtype, device }) {
    loaded = await pipeline("text-generation", model, {
      dtype,
      device,
      progress_callback: ({ status, loaded, total }) => {
        if (status === "progress_total") self.postMessage({ type: "progress", loaded, total });
      },
    });
    listenBetweenTokens(loaded.model);
    return { threads: env.backends.onnx.wasm.numThreads };
  },

  async generate({ messages, limit }) {
    const { tokenizer, model } = loaded;
    const begin = performance.now();
    const template = { tokenize: false, add_generation_prompt: true };
    const prompt = renderChat((shaped) => tokenizer.apply_chat_template(shaped, template), messages);
    const inputs = tokenizer(prompt, { add_special_tokens: false });
    const promptTokens = inputs.input_ids.dims.at(-1);
    const context = tokenizer.model_max_length;
    if (promptTokens >= context) throw new Error(`context full: ${promptTokens} of ${context} tokens`);
    const most = Math.min(limit, context - promptTokens);

    const times = [];
    let text = "";
    stopping.reset();
    const streamer = new TextStreamer(tokenizer, {
      skip_prompt: true,
      skip_special_tokens: true,
      token_callback_function: () => times.push(performance.now()),
      callback_function: (piece) => {
        text += piece;
        self.postMessage({ type: "piece", piece });
      },
    });
    const how = { max_new_tokens: most, do_sample: false, stopping_criteria: stopping, streamer };
    await model.generate({ ...inputs, ...how }).catch(broken);
    return {
      text,
      promptTokens,
      tokens: times.length,
      firstMs: times[0] - begin,
      tokensPerSecond: times.length > 1 ? (times.length - 1) / ((times.at(-1) - times[0]) / 1000) : null,
      ended: stopping.interrupted ? "stopped" : times.length < most ? "finished" : "full",
    };
  },
};

/** Whatever ends a generation may have left the runtime in pieces. */
function broken(error) {
  throw Object.assign(new Error(said(error)), { broken: true });
}

/** ONNX Runtime also throws numbers. */
function said(error) {
  return String(error?.message ?? error);
}

/** On WebAssembly a whole generation is one task: unless another is let in, "stop" would be heard when all is said. */
function listenBetweenTokens(model) {
  const forward = model.forward.bind(model);
  model.forward = async (inputs) => {
    await new Promise((resume) => {
      channel.port1.onmessage = resume;
      channel.port2.postMessage(null);
    });
    return forward(inputs);
  };
}

self.onmessage = async ({ data: { type, ...job } }) => {
  if (type === "stop") return stopping.interrupt();
  try {
    self.postMessage({ type: "done", result: await jobs[type](job) });
  } catch (error) {
    self.postMessage({ type: "failed", message: said(error), broken: error?.broken === true });
  }
};
