/**
 * Lloyd's k-means from random rows, as scikit-learn's `KMeans(init="random", n_init=1)` runs it with
 * numpy's random numbers.
 *
 * @module
 */
import { type FlatMatrix, norm } from "./linalg.ts";
import { createTorchRandom } from "./torch-random.ts";

/**
 * Uniform numbers of 53 bits, as `numpy.random.RandomState(seed).rand()` gives them: torch's generator
 * is the same.
 */
function numpyUniform(seed: number): () => number {
  const random = createTorchRandom(seed);
  return () => {
    const [high, low] = random.integers(2, 2 ** 32);
    return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
  };
}

/** Different numbers below `count`, as `RandomState(seed).choice(count, size, replace=False, p=…)`. */
export function chosenRows(count: number, size: number, seed: number): readonly number[] {
  const uniform = numpyUniform(seed), found: number[] = [];
  while (found.length < size) {
    const drawn = Array.from({ length: size - found.length }, uniform);
    let sum = 0;
    const share = Math.fround(1 / count), bounds = new Float64Array(count);
    for (let i = 0; i < count; i++) bounds[i] = sum += found.includes(i) ? 0 : share;
    const rows = drawn.map((x) => bounds.findIndex((bound) => bound / sum > x));
    for (const row of new Set(rows)) found.push(row);
  }
  return found;
}

/**
 * The cluster of each row, from 0.
 *
 * @param points Rows to cluster; as many as clusters, at least.
 * @param options How many clusters, how often they are improved at most, and numpy's seed.
 */
export function kMeans(
  points: FlatMatrix,
  options: { readonly clusters: number; readonly iterations: number; readonly seed: number },
): Int32Array<ArrayBuffer> {
  const { rows, columns } = points, { clusters, iterations, seed } = options;
  const means = new Float64Array(columns), data = new Float64Array(points.data.length);
  points.data.forEach((x, i) => means[i % columns] += x / rows);
  points.data.forEach((x, i) => data[i] = x - means[i % columns]);
  const tolerance = 1e-4 * data.reduce((sum, x) => sum + x * x, 0) / data.length;
  const row = (i: number) => data.subarray(i * columns, (i + 1) * columns);
  let centers: Float64Array[] = chosenRows(rows, clusters, seed).map((i) => row(i).slice());
  let labels = new Int32Array(rows).fill(-1);
  const nearest = () => {
    const sizes = centers.map((center) => center.reduce((sum, x) => sum + x * x, 0));
    return Int32Array.from({ length: rows }, (_, i) => {
      const point = row(i);
      const far = centers.map((c, k) =>
        sizes[k] - 2 * c.reduce((sum, x, j) => sum + x * point[j], 0)
      );
      return far.indexOf(Math.min(...far));
    });
  };
  for (let step = 0; step < iterations; step++) {
    const found = nearest(), next = moved(found);
    const isSame = found.every((label, i) => label === labels[i]);
    const shift = next.reduce((sum, center, k) => sum + distance(center, centers[k]), 0);
    [labels, centers] = [found, next];
    if (isSame) return labels;
    if (shift <= tolerance) break;
  }
  return nearest();

  /** The mean of each cluster. One without rows takes the row that is farthest from its own. */
  function moved(found: Int32Array): Float64Array[] {
    const sums = centers.map(() => new Float64Array(columns)), counts = centers.map(() => 0);
    const give = (k: number, i: number, sign: 1 | -1) => {
      counts[k] += sign;
      row(i).forEach((x, j) => sums[k][j] += sign * x);
    };
    found.forEach((k, i) => give(k, i, 1));
    const empty = counts.flatMap((count, k) => count ? [] : [k]);
    const far = Array.from(found, (k, i) => distance(row(i), centers[k]));
    const order = empty.length ? [...far.keys()].sort((a, b) => far[b] - far[a]) : [];
    for (const [n, k] of empty.entries()) {
      if (far[order[0]] === 0) break;
      give(found[order[n]], order[n], -1);
      give(k, order[n], 1);
    }
    const largest = counts.indexOf(Math.max(...counts));
    return sums.map((_, k) => {
      const of = counts[k] > 0 ? k : largest;
      return sums[of].map((x) => x / counts[of]);
    });
  }
}

/** The square of the distance of two points. */
function distance(a: Float64Array, b: Float64Array): number {
  return norm(a.map((x, i) => x - b[i])) ** 2;
}
