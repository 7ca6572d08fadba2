/**
 * Singular value decompositions with the signs that LAPACK's `sgesdd` gives them, which is what
 * `torch.linalg.svd` calls.
 *
 * A pair of singular vectors may change its sign, and which one an algorithm finds depends on its
 * steps. Where files leave out what follows from the base, its signs count, so the steps are those
 * of LAPACK (Gu and Eisenstat, 1995, "A divide-and-conquer algorithm for the bidiagonal SVD"): numbers are
 * 64-bit floats, but what counts as zero is what does in 32 bits.
 *
 * @module
 */
import {
  type Bidiagonal,
  bidiagonalQr,
  EPSILON,
  identity,
  padded,
  rotate,
  turnUp,
  type Vectors,
} from "./bidiagonal-qr.ts";
import {
  type FlatMatrix,
  type LeadingSvd,
  leadingSvd,
  norm,
  scaledRows,
  transposed,
} from "./linalg.ts";

/** Up to this size, a bidiagonal matrix is not divided. */
const SMALL = 25;

/**
 * The largest singular values of any matrix and their vectors, with the signs that
 * `torch.linalg.svd(a, full_matrices=False)` gives them for 32-bit floats on a CPU.
 *
 * @param a Any matrix.
 * @param rank How many, at most the smaller dimension.
 */
export function lapackSvd(a: FlatMatrix, rank: number): LeadingSvd {
  const exact = leadingSvd(a, rank), isWide = a.rows < a.columns;
  const { columns, data } = isWide ? exact.u : exact.v;
  const signs = shortVectors(a, rank).map((x, i) => {
    const dot = x.reduce((sum, value, j) => sum + value * data[i * columns + j], 0);
    return dot < 0 ? -1 : 1;
  });
  return { ...exact, u: scaledRows(exact.u, signs), v: scaledRows(exact.v, signs) };
}

/**
 * All right singular vectors of a matrix with fewer rows than columns, as rows: those of
 * {@link lapackSvd}, then those that it takes to nothing, with the signs of `full_matrices=True`.
 */
export function lapackBasis(a: FlatMatrix): FlatMatrix {
  const { rows, columns } = a, { v } = lapackSvd(a, rows);
  const { left } = bidiagonalized(rowsOf(a));
  const data = new Float64Array(columns * columns);
  data.set(v.data);
  for (let k = rows; k < columns; k++) {
    const x = padded(Float64Array.of(1), columns, k);
    for (const made of left.toReversed()) reflect(x, made);
    data.set(x, k * columns);
  }
  return { rows: columns, columns, data };
}

/** The singular vectors of the shorter side as `sgesdd` finds them. */
function shortVectors(a: FlatMatrix, rank: number): readonly Float64Array[] {
  const isWide = a.rows < a.columns;
  let columns = rowsOf(isWide ? a : transposed(a));
  const short = columns.length;
  // Of a tall matrix, only the triangle of A = Q·R goes on, and none of a wide one: MKL's choice.
  if (!isWide && columns[0].length >= short * 1.5) {
    makeTriangular(columns);
    columns = columns.map((column) => column.slice(0, short));
  }
  const { right, ...middle } = bidiagonalized(columns);
  const { d, u, v } = bidiagonalSvd(middle, isWide);
  const order = [...d.keys()].sort((i, j) => d[j] - d[i]).slice(0, rank);
  const vectors = order.map((i) => (isWide ? u : v)[i]);
  for (const made of right.toReversed()) for (const x of vectors) reflect(x, made);
  return vectors;
}

function rowsOf({ rows, columns, data }: FlatMatrix): Float64Array[] {
  return Array.from({ length: rows }, (_, i) => data.slice(i * columns, (i + 1) * columns));
}

/** A reflection I − τ·v·vᵀ, where v is 0 before `from`. */
interface Reflection {
  readonly tau: number;
  readonly v: Float64Array;
  readonly from: number;
}

/** The reflection that leaves of a vector, from an element on, only that element. */
function reflection(x: Float64Array, from: number): Reflection & { readonly beta: number } {
  const rest = norm(x.subarray(from + 1)), alpha = x[from];
  if (rest === 0) return { tau: 0, v: x, from, beta: alpha };
  const beta = -Math.sign(alpha || 1) * Math.hypot(alpha, rest);
  const v = x.map((value, i) => i > from ? value / (alpha - beta) : Number(i === from));
  return { tau: (beta - alpha) / beta, v, from, beta };
}

function reflect(x: Float64Array, { tau, v, from }: Reflection): void {
  if (tau === 0) return;
  let sum = 0;
  for (let i = from; i < x.length; i++) sum += v[i] * x[i];
  for (let i = from; i < x.length; i++) x[i] -= tau * sum * v[i];
}

