// The list beside the picture: classes or objects, each with a bar.

import { percent } from "./words.js";

export class Readout {
  #rows = new Map();
  #pinned = null;

  /**
   * @param list the <ul>
   * @param classes [{name, color}]
   * @param onChoose called with the key of the row that the user points to or has pinned, or null; null
   *     itself makes rows no buttons
   */
  constructor(list, classes, onChoose) {
    Object.assign(this, { list, classes, onChoose });
  }

  /** Show rows, [{key, label, fraction: 0..1}], and headings, {key, heading}. A row that stays keeps focus. */
  show(rows) {
    const wanted = new Set(rows.map(({ key }) => key));
    for (const [key, row] of this.#rows) {
      if (wanted.has(key)) continue;
      row.item.remove();
      this.#rows.delete(key);
      if (this.#pinned === key) this.#pin(null);
      else this.onChoose?.(this.#pinned); // it may have been the one pointed to, and says no goodbye
    }
    rows.forEach((row, position) => {
      const known = this.#rows.get(row.key) ?? (row.heading ? this.#head(row) : this.#make(row.key));
      if (!row.heading) this.#fill(known, row);
      const there = this.list.children[position];
      if (there !== known.item) this.list.insertBefore(known.item, there ?? null);
    });
  }

  /** Mark the row of what is under the pointer; null marks none. */
  mark(key) {
    for (const [own, { button }] of this.#rows) button?.classList.toggle("marked", own === key);
  }

  #head({ key, heading }) {
    const item = document.createElement("li");
    item.className = "row-heading";
    item.textContent = heading;
    this.#rows.set(key, { item });
    return { item };
  }

  #make(key) {
    const item = document.createElement("li");
    const button = document.createElement(this.onChoose ? "button" : "div");
    button.className = "row";
    const [swatch, name, value, bar] = ["row-swatch", "row-name", "row-value", "row-bar"].map((className) => {
      const part = document.createElement("span");
      part.className = className;
      button.append(part);
      return part;
    });
    if (this.onChoose) this.#listen(button, key);
    item.append(button);
    const row = { item, button, swatch, name, value, bar };
    this.#rows.set(key, row);
    return row;
  }

  #listen(button, key) {
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => this.#pin(this.#pinned === key ? null : key));
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.onChoose(key));
    button.addEventListener("pointerleave", () => this.onChoose(this.#pinned));
    button.addEventListener("focus", () => button.matches(":focus-visible") && this.onChoose(key));
    button.addEventListener("blur", () => this.onChoose(this.#pinned));
  }

  #fill({ swatch, name, value, bar }, row) {
    const { name: text, color } = this.classes[row.label];
    swatch.style.backgroundColor = `rgb(${color})`;
    bar.style.backgroundColor = `rgb(${color})`;
    bar.style.setProperty("--fraction", row.fraction);
    const number = percent(row.fraction);
    if (name.textContent !== text) name.textContent = text;
    if (value.textContent !== number) value.textContent = number;
  }

  #pin(key) {
    this.#pinned = key;
    for (const [own, { button }] of this.#rows) button?.setAttribute("aria-pressed", String(own === key));
    this.onChoose(key);
  }
}
