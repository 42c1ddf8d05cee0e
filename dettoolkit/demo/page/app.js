// Puts the parts together: which picture is shown, what runs on it, what is said about it.
//
// demo.json names the module of the model's task, which exports
//   read(outputs)  returns {fields, transfer} of the runtime's outputs: a result's fields, in the worker
//   Layer          shows results on the page; made of demo.json's content, it has
//     slider       {label, min, max, value}, whose changes go to slide(value); or null
//     switches     [{key, label}] of parts that toggle(key, on) shows and hides; or nothing
//     pointable    whether at({x, y}, picture) returns {key, color, text} or null of a place, in the picture's
//                  pixels, and choose(key) highlights a row's part of the result; null highlights none
//     show(result), or null; paint(context, picture, width, height, ratio) over the picture
//     describe(live)  returns {rows: [{key, label, fraction} or {key, heading}], summary, spoken, absent: [name]}
//     classes      [{name, color}], by a row's label

import { Camera, CameraError } from "./camera.js";
import { $, complain, hideProblem, hideTip, say, setBackend, showCamera, showProgress, showTip } from "./messages.js";
import { pictureFromBlob, PictureError } from "./picture.js";
import { Readout } from "./readout.js";
import { hasWebGpu, Runner } from "./runner.js";
import { download, fillPage, markSample, takeFiles } from "./setup.js";
import { View } from "./view.js";
import { describeTiming, percent } from "./words.js";

const NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };
const SMOOTHING = 0.85; // of the frame rate, per frame
const BUSY_AFTER_MS = 250;

class App {
  runner = null;
  picture = null;
  result = null;
  live = false;
  turn = 0; // of what is shown: whatever belongs to an earlier one is dropped
  name = "";
  late = 0; // a timer

  constructor(demo, layer) {
    Object.assign(this, { demo, layer });
    this.view = new View($("stage"), $("canvas"), layer, (...seen) => this.showProbe(...seen));
    const choose = layer.pointable ? (key) => this.view.choose(key) : null;
    this.readout = new Readout($("readout"), layer.classes, choose);
    this.camera = new Camera(() => this.stopCamera("The camera was unplugged or taken away."));
    fillPage(demo, layer, (sample) => this.openSample(sample), () => this.redraw());
    this.listen();
  }

  listen() {
    takeFiles((file) => this.open(async () => file, file.name || "Picture"));
    $("camera").addEventListener("click", () => (this.live ? this.stopCamera() : this.startCamera()));
    $("camera-list").addEventListener("change", ({ target }) => this.startCamera(target.value));
    $("backend-list").addEventListener("change", ({ target }) => this.load(target.value));
    $("problem-close").addEventListener("click", hideProblem);
    $("save").addEventListener("click", () => this.save());
    $("slider").addEventListener("input", () => this.slide());
    $("slider-value").textContent = percent($("slider").valueAsNumber);
    document.addEventListener("visibilitychange", () => {
      if (document.hidden && this.live) this.stopCamera("Camera off, because the page was hidden.");
    });
  }

  // ---- the model

  async start() {
    const [first] = this.demo.samples;
    if (first) this.openSample(first);
    else $("summary").textContent = "Open an image, or use the camera.";
    const gpu = await hasWebGpu();
    $("backend-choice").hidden = !gpu;
    const providers = gpu ? ["webgpu", "wasm"] : ["wasm"];
    $("backend-list").replaceChildren(...providers.map((provider) => new Option(NAMES[provider], provider)));
    await this.load(providers[0]);
  }

  /** Load the model; where the GPU refuses it, on WebAssembly. */
  async load(provider) {
    this.runner?.close();
    this.runner = null;
    setBackend("loading", "Loading");
    try {
      this.runner = await Runner.open(this.demo, provider, showProgress);
    } catch (error) {
      if (provider === "webgpu") return this.leaveGpu(error);
      setBackend("failed", "Not loaded");
      $("summary").textContent = "The model is not loaded.";
      this.setBusy(false);
      return complain(`The model could not be loaded: ${error.message}`, () => this.load(provider));
    }
    const { threads } = this.runner;
    $("backend-list").value = provider;
    $("threads-hint").hidden = provider !== "wasm" || self.crossOriginIsolated;
    const inThreads = provider === "wasm" ? `, ${threads} ${threads === 1 ? "thread" : "threads"}` : "";
    setBackend("ready", NAMES[provider] + inThreads);
    if (this.picture && !this.live) await this.infer(this.turn);
  }

  leaveGpu(error) {
    console.info(`WebGPU: ${error.message}`);
    say("WebGPU could not run this model; WebAssembly takes over.");
    return this.load("wasm");
  }

  failedRun(error) {
    if (this.runner?.provider === "webgpu") return this.leaveGpu(error);
    return complain(`The model failed on this image: ${error.message}`, () => this.load("wasm"));
  }

  // ---- pictures

  openSample({ file, name }) {
    return this.open(async () => {
      const response = await fetch(file);
      if (response.ok) return response.blob();
      throw new PictureError(`The sample was not found (the server responded ${response.status}).`);
    }, name);
  }

  /** Show what `source` gives, a promise of a Blob, unless something else is opened meanwhile. */
  async open(source, name) {
    this.stopCamera();
    const turn = ++this.turn;
    hideProblem();
    this.setBusy(true);
    try {
      const picture = await pictureFromBlob(await source(), this.demo.largest_side);
      if (turn !== this.turn) return;
      this.name = name;
      this.setPicture(picture, null);
    } catch (error) {
      if (turn !== this.turn) return;
      this.setBusy(false);
      const known = error instanceof PictureError;
      return complain(known ? error.message : `The image could not be opened: ${error.message}`);
    }
    markSample(name);
    await this.infer(turn);
  }

