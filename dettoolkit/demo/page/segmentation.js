// Label maps: the class of each pixel, over the picture. What a task's module exports: see app.js.

import { counted, percent } from "./words.js";

const DIMMED = 0.18; // of the opacity, for classes that are not the chosen one

/** Copy labels uint8 (1, H, W), which the runtime keeps, and count the pixels of each class. */
export function read(outputs) {
  const labels = new Uint8Array(outputs.labels.data);
  const [, height, width] = outputs.labels.dims;
  const pixels = new Uint32Array(256);
  for (let index = 0; index < labels.length; index++) pixels[labels[index]]++;
  return { fields: { labels, width, height, pixels }, transfer: [labels.buffer, pixels.buffer] };
}

export class Layer {
  pointable = true;
  slider = { label: "Opacity of the overlay", min: 0, max: 1, value: 0.6 };
  #result = null;
  #chosen = null; // a label
  #mask = null;

  constructor({ classes }) {
    this.classes = classes;
    this.slide(this.slider.value);
  }

  slide(value) {
    this.opacity = value;
  }

  show(result) {
    this.#result = result;
    this.#paintMask();
  }

  choose(label) {
    if (this.#chosen === label) return;
    this.#chosen = label;
    this.#paintMask();
  }

  paint(context, picture, width, height) {
    if (!this.#mask) return;
    context.globalAlpha = this.opacity;
    context.drawImage(this.#mask, 0, 0, width, height);
    context.globalAlpha = 1;
  }

  at({ x, y }, picture) {
    if (!this.#result) return null;
    const { width, height, labels } = this.#result;
    const column = Math.min(width - 1, Math.floor((x / picture.width) * width));
    const row = Math.min(height - 1, Math.floor((y / picture.height) * height));
    const label = labels[row * width + column];
    const { name, color } = this.classes[label] ?? {};
    return name === undefined ? null : { key: label, color, text: name };
  }

  /** A camera's classes keep their order; those of a picture begin with the largest. */
  describe(live) {
    const { width, height, pixels } = this.#result;
    const fractions = this.classes.map((_, label) => ({ label, fraction: pixels[label] / (width * height) }));
    const present = fractions.filter(({ fraction }) => fraction > 0);
    const largest = [...present].sort((one, other) => other.fraction - one.fraction);
    const rows = (live ? present : largest).map(({ label, fraction }) => ({ key: label, label, fraction }));
    const named = largest.slice(0, 4).map(({ label, fraction }) => `${this.classes[label].name} ${percent(fraction)}`);
    return {
      rows,
      summary: `${counted(present.length, "class", "classes")} of ${this.classes.length}`,
      spoken: `Mostly ${named.join(", ")}`,
      absent: fractions.filter(({ fraction }) => fraction === 0).map(({ label }) => this.classes[label].name),
    };
  }

  /** Color the label map once, so that drawing is quick. */
  #paintMask() {
    const result = this.#result;
    if (!result) {
      this.#mask = null;
      return;
    }
    const { width, height, labels } = result;
    const canvas = this.#mask ?? document.createElement("canvas");
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const palette = new Uint32Array(256);
    const bytes = new Uint8Array(palette.buffer); // in the machine's own order, as the image's
    this.classes.forEach(({ color }, label) => {
      const full = this.#chosen === null || this.#chosen === label;
      bytes.set([...color, Math.round(255 * (full ? 1 : DIMMED))], 4 * label);
    });
    const pixels = new Uint32Array(image.data.buffer);
    for (let index = 0; index < labels.length; index++) pixels[index] = palette[labels[index]];
    context.putImageData(image, 0, 0);
    this.#mask = canvas;
  }
}
