// Boxes of objects, over the picture. What a task's module exports: see app.js.

import { drawPlate, plateSize, setFont } from "./plate.js";
import { counted, percent } from "./words.js";

const LINE_PX = 2.5;

/** Make a list of padded boxes, best first; boxes in pixels of the picture. */
export function read(outputs) {
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

export class Layer {
  pointable = true;
  #result = null;
  #shown = []; // detections above the score
  #chosen = null; // an index into them

  constructor({ classes, lowest_score: min, shown_score: value }) {
    this.classes = classes;
    this.slider = { label: "Lowest score shown", min, max: 1, value };
    this.slide(value);
  }

  slide(value) {
    this.lowest = value;
    this.#shown = this.#result?.found.filter(({ score }) => score >= value) ?? [];
  }

  show(result) {
    this.#result = result;
    this.slide(this.lowest);
  }

  choose(index) {
    this.#chosen = index;
  }

  /** Draw all boxes, then all plates, each where it hides no other if there is such a place. */
  paint(context, picture, width, height, ratio) {
    const scale = width / picture.width;
    const chosen = this.#shown[this.#chosen];
    const order = this.#shown.filter((each) => each !== chosen).reverse(); // the surest on top
    if (chosen) order.push(chosen);
    const dim = (each) => (chosen && each !== chosen ? 0.25 : 1);
    for (const each of order) {
      context.globalAlpha = dim(each);
      drawBox(context, scaled(each.box, scale), this.classes[each.label].color, ratio);
    }
    const size = setFont(context, ratio);
    const taken = [];
    const plates = order.reverse().map((each) => {
      const { name, color } = this.classes[each.label];
      const text = `${name} ${percent(each.score)}`;
      const rect = placePlate(context, scaled(each.box, scale), text, size, taken);
      taken.push(rect);
      return { text, color, rect, alpha: dim(each) };
    });
    for (const { text, color, rect, alpha } of plates.reverse()) {
      context.globalAlpha = alpha;
      drawPlate(context, rect, text, color, size);
    }
    context.globalAlpha = 1;
  }

  at({ x, y }) {
    let best = null;
    this.#shown.forEach(({ label, score, box: [left, top, right, bottom] }, key) => {
      const area = (right - left) * (bottom - top);
      const inside = x >= left && x <= right && y >= top && y <= bottom;
      const { name, color } = this.classes[label];
      if (inside && (!best || area < best.area)) best = { key, color, text: `${name}, ${percent(score)}`, area };
    });
    return best;
  }

  describe() {
    const counts = new Map();
    for (const { label } of this.#shown) counts.set(label, (counts.get(label) ?? 0) + 1);
    const named = [...counts].map(([label, count]) => unbroken(`${count} × ${this.classes[label].name}`));
    const found = counted(this.#shown.length, "object", "objects");
    const spoken = this.#shown.length ? `${found}: ${named.join(", ")}` : "Nothing above this score";
    return {
      rows: this.#shown.map(({ label, score }, key) => ({ key, label, fraction: score })),
      summary: this.#shown.length ? spoken : `${spoken}.`,
      spoken,
      absent: [],
    };
  }
}

function scaled(box, scale) {
  return box.map((value) => value * scale);
}

function drawBox(context, [left, top, right, bottom], color, ratio) {
  context.lineJoin = "round";
  for (const [style, width] of [["rgb(0 0 0 / 40%)", LINE_PX + 1.5], [`rgb(${color})`, LINE_PX]]) {
    context.strokeStyle = style;
    context.lineWidth = width * ratio;
    context.strokeRect(left, top, right - left, bottom - top);
  }
}

/** Find a place at a box for its plate, [x, y, width, height]: above, below, inside, aligned left or right. */
function placePlate(context, [left, top, right, bottom], text, size, taken) {
  const [width, height] = plateSize(context, text, size);
  const { width: mostX, height: mostY } = context.canvas;
  const places = [];
  for (const y of [top - height, bottom, top, bottom - height]) {
    for (const x of [left, right - width]) {
      if (y >= 0 && y + height <= mostY) places.push([Math.max(0, Math.min(x, mostX - width)), y, width, height]);
    }
  }
  const free = places.find((place) => taken.every((other) => !overlap(place, other)));
  return free ?? places[0] ?? [Math.max(0, Math.min(left, mostX - width)), Math.max(0, top), width, height];
}

function overlap([x, y, width, height], [left, top, w, h]) {
  return x < left + w && left < x + width && y < top + h && top < y + height;
}

function unbroken(text) {
  return text.replaceAll(" ", "\u00a0");
}
