// Runs the model beside the page, so that the page stays quick while it works.
//
// In:  {type: "open", demo, provider: "webgpu" | "wasm", threads}
//      {type: "run", id, width, height, pixels: RGBA buffer}
// Out: {type: "progress", loaded, total}, {type: "ready"}, {type: "failed", message},
//      {type: "result", id, milliseconds, ...fields} or {type: "result", id, error}

const WARM_UP_SIDE = 64;

let ort = null;
let session = null;
let task = null; // its module; see app.js

self.onmessage = async ({ data }) => {
  if (data.type === "open") {
    try {
      await open(data);
      self.postMessage({ type: "ready" });
    } catch (error) {
      self.postMessage({ type: "failed", message: String(error?.message ?? error) });
    }
  } else if (data.type === "run") {
    try {
      const { result, transfer } = await run(data);
      self.postMessage({ type: "result", id: data.id, ...result }, transfer);
    } catch (error) {
      self.postMessage({ type: "result", id: data.id, error: String(error?.message ?? error) });
    }
  }
};

async function open({ demo, provider, threads }) {
  task = await import(new URL(demo.script, self.location.href));
  const runtime = demo.runtime[provider];
  const loaded = [0, 0];
  const total = runtime.bytes + demo.model.bytes;
  const report = (index) => (bytes) => {
    loaded[index] = bytes;
    self.postMessage({ type: "progress", loaded: loaded[0] + loaded[1], total });
  };
  const [binary, model] = await Promise.all([
    download(runtime.wasm, report(0)),
    download(demo.model.file, report(1)),
  ]);
  ort = await import(new URL(runtime.module, self.location.href));
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.numThreads = threads;
  session = await ort.InferenceSession.create(new Uint8Array(model), {
    executionProviders: [provider],
    graphOptimizationLevel: "all",
    logSeverityLevel: 3, // errors
  });
  // The first run prepares buffers and shaders, and shows whether the model runs here at all.
  const side = WARM_UP_SIDE;
  await run({ width: side, height: side, pixels: new ArrayBuffer(side * side * 4) });
}

async function download(file, report) {
  // Asks whether the file has changed: a demo may be exported again into the same place.
  const response = await fetch(new URL(file, self.location.href), { cache: "no-cache" });
  if (!response.ok) throw new Error(`${file} was not found (the server responded ${response.status})`);
  const parts = [];
  let bytes = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    bytes += value.length;
    report(bytes);
  }
  return new Blob(parts).arrayBuffer();
}

async function run({ width, height, pixels }) {
  const rgb = withoutAlpha(new Uint8Array(pixels));
  const started = performance.now();
  const feeds = { [session.inputNames[0]]: new ort.Tensor("uint8", rgb, [1, height, width, 3]) };
  const outputs = await session.run(feeds);
  const milliseconds = performance.now() - started;
  const { fields, transfer } = task.read(outputs);
  for (const output of Object.values(outputs)) output.dispose();
  return { result: { milliseconds, ...fields }, transfer };
}

/** Return uint8 RGBA as RGB. */
function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}
