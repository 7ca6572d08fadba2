/**
 * The patches of an image, a signal or a volume that a convolution multiplies with its kernels.
 *
 * @module
 */
import { add, mul } from "./elementwise.ts";
import { gather } from "./gather.ts";
import { iota } from "./iota.ts";
import { reshape } from "./reshape.ts";
import { checkShapes } from "./shapes.ts";
import { pad, slice } from "./slice.ts";
import { transpose } from "./transpose.ts";
import { sizeOf, stridesOf } from "../tensor/dtype.ts";
import type { Graph, Value } from "./value.ts";

/** How a window moves over an image; one number for each of its dimensions. */
export interface PatchOptions {
  /** Size of the window. */
  readonly kernel: readonly number[];
  /** How far it moves from one patch to the next. */
  readonly stride: readonly number[];
  /** How many zeros stand before and behind the image. */
  readonly padding: readonly number[];
  /** How far the elements of a patch are apart. */
  readonly dilation: readonly number[];
}

/**
 * Of `x` [B, C, ...S] all patches, [B, ...P, C · kernel]: as many along each dimension as the window
 * fits in, with the channel first and then the place in the window.
 */
export function patches(x: Value, options: PatchOptions): Value {
  const { kernel, stride, padding, dilation } = options;
  const reach = kernel.map((k, i) => dilation[i] * (k - 1) + 1);
  const [batch, channels, ...size] = x.shape;
  const counts = size.map((n, i) => Math.floor((n + 2 * padding[i] - reach[i]) / stride[i]) + 1);
  checkShapes(
    x.dtype === "f32" && size.length === kernel.length && counts.every((n) => n > 0),
    "patches",
    `f32 [B, C, ...] with ${kernel.length} more dimensions, in which a window of [${reach}] fits (padding [${padding}])`,
    [x],
  );
  const around = [0, 0, ...padding];
  const padded = pad(x, { low: around, high: around });
  const area = sizeOf(kernel);
  if (kernel.every((k, i) => k === stride[i] && k === reach[i])) {
    // Side by side: nothing is read twice, and moving axes is enough.
    const whole = slice(padded, {
      starts: around.map(() => 0),
      sizes: [batch, channels, ...counts.map((n, i) => n * stride[i])],
    });
    const cut = reshape(whole, [batch, channels, ...counts.flatMap((n, i) => [n, kernel[i]])]);
    const order = kernel.map((_, i) => 2 * i + 2);
    const y = transpose(cut, [0, ...order, 1, ...order.map((axis) => axis + 1)]);
    return reshape(y, [batch, ...counts, channels * area]);
  }
  const full = padded.shape.slice(2), last = full.map((_, i) => i + 2);
  const table = reshape(transpose(padded, [...last, 0, 1]), [-1, batch * channels]);
  const rows = gather(table, places(x.graph, { counts, full, options }));
  const y = transpose(reshape(rows, [-1, area, batch, channels]), [2, 0, 3, 1]);
  return reshape(y, [batch, ...counts, channels * area]);
}

/** Where in an image the elements of all patches are, `i32` [...P, ...kernel]. */
function places(
  graph: Graph,
  of: {
    readonly counts: readonly number[];
    readonly full: readonly number[];
    readonly options: PatchOptions;
  },
): Value {
  const { counts, full, options: { kernel, stride, dilation } } = of;
  const rank = full.length, steps = stridesOf(full);
  const along = (axis: number, length: number, step: number) => {
    const shape = Array.from({ length: 2 * rank }, (_, i) => i === axis ? length : 1);
    return mul(iota(graph, shape, { axis }), step);
  };
  return full.flatMap((_, i) => [
    along(i, counts[i], stride[i] * steps[i]),
    along(rank + i, kernel[i], dilation[i] * steps[i]),
  ]).reduce((a, b) => add(a, b));
}
