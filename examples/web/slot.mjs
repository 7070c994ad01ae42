// A place for one model: the pickers that choose it, and the engine that holds it once it is loaded.

import { Engine } from "./engine.mjs";
import { label, offered, preferred } from "./variants.mjs";

/** The chat model's place, or the guard's. An empty value of the model picker means: none. */
export class Slot {
  #models;
  #modelPicker;
  #variantPicker;
  #environment;
  #engine = null;
  #loaded = null;

  /**
   * @param models The documents of /models.json.
   * @param pickers The two `<select>` elements, `{ model, variant }`.
   * @param environment Where it will run: a function that gives `{ device, gpu }`.
   */
  constructor(models, { model, variant }, environment) {
    this.#models = models;
    this.#modelPicker = model;
    this.#variantPicker = variant;
    this.#environment = environment;
    for (const { id, name } of models) model.append(new Option(name, id));
  }

  get model() {
    return this.#models.find(({ id }) => id === this.#modelPicker.value) ?? null;
  }

  /** What is chosen, `{ model, name, dtype, device, bytes }`, or `null`. */
  get choice() {
    const variant = this.model?.variants.find(({ dtype }) => dtype === this.#variantPicker.value);
    if (!variant) return null;
    const { id, name } = this.model;
    return { model: id, name, ...variant, device: this.#environment().device };
  }

  /** Whether what is chosen is what the engine holds. */
  get ready() {
    return this.#loaded !== null && this.#loaded === key(this.choice) && !this.#engine.broken;
  }

  get engine() {
    return this.#engine;
  }

  /** Offer the variants that the model has and the device runs; keep the one chosen where it is among them. */
  refresh() {
    const { device, gpu } = this.#environment();
    const before = this.#variantPicker.value;
    const variants = offered(this.model?.variants ?? [], device, gpu);
    this.#variantPicker.replaceChildren(...variants.map((variant) => new Option(label(variant), variant.dtype)));
    const kept = variants.some(({ dtype }) => dtype === before) ? before : preferred(variants, device)?.dtype;
    this.#variantPicker.value = kept ?? "";
    if (this.model === null) this.close();
  }

  /** Replace the model that is loaded by the one that is chosen. */
  async load(onProgress) {
    this.close();
    const { choice } = this;
    this.#engine = new Engine();
    try {
      const done = await this.#engine.load(choice, onProgress);
      this.#loaded = key(choice);
      return done;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close() {
    this.#engine?.close();
    this.#engine = null;
    this.#loaded = null;
  }
}

function key(choice) {
  return choice && [choice.model, choice.dtype, choice.device].join(" ");
}
