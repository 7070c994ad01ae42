// Transformers.js in Node: reads a request of probe.mjs and `models`, the folder of the model's folder, from stdin; writes JSON.

import { readFileSync } from "node:fs";

import { probe } from "./probe.mjs";

const LIBRARY = new URL("../../examples/web/node_modules/@huggingface/transformers/dist/transformers.node.mjs", import.meta.url);

const { models, ...request } = JSON.parse(readFileSync(0, "utf8"));
const library = await import(LIBRARY);
library.env.allowRemoteModels = false;
library.env.localModelPath = `${models}/`;
process.stdout.write(JSON.stringify(await probe(library, request)));
