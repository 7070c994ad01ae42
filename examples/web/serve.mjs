// node serve.mjs [--port N] FOLDER...: serves the chat page and the models in these folders to this computer.

import { createReadStream, existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { CatalogueError, describe, open } from "./catalogue.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const VENDOR = join(HERE, "node_modules");
const MODULES = ["app", "engine", "errors", "guard", "prompt", "slot", "variants", "view", "worker"];
const USAGE = "usage: node serve.mjs [--port N] FOLDER...";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".json": "application/json; charset=utf-8",
  ".wasm": "application/wasm",
};

const HEADERS = {
  // Without these two a page gets no SharedArrayBuffer, and WebAssembly no threads.
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  // The browser itself sees to it that nothing typed here leaves this server.
  "Content-Security-Policy":
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; " +
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  // An export that is made again keeps its URLs.
  "Cache-Control": "no-store",
};

/** The server; `models` come from `open`. */
function server(models) {
  const roots = new Map(models.map((model) => [model.id, model.root]));
  return createServer((request, response) => {
    answer(roots, models, request, response).catch((error) => {
      console.error(`${request.method} ${request.url}: ${error.message}`);
      if (!response.headersSent) say(response, 500, "the server failed; its terminal says why");
      else response.destroy();
    });
  });
}

async function answer(roots, models, request, response) {
  if (request.method !== "GET" && request.method !== "HEAD") {
    return say(response, 405, "only GET and HEAD", { Allow: "GET, HEAD" });
  }
  const path = decoded(request.url);
  if (path === undefined) return say(response, 400, "this is no path");
  if (path === "/models.json") {
    return say(response, 200, JSON.stringify(models.map(describe)), { "Content-Type": TYPES[".json"] });
  }
  const file = located(path, roots);
  const found = file && (await stat(file).catch(() => undefined));
  if (!found?.isFile()) return say(response, 404, "there is no such file");
  return send(request, response, file, found.size);
}

function decoded(url) {
  try {
    const path = decodeURIComponent(url.split("?", 1)[0]);
    return path.includes("\0") ? undefined : path;
  } catch {
    return undefined;
  }
}

/** The file behind a path, or `undefined`; nothing outside the page, the models and node_modules has one. */
function located(path, roots) {
  if (path === "/") return join(HERE, "index.html");
  if (MODULES.some((name) => path === `/${name}.mjs`)) return join(HERE, path);
  const [, area, ...rest] = path.split("/");
  if (area === "vendor") return below(VENDOR, rest);
  if (area === "models") return below(roots.get(rest[0]), rest.slice(1));
  return undefined;
}

function below(root, parts) {
  if (root === undefined) return undefined;
  const file = join(root, ...parts);
  return file.startsWith(root + sep) ? file : undefined;
}

function send(request, response, file, size) {
  const range = requestedRange(request.headers.range, size);
  if (range === null) return say(response, 416, "no such bytes", { "Content-Range": `bytes */${size}` });
  const { start, end } = range ?? { start: 0, end: size - 1 };
  const headers = {
    ...HEADERS,
    "Accept-Ranges": "bytes",
    "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
    "Content-Length": end - start + 1,
  };
  if (range) headers["Content-Range"] = `bytes ${start}-${end}/${size}`;
  response.writeHead(range ? 206 : 200, headers);
  if (request.method === "HEAD" || size === 0) return response.end();
  const stream = createReadStream(file, { start, end });
  stream.on("error", () => response.destroy());
  response.on("close", () => stream.destroy());
  stream.pipe(response);
}

/** `{ start, end }`; `undefined`: everything, as RFC 9110 wants for what makes no sense; `null`: beyond the file. */
function requestedRange(header, size) {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? "");
  if (!match || (match[1] === "" && match[2] === "")) return undefined;
  const [first, last] = match.slice(1).map((digits) => (digits === "" ? undefined : Number(digits)));
  if (first === undefined) return last === 0 || size === 0 ? null : { start: Math.max(0, size - last), end: size - 1 };
  if (first >= size) return null;
  if (last !== undefined && last < first) return undefined;
  return { start: first, end: Math.min(last ?? size - 1, size - 1) };
}

function say(response, status, text, headers = {}) {
  const body = Buffer.from(text);
  const own = { "Content-Type": "text/plain; charset=utf-8", "Content-Length": body.length };
  response.writeHead(status, { ...HEADERS, ...own, ...headers });
  response.end(response.req.method === "HEAD" ? undefined : body);
}

function fail(...lines) {
  console.error(lines.join("\n"));
  process.exit(2);
}

function options() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { port: { type: "string", default: "8017" }, help: { type: "boolean", default: false } },
    });
    if (values.help) {
      console.log(`${USAGE}\n--port 0 takes any free port (default: 8017)`);
      process.exit(0);
    }
    const port = Number(values.port);
    if (!/^\d+$/.test(values.port) || port > 65535) {
      fail(`error: ${values.port} is no port`, "expected: 0 to 65535", "hint: --port 0 takes any free one");
    }
    return { port, folders: positionals };
  } catch (error) {
    return fail(`error: ${error.message}`, `hint: ${USAGE}`);
  }
}

function main() {
  const { port, folders } = options();
  if (folders.length === 0) {
    const hint = "hint: python cli.py export MODEL --target onnx --quant q4 --out build/web";
    fail("error: no folder was given", `expected: ${USAGE}`, hint);
  }
  if (!existsSync(join(VENDOR, "@huggingface", "transformers"))) {
    fail(`error: ${VENDOR} lacks Transformers.js`, `hint: npm ci --prefix ${HERE} --ignore-scripts`);
  }
  let models;
  try {
    models = open(folders);
  } catch (error) {
    if (error instanceof CatalogueError) fail(error.message);
    throw error;
  }
  const listening = server(models);
  listening.on("error", (error) => {
    fail(`error: cannot listen on port ${port}: ${error.code}`, "hint: --port 0 takes any free one");
  });
  listening.listen(port, "127.0.0.1", () => {
    for (const { name, variants } of models.map(describe)) {
      console.log(`${name}: ${variants.map(({ dtype }) => dtype).join(", ")}`);
    }
    console.log(`http://127.0.0.1:${listening.address().port}/`);
  });
}

main();