/** Makes a matrix, given by columns, upper triangular by reflections. */
function makeTriangular(columns: readonly Float64Array[]): void {
  columns.forEach((column, k) => {
    const made = reflection(column, k);
    for (let j = k + 1; j < columns.length; j++) reflect(columns[j], made);
    column.fill(0, k);
    column[k] = made.beta;
  });
}

/** What a matrix, given by columns, becomes by reflections of either side. */
function bidiagonalized(
  columns: readonly Float64Array[],
): Bidiagonal & { readonly left: readonly Reflection[]; readonly right: readonly Reflection[] } {
  const n = columns.length, left: Reflection[] = [], right: Reflection[] = [];
  const d = new Float64Array(n), e = new Float64Array(Math.max(n - 1, 0));
  for (let k = 0; k < n; k++) {
    const down = reflection(columns[k], k);
    left.push(down);
    d[k] = down.beta;
    for (let j = k + 1; j < n; j++) reflect(columns[j], down);
    if (k === n - 1) break;
    const across = reflection(Float64Array.from(columns, (column) => column[k]), k + 1);
    right.push(across);
    e[k] = across.beta;
    if (across.tau === 0) continue;
    const { tau, v } = across, sums = new Float64Array(columns[0].length);
    for (let j = k + 1; j < n; j++) {
      const column = columns[j];
      for (let i = k + 1; i < sums.length; i++) sums[i] += v[j] * column[i];
    }
    for (let j = k + 1; j < n; j++) {
      const column = columns[j], factor = tau * v[j];
      for (let i = k + 1; i < sums.length; i++) column[i] -= factor * sums[i];
    }
  }
  return { d, e, left, right };
}

/** All singular values of a bidiagonal matrix, lower or upper. */
function bidiagonalSvd({ d, e }: Bidiagonal, isLower: boolean): Vectors {
  const n = d.length;
  if (n === 1) {
    return {
      d: Float64Array.from(d, Math.abs),
      u: [Float64Array.of(d[0] < 0 ? -1 : 1)],
      v: identity(1),
    };
  }
  const turns = isLower ? turnUp({ d, e }) : [];
  const all = n <= SMALL ? bidiagonalQr({ d, e }, 0) : divided({ d, e });
  for (let i = turns.length - 1; i >= 0; i--) {
    const [c, s] = turns[i];
    for (const row of all.u) {
      const x = row[i], y = row[i + 1];
      row[i] = c * x - s * y;
      row[i + 1] = s * x + c * y;
    }
  }
  return all;
}

/** By division, where elements of e that are nearly zero part it. */
function divided({ d, e }: Bidiagonal): Vectors {
  const n = d.length, bound = 0.9 * EPSILON;
  const size = Math.max(...[...d, ...e].map(Math.abs)) || 1;
  d = d.map((x) => Math.abs(x / size) < bound ? (x < 0 ? -bound : bound) : x / size);
  e = e.map((x) => x / size);
  const all: Vectors = { d: new Float64Array(n), u: [], v: [] };
  for (let start = 0; start < n;) {
    let end = start;
    while (end < n - 1 && Math.abs(e[end]) >= bound) end++;
    const count = end + 1 - start;
    const part = conquered({ d: d.slice(start, end + 1), e: e.slice(start, end) }, 0);
    all.d.set(part.d.map((x) => x * size), start);
    all.u.push(...part.u.map((x) => padded(x, n, start)));
    all.v.push(...part.v.map((x) => padded(x, n, start)));
    start += count;
  }
  return all;
}

/** Of n rows and n + `extra` columns, where the number of levels follows from the whole. */
function conquered(
  { d, e }: Bidiagonal,
  extra: 0 | 1,
  levels = Math.floor(Math.log2(d.length / (SMALL + 1))) + 1,
): Vectors {
  if (d.length <= SMALL || levels === 0) return bidiagonalQr({ d, e }, extra);
  const middle = d.length >> 1;
  const left = conquered({ d: d.slice(0, middle), e: e.slice(0, middle) }, 1, levels - 1);
  const right = conquered({ d: d.slice(middle + 1), e: e.slice(middle + 1) }, extra, levels - 1);
  return merged(left, right, { alpha: d[middle], beta: e[middle] ?? 0, extra });
}

