// The picture with what was found in it, and the place that the user points to.

const FONT_PX = 13;
const LINE_PX = 2.5;
const SAVED_WIDTH = 900; // lines and letters of a saved picture are as on a stage of this width
const NARROW_PX = 500; // stages below this get smaller letters
const DARK_TEXT_FROM = 115; // of a ground's brightness, 0 to 255
const LEAST_RATIO = 0.9; // of theirs, in small pictures: letters stay legible
const DIMMED = 0.18; // of the opacity, for classes that are not the chosen one
const STEP_PX = 12; // of the cross by arrow keys, on the screen

export class View {
  picture = null;
  opacity = 0.6;
  chosen = null; // segmentation: a label; detection: an index into `shown`
  probe = null; // {x, y} in the picture's pixels
  #result = null;
  #shown = [];
  #mask = null;

  /**
   * @param stage the element that the canvas fills
   * @param canvas its canvas
   * @param classes [{name, color: [r, g, b]}]
   * @param onProbe called with what is under the pointer or the cross, or null; see `under`
   */
  constructor(stage, canvas, classes, onProbe) {
    Object.assign(this, { stage, canvas, classes, onProbe });
    new ResizeObserver(() => this.draw()).observe(stage);
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerdown", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.moveProbe(null); // a finger's answer stays to be read
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.moveProbe(null));
  }

  /** Show a picture, with a result of `Runner.run` or, while there is none, without. */
  show(picture, result = null) {
    const sameSize = this.picture?.width === picture.width && this.picture?.height === picture.height;
    this.picture = picture;
    this.#result = result;
    this.#shown = [];
    if (!sameSize) this.probe = null;
    this.stage.style.setProperty("--aspect", String(picture.width / picture.height));
    this.#paintMask();
    this.draw();
  }

  /** Choose the detections to draw: [{label, score, box}]. */
  setShown(detections) {
    this.#shown = detections;
    this.draw();
  }

  choose(chosen) {
    if (this.chosen === chosen) return;
    this.chosen = chosen;
    this.#paintMask();
    this.draw();
  }

  draw() {
    const { canvas, picture } = this;
    const { clientWidth, clientHeight } = this.stage;
    if (!picture || !clientWidth || !clientHeight) return;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    canvas.width = Math.round(clientWidth * ratio);
    canvas.height = Math.round(clientHeight * ratio);
    const context = canvas.getContext("2d");
    this.#compose(context, canvas.width, canvas.height, ratio);
    if (this.probe) drawCross(context, this.probe, canvas.width / picture.width, ratio);
  }

  /** Give the picture with what was found as a PNG, in its own size. */
  toBlob() {
    const { width, height } = this.picture;
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    this.#compose(canvas.getContext("2d"), width, height, Math.max(LEAST_RATIO, width / SAVED_WIDTH));
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  /** Say what is at a point of the picture: {name, color, label, index?, score?}, or null. */
  under({ x, y }) {
    if (this.#result?.labels) {
      const column = Math.min(this.#result.width - 1, Math.floor((x / this.picture.width) * this.#result.width));
      const row = Math.min(this.#result.height - 1, Math.floor((y / this.picture.height) * this.#result.height));
      const label = this.#result.labels[row * this.#result.width + column];
      return this.classes[label] ? { label, ...this.classes[label] } : null;
    }
    let best = null;
    this.#shown.forEach(({ label, score, box: [left, top, right, bottom] }, index) => {
      const area = (right - left) * (bottom - top);
      const inside = x >= left && x <= right && y >= top && y <= bottom;
      if (inside && (!best || area < best.area)) best = { area, index, label, score, ...this.classes[label] };
    });
    return best;
  }

  /** Move the cross, in the picture's pixels; null takes it away. */
  moveProbe(probe, byKeyboard = false) {
    const had = this.probe;
    this.probe = byKeyboard ? probe : null; // a mouse has a pointer of its own
    this.onProbe(probe && this.picture ? this.under(probe) : null, probe, byKeyboard);
    if (had || this.probe) this.draw();
  }

  #point(event) {
    if (!this.picture) return;
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - left) / width) * this.picture.width;
    const y = ((event.clientY - top) / height) * this.picture.height;
    this.moveProbe({ x, y });
  }

  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") return this.moveProbe(null);
    if (!this.picture || !moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const { width, height } = this.picture;
    const step = (STEP_PX * width) / this.stage.clientWidth * (event.shiftKey ? 4 : 1);
    const from = this.probe ?? { x: width / 2, y: height / 2 };
    const [dx, dy] = this.probe ? moves[event.key] : [0, 0]; // the first key shows the cross
    const x = Math.min(width - 1, Math.max(0, from.x + dx * step));
    const y = Math.min(height - 1, Math.max(0, from.y + dy * step));
    this.moveProbe({ x, y }, true);
  }

  /** Color the label map once, so that drawing is quick. */
  #paintMask() {
    const result = this.#result;
    if (!result?.labels) {
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
      const full = this.chosen === null || this.chosen === label;
      bytes.set([...color, Math.round(255 * (full ? 1 : DIMMED))], 4 * label);
    });
    const pixels = new Uint32Array(image.data.buffer);
    for (let index = 0; index < labels.length; index++) pixels[index] = palette[labels[index]];
    context.putImageData(image, 0, 0);
    this.#mask = canvas;
  }

  #compose(context, width, height, ratio) {
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture.canvas, 0, 0, width, height);
    if (this.#mask) {
      context.globalAlpha = this.opacity;
      context.drawImage(this.#mask, 0, 0, width, height);
      context.globalAlpha = 1;
    }
    if (this.#shown.length) this.#drawDetections(context, width / this.picture.width, ratio);
  }

  /** Draw all boxes, then all plates, each where it hides no other if there is such a place. */
  #drawDetections(context, scale, ratio) {
    const chosen = this.#shown[this.chosen];
    const order = this.#shown.filter((each) => each !== chosen).reverse(); // the surest on top
    if (chosen) order.push(chosen);
    const dim = (each) => (chosen && each !== chosen ? 0.25 : 1);
    for (const each of order) {
      context.globalAlpha = dim(each);
      drawBox(context, scaled(each.box, scale), this.classes[each.label].color, ratio);
    }
    const size = (context.canvas.width / ratio < NARROW_PX ? 0.85 : 1) * FONT_PX * ratio;
    context.font = `600 ${size}px system-ui, sans-serif`;
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
  const [width, height] = [context.measureText(text).width + size * 0.8, size * 1.5];
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

function drawPlate(context, [x, y, width, height], text, color, size) {
  context.fillStyle = `rgb(${color})`;
  context.beginPath();
  context.roundRect(x, y, width, height, size * 0.25);
  context.fill();
  context.fillStyle = luma(color) > DARK_TEXT_FROM ? "#14181b" : "#fff";
  context.textBaseline = "middle";
  context.fillText(text, x + size * 0.4, y + height * 0.53);
}

function drawCross(context, { x, y }, scale, ratio) {
  const reach = 11 * ratio;
  const [left, top] = [x * scale, y * scale];
  for (const [color, width] of [["#000", 4], ["#fff", 2]]) {
    context.strokeStyle = color;
    context.lineWidth = width * ratio;
    context.beginPath();
    context.moveTo(left - reach, top);
    context.lineTo(left + reach, top);
    context.moveTo(left, top - reach);
    context.lineTo(left, top + reach);
    context.stroke();
  }
}

/** Brightness as ITU-R BT.601 weighs it, 0 to 255. */
function luma([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue;
}

export function percent(share) {
  const value = 100 * share;
  return value > 0 && value < 1 ? "<1 %" : `${Math.round(value)} %`;
}
