// Names on the picture, each on a plate of its class's color.

const FONT_PX = 13;
const NARROW_PX = 500; // stages below this get smaller letters
const DARK_TEXT_FROM = 115; // of a ground's brightness, 0 to 255

/** Set the font of plates and return its size, in the canvas's pixels. */
export function setFont(context, ratio) {
  const size = (context.canvas.width / ratio < NARROW_PX ? 0.85 : 1) * FONT_PX * ratio;
  context.font = `600 ${size}px system-ui, sans-serif`;
  return size;
}

/** Return the width and height of a text's plate. */
export function plateSize(context, text, size) {
  return [context.measureText(text).width + size * 0.8, size * 1.5];
}

export function drawPlate(context, [x, y, width, height], text, color, size) {
  context.fillStyle = `rgb(${color})`;
  context.beginPath();
  context.roundRect(x, y, width, height, size * 0.25);
  context.fill();
  context.fillStyle = luma(color) > DARK_TEXT_FROM ? "#14181b" : "#fff";
  context.textBaseline = "middle";
  context.fillText(text, x + size * 0.4, y + height * 0.53);
}

/** Return a color's brightness as ITU-R BT.601 weighs it, 0 to 255. */
function luma([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue;
}
