// Boxes of objects over the class of each pixel, with a switch for each. What a task's module exports: see
// app.js. Both are those of their own tasks' modules.

import * as detection from "./detection.js";
import * as segmentation from "./segmentation.js";

const HEADINGS = { boxes: "Objects, by score", map: "Classes, by area" };

/** Make a list of boxes, best first, and copy the label map, uint8 (1, H, W). */
export function read(outputs) {
  const boxes = detection.read(outputs);
  const map = segmentation.read({ labels: outputs.label_map });
  return { fields: { boxes: boxes.fields, map: map.fields }, transfer: [...boxes.transfer, ...map.transfer] };
}

export class Layer {
  pointable = true;
  switches = [
    { key: "boxes", label: "Objects" },
    { key: "map", label: "Classes" },
  ];
  #parts = {}; // the layers, from below
  #hidden = new Set(); // keys of parts

  /** `classes` have the task before their name; those of boxes come first, `boxed_classes` of them. */
  constructor({ classes, boxed_classes: boxed, ...rest }) {
    this.classes = classes.map(({ name, color }) => ({ name: name.slice(name.indexOf("/") + 1), color }));
    this.first = { boxes: 0, map: boxed }; // label of each part
    this.#parts.map = new segmentation.Layer({ ...rest, classes: this.classes.slice(boxed) });
    this.#parts.boxes = new detection.Layer({ ...rest, classes: this.classes.slice(0, boxed) });
    this.slider = this.#parts.boxes.slider;
  }

  toggle(key, on) {
    if (on) this.#hidden.delete(key);
    else this.#hidden.add(key);
  }

  slide(value) {
    this.#parts.boxes.slide(value);
  }

  show(result) {
    for (const [key, layer] of Object.entries(this.#parts)) layer.show(result ? result[key] : null);
  }

  choose(key) {
    const [part, own] = key === null ? [] : key.split(" ");
    for (const [name, layer] of Object.entries(this.#parts)) layer.choose(name === part ? Number(own) : null);
  }

  paint(...place) {
    for (const [, layer] of this.#shown()) layer.paint(...place);
  }

  /** Name the object and the class of a place; the object's row is marked, where there is one. */
  at(point, picture) {
    const seen = this.#shown().reverse().flatMap(([name, layer]) => {
      const found = layer.at(point, picture);
      return found ? [{ ...found, key: `${name} ${found.key}` }] : [];
    });
    return seen.length ? { ...seen[0], text: seen.map(({ text }) => text).join(" · ") } : null;
  }

  describe(live) {
    const said = this.#shown().reverse().map(([name, layer]) => [name, layer.describe(live)]);
    const nothing = "Objects and classes are hidden";
    return {
      rows: said.flatMap(([name, { rows }]) => this.#listed(name, rows)),
      summary: said.map(([name, { spoken, summary }]) => (name === "boxes" ? spoken : summary)).join("; ") || `${nothing}.`,
      spoken: said.map(([, { spoken }]) => spoken).join(". ") || nothing,
      absent: said.flatMap(([, { absent }]) => absent),
    };
  }

  #shown() {
    return Object.entries(this.#parts).filter(([name]) => !this.#hidden.has(name));
  }

  /** Put a heading before a part's rows, and number their labels as `classes` does. */
  #listed(name, rows) {
    if (!rows.length) return [];
    const own = rows.map((row) => ({ ...row, key: `${name} ${row.key}`, label: this.first[name] + row.label }));
    return [{ key: name, heading: HEADINGS[name] }, ...own];
  }
}
