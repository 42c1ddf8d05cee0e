// The best classes of the whole picture. What a task's module exports: see app.js.

import { drawPlate, plateSize, setFont } from "./plate.js";
import { percent } from "./words.js";

/** Make a list of scores and labels (1, T), best first. */
export function read(outputs) {
  const scores = Array.from(outputs.scores.data);
  const best = scores.map((score, rank) => ({ score, label: Number(outputs.labels.data[rank]) }));
  return { fields: { best }, transfer: [] };
}

export class Layer {
  pointable = false; // a class is of the whole picture
  slider = null;
  #best = [];

  constructor({ classes }) {
    this.classes = classes;
  }

  show(result) {
    this.#best = result?.best ?? [];
  }

  /** Write the best class on the picture's lower edge. */
  paint(context, picture, width, height, ratio) {
    if (!this.#best.length) return;
    const [{ label, score }] = this.#best;
    const { name, color } = this.classes[label];
    const size = setFont(context, ratio);
    const margin = size * 0.6;
    const text = shortened(context, name, ` ${percent(score)}`, width - 4 * margin);
    const [wide, high] = plateSize(context, text, size);
    drawPlate(context, [margin, height - high - margin, wide, high], text, color, size);
  }

  describe() {
    const named = this.#best.map(({ label, score }) => `${this.classes[label].name} ${percent(score)}`);
    return {
      // Keyed by their rank: a camera's classes change places often, and rows stay where they are.
      rows: this.#best.map(({ label, score }, key) => ({ key, label, fraction: score })),
      summary: `Most likely: ${this.classes[this.#best[0].label].name}`,
      spoken: `Most likely ${named.join(", ")}`,
      absent: [],
    };
  }
}

/** Cut a name off where it and its end are wider than `width`. */
function shortened(context, name, end, width) {
  let text = name + end;
  for (let length = name.length - 1; length > 0 && context.measureText(text).width > width; length--) {
    text = `${name.slice(0, length)}…${end}`;
  }
  return text;
}
