/**
 * Images in another size, as Python's Pillow has them to the last bit.
 *
 * @module
 */
import type { RgbImage } from "./read-image.ts";

/** A kernel, and how far from its middle it is not zero. */
interface Filter {
  readonly support: number;
  weight(x: number): number;
}

const sinc = (x: number) => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);

/** Filters by Pillow's numbers. */
export const FILTERS: Readonly<Record<number, Filter>> = {
  1: { support: 3, weight: (x) => Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0 }, // Lanczos
  2: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) }, // bilinear
  3: { support: 2, weight: (x) => cubic(Math.abs(x)) },
  4: { support: 0.5, weight: (x) => x > -0.5 && x <= 0.5 ? 1 : 0 }, // box
};

/** Keys' cubic with a slope of −1/2. */
function cubic(x: number): number {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

/** Bits behind the point of weights. */
const PRECISION = 22;

/** Which pixels of a row one pixel of another is made of, and their weights. */
interface Window {
  readonly start: number;
  readonly weights: Int32Array;
}

function windowsOf(from: number, to: number, { support, weight }: Filter): readonly Window[] {
  const scale = from / to, stretch = Math.max(scale, 1), reach = support * stretch;
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(from, Math.trunc(center + reach + 0.5));
    const raw = Array.from(
      { length: end - start },
      (_, k) => weight((k + start - center + 0.5) / stretch),
    );
    const sum = raw.reduce((a, b) => a + b, 0);
    const weights = Int32Array.from(raw, (w) => {
      const scaled = (sum === 0 ? w : w / sum) * 2 ** PRECISION;
      return scaled + (scaled < 0 ? -0.5 : 0.5);
    });
    return { start, weights };
  });
}

/**
 * An image in another size, one axis after the other, each rounded to bytes; where it shrinks, all
 * pixels count.
 *
 * @param image The image.
 * @param to Its new size, and the number of a filter.
 */
export function resizeImage(
  image: RgbImage,
  to: { readonly width: number; readonly height: number; readonly filter: number },
): RgbImage {
  const filter = FILTERS[to.filter], { width, height } = to;
  const along = (image: RgbImage, axis: "width" | "height") =>
    image[axis] === to[axis] ? image : resample(image, {
      ...image,
      [axis]: to[axis],
      windows: windowsOf(image[axis], to[axis], filter),
    });
  // Rows come first, but where many more of them than pixels of a row go, as since Pillow 13.
  const gone = image.height - height;
  return gone > Math.max(0, 2 * (image.width - width))
    ? along(along(image, "height"), "width")
    : along(along(image, "width"), "height");
}

/** One pass, along the axis whose size changes. */
function resample(
  { data, width: before }: RgbImage,
  of: {
    readonly width: number;
    readonly height: number;
    readonly windows: readonly Window[];
  },
): RgbImage {
  const { width, height, windows } = of, isRow = width !== before;
  const out = new Uint8Array(width * height * 3), step = isRow ? 3 : 3 * before;
  const byte = (sum: number) => Math.max(0, Math.min(255, sum >> PRECISION));
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const { start, weights } = windows[isRow ? x : y];
      let red = 2 ** (PRECISION - 1), green = red, blue = red;
      let at = 3 * (isRow ? y * before + start : start * before + x);
      for (let k = 0; k < weights.length; k++, at += step) {
        const weight = weights[k];
        red += data[at] * weight;
        green += data[at + 1] * weight;
        blue += data[at + 2] * weight;
      }
      out[to] = byte(red);
      out[to + 1] = byte(green);
      out[to + 2] = byte(blue);
    }
  }
  return { width, height, data: out };
}
