// Pictures from files, the clipboard or the camera, as canvases of a bounded size.

export class PictureError extends Error {}

/**
 * Decode an image file, turned as its EXIF orientation says and scaled down to `largestSide` pixels.
 * Transparent parts become white. Returns {canvas, width, height, scaledFrom: [width, height] | null}.
 */
export async function pictureFromBlob(blob, largestSide) {
  if (blob.size === 0) throw new PictureError("This file is empty.");
  const decoded = await decode(blob);
  const picture = pictureFrom(decoded, decoded.width, decoded.height, largestSide);
  decoded.close?.();
  return picture;
}

/** Copy anything that can be drawn, of `width` x `height`, into a picture. */
export function pictureFrom(source, width, height, largestSide) {
  if (!(width > 0 && height > 0)) throw new PictureError("This image has no size.");
  const scale = Math.min(1, largestSide / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return {
    canvas,
    width: canvas.width,
    height: canvas.height,
    scaledFrom: scale < 1 ? [width, height] : null,
  };
}

/** Read a picture's pixels, RGBA, as a buffer that can be handed over. */
export function pixelsOf(picture) {
  const context = picture.canvas.getContext("2d", { willReadFrequently: true });
  return context.getImageData(0, 0, picture.width, picture.height).data.buffer;
}

async function decode(blob) {
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    return decodeByElement(blob); // what has no bitmap: SVG, and older browsers without that option
  }
}

async function decodeByElement(blob) {
  const image = new Image();
  const url = URL.createObjectURL(blob);
  try {
    image.src = url;
    await image.decode();
    return image;
  } catch {
    throw new PictureError(
      "This browser cannot read the file as an image. JPEG, PNG and WebP work everywhere; very large " +
        "images may need to be made smaller first.",
    );
  } finally {
    URL.revokeObjectURL(url);
  }
}
