// Runs the model beside the page, so that the page stays quick while it works.
//
// In:  {type: "open", demo, provider: "webgpu" | "wasm", threads}
//      {type: "run", id, width, height, pixels: RGBA buffer}
// Out: {type: "progress", loaded, total}, {type: "ready"}, {type: "failed", message},
//      {type: "result", id, milliseconds, ...answers} or {type: "result", id, error}

const WARM_UP_SIDE = 64;

let ort = null;
let session = null;
let demo = null;

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
      const { answer, transfer } = await run(data);
      self.postMessage({ type: "result", id: data.id, ...answer }, transfer);
    } catch (error) {
      self.postMessage({ type: "result", id: data.id, error: String(error?.message ?? error) });
    }
  }
};

async function open({ demo: description, provider, threads }) {
  demo = description;
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
  if (!response.ok) throw new Error(`${file} is not there (the server answered ${response.status})`);
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
  const answer = demo.task === "segmentation" ? segmentation(outputs) : detection(outputs);
  for (const output of Object.values(outputs)) output.dispose();
  return { answer: { milliseconds, ...answer.fields }, transfer: answer.transfer };
}

/** uint8 RGBA to RGB. */
function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

/** labels uint8 (1, H, W) to a map that is the page's own, and the pixels of each class. */
function segmentation(outputs) {
  const labels = new Uint8Array(outputs.labels.data); // a copy: the runtime keeps its own
  const [, height, width] = outputs.labels.dims;
  const pixels = new Uint32Array(256);
  for (let index = 0; index < labels.length; index++) pixels[labels[index]]++;
  return { fields: { labels, width, height, pixels }, transfer: [labels.buffer, pixels.buffer] };
}

/** Padded boxes to a list, best first; boxes in pixels of the picture. */
function detection(outputs) {
  const count = Number(outputs.counts.data[0]);
  const boxes = outputs.boxes_xyxy.data;
  const found = [];
  for (let index = 0; index < count; index++) {
    found.push({
      label: Number(outputs.labels.data[index]),
      score: outputs.scores.data[index],
      box: Array.from(boxes.slice(4 * index, 4 * index + 4)),
    });
  }
  found.sort((one, other) => other.score - one.score);
  return { fields: { found }, transfer: [] };
}
