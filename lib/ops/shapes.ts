/**
 * Shape arithmetic that the operations share.
 *
 * @module
 */
import { STORAGE, storageBytes } from "../../kernels/wgsl.ts";
import { ShapeError } from "../errors.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Spec } from "./value.ts";

/** A spec as text, such as `f32[2,3]`. */
export function showSpec(spec: Spec): string {
  return `${spec.dtype}[${spec.shape}]`;
}

/** Bytes of a value's storage buffer, a multiple of 16. */
export function bytesOf({ dtype, shape }: Spec): number {
  return storageBytes(dtype, sizeOf(shape));
}

/** Exact bytes of a value in a storage buffer, a multiple of 4. */
export function exactBytes({ dtype, shape }: Spec): number {
  return Math.ceil(sizeOf(shape) / STORAGE[dtype].perWord) * 4;
}

/** Throws a {@link ShapeError} that names the operation and what it got, unless `condition` holds. */
export function checkShapes(
  condition: boolean,
  op: string,
  rule: string,
  inputs: readonly Spec[],
): asserts condition {
  if (!condition) {
    throw new ShapeError(
      "SHAPE",
      `${op} needs ${rule}; it got ${inputs.map(showSpec).join(", ")}.`,
      { op },
    );
  }
}

/**
 * The shape that two shapes broadcast to, aligned at the last dimension.
 *
 * @throws {ShapeError} where a dimension differs and neither is 1.
 */
export function broadcastShapes(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1, y = b[i - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new ShapeError("SHAPE", `The shapes [${a}] and [${b}] do not broadcast together.`);
    }
    return x === 1 ? y : x;
  });
}

/** Whether two shapes are equal. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((d, i) => d === b[i]);
}

/** An axis as a number from 0, where negative ones count from the end. */
export function normalizeAxis(axis: number, rank: number): number {
  const a = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(a) || a < 0 || a >= rank) {
    throw new ShapeError("AXIS", `Axis ${axis} does not exist in a value of rank ${rank}.`);
  }
  return a;
}