  async infer(turn) {
    if (!this.runner) return; // `load` comes back to it
    this.setBusy(true);
    try {
      const result = await this.runner.run(this.picture);
      if (!result || turn !== this.turn) return;
      this.setPicture(this.picture, result);
      this.showTiming();
      say(`${this.layer.describe(this.live).spoken}. ${Math.round(result.milliseconds)} milliseconds.`);
    } catch (error) {
      if (turn === this.turn) this.failedRun(error);
    } finally {
      if (turn === this.turn) this.setBusy(false);
    }
  }

  setPicture(picture, result) {
    this.picture = picture;
    this.result = result;
    this.layer.show(result);
    this.view.show(picture);
    this.refresh();
  }

  /** Show that a picture's result is awaited; people see it only when it takes a while. */
  setBusy(busy) {
    clearTimeout(this.late);
    $("stage").setAttribute("aria-busy", String(busy));
    if (busy) this.late = setTimeout(() => ($("busy").hidden = !this.runner), BUSY_AFTER_MS);
    else $("busy").hidden = true;
  }

  async save() {
    const name = this.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}]+/gu, "_");
    download(await this.view.toBlob(), `${name}_${this.demo.task}.png`);
    say("Image saved.");
  }

  // ---- camera

  async startCamera(deviceId) {
    hideProblem();
    const turn = ++this.turn;
    this.setBusy(false);
    try {
      if (!(await this.camera.start(deviceId))) return; // something else was opened meanwhile
    } catch (error) {
      this.stopCamera();
      return complain(error instanceof CameraError ? error.message : String(error));
    }
    this.live = true;
    this.name = "Camera";
    markSample(null);
    showCamera(this.live);
    say("Camera on.");
    await this.listCameras();
    this.loop(turn);
  }

  stopCamera(why = "Camera off.") {
    const was = this.live;
    this.live = false;
    this.camera.stop();
    showCamera(this.live);
    if (!was) return;
    this.turn++;
    say(why);
    if (this.result) this.refresh(); // the last frame stays, its classes by size
  }

  /** Run on one frame after another, as fast as it goes; each is shown with its own answer. */
  async loop(turn) {
    let rate = 0;
    let last = performance.now();
    while (this.live && turn === this.turn) {
      await new Promise(requestAnimationFrame);
      const frame = this.runner && this.camera.frame(this.demo.largest_side);
      if (!frame) continue;
      try {
        const result = await this.runner.run(frame);
        if (turn !== this.turn) return;
        if (!result) continue; // the model was loaded anew
        this.setPicture(frame, result);
        const now = performance.now();
        rate = rate ? SMOOTHING * rate + (1 - SMOOTHING) * (1000 / (now - last)) : 1000 / (now - last);
        last = now;
        this.showTiming(rate);
      } catch (error) {
        if (turn !== this.turn) return;
        if (this.runner?.provider !== "webgpu") this.stopCamera();
        await this.failedRun(error);
      }
    }
  }

  async listCameras() {
    const cameras = await Camera.list();
    $("camera-choice").hidden = cameras.length < 2;
    $("camera-list").replaceChildren(...cameras.map(({ id, name }) => new Option(name, id)));
    if (this.camera.deviceId) $("camera-list").value = this.camera.deviceId;
  }

  // ---- what is said about it

  refresh() {
    $("save").disabled = !this.result;
    const { width, height, scaledFrom } = this.picture;
    const scaled = scaledFrom ? `, scaled down from ${scaledFrom[0]} by ${scaledFrom[1]}` : "";
    $("canvas").setAttribute("aria-label", `${this.name}, ${width} by ${height} pixels${scaled}`);
    if (!this.result) {
      $("summary").textContent = this.runner ? "…" : "The model is loading.";
      $("timing").textContent = "";
      $("absent").hidden = true;
      return this.readout.show([]);
    }
    const { rows, summary, absent } = this.layer.describe(this.live);
    this.readout.show(rows);
    $("summary").textContent = summary;
    $("absent").hidden = absent.length === 0;
    $("absent").textContent = `Not in this image: ${absent.join(", ")}.`;
  }

  slide() {
    const value = $("slider").valueAsNumber;
    $("slider-value").textContent = percent(value);
    this.layer.slide(value);
    this.redraw();
  }

  redraw() {
    this.view.draw();
    if (this.result) this.refresh();
  }

  showTiming(rate) {
    $("timing").textContent = describeTiming(this.result.milliseconds, this.picture, rate);
  }

  showProbe(seen, probe, byKeyboard) {
    this.readout.mark(seen ? seen.key : null);
    if (byKeyboard) say(seen?.text ?? "nothing");
    if (seen) showTip(seen.color, seen.text, probe.x / this.picture.width, probe.y / this.picture.height);
    else hideTip();
  }
}

async function main() {
  if ("refused" in document.documentElement.dataset) return; // start.js has said why
  const response = await fetch("demo.json", { cache: "no-cache" }).catch(() => null);
  const demo = response?.ok ? await response.json().catch(() => null) : null;
  if (!demo) {
    $("unstarted").className = "unstarted now";
    $("unstarted-reason").textContent =
      "demo.json, which belongs beside this page, is missing or damaged: export the demo again.";
    return;
  }
  $("unstarted").hidden = true;
  $("demo").hidden = false;
  const { Layer } = await import(`./${demo.script}`);
  await new App(demo, new Layer(demo)).start();
}

main();
