/**
 * What the kernels of matrix products are made from.
 *
 * @module
 */
import { broadcastMatrix, type Operand } from "./operand.ts";

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

/** WGSL expression of which matrix of a side goes into output matrix `index`. */
export function matrixIndex(index: string, batch: readonly number[], side: MatmulSide): string {
  return broadcastMatrix(index, batch, side.batch);
}
