/**
 * Between the features of a token and the heads of its attention.
 *
 * @module
 */
import type { Modules } from "../model/modules.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";

/** [.., H·D] as [.., H, D]. */
export function splitHeads(x: Value, heads: number): Value {
  return reshape(x, [...x.shape.slice(0, -1), heads, -1]);
}

/** Modules from [.., in] to the heads [.., H, D] of a layer each, in the order of their names. */
export function headLayers(
  m: Modules,
  names: readonly string[],
  of: {
    readonly in: number;
    readonly out: number;
    readonly heads: number;
    readonly bias?: boolean;
  },
): ((x: Value) => Value)[] {
  return names.map((name) => {
    const layer = m.linear(name, of, { bias: of.bias });
    return (x) => splitHeads(layer(x), of.heads);
  });
}

/** [.., H, D] as [.., H·D]. */
export function joinHeads(x: Value): Value {
  return reshape(x, [...x.shape.slice(0, -2), -1]);
}

/** [.., P·H·D] of one layer as P times [.., H, D]: all queries, then all keys, then all values. */
export function splitStacked(
  x: Value,
  { heads, parts }: { readonly heads: number; readonly parts: number },
): Value[] {
  const axis = x.shape.length - 1, size = x.shape[axis] / parts;
  return Array.from(
    { length: parts },
    (_, n) => splitHeads(sliceAxis(x, { axis, start: n * size, size }), heads),
  );
}

/** [.., H·P·D] of one layer as P times [.., H, D]: queries, keys and values that lie head by head. */
export function splitFused(
  x: Value,
  { heads, parts }: { readonly heads: number; readonly parts: number },
): Value[] {
  const rows = x.shape.slice(0, -1), axis = rows.length + 1;
  const whole = reshape(x, [...rows, heads, parts, -1]);
  return Array.from(
    { length: parts },
    (_, start) => reshape(sliceAxis(whole, { axis, start, size: 1 }), [...rows, heads, -1]),
  );
}
