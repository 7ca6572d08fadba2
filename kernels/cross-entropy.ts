/**
 * Cross-entropy of rows of logits and its gradient. The forward pass reads each logit once and writes one number per row; the gradient reads
 * twice and writes once, which is less than keeping the probabilities between the two (a vocabulary of 49152 makes them the largest value of a training step).
 *
 * @module
 */
import type { Kernel } from "./kernel.ts";
import { forItems, isLong, itemsOf, rowKernel } from "./rows.ts";
import { createSizes, type Sizes } from "./sizes.ts";
import { exponentialSum } from "./softmax.ts";

/** Sizes of a cross-entropy. */
export interface CrossEntropySize {
  /** Number of rows. */
  readonly rows: number;
  /** Classes. */
  readonly length: number;
  /** Label of rows that do not count. */
  readonly ignored: number;
}

/** WGSL that finds the row's label, and the class that it names where that exists. */
const label = (length: number, sizes: Sizes) =>
  `let label = labels[row];
  let named = u32(clamp(label, 0, ${sizes.i32(length - 1)}));`;

/** −log softmax(logits)[label] of each row; 0 where the label is ignored. */
export function crossEntropyKernel(
  size: CrossEntropySize,
  options: { readonly software: boolean },
): Kernel {
  const { length, ignored } = size;
  const sizes = createSizes();
  const at = itemsOf(length).vector
    ? "logits[first + named / 4u][named % 4u]"
    : "logits[first + named]";
  return rowKernel({
    ...size,
    sizes,
    declare: `@group(0) @binding(0) var<storage, read> logits: array<item>;
@group(0) @binding(1) var<storage, read> labels: array<i32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
`,
    body: `${label(length, sizes)}
  if (label == ${sizes.i32(ignored)}) {
    if (leader) { output[row] = 0.0; }
    return;
  }
  ${exponentialSum("logits", isLong(length, options))}
  if (leader) { output[row] = log(sum) - (${at} - top); }`,
    bindings: [0, 1, "output"],
  }, options);
}

/** (softmax(logits) − onehot(label)) · g of each row; zeros where the label is ignored. */
export function crossEntropyGradKernel(
  size: CrossEntropySize,
  options: { readonly software: boolean },
): Kernel {
  const { length, ignored } = size;
  const sizes = createSizes();
  const { vector } = itemsOf(length);
  const hot = vector
    ? "select(vec4<f32>(), vec4<f32>(1.0), vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(named))"
    : "select(0.0, 1.0, i == named)";
  return rowKernel({
    ...size,
    sizes,
    declare: `@group(0) @binding(0) var<storage, read> logits: array<item>;
@group(0) @binding(1) var<storage, read> labels: array<i32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> output: array<item>;
`,
    body: `${label(length, sizes)}
  if (label == ${sizes.i32(ignored)}) {
    ${forItems("output[first + i] = item();")}
    return;
  }
  ${exponentialSum("logits", isLong(length, options))}
  let factor = g[row];
  let inverse = 1.0 / sum;
  ${
      forItems(
        `output[first + i] = (exp(logits[first + i] - top) * inverse - ${hot}) * factor;`,
      )
    }`,
    bindings: [0, 1, 2, "output"],
  }, options);
}
