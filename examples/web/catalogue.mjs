// Which models lie in the folders that `exporter export --target onnx` wrote.

import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";

/** File -> Transformers.js' name of the variant (`DEFAULT_DTYPE_SUFFIX_MAPPING` in its `utils/dtypes.js`). */
const DTYPES = {
  "model_q4f16.onnx": "q4f16",
  "model_q4.onnx": "q4",
  "model_int8.onnx": "int8",
  "model_quantized.onnx": "q8",
  "model_fp16.onnx": "fp16",
  "model.onnx": "fp32",
};

/** A folder that cannot be served, with the repository's four lines: what, expected, found, hint. */
export class CatalogueError extends Error {
  constructor(what, { expected, found, hint }) {
    super([`error: ${what}`, `expected: ${expected}`, `found: ${found}`, `hint: ${hint}`].join("\n"));
  }
}

/**
 * The repositories in `folders`: `[{ id, name, root }]`, each id one segment of a URL and given once.
 *
 * A folder is what `--out` named, or the repository in it.
 */
export function open(folders) {
  const taken = new Set();
  return folders.map((folder) => {
    const root = repository(resolve(folder));
    const name = modelName(resolve(folder), root);
    const id = unique(slug(name), taken);
    return { id, name, root };
  });
}

/** What the page is told about a model: `{ id, name, variants: [{ dtype, bytes }] }`, as the disk is now. */
export function describe({ id, name, root }) {
  const files = readdirSync(join(root, "onnx"));
  const variants = Object.entries(DTYPES)
    .filter(([file]) => files.includes(file))
    .map(([file, dtype]) => ({ dtype, bytes: size(join(root, "onnx"), files, file) }));
  return { id, name, variants };
}

function repository(folder) {
  const found = [folder, join(folder, "onnx")].find(isRepository);
  if (found === undefined) {
    throw new CatalogueError(`${folder} holds no exported model`, {
      expected: "config.json and onnx/model*.onnx, in the folder or in its onnx/",
      found: contents(folder),
      hint: `python cli.py export MODEL --target onnx --quant q4 --out ${folder}`,
    });
  }
  return found;
}

function contents(folder) {
  if (!existsSync(folder)) return "nothing";
  if (!statSync(folder).isDirectory()) return "a file";
  return readdirSync(folder).sort().slice(0, 8).join(", ") || "an empty folder";
}

function isRepository(folder) {
  const models = join(folder, "onnx");
  return existsSync(join(folder, "config.json")) && existsSync(models) && readdirSync(models).some((f) => f in DTYPES);
}

/** The manifest's name of the model, which lies beside the repository, or else the folder's. */
function modelName(folder, root) {
  const manifest = join(root, "..", "manifest.json");
  if (existsSync(manifest)) {
    try {
      const name = JSON.parse(readFileSync(manifest, "utf8")).model?.name;
      if (typeof name === "string" && name !== "") return name;
    } catch {
      // Not ours, or damaged: the name is only for people.
    }
  }
  return basename(folder);
}

/** Transformers.js takes an id with other characters, `..` or `--` for a path outside its folder of models. */
function slug(name) {
  const plain = name.replace(/[^A-Za-z0-9_]+/g, (run) => (/^[.-]$/.test(run) ? run : "-"));
  return plain.replace(/^[.-]+|[.-]+$/g, "") || "model";
}

function unique(id, taken) {
  let free = id;
  for (let n = 2; taken.has(free); n++) free = `${id}-${n}`;
  taken.add(free);
  return free;
}

/** Bytes of a model with its external data: `model_q4.onnx`, `model_q4.onnx_data`, `model_q4.onnx_data_1`, ... */
function size(folder, files, file) {
  const parts = files.filter((name) => name === file || name.startsWith(`${file}_data`));
  return parts.reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
}
