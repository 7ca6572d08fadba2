/**
 * Normalisation of rows: RMSNorm and LayerNorm. One pass per moment and one for the result; rows are short enough (a model's width) to
 * stay in the cache, so memory sees one read and one write per element. The variance is that of differences from the mean, not of squares, which
 * would cancel.
 *
 * @module
 */
import type { Kernel } from "./kernel.ts";
import { forItems, isLong, itemsOf, rowKernel } from "./rows.ts";
import { createSizes } from "./sizes.ts";

/** Sizes of a normalisation. */
export interface NormSize {
  /** Number of rows. */
  readonly rows: number;
  /** Elements of a row. */
  readonly length: number;
  /** What is added to the mean square. */
  readonly epsilon: number;
}

const inBlocks = (length: number, options: { readonly software: boolean }) => ({
  before: "var blockSum = item();",
  after: "sum += blockSum;",
  long: isLong(length, options),
});

function store(length: number, value: string): string {
  return forItems(
    itemsOf(length).vector
      ? `output[first + i] = epilogue4(${value}, (first + i) * 4u);`
      : `output[first + i] = epilogue(${value}, first + i);`,
  );
}

/** x / √(mean(x²) + ε) · weight */
export function rmsNormKernel(size: NormSize, options: { readonly software: boolean }): Kernel {
  const { length, epsilon } = size;
  const sizes = createSizes(), blocks = inBlocks(length, options);
  return rowKernel({
    ...size,
    sizes,
    declare: `@group(0) @binding(0) var<storage, read> x: array<item>;
@group(0) @binding(1) var<storage, read> weight: array<item>;
@group(0) @binding(2) var<storage, read_write> output: array<item>;
`,
    body: `var sum = item();
  ${forItems("let v = x[first + i]; blockSum += v * v;", blocks)}
  let factor = inverseSqrt(total(sum) * ${sizes.f32(1 / length)} + ${sizes.f32(epsilon)});
  ${store(length, "x[first + i] * factor * weight[i]")}`,
    bindings: [0, 1, "output"],
    epilogue: true,
  }, options);
}

/** (x − mean) / √(variance + ε) · weight + bias */
export function layerNormKernel(size: NormSize, options: { readonly software: boolean }): Kernel {
  const { length, epsilon } = size;
  const sizes = createSizes(), blocks = inBlocks(length, options);
  const share = sizes.f32(1 / length);
  return rowKernel({
    ...size,
    sizes,
    declare: `@group(0) @binding(0) var<storage, read> x: array<item>;
@group(0) @binding(1) var<storage, read> weight: array<item>;
@group(0) @binding(2) var<storage, read> bias: array<item>;
@group(0) @binding(3) var<storage, read_write> output: array<item>;
`,
    body: `var sum = item();
  ${forItems("blockSum += x[first + i];", blocks)}
  let mean = total(sum) * ${share};
  sum = item();
  ${forItems("let v = x[first + i] - mean; blockSum += v * v;", blocks)}
  let factor = inverseSqrt(total(sum) * ${share} + ${sizes.f32(epsilon)});
  ${store(length, "(x[first + i] - mean) * factor * weight[i] + bias[i]")}`,
    bindings: [0, 1, 2, "output"],
    epilogue: true,
  }, options);
}
