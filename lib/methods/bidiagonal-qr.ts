/**
 * Singular value decompositions of small bidiagonal matrices by the QR algorithm with implicit shifts
 * (Demmel and Kahan, 1990, "Accurate singular values of bidiagonal matrices"), step by step as LAPACK's
 * `sbdsqr` takes them, so that vectors have its signs.
 *
 * @module
 */

/** A bidiagonal matrix, or what becomes of it: its diagonal and the one beside it. */
export interface Bidiagonal {
  readonly d: Float64Array | Float32Array;
  readonly e: Float64Array | Float32Array;
}

/** Singular values with their vectors, left ones and right ones as rows. */
export interface Vectors {
  readonly d: Float64Array;
  readonly u: Float64Array[];
  readonly v: Float64Array[];
}

/** Half the distance from 1 to the next 32-bit float. */
export const EPSILON: number = 2 ** -24;

/** LAPACK's bound for what is converged. */
const TOLERANCE = Math.max(10, Math.min(100, EPSILON ** -0.125)) * EPSILON;

/** All singular values of an upper bidiagonal matrix of n rows and n + `extra` columns, in any order. */
export function bidiagonalQr({ d, e }: Bidiagonal, extra: 0 | 1): Vectors {
  const n = d.length, u = identity(n), v = identity(n + extra);
  // Rounded as in LAPACK, so that as many sweeps are made.
  d = Float32Array.from(d);
  e = Float32Array.from({ length: n }, (_, i) => e[i] ?? 0);
  if (extra) {
    // A column too many makes it lower bidiagonal first.
    for (let i = 0; i < n; i++) {
      const [c, s, r] = rotation(d[i], e[i]);
      d[i] = r;
      rotate(v, i, c, s);
      if (i === n - 1) break;
      e[i] = s * d[i + 1];
      d[i + 1] *= c;
    }
    turnUp({ d, e }, u);
  }
  let mu = Math.abs(d[0]), least = mu;
  for (let i = 1; i < n && least > 0; i++) {
    mu = Math.abs(d[i]) * (mu / (mu + Math.abs(e[i - 1])));
    least = Math.min(least, mu);
  }
  const threshold = Math.max(TOLERANCE * least / Math.sqrt(n), 6 * n * n * 2 ** -126);
  let oldLow = -1, oldHigh = -1, down = true;
  // What is not finite does not converge.
  for (let high = n - 1, steps = 12 * n * n; high > 0 && steps > 0; steps--) {
    let low = high, largest = Math.abs(d[high]), parted = false;
    while (low > 0) {
      if (Math.abs(e[low - 1]) <= threshold) {
        e[low - 1] = 0;
        parted = true;
        break;
      }
      low--;
      largest = Math.max(largest, Math.abs(d[low]), Math.abs(e[low]));
    }
    if (parted && low === high) {
      high--;
      continue;
    }
    if (low === high - 1) {
      const two = twoByTwo(d[low], e[low], d[high]);
      [d[low], e[low], d[high]] = [two.largest, 0, two.least];
      rotate(v, low, ...two.right);
      rotate(u, low, ...two.left);
      high -= 2;
      continue;
    }
    if (low > oldHigh || high < oldLow) down = Math.abs(d[low]) >= Math.abs(d[high]);
    const smallest = converged({ d, e }, { low, high, down });
    if (smallest === undefined) continue;
    [oldLow, oldHigh] = [low, high];
    const shift = shiftOf({ d, e }, { low, high, down, n, ratio: smallest / largest });
    sweep({ d, e, u, v }, { low, high, down, shift });
    const edge = down ? high - 1 : low;
    if (Math.abs(e[edge]) <= threshold) e[edge] = 0;
  }
  for (let i = 0; i < n; i++) {
    if (d[i] >= 0) continue;
    d[i] = -d[i];
    v[i] = v[i].map((x) => -x);
  }
  return { d: Float64Array.from(d), u, v };
}

/** Part of a matrix, and from which end it is swept. */
interface Sweep {
  readonly low: number;
  readonly high: number;
  readonly down: boolean;
}

/** A bound for the smallest singular value, or nothing where an element was set to zero. */
function converged({ d, e }: Bidiagonal, { low, high, down }: Sweep): number | undefined {
  const [edge, at, start] = down ? [high - 1, high, low] : [low, low, high];
  if (Math.abs(e[edge]) <= TOLERANCE * Math.abs(d[at])) {
    e[edge] = 0;
    return undefined;
  }
  let mu = Math.abs(d[start]), least = mu;
  for (let step = 0; step < high - low; step++) {
    const i = down ? low + step : high - 1 - step;
    if (Math.abs(e[i]) <= TOLERANCE * mu) {
      e[i] = 0;
      return undefined;
    }
    mu = Math.abs(d[down ? i + 1 : i]) * (mu / (mu + Math.abs(e[i])));
    least = Math.min(least, mu);
  }
  return least;
}

function shiftOf(
  { d, e }: Bidiagonal,
  { low, high, down, n, ratio }: Sweep & { readonly n: number; readonly ratio: number },
): number {
  if (n * TOLERANCE * ratio <= Math.max(EPSILON, 0.01 * TOLERANCE)) return 0;
  const i = down ? high - 1 : low, first = Math.abs(d[down ? low : high]);
  const shift = twoByTwo(d[i], e[i], d[i + 1]).least;
  return first > 0 && (shift / first) ** 2 < EPSILON ? 0 : Math.abs(shift);
}