/** One row between two parts, of which the first has one column more than rows. */
function merged(
  left: Vectors,
  right: Vectors,
  row: { readonly alpha: number; readonly beta: number; readonly extra: 0 | 1 },
): Vectors {
  const nl = left.d.length, n = nl + right.d.length + 1, m = n + row.extra;
  const size = Math.max(...[row.alpha, row.beta, ...left.d, ...right.d].map(Math.abs));
  const alpha = row.alpha / size, beta = row.beta / size;
  const entries = [
    ...Array.from(left.d, (d, i) => ({
      d: d / size,
      z: alpha * left.v[i][nl],
      u: padded(left.u[i], n),
      v: padded(left.v[i], m),
    })),
    ...Array.from(right.d, (d, i) => ({
      d: d / size,
      z: beta * right.v[i][0],
      u: padded(right.u[i], n, nl + 1),
      v: padded(right.v[i], m, nl + 1),
    })),
  ].sort((a, b) => a.d - b.d);
  const tolerance = 8 * EPSILON *
    Math.max(entries.at(-1)!.d, Math.abs(alpha), Math.abs(beta));
  // Values whose vectors stay as they are: those that the row does not touch, and one of two that
  // are equal, after a rotation.
  const kept: typeof entries = [], settled: typeof entries = [];
  for (const entry of entries) {
    const before = kept.at(-1);
    if (Math.abs(entry.z) <= tolerance) settled.push(entry);
    else if (before && Math.abs(entry.d - before.d) <= tolerance) {
      const length = Math.hypot(entry.z, before.z);
      const c = entry.z / length, s = -before.z / length;
      rotate([before.u, entry.u], 0, c, s);
      rotate([before.v, entry.v], 0, c, s);
      entry.z = length;
      settled.push(kept.pop()!);
      kept.push(entry);
    } else kept.push(entry);
  }
  const last = padded(left.v[nl], m), z1 = alpha * left.v[nl][nl];
  const first = { d: 0, z: z1, u: padded(Float64Array.of(1), n, nl), v: last };
  let null_: Float64Array | undefined;
  if (row.extra) {
    null_ = padded(right.v.at(-1)!, m, nl + 1);
    const other = beta * right.v.at(-1)![0], length = Math.hypot(z1, other);
    first.z = Math.max(length, tolerance);
    if (length > tolerance) rotate([last, null_], 0, z1 / length, other / length);
  } else if (Math.abs(z1) <= tolerance) first.z = tolerance;
  if (kept.length) kept[0].d = Math.max(kept[0].d, tolerance / 2);
  const solved = secular([first, ...kept]);
  return {
    d: Float64Array.from([...solved.d, ...settled.map(({ d }) => d)], (x) => x * size),
    u: [...solved.u, ...settled.map(({ u }) => u)],
    v: [...solved.v, ...settled.map(({ v }) => v), ...(null_ ? [null_] : [])],
  };
}

/** Singular values of a diagonal d, whose first element is 0, with a first row z. */
function secular(
  entries: readonly {
    readonly d: number;
    readonly z: number;
    readonly u: Float64Array;
    readonly v: Float64Array;
  }[],
): Vectors {
  const count = entries.length;
  const d = Float64Array.from(entries, (entry) => entry.d);
  const z = Float64Array.from(entries, (entry) => entry.z);
  if (count === 1) {
    const u = entries[0].u.map((x) => z[0] > 0 ? x : -x);
    return { d: z.map(Math.abs), u: [u], v: [entries[0].v] };
  }
  const end = Math.hypot(d[count - 1], norm(z)) * (1 + 1e-15);
  const out: Vectors = { d: new Float64Array(count), u: [], v: [] };
  const sum = (rows: "u" | "v", factors: Float64Array) => {
    const length = norm(factors), total = new Float64Array(entries[0][rows].length);
    entries.forEach((entry, j) => {
      const row = entry[rows], factor = factors[j] / length;
      for (let i = 0; i < row.length; i++) total[i] += factor * row[i];
    });
    return total;
  };
  for (let k = 0; k < count; k++) {
    const low = d[k], high = k + 1 < count ? d[k + 1] : end;
    // The root as a distance from the nearer end, so that no digits are lost.
    const value = (origin: number, at: number) => {
      let total = 1;
      for (let j = 0; j < count; j++) {
        total += z[j] * z[j] / ((d[j] - origin - at) * (d[j] + origin + at));
      }
      return total;
    };
    const half = (high - low) / 2;
    const isLow = k + 1 === count || value(low, half) > 0, origin = isLow ? low : high;
    let from = isLow ? 0 : -half, to = isLow ? (k + 1 === count ? 2 * half : half) : 0;
    for (let i = 0; i < 90 && from < to; i++) {
      const middle = (from + to) / 2;
      if (middle === from || middle === to) break;
      if (value(origin, middle) > 0) to = middle;
      else from = middle;
    }
    const at = (from + to) / 2;
    const v = d.map((x, j) => z[j] / ((x - origin - at) * (x + origin + at)));
    out.d[k] = origin + at;
    out.v.push(sum("v", v));
    out.u.push(sum("u", v.map((x, j) => j ? d[j] * x : -1)));
  }
  return out;
}
