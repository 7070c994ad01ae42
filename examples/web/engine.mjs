// A model that the page can load, ask and stop. The work is done in a worker, so that the page never freezes.

/** What `load` and `generate` throw when `close` ends them. */
export class Closed extends Error {}

/** One worker with one model. There is one job at a time; another model takes another engine. */
export class Engine {
  #worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
  #job = null;
  #broken = false;

  constructor() {
    this.#worker.onmessage = ({ data }) => this.#heard(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(event.message || "the worker could not start"), true);
    };
  }

  /** Whether an error has left it unable to go on: a runtime that ran out of memory, for one. */
  get broken() {
    return this.#broken;
  }

  /** @returns `{ threads }`; `onProgress(loaded, total)` hears bytes of all files together. */
  load({ model, dtype, device }, onProgress) {
    const progress = ({ loaded, total }) => onProgress(loaded, total);
    return this.#ask({ type: "load", model, dtype, device }, { progress });
  }

  /**
   * `onPiece(text)` hears the answer as it comes.
   *
   * @returns `{ text, promptTokens, tokens, firstMs, tokensPerSecond, ended }`, the last of these one of "finished",
   *     "stopped" and "full" (the limit or the model's context).
   */
  generate(messages, limit, onPiece = () => {}) {
    return this.#ask({ type: "generate", messages, limit }, { piece: ({ piece }) => onPiece(piece) });
  }

  /** End a generation after the token it is at. */
  stop() {
    this.#worker.postMessage({ type: "stop" });
  }

  /** Give the memory back; a load under way is given up. */
  close() {
    this.#worker.terminate();
    this.#settle("reject", new Closed());
  }

  #ask(message, listeners) {
    return new Promise((resolve, reject) => {
      this.#job = { resolve, reject, ...listeners };
      this.#worker.postMessage(message);
    });
  }

  #heard({ type, ...data }) {
    if (type === "done") this.#settle("resolve", data.result);
    else if (type === "failed") this.#fail(new Error(data.message), data.broken);
    else this.#job?.[type](data);
  }

  #fail(error, broken) {
    this.#broken = broken;
    if (broken) this.#worker.terminate();
    this.#settle("reject", error);
  }

  #settle(how, value) {
    this.#job?.[how](value);
    this.#job = null;
  }
}
