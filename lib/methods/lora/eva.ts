/**
 * EVA: the directions in which what goes into a layer varies most, and who gets how many of them
 * (Paischer et al., 2024, arXiv:2410.07170).
 *
 * @module
 */
import {
  approximateSvd,
  firstRows,
  type FlatMatrix,
  flatMatrix,
  leadingSvd,
  norm,
  scaledRows,
} from "../linalg.ts";
import { createTorchRandom } from "../torch-random.ts";

/** Principal components of the rows that were seen so far. */
export interface Components {
  /** Directions, largest variance first, as rows [k, features]. */
  readonly directions: FlatMatrix;
  /** Their singular values [k]. */
  readonly values: Float64Array;
  /** Share of the variance that each explains [k]. */
  readonly explained: Float64Array;
  /** Mean of each feature. */
  readonly mean: Float64Array;
  /** Sum of the squared distances of each feature to its mean. */
  readonly spread: Float64Array;
  /** Number of rows. */
  readonly count: number;
}

/** As PEFT seeds, widens and refines its approximate decompositions. */
const SEED = 42, WIDER = 2, ITERATIONS = 4;

/**
 * The components of more rows (incremental PCA; Ross et al., 2008, "Incremental learning for robust
 * visual tracking").
 *
 * @param before Those of the rows before; none at first.
 * @param x More rows [n, features], at least `k` of them.
 * @param k How many components.
 */
export function addRows(before: Components | undefined, x: FlatMatrix, k: number): Components {
  const { rows, columns } = x, old = before?.count ?? 0, count = old + rows;
  const own = columnMeans(x);
  const mean = own.map((m, j) => before ? (before.mean[j] * old + m * rows) / count : m);
  const spread = new Float64Array(columns);
  x.data.forEach((value, i) => spread[i % columns] += (value - own[i % columns]) ** 2);
  const extra = before ? k + 1 : 0, data = new Float64Array((rows + extra) * columns);
  const first = before ? k * columns : 0;
  if (before) {
    data.set(scaledRows(before.directions, before.values).data);
    for (let j = 0; j < columns; j++) {
      const shift = before.mean[j] - own[j];
      spread[j] += before.spread[j] + old * rows / count * shift ** 2;
      data[first + rows * columns + j] = Math.sqrt(old / count * rows) * shift;
    }
  }
  x.data.forEach((value, i) => data[first + i] = value - own[i % columns]);
  const all = flatMatrix(data, { rows: rows + extra, columns });
  const smaller = Math.min(all.rows, columns), width = WIDER * k;
  // A start that is as wide as the matrix spans all of it.
  const { s, v } = width < smaller
    ? approximateSvd(all, {
      start: flatMatrix(createTorchRandom(SEED).normal(smaller * width), {
        rows: smaller,
        columns: width,
      }),
      iterations: ITERATIONS,
    })
    : leadingSvd(all, k);
  const values = s.subarray(0, k), total = spread.reduce((sum, x) => sum + x, 0);
  const directions = signed(firstRows(v, k));
  return { directions, values, explained: values.map((s) => s * s / total), mean, spread, count };
}

function columnMeans({ rows, columns, data }: FlatMatrix): Float64Array {
  const sums = new Float64Array(columns);
  data.forEach((value, i) => sums[i % columns] += value);
  return sums.map((sum) => sum / rows);
}

/** Rows with the sign that makes their largest element positive. */
function signed(m: FlatMatrix): FlatMatrix {
  const signs = Array.from({ length: m.rows }, (_, i) => {
    const row = m.data.subarray(i * m.columns, (i + 1) * m.columns);
    return Math.sign(row.reduce((most, x) => Math.abs(x) > Math.abs(most) ? x : most, 0));
  });
  return scaledRows(m, signs);
}

/** How many components did not turn, from the first on, by the cosine to those of before. */
export function settled(before: Components, after: Components, tau: number): number {
  const { columns, rows } = after.directions;
  for (let i = 0; i < rows; i++) {
    const [a, b] = [before, after].map(({ directions }) =>
      directions.data.subarray(i * columns, (i + 1) * columns)
    );
    const cosine = a.reduce((sum, x, j) => sum + x * b[j], 0) / (norm(a) * norm(b));
    // What has no direction has nowhere to turn.
    if (cosine < tau) return i;
  }
  return rows;
}

/** A layer that takes part in the distribution of ranks. */
export interface EvaLayer {
  /** Its module path. */
  readonly path: string;
  /** The first layer with the same inputs, which may be itself. */
  readonly first: string;
  /** How many components it can get. */
  readonly most: number;
}

/**
 * Deals ranks out to the components that explain most, whosever they are.
 *
 * @param layers The layers; those that are the first with their inputs come first.
 * @param explained Shares of variance by the path of the first layer with the inputs.
 * @param budget The sum of all ranks.
 */
export function distributeRanks(
  layers: readonly EvaLayer[],
  explained: ReadonlyMap<string, Float64Array>,
  budget: number,
): ReadonlyMap<string, number> {
  const shares = layers.flatMap(({ path, first, most }) =>
    [...explained.get(first)!.subarray(0, most)].map((share) => ({ path, share }))
  );
  const ranks = new Map(layers.map(({ path }) => [path, 0]));
  for (const { path } of shares.toSorted((a, b) => b.share - a.share).slice(0, budget)) {
    ranks.set(path, ranks.get(path)! + 1);
  }
  // What is measured at the first of equal layers has to do for all of them.
  for (const { path, first } of layers) {
    const [own, other] = [ranks.get(path)!, ranks.get(first)!];
    if (own > other) ranks.set(first, own).set(path, other);
  }
  return ranks;
}

/** A number rounded as Python does it: halves to the even neighbour. */
export function roundHalfEven(x: number): number {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + below % 2 : Math.round(x);
}

/** The A of a layer: its first `rank` directions, perhaps each over the root of its singular value. */
export function evaFactor(
  { directions, values }: Components,
  { rank, whiten }: { readonly rank: number; readonly whiten: boolean },
): FlatMatrix {
  const rows = firstRows(directions, rank);
  return whiten ? scaledRows(rows, values.map((s) => 1 / Math.sqrt(s))) : rows;
}
