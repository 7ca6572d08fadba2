/**
 * What the kernels of matrix products are made from.
 *
 * @module
 */
import { broadcastMap, isIdentity } from "./index-map.ts";
import type { Operand } from "./operand.ts";
import type { Sizes } from "./sizes.ts";

/** One side of a product. */
export interface MatmulSide {
  /** How it is stored. */
  readonly operand: Operand;
  /** Its lines are numbered by k: `a` is [K, M], or `b` is [K, N]. Else its lines are rows of `a` [M, K] or columns of `b` [N, K]. */
  readonly kMajor: boolean;
  /** Its leading dimensions, which broadcast to those of the output. */
  readonly batch: readonly number[];
}

/** `a` [..., M, K] times `b` [..., K, N]. */
export interface MatmulProblem {
  /** Rows of the output. */
  readonly m: number;
  /** Columns of the output. */
  readonly n: number;
  /** Inner dimension. */
  readonly k: number;
  /** Leading dimensions of the output. */
  readonly batch: readonly number[];
  /** Left side. */
  readonly a: MatmulSide;
  /** Right side. */
  readonly b: MatmulSide;
}

/** WGSL expression of which matrix of a side goes into the output matrix whose number is the variable `matrix`. */
export function matrixIndex(batch: readonly number[], side: MatmulSide, sizes: Sizes): string {
  if (side.batch.every((d) => d === 1)) return "0u";
  const map = broadcastMap(side.batch, batch);
  return isIdentity(map) ? "matrix" : sizes.map(map)("matrix");
}

/** WGSL that finds `matrix` and the place in it, from the number of a tile in row-major order over a stack of matrices of `down` × `across` tiles. */
export function tilePlace(
  tile: string,
  stack: { readonly down: number; readonly across: number; readonly matrices: number },
  sizes: Sizes,
): { readonly matrix: string; readonly row: string; readonly column: string } {
  const { down, across, matrices } = stack;
  const byAcross = sizes.divisor(across, matrices * down * across);
  const byDown = sizes.divisor(down, matrices * down);
  const line = byAcross.quotient(tile);
  return {
    matrix: byDown.quotient(line),
    row: byDown.remainder(line),
    column: byAcross.remainder(tile),
  };
}
