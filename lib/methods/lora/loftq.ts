/**
 * LoftQ: a LoRA that begins as what quantization loses of a weight (Li et al., 2023,
 * arXiv:2310.08659).
 *
 * The layer goes on with the quantized weight Q: y = Q·x + scale·B·A·x. As the base is never changed
 * here, what is added to it is Q − W.
 *
 * @module
 */
import { ConfigError } from "../../errors.ts";
import type { Site } from "../../model/site.ts";
import { product } from "../../model/site-product.ts";
import { add } from "../../ops/elementwise.ts";
import { type FlatMatrix, flatMatrix, leadingSvd, scaledRows, transposed } from "../linalg.ts";
import type { DeltaRule } from "../site-rule.ts";
import type { LoftqConfig } from "./init-config.ts";
import type { LoraConfig } from "./lora-config.ts";
import { matrixProduct } from "../linalg.ts";
import type { Factors } from "./lora-factors.ts";

/** The leaf of Q − W [out, in]. */
export const BASE_CHANGE = "lora_base_change";

/** The 16 values of NF4, the quantiles of a normal distribution (Dettmers et al., 2023, arXiv:2305.14314). */
const NF4 = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);

/** Elements that share a scale. */
const BLOCK = 64;

/** Refuses a site whose weight PEFT does not quantize so. */
export function checkLoftqSite({ path, kind }: Site): void {
  if (kind === "linear") return;
  throw new ConfigError(
    "CONFIG_LOFTQ_SITE",
    `initLoraWeights "loftq" is for linear layers, and ${path} is ${
      kind === "conv1d" ? "one that stores its weight as [in, out]" : `of the kind ${kind}`
    }. Leave it out of targetModules.`,
    { path, kind },
  );
}

/**
 * The values that a weight has once it has been quantized, as bitsandbytes does it: to NF4 in blocks
 * of 64, or row by row to 8 bits.
 *
 * @param weight The weight.
 * @param bits 4 or 8.
 */
export function quantized(weight: FlatMatrix, bits: LoftqConfig["loftqBits"]): Float32Array {
  return bits === 4 ? nf4(Float32Array.from(weight.data)) : int8(weight);
}

function nf4(values: Float32Array): Float32Array {
  const { fround } = Math, out = new Float32Array(values.length);
  const bounds = NF4.slice(1).map((x, i) => fround(fround(x + NF4[i]) / 2));
  for (let from = 0; from < values.length; from += BLOCK) {
    const block = values.subarray(from, from + BLOCK);
    const most = block.reduce((m, x) => Math.max(m, Math.abs(x)), fround(1e-38));
    const inverse = fround(1 / most);
    block.forEach((x, i) => {
      // The last block divides where it is not whole.
      const share = block.length < BLOCK ? fround(x / most) : fround(x * inverse);
      let code = 0;
      while (code < bounds.length && bounds[code] < share) code++;
      out[from + i] = NF4[code] * most;
    });
  }
  return out;
}

function int8({ rows, columns, data }: FlatMatrix): Float32Array {
  const { fround } = Math, halves = Float32Array.from(new Float16Array(data));
  const out = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    const at = halves.subarray(row * columns, (row + 1) * columns);
    const most = at.reduce((m, x) => Math.max(m, Math.abs(x)), 0), steps = fround(127 / most);
    at.forEach((x, i) => {
      const code = most === 0 ? 0 : halfEven(fround(x * steps));
      out[row * columns + i] = fround(code * most) * fround(1 / 127);
    });
  }
  return out;
}

function halfEven(x: number): number {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + Math.abs(below % 2) : Math.round(x);
}

/**
 * The leading part of a matrix as two factors that share the singular values: A [rank, in] and B
 * [out, rank].
 */
export function evenFactors(matrix: FlatMatrix, rank: number): Factors {
  const { u, s, v } = leadingSvd(matrix, rank), roots = s.map(Math.sqrt);
  return { a: scaledRows(v, roots), b: transposed(scaledRows(u, roots)) };
}

/**
 * What an adapter begins with at a site: factors of what is lost, and what is put in the base's place.
 * More iterations quantize what the factors leave.
 *
 * @param weight The weight [out, in].
 */
export function loftqStart(
  weight: FlatMatrix,
  { loftqBits, loftqIter, rank }: LoftqConfig & { readonly rank: number },
): Factors & { readonly change: Float32Array<ArrayBuffer> } {
  let rest = weight;
  for (let left = loftqIter;; left--) {
    const q = quantized(rest, loftqBits);
    const lost = minus(weight, q), factors = evenFactors(lost, rank);
    if (left === 1) return { ...factors, change: Float32Array.from(lost.data, (x) => -x) };
    rest = minus(weight, matrixProduct(factors.b, factors.a).data);
  }
}

function minus(a: FlatMatrix, b: ArrayLike<number>): FlatMatrix {
  return flatMatrix(a.data.map((x, i) => x - b[i]), a);
}

/** The rule of a linear layer that goes on with a quantized weight. */
export function onQuantized(plain: DeltaRule<LoraConfig>): DeltaRule<LoraConfig> {
  return {
    ...plain,
    delta: (trace) => add(plain.delta(trace), trace.leaves[BASE_CHANGE]),
    apply: (trace, x) =>
      add(plain.apply!(trace, x), product(trace.site, x, { plain: trace.leaves[BASE_CHANGE] })),
  };
}
