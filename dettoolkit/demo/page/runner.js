// The page's side of the worker: one run at a time, and of those that wait only the latest.

import { pixelsOf } from "./picture.js";

const MAX_THREADS = 4; // more bring little to networks of this size, and heat phones

export class Runner {
  #worker;
  #running = null; // {id, resolve, reject}
  #waiting = null; // {picture, resolve, reject}
  #id = 0;
  #closed = false;

  /** Load runtime and model; rejects with an Error that says what went wrong. */
  static async open(demo, provider, onProgress) {
    const runner = new Runner();
    runner.provider = provider;
    runner.threads = provider === "wasm" ? threadsHere() : 1;
    await runner.#start(demo, onProgress);
    return runner;
  }

  #start(demo, onProgress) {
    this.#worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    return new Promise((resolve, reject) => {
      const failed = (message) => {
        this.close();
        reject(new Error(message));
      };
      this.#worker.onmessage = ({ data }) => {
        if (data.type === "progress") onProgress(data.loaded, data.total);
        if (data.type === "ready") resolve();
        if (data.type === "failed") failed(data.message);
        if (data.type === "result") this.#finish(data);
      };
      this.#worker.onerror = (event) => {
        const message = event.message || "the browser could not start it";
        if (this.#running) this.#finish({ id: this.#running.id, error: message });
        failed(message);
      };
      this.#worker.postMessage({ type: "open", demo, provider: this.provider, threads: this.threads });
    });
  }

  /** Run on a picture. Resolves to null when a later picture took its turn. */
  run(picture) {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new Error("the model was stopped"));
      this.#waiting?.resolve(null);
      this.#waiting = { picture, resolve, reject };
      this.#next();
    });
  }

  #next() {
    if (this.#running || !this.#waiting) return;
    const { picture, resolve, reject } = this.#waiting;
    this.#waiting = null;
    this.#running = { id: ++this.#id, resolve, reject };
    try {
      const pixels = pixelsOf(picture);
      const { width, height } = picture;
      this.#worker.postMessage({ type: "run", id: this.#id, width, height, pixels }, [pixels]);
    } catch (error) {
      this.#finish({ id: this.#id, error: error.message });
    }
  }

  #finish(result) {
    if (!this.#running || result.id !== this.#running.id) return;
    const { resolve, reject } = this.#running;
    this.#running = null;
    if (result.error) reject(new Error(result.error));
    else resolve(result);
    this.#next();
  }

  /** End it; runs under way resolve to null. */
  close() {
    this.#closed = true;
    this.#worker?.terminate();
    this.#running?.resolve(null);
    this.#waiting?.resolve(null);
    this.#running = this.#waiting = null;
  }
}

/** Return the number of threads that WebAssembly may use: one, unless the page is cross-origin isolated. */
export function threadsHere() {
  return self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
}

/** Return whether there is a GPU to run on: the interface alone says nothing. */
export async function hasWebGpu() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}
