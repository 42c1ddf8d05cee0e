// The list beside the picture: classes with their share, or the objects found.

import { percent } from "./view.js";

export class Readout {
  #rows = new Map();
  #pinned = null;

  /**
   * @param list the <ul>
   * @param classes [{name, color}]
   * @param onChoose called with the key of the row that the user points to or has pinned, or null
   */
  constructor(list, classes, onChoose) {
    Object.assign(this, { list, classes, onChoose });
  }

  /** Show rows: [{key, label, value: text, share: 0..1}]. A row that stays keeps focus. */
  show(rows) {
    const wanted = new Set(rows.map(({ key }) => key));
    for (const [key, row] of this.#rows) {
      if (wanted.has(key)) continue;
      row.item.remove();
      this.#rows.delete(key);
      if (this.#pinned === key) this.#pin(null);
      else this.onChoose(this.#pinned); // it may have been the one pointed to, and says no goodbye
    }
    rows.forEach((row, position) => {
      const known = this.#rows.get(row.key) ?? this.#make(row.key);
      this.#fill(known, row);
      const there = this.list.children[position];
      if (there !== known.item) this.list.insertBefore(known.item, there ?? null);
    });
  }

  /** Mark the row of what is under the pointer; null marks none. */
  mark(key) {
    for (const [own, { button }] of this.#rows) button.classList.toggle("marked", own === key);
  }

  #make(key) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "row";
    button.setAttribute("aria-pressed", "false");
    const [swatch, name, value, bar] = ["row-swatch", "row-name", "row-value", "row-bar"].map((className) => {
      const part = document.createElement("span");
      part.className = className;
      button.append(part);
      return part;
    });
    button.addEventListener("click", () => this.#pin(this.#pinned === key ? null : key));
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.onChoose(key));
    button.addEventListener("pointerleave", () => this.onChoose(this.#pinned));
    button.addEventListener("focus", () => button.matches(":focus-visible") && this.onChoose(key));
    button.addEventListener("blur", () => this.onChoose(this.#pinned));
    item.append(button);
    const row = { item, button, swatch, name, value, bar };
    this.#rows.set(key, row);
    return row;
  }

  #fill({ swatch, name, value, bar }, row) {
    const { name: text, color } = this.classes[row.label];
    swatch.style.backgroundColor = `rgb(${color})`;
    bar.style.backgroundColor = `rgb(${color})`;
    bar.style.setProperty("--share", row.share);
    if (name.textContent !== text) name.textContent = text;
    if (value.textContent !== row.value) value.textContent = row.value;
  }

  #pin(key) {
    this.#pinned = key;
    for (const [own, { button }] of this.#rows) button.setAttribute("aria-pressed", String(own === key));
    this.onChoose(key);
  }
}

/** Rows and sentences of a label map; `steady` keeps the classes' order, for the camera. */
export function describeSegmentation(result, classes, steady) {
  const total = result.width * result.height;
  const shares = classes.map((_, label) => ({ label, share: result.pixels[label] / total }));
  const present = shares.filter(({ share }) => share > 0);
  if (!steady) present.sort((one, other) => other.share - one.share);
  const rows = present.map(({ label, share }) => ({ key: label, label, share, value: percent(share) }));
  const largest = [...present].sort((one, other) => other.share - one.share).slice(0, 4);
  const named = largest.map(({ label, share }) => `${classes[label].name} ${percent(share)}`);
  return {
    rows,
    summary: `${counted(present.length, "class", "classes")} of ${classes.length}`,
    spoken: `Mostly ${named.join(", ")}`,
    absent: shares.filter(({ share }) => share === 0).map(({ label }) => classes[label].name),
  };
}

/** Rows and sentences of detections: [{label, score}]. */
export function describeDetection(shown, classes) {
  const rows = shown.map(({ label, score }, key) => ({ key, label, share: score, value: percent(score) }));
  const counts = new Map();
  for (const { label } of shown) counts.set(label, (counts.get(label) ?? 0) + 1);
  const named = [...counts].map(([label, count]) => unbroken(`${count} × ${classes[label].name}`));
  const found = counted(shown.length, "object", "objects");
  return {
    rows,
    summary: shown.length ? `${found}: ${named.join(", ")}` : "Nothing above this score.",
    spoken: shown.length ? `${found}: ${named.join(", ")}` : "Nothing above this score",
    absent: [],
  };
}

/** Say how long the model took, and on what; `rate` are the camera's frames per second. */
export function describeTiming(milliseconds, { width, height, scaledFrom }, rate) {
  const parts = [`${Math.round(milliseconds)} ms`, `${width} × ${height}`];
  if (rate) parts.unshift(`${rate.toFixed(rate < 10 ? 1 : 0)} frames/s`);
  if (scaledFrom) parts.push(`scaled down from ${scaledFrom[0]} × ${scaledFrom[1]}`);
  return parts.join(" · ");
}

function unbroken(text) {
  return text.replaceAll(" ", "\u00a0");
}

function counted(count, one, many) {
  return `${count} ${count === 1 ? one : many}`;
}
