/**
 * Clusters of a weight's rows, and A and B of each: how they begin, and what files hold of them.
 *
 * @module
 */
import { CheckpointError, ValueError } from "../../errors.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { lapackSvd } from "../lapack-svd.ts";
import {
  approximateSvd,
  type FlatMatrix,
  flatMatrix,
  orthonormalColumns,
  rowProducts,
  transposed,
} from "../linalg.ts";
import type { InitSource, Leaves } from "../method.ts";
import { createTorchRandom } from "../torch-random.ts";
import type { AdamssConfig } from "./adamss-config.ts";

/** Left singular vectors [out, r] and right ones [r, in] of a random start, in f32. */
export function decomposed(
  weight: FlatMatrix,
  { randomSeed }: AdamssConfig,
  r: number,
): { readonly u: FlatMatrix; readonly v: FlatMatrix } {
  const { u, v } = svdLowRank(weight, r, createTorchRandom(randomSeed));
  return { u: transposed({ ...u, data: u.data.map(Math.fround) }), v };
}

/** `torch.svd_lowrank(a, q=rank, niter=2)` */
function svdLowRank(a: FlatMatrix, rank: number, random: InitSource["random"]) {
  const rows = Math.min(a.rows, a.columns);
  const start = flatMatrix(random.normal(rows * rank), { rows, columns: rank });
  return approximateSvd(a, { start, iterations: 2, svd: lapackSvd });
}

/** Rows of each cluster. */
export function rowsByCluster(clusters: ArrayLike<number>): readonly (readonly number[])[] {
  const rows: number[][] = [];
  Array.from(clusters).forEach((k, row) => (rows[k] ??= []).push(row));
  return Array.from(rows, (list) => list ?? []);
}

/** A and B as they begin, those of all clusters in one. */
export function trainedParts(
  u: FlatMatrix,
  clusters: Int32Array,
  of: {
    readonly config: AdamssConfig;
    readonly sizes: { readonly count: number; readonly rank: number };
    readonly from: InitSource;
  },
): Readonly<Record<"A" | "B", Float32Array<ArrayBuffer>>> & {
  readonly ranks: Int32Array<ArrayBuffer>;
} {
  const { config, sizes, from: { random } } = of, { rank } = sizes, r = u.columns;
  const byCluster = rowsByCluster(clusters);
  const A = new Float32Array(sizes.count * rank * r);
  const B = new Float32Array(u.rows * rank), ranks = new Int32Array(sizes.count);
  byCluster.forEach((rows, k) => {
    const data = rows.flatMap((row) => [...u.data.subarray(row * r, (row + 1) * r)]);
    const own = flatMatrix(data, { rows: rows.length, columns: r }), gram = rowProducts(own, own);
    let used = Math.min(rows.length, rank);
    if (config.useDynamicRank) {
      const { s } = svdLowRank(gram, rows.length, random);
      used = Math.max(1, Math.min(used, s.filter((x) => x > config.svdThreshold * s[0]).length));
    }
    ranks[k] = used;
    const basis = svdLowRank(gram, used, random).u; // [used, rows]
    const q = orthonormalColumns(rowProducts(transposed(own), basis)); // [r, used]
    A.set(transposed(q).data, k * rank * r);
    if (config.initWeights !== null) return;
    const noise = random.normal(rows.length * used);
    rows.forEach((row, i) => {
      for (let j = 0; j < used; j++) B[row * rank + j] = noise[i * used + j] * Math.fround(0.01);
    });
  });
  return { A, B, ranks };
}

/**
 * What a file holds of one cluster. How many rows that are follows from the weight, and is known once
 * its contents have been read.
 */
export function piece(
  name: "A" | "B",
  index: number,
  of: { readonly leaves: Leaves; readonly rank: number },
): Tensor {
  const { leaves, rank } = of;
  let shape: readonly number[] | undefined;
  return {
    dtype: "f32",
    where: "host",
    get shape() {
      if (shape) return shape;
      throw new ValueError(
        "ADAMSS_CLUSTERS",
        `How large adamss_${name}.${index} is follows from the weights of the base. Read its contents ` +
          "first (await tensor.data()), or save the adapter.",
      );
    },
    async data() {
      const [rows, used] = await clusterAt(leaves, index), r = leaves.adamss_A.shape[1];
      shape = name === "A" ? [used, r] : [rows.length, used];
      const all = await toFloat32(leaves[`adamss_${name}`]);
      if (name === "A") return all.slice(index * rank * r, (index * rank + used) * r);
      return Float32Array.from(
        rows.flatMap((row) => [...all.subarray(row * rank, row * rank + used)]),
      );
    },
  };
}

/** The rows of a cluster, and its rank. */
async function clusterAt(
  { adamss_clusters, adamss_ranks }: Leaves,
  index: number,
): Promise<readonly [rows: readonly number[], rank: number]> {
  const ranks = await toFloat32(adamss_ranks);
  return [rowsByCluster(await toFloat32(adamss_clusters))[index], ranks[index]];
}

/** A or B of all clusters, from what a file holds of each. */
export async function joined(
  name: "A" | "B",
  pieces: Leaves,
  of: {
    readonly leaves: Leaves;
    readonly shape: readonly number[];
    readonly rank: number;
    readonly path: string;
  },
): Promise<Float32Array<ArrayBuffer>> {
  const { leaves, shape, rank, path } = of, width = shape[1];
  const out = new Float32Array(shape[0] * width);
  for (const [leaf, found] of Object.entries(pieces)) {
    const index = Number(leaf.slice("adamss_A.".length));
    const [rows, used] = await clusterAt(leaves, index), values = await toFloat32(found);
    const wanted = name === "A" ? [used, width] : [rows.length, used];
    if (wanted.join() !== found.shape.join()) {
      throw new CheckpointError(
        "ADAMSS_CLUSTERS",
        `The file's ${leaf} of ${path} has shape [${found.shape}], and what follows from this base's ` +
          `weight is [${wanted}]. The adapter is of another base, or r is so large that clusters depend ` +
          "on rounding: choose an r below the features of the module.",
        { path, found: found.shape, expected: wanted },
      );
    }
    const [height, across] = found.shape;
    for (let i = 0; i < height; i++) {
      const row = name === "A" ? index * rank + i : rows[i];
      out.set(values.subarray(i * across, (i + 1) * across), row * width);
    }
  }
  return out;
}
