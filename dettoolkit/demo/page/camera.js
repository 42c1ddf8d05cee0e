// The camera: asked for when the user wants it, switched off as soon as it is not needed.

import { pictureFrom } from "./picture.js";

const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it for this page next to the address, then try again.",
  NotFoundError: "This device has no camera that the browser can find.",
  OverconstrainedError: "That camera is no longer there.",
  NotReadableError: "The camera is busy: another program may be using it.",
  AbortError: "The camera stopped before it delivered an image.",
};

export class CameraError extends Error {}

export class Camera {
  #video = document.createElement("video");
  #stream = null;
  #starts = 0; // and stops: tells a start that was overtaken

  /** @param {() => void} onEnded called when the camera is unplugged or taken away. */
  constructor(onEnded) {
    this.onEnded = onEnded;
    this.#video.muted = true;
    this.#video.playsInline = true; // or phones show it full screen
  }

  /** Return why there can be no camera at all; null when it is worth asking. */
  static missing() {
    if (navigator.mediaDevices?.getUserMedia) return null;
    return isSecureContext
      ? "This browser does not let pages use a camera."
      : "Browsers allow the camera only for pages from https or from this computer (localhost).";
  }

  /**
   * Start, with a camera of `list()` or the one that looks away from the user. Returns false when `stop` or
   * another `start` came first: the user may take long to allow it.
   */
  async start(deviceId) {
    const missing = Camera.missing();
    if (missing) throw new CameraError(missing);
    this.stop();
    const start = this.#starts;
    const size = { width: { ideal: 960 }, height: { ideal: 540 } };
    const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: { ideal: "environment" } };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { ...size, ...which } });
      if (start !== this.#starts) return switchOff(stream);
      this.#stream = stream;
      this.#video.srcObject = stream;
      await this.#video.play();
    } catch (error) {
      if (start !== this.#starts) return switchOff(stream);
      this.stop();
      throw new CameraError(REASONS[error.name] ?? `The camera could not be started: ${error.message}`);
    }
    for (const track of stream.getTracks()) {
      track.addEventListener("ended", () => this.#stream === stream && this.onEnded());
    }
    return start === this.#starts;
  }

  stop() {
    this.#starts++;
    switchOff(this.#stream);
    this.#stream = null;
    this.#video.srcObject = null;
  }

  /** Return the present picture; null while there is none. */
  frame(largestSide) {
    const { videoWidth, videoHeight } = this.#video;
    if (!this.#stream || !videoWidth) return null;
    return pictureFrom(this.#video, videoWidth, videoHeight, largestSide);
  }

  get deviceId() {
    return this.#stream?.getVideoTracks()[0]?.getSettings().deviceId ?? null;
  }

  /** List cameras as {id, name}; their names are known only once one was allowed. */
  static async list() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    return devices
      .filter((device) => device.kind === "videoinput" && device.deviceId)
      .map((device, index) => ({ id: device.deviceId, name: device.label || `Camera ${index + 1}` }));
  }
}

function switchOff(stream) {
  stream?.getTracks().forEach((track) => track.stop());
  return false;
}
