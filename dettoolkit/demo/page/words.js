// Numbers in words.

export function percent(fraction) {
  const value = 100 * fraction;
  return value > 0 && value < 1 ? "<1 %" : `${Math.round(value)} %`;
}

export function counted(count, one, many) {
  return `${count} ${count === 1 ? one : many}`;
}

/** Return how long the model took, and on what; `rate` are the camera's frames per second. */
export function describeTiming(milliseconds, { width, height, scaledFrom }, rate) {
  const parts = [`${Math.round(milliseconds)} ms`, `${width} × ${height}`];
  if (rate) parts.unshift(`${rate.toFixed(rate < 10 ? 1 : 0)} frames/s`);
  if (scaledFrom) parts.push(`scaled down from ${scaledFrom[0]} × ${scaledFrom[1]}`);
  return parts.join(" · ");
}