/** One sweep over a part, which moves the smallest value towards the end. */
function sweep(
  { d, e, u, v }: Bidiagonal & Pick<Vectors, "u" | "v">,
  { low, high, down, shift }: Sweep & { readonly shift: number },
): void {
  const start = down ? low : high, end = down ? high : low, step = down ? 1 : -1;
  // Between i and the next: of a sweep upwards, sides and directions are swapped.
  const between = (i: number) => down ? i : i - 1;
  const turn = (
    i: number,
    right: readonly [c: number, s: number],
    left: readonly [c: number, s: number],
  ) => {
    const at = between(i), sign = down ? 1 : -1;
    rotate(down ? v : u, at, right[0], sign * right[1]);
    rotate(down ? u : v, at, left[0], sign * left[1]);
  };
  if (shift === 0) {
    let c = 1, oldC = 1, s = 0, oldS = 0, r = 0;
    for (let i = start; i !== end; i += step) {
      [c, s, r] = rotation(d[i] * c, e[between(i)]);
      if (i !== start) e[between(i - step)] = oldS * r;
      [oldC, oldS, d[i]] = rotation(oldC * r, d[i + step] * s);
      turn(i, [c, s], [oldC, oldS]);
    }
    const h = d[end] * c;
    d[end] = h * oldC;
    e[between(end - step)] = h * oldS;
    return;
  }
  let f = (Math.abs(d[start]) - shift) * (Math.sign(d[start]) + shift / d[start]);
  let g = e[between(start)];
  for (let i = start; i !== end; i += step) {
    const at = between(i), next = i + step;
    const [c, s, r] = rotation(f, g);
    if (i !== start) e[between(i - step)] = r;
    f = c * d[i] + s * e[at];
    e[at] = c * e[at] - s * d[i];
    g = s * d[next];
    d[next] *= c;
    const [cl, sl, rl] = rotation(f, g);
    d[i] = rl;
    f = cl * e[at] + sl * d[next];
    d[next] = cl * d[next] - sl * e[at];
    if (next !== end) {
      g = sl * e[between(next)];
      e[between(next)] *= cl;
    }
    turn(i, [c, s], [cl, sl]);
  }
  e[between(end - step)] = f;
}

/** Singular values of [[f, g], [0, h]] with their signs, and the rotations that leave them. */
function twoByTwo(f: number, g: number, h: number): {
  readonly largest: number;
  readonly least: number;
  readonly right: readonly [c: number, s: number];
  readonly left: readonly [c: number, s: number];
} {
  const sign = (x: number) => x < 0 || Object.is(x, -0) ? -1 : 1;
  const swap = Math.abs(h) > Math.abs(f), [ft, ht] = swap ? [h, f] : [f, h];
  const fa = Math.abs(ft), ha = Math.abs(ht);
  let [cl, sl, cr, sr, largest, least] = [1, 0, 1, 0, fa, ha];
  if (fa < EPSILON * Math.abs(g)) {
    [cl, sl, cr, sr] = [1, ht / g, ft / g, 1];
    [largest, least] = [Math.abs(g), fa / Math.abs(g) * ha];
  } else if (g !== 0) {
    const l = (fa - ha) / fa, m = g / ft, t = 2 - l;
    const s = Math.hypot(t, m), r = Math.hypot(l, m), a = (s + r) / 2;
    least = ha / a;
    largest = fa * a;
    const tangent = (m / (s + t) + m / (r + l)) * (1 + a), length = Math.hypot(tangent, 2);
    cr = 2 / length;
    sr = tangent / length;
    cl = (cr + sr * m) / a;
    sl = (ht / ft) * sr / a;
  }
  const [left, right] = swap ? [[sr, cr], [sl, cl]] as const : [[cl, sl], [cr, sr]] as const;
  const whole = Math.abs(g) > fa
    ? sign(right[1]) * sign(left[0]) * sign(g)
    : swap
    ? sign(right[1]) * sign(left[1]) * sign(h)
    : sign(right[0]) * sign(left[0]) * sign(f);
  return { largest: whole * largest, least: whole * sign(f) * sign(h) * least, right, left };
}

/** A rotation (c, s) that turns (f, g) into (r, 0), in 32 bits. */
function rotation(f: number, g: number): readonly [c: number, s: number, r: number] {
  if (g === 0) return [1, 0, f];
  if (f === 0) return [0, Math.sign(g), Math.abs(g)];
  const length = Math.hypot(f, g), r = f < 0 ? -length : length;
  return [Math.fround(Math.abs(f) / length), Math.fround(g / r), Math.fround(r)];
}

/** Turns a row and the next. */
export function rotate(rows: readonly Float64Array[], i: number, c: number, s: number): void {
  if (c === 1 && s === 0) return;
  const a = rows[i], b = rows[i + 1];
  for (let k = 0; k < a.length; k++) {
    const x = a[k], y = b[k];
    a[k] = c * x + s * y;
    b[k] = c * y - s * x;
  }
}

/** Makes of a lower bidiagonal matrix an upper one, which rotations of its rows give. */
export function turnUp(
  { d, e }: Bidiagonal,
  rows: readonly Float64Array[] = [],
): (readonly [c: number, s: number])[] {
  const turns: (readonly [c: number, s: number])[] = [];
  for (let i = 0; i + 1 < d.length; i++) {
    const [c, s, r] = rotation(d[i], e[i]);
    d[i] = r;
    e[i] = s * d[i + 1];
    d[i + 1] *= c;
    turns.push([c, s]);
    if (rows.length) rotate(rows, i, c, s);
  }
  return turns;
}

/** Rows of an identity. */
export function identity(n: number): Float64Array[] {
  return Array.from({ length: n }, (_, i) => padded(Float64Array.of(1), n, i));
}

/** A vector with zeros after it, and this many before. */
export function padded(x: Float64Array, length: number, before = 0): Float64Array {
  const out = new Float64Array(length);
  out.set(x, before);
  return out;
}
