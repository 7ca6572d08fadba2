/**
 * Affine maps from the flat index of one value to the flat index of another: what broadcasting, transposing and slicing do.
 *
 * @module
 */
import { stridesOf } from "../lib/tensor/dtype.ts";

/** One digit of a flat index: it counts to `extent`, and each count moves the other index by `stride`. */
export interface IndexFactor {
  /** Values of the digit. */
  readonly extent: number;
  /** Elements that one count moves. */
  readonly stride: number;
}

/**
 * A flat index is split into digits by the factors' extents, outermost first; the other index is `offset + Σ digit · stride`. No factor at all
 * stands for a constant.
 */
export interface IndexMap {
  /** The other index where all digits are 0. */
  readonly offset: number;
  /** The digits, outermost first. */
  readonly factors: readonly IndexFactor[];
}

/** A map in its shortest form: no factor of extent 1, and neighbours that count on as one are joined. */
function indexMap(factors: readonly IndexFactor[], offset = 0): IndexMap {
  const short: IndexFactor[] = [];
  for (const f of factors) {
    if (f.extent === 1) continue;
    const last = short[short.length - 1];
    if (last && last.stride === f.stride * f.extent) {
      short[short.length - 1] = { extent: last.extent * f.extent, stride: f.stride };
    } else short.push(f);
  }
  return { offset, factors: short };
}

/** The map that changes nothing, for `size` elements. */
export function identityMap(size: number): IndexMap {
  return indexMap([{ extent: size, stride: 1 }]);
}

/** Whether a map changes nothing. */
export function isIdentity(map: IndexMap): boolean {
  return map.offset === 0 &&
    (map.factors.length === 0 || (map.factors.length === 1 && map.factors[0].stride === 1));
}

/** From a broadcast value's index to that of the value it was made from. */
export function broadcastMap(from: readonly number[], to: readonly number[]): IndexMap {
  const strides = stridesOf(from), lead = to.length - from.length;
  return indexMap(
    to.map((extent, i) => ({
      extent,
      stride: i < lead || from[i - lead] === 1 ? 0 : strides[i - lead],
    })),
  );
}

/** From a transposed value's index to that of the value it was made from. */
export function transposeMap(from: readonly number[], permutation: readonly number[]): IndexMap {
  const strides = stridesOf(from);
  return indexMap(permutation.map((axis) => ({ extent: from[axis], stride: strides[axis] })));
}

/** From the index in a box of `sizes` at `starts` to the index in the value around it; starts may be negative. */
export function sliceMap(
  from: readonly number[],
  box: { readonly starts: readonly number[]; readonly sizes: readonly number[] },
): IndexMap {
  const strides = stridesOf(from);
  return indexMap(
    box.sizes.map((extent, i) => ({ extent, stride: strides[i] })),
    box.starts.reduce((n, s, i) => n + s * strides[i], 0),
  );
}

/**
 * The map that applies `first` (A → B) and then `second` (B → C), or null where it is not affine in A's digits.
 */
export function composeMaps(first: IndexMap, second: IndexMap): IndexMap | null {
  if (second.factors.length === 0) return indexMap([], second.offset);
  if (second.factors.length === 1) {
    const [{ stride }] = second.factors;
    return indexMap(
      first.factors.map((f) => ({ extent: f.extent, stride: f.stride * stride })),
      second.offset + first.offset * stride,
    );
  }
  if (first.offset < 0 || first.factors.some((f) => f.stride < 0) || overlaps(first)) return null;
  const digits = digitsOf(second);
  const reach = digits.map((d) => Math.floor(first.offset / d.place) % d.extent);
  const offset = reach.reduce((n, r, i) => n + r * digits[i].stride, second.offset);
  const factors: IndexFactor[] = [];
  for (const f of first.factors) {
    const parts = splitFactor(f, digits, reach);
    if (!parts) return null;
    factors.push(...parts);
  }
  // A digit that the offset and the factors together overflow would carry into the next one.
  if (reach.some((r, i) => r >= digits[i].extent)) return null;
  return indexMap(factors, offset);
}

interface Digit extends IndexFactor {
  /** Worth of one count in the index that is split. */
  readonly place: number;
}

function digitsOf(map: IndexMap): Digit[] {
  let place = 1;
  return map.factors.map((_, i, all) => all[all.length - 1 - i]).map((f) => {
    const digit = { ...f, place };
    place *= f.extent;
    return digit;
  });
}

/** Whether two factors of a map can reach the same index in two ways, so that their digits would mix. */
function overlaps(map: IndexMap): boolean {
  const moving = map.factors.filter((f) => f.stride > 0).sort((a, b) => a.stride - b.stride);
  return moving.some((f, i) => i + 1 < moving.length && f.stride * f.extent > moving[i + 1].stride);
}

/** A factor of the first map as factors over the second one's digits; `reach` gathers how far each digit is moved. */
function splitFactor(
  factor: IndexFactor,
  digits: readonly Digit[],
  reach: number[],
): IndexFactor[] | null {
  const parts: IndexFactor[] = [];
  let { extent, stride } = factor;
  if (stride === 0) return [factor];
  while (extent > 1) {
    const j = digits.findIndex((d) => stride >= d.place && stride < d.place * d.extent);
    if (j < 0 || stride % digits[j].place) return null;
    const d = digits[j];
    const step = stride / d.place, room = d.extent / step;
    const fits = extent <= room;
    if (!fits && (!Number.isInteger(room) || extent % room)) return null;
    const count = fits ? extent : room;
    parts.unshift({ extent: count, stride: step * d.stride });
    reach[j] += (count - 1) * step;
    extent /= count;
    stride *= count;
  }
  return parts;
}
