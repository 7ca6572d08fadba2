/**
 * Rotary position embedding. An invocation turns four pairs (or one, where half a head is not a multiple of 4): each word of `x` and of the
 * result moves once, and the tables are shared by all heads.
 *
 * @module
 */
import { itemDispatch, type Kernel } from "./kernel.ts";
import { createSizes } from "./sizes.ts";

/** Sizes of a rotation of [B, T, H, D]. */
export interface RopeSize {
  /** Sequences (B). */
  readonly batch: number;
  /** Positions (T). */
  readonly positions: number;
  /** Heads (H). */
  readonly heads: number;
  /** Elements per head (D). */
  readonly depth: number;
  /** Leading dimension of the tables: B or 1. */
  readonly tables: number;
  /** Turns the other way. */
  readonly inverse: boolean;
}

/** Rotates pairs by the angles of the tables. */
export function ropeKernel(size: RopeSize): Kernel {
  const { batch, positions, heads, depth, tables, inverse } = size;
  const vector = depth % 8 === 0;
  const width = vector ? 4 : 1;
  const half = depth / 2 / width;
  const count = batch * positions * heads * half;
  const item = vector ? "vec4<f32>" : "f32";
  const epilogue = vector ? "epilogue4" : "epilogue";
  const sizes = createSizes();
  const byHalf = sizes.divisor(half, count);
  const byPlace = sizes.divisor(heads, batch * positions * heads);
  const byTable = sizes.divisor(tables * positions, batch * positions);
  return {
    variant: vector ? "fours" : "pairs",
    dispatches: [itemDispatch({
      declare: `@group(0) @binding(0) var<storage, read> x: array<${item}>;
@group(0) @binding(1) var<storage, read> cosines: array<${item}>;
@group(0) @binding(2) var<storage, read> sines: array<${item}>;
@group(0) @binding(3) var<storage, read_write> output: array<${item}>;`,
      count,
      sizes,
      bindings: [0, 1, 2, "output"],
      epilogue: true,
      body: `let pair = ${byHalf.remainder("index")};
  let head = ${byHalf.quotient("index")};
  let low = head * 2u * ${byHalf.value} + pair;
  let high = low + ${byHalf.value};
  let angle = ${byTable.remainder(byPlace.quotient("head"))} * ${byHalf.value} + pair;
  let a = x[low];
  let b = x[high];
  let c = cosines[angle];
  let s = ${inverse ? "-" : ""}sines[angle];
  output[low] = ${epilogue}(a * c - b * s, low * ${width}u);
  output[high] = ${epilogue}(b * c + a * s, high * ${width}u);`,
    })],
  };
}
