/**
 * Rows of matrices.
 *
 * @module
 */
import { toFloat32 } from "./convert.ts";
import type { Tensor } from "./tensor.ts";

/** Rows of a matrix in f32, one after the other. */
export async function rowsOf(
  matrix: Tensor,
  indices: readonly number[],
): Promise<Float32Array<ArrayBuffer>> {
  const width = matrix.shape[1], values = await toFloat32(matrix);
  const rows = new Float32Array(indices.length * width);
  indices.forEach((row, i) => rows.set(values.subarray(row * width, (row + 1) * width), i * width));
  return rows;
}
