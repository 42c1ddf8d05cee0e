// Puts the parts together: which picture is shown, what runs on it, what is told of it.

import { Camera, CameraError } from "./camera.js";
import { $, complain, hideProblem, hideTip, say, setBackend, showProgress, showTip } from "./messages.js";
import { pictureFromBlob, PictureError } from "./picture.js";
import { describeDetection, describeSegmentation, describeTiming, Readout } from "./readout.js";
import { hasWebGpu, Runner } from "./runner.js";
import { download, fillPage, markSample, takeFiles } from "./setup.js";
import { percent, View } from "./view.js";

const NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };
const SMOOTHING = 0.85; // of the frame rate, per frame
const BUSY_AFTER_MS = 250;

class App {
  runner = null;
  picture = null;
  result = null;
  shown = []; // detections above the score
  live = false;
  turn = 0; // of what is shown: whatever belongs to an earlier one is dropped
  name = "";
  late = 0; // a timer

  constructor(demo) {
    this.demo = demo;
    this.segments = demo.task === "segmentation";
    this.view = new View($("stage"), $("canvas"), demo.classes, (...seen) => this.tellProbe(...seen));
    this.readout = new Readout($("readout"), demo.classes, (key) => this.view.choose(key));
    this.camera = new Camera(() => this.stopCamera("The camera was unplugged or taken away."));
    fillPage(demo, this.view.opacity, (sample) => this.openSample(sample));
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
    else $("summary").textContent = "Open a picture, or use the camera.";
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
    return complain(`The model failed on this picture: ${error.message}`, () => this.load("wasm"));
  }

  // ---- pictures

  openSample({ file, name }) {
    return this.open(async () => {
      const response = await fetch(file);
      if (response.ok) return response.blob();
      throw new PictureError(`The sample is not there (the server answered ${response.status}).`);
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
      return complain(known ? error.message : `The picture could not be opened: ${error.message}`);
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
      this.tellTiming();
      say(`${this.describe().spoken}. ${Math.round(result.milliseconds)} milliseconds.`);
    } catch (error) {
      if (turn === this.turn) this.failedRun(error);
    } finally {
      if (turn === this.turn) this.setBusy(false);
    }
  }

  setPicture(picture, result) {
    this.picture = picture;
    this.result = result;
    this.view.show(picture, result);
    this.refresh();
  }

  /** Say that a picture's answer is awaited; people see it only when it takes a while. */
  setBusy(busy) {
    clearTimeout(this.late);
    $("stage").setAttribute("aria-busy", String(busy));
    if (busy) this.late = setTimeout(() => ($("busy").hidden = !this.runner), BUSY_AFTER_MS);
    else $("busy").hidden = true;
  }

  async save() {
    const name = this.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}]+/gu, "_");
    download(await this.view.toBlob(), `${name}_${this.demo.task}.png`);
    say("Picture saved.");
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
    this.showCameraState();
    say("Camera on.");
    await this.listCameras();
    this.loop(turn);
  }

  stopCamera(why = "Camera off.") {
    const was = this.live;
    this.live = false;
    this.camera.stop();
    this.showCameraState();
    if (!was) return;
    this.turn++;
    say(why);
    if (this.result) this.refresh(); // the last frame stays, its classes by share
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
        this.tellTiming(rate);
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

  showCameraState() {
    $("camera").setAttribute("aria-pressed", String(this.live));
    $("camera-text").textContent = this.live ? "Stop camera" : "Use camera";
    if (!this.live) $("camera-choice").hidden = true;
  }

  // ---- what is told of it

  describe() {
    if (this.segments) return describeSegmentation(this.result, this.demo.classes, this.live);
    return describeDetection(this.shown, this.demo.classes);
  }

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
    if (!this.segments) {
      const lowest = $("slider").valueAsNumber;
      this.shown = this.result.found.filter(({ score }) => score >= lowest);
      this.view.setShown(this.shown);
    }
    const { rows, summary, absent } = this.describe();
    this.readout.show(rows);
    $("summary").textContent = summary;
    $("absent").hidden = absent.length === 0;
    $("absent").textContent = `Not in this picture: ${absent.join(", ")}.`;
  }

  slide() {
    const value = $("slider").valueAsNumber;
    $("slider-value").textContent = percent(value);
    if (this.segments) {
      this.view.opacity = value;
      this.view.draw();
    } else if (this.result) this.refresh();
  }

  tellTiming(rate) {
    $("timing").textContent = describeTiming(this.result.milliseconds, this.picture, rate);
  }

  tellProbe(seen, probe, byKeyboard) {
    const text = seen && (seen.score === undefined ? seen.name : `${seen.name}, ${percent(seen.score)}`);
    this.readout.mark(seen ? (seen.index ?? seen.label) : null);
    if (byKeyboard) say(text ?? "nothing");
    if (seen) showTip(seen.color, text, probe.x / this.picture.width, probe.y / this.picture.height);
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
  await new App(demo).start();
}

main();
