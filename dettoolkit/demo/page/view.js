// The picture with what was found in it, and the place that the user points to.

const SAVED_WIDTH = 900; // lines and letters of a saved picture are as on a stage of this width
const MIN_RATIO = 0.9; // of theirs, in small pictures: letters stay legible
const STEP_PX = 12; // of the cross by arrow keys, on the screen

export class View {
  picture = null;
  probe = null; // {x, y} in the picture's pixels

  /**
   * @param stage the element that the canvas fills
   * @param canvas its canvas
   * @param layer paints a result over the picture; see app.js
   * @param onProbe called with what is under the pointer or the cross, or null; see `at` of layers
   */
  constructor(stage, canvas, layer, onProbe) {
    Object.assign(this, { stage, canvas, layer, onProbe });
    new ResizeObserver(() => this.draw()).observe(stage);
    if (!layer.pointable) return;
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerdown", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.moveProbe(null); // a finger's answer stays to be read
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.moveProbe(null));
  }

  /** Show a picture. */
  show(picture) {
    const sameSize = this.picture?.width === picture.width && this.picture?.height === picture.height;
    this.picture = picture;
    if (!sameSize) this.probe = null;
    this.stage.style.setProperty("--aspect", String(picture.width / picture.height));
    this.draw();
  }

  /** Highlight a part of the result by its row's key; null highlights none. */
  choose(key) {
    this.layer.choose(key);
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

  /** Return the picture with what was found as a PNG, in its own size. */
  toBlob() {
    const { width, height } = this.picture;
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    this.#compose(canvas.getContext("2d"), width, height, Math.max(MIN_RATIO, width / SAVED_WIDTH));
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  /** Move the cross, in the picture's pixels; null takes it away. */
  moveProbe(probe, byKeyboard = false) {
    const had = this.probe;
    this.probe = byKeyboard ? probe : null; // a mouse has a pointer of its own
    this.onProbe(probe && this.picture ? this.layer.at(probe, this.picture) : null, probe, byKeyboard);
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

  #compose(context, width, height, ratio) {
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture.canvas, 0, 0, width, height);
    this.layer.paint(context, this.picture, width, height, ratio);
  }
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
