/**
 * AdaMSS: adaptive multi-subspaces (Zheng et al., 2025, "AdaMSS: adaptive multi-subspace approach for
 * parameter-efficient fine-tuning").
 *
 * The rows of a weight fall into clusters by their left singular vectors U [out, r]. A linear layer
 * becomes y = W·x + b + B·A·V·(x, 1), with the right singular vectors V [r, in + 1] of the weight and
 * its bias fixed; for each cluster, A [rank, r] and the rows of B [out, rank] that are the cluster's are
 * trained. While training, subspaces whose parameters matter least can be left as they are.
 *
 * @module
 */
import { parameterOf } from "../../model/model-graph.ts";
import { biasName } from "../../model/site.ts";
import { cast } from "../../ops/cast.ts";
import { constant } from "../../ops/constant.ts";
import { add, equal, less, mul } from "../../ops/elementwise.ts";
import { matmul } from "../../ops/matmul.ts";
import { reshape } from "../../ops/reshape.ts";
import { sliceAxis } from "../../ops/slice.ts";
import type { Value } from "../../ops/value.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import { tensor } from "../../tensor/tensor.ts";
import { kMeans } from "../k-means.ts";
import { type FlatMatrix, flatMatrix, matrixTensor } from "../linalg.ts";
import type { InitSource, LeafRule, PeftMethod, SitePlace, SiteTrace } from "../method.ts";
import { type ForwardRule, scaled } from "../site-rule.ts";
import { type AdamssConfig, adamssSchema, sizesOf } from "./adamss-config.ts";
import { allocation } from "./allocation.ts";
import { decomposed, joined, piece, trainedParts } from "./clusters.ts";

/** B·A [out, r]: the rows of each cluster's B times its A. */
function combined({ config, site, leaves }: SiteTrace<AdamssConfig>): Value {
  const { count, rank } = sizesOf(config, site), { outFeatures } = site;
  const { adamss_A, adamss_B, adamss_clusters, adamss_ranks } = leaves, { graph } = adamss_A;
  const upTo = (n: number) => constant(graph, [...Array(n).keys()], { dtype: "i32" });
  const own = equal(reshape(adamss_clusters, [outFeatures, 1]), upTo(count));
  // Beyond the rank of a cluster there is nothing.
  const within = less(upTo(rank), reshape(adamss_ranks, [count, 1]));
  const spread = mul(
    mul(reshape(cast(own, "f32"), [outFeatures, count, 1]), cast(within, "f32")),
    reshape(adamss_B, [outFeatures, 1, rank]),
  );
  return matmul(reshape(spread, [outFeatures, count * rank]), adamss_A);
}

/** The fixed factor V as it multiplies the input, and what it adds for the bias. */
function projection({ site, leaves: { adamss_newB: v } }: SiteTrace<AdamssConfig>) {
  if (!site.bias) return { v };
  const columns = (start: number, size: number) => sliceAxis(v, { axis: 1, start, size });
  return {
    v: columns(0, site.inFeatures),
    one: reshape(columns(site.inFeatures, 1), [-1]),
  };
}

const rule: ForwardRule<AdamssConfig> = {
  forward(trace, { x, result }) {
    const { v, one } = projection(trace);
    const inner = matmul(x, v, { transposeB: true });
    const change = matmul(one ? add(inner, one) : inner, combined(trace), { transposeB: true });
    return add(result, scaled(change, trace.multiplier));
  },
  weight(trace, { weight, bias }) {
    const { v, one } = projection(trace), both = scaled(combined(trace), trace.multiplier);
    return {
      weight: add(weight, matmul(both, v)),
      ...(bias &&
        { bias: one ? add(bias, reshape(matmul(both, reshape(one, [-1, 1])), [-1])) : bias }),
    };
  },
  scales: true,
};

/** The method `ADAMSS`. */
export const adamss: PeftMethod<AdamssConfig> = {
  name: "adamss",
  config: adamssSchema,
  leaves: { site: siteLeaves },
  sites: () => ({ linear: rule }),
  training: allocation,
};

function siteLeaves(
  { config, site, model }: SitePlace<AdamssConfig>,
): Readonly<Record<string, LeafRule>> {
  const { inputs, r, count, rank } = sizesOf(config, site), { outFeatures } = site;
  const whole = async (from: InitSource) => {
    const weight = flatMatrix(await from.weight(), { rows: outFeatures, columns: site.inFeatures });
    const bias = site.bias ? await toFloat32(parameterOf(model, biasName(site))) : [];
    return decomposed(withColumn(weight, bias), config, r);
  };
  let first: ReturnType<typeof whole> | undefined, all: ReturnType<typeof trainedParts> | undefined;
  const vectors = (from: InitSource) => first ??= whole(from);
  const clusters = async (from: InitSource) =>
    kMeans((await vectors(from)).u, { clusters: count, iterations: 10, seed: 123456789 });
  const trained = async (from: InitSource) =>
    all ??= trainedParts((await vectors(from)).u, await clusters(from), {
      config,
      sizes: { count, rank },
      from,
    });
  const packed = (name: "A" | "B", shape: readonly number[]): [string, LeafRule][] => [
    [`adamss_${name}`, {
      shape,
      key: null,
      init: async (from) => (await trained(from))[name],
      read: (pieces, leaves) => joined(name, pieces, { leaves, shape, path: site.path, rank }),
    }],
    ...Array.from({ length: count }, (_, i): [string, LeafRule] => [`adamss_${name}.${i}`, {
      shape: [],
      key: `adamss_${name}.${i}`,
      kind: "derived",
      accepts: (found) => found.length === 2,
      saved: (leaves) => piece(name, i, { leaves, rank }),
    }]),
  ];
  return {
    adamss_newB: {
      shape: [r, inputs],
      kind: "fixed",
      key: "adamss_newB",
      init: async (from) => matrixTensor((await vectors(from)).v),
    },
    adamss_clusters: {
      shape: [outFeatures],
      kind: "fixed",
      whole: { stored: "i64", below: count },
      init: async (from) => tensor(await clusters(from)),
    },
    adamss_ranks: {
      shape: [count],
      kind: "fixed",
      whole: { stored: "i64", below: rank + 1 },
      init: async (from) => tensor((await trained(from)).ranks),
    },
    ...Object.fromEntries(packed("A", [count * rank, r])),
    ...Object.fromEntries(packed("B", [outFeatures, rank])),
  };
}

function withColumn(a: FlatMatrix, column: ArrayLike<number>): FlatMatrix {
  if (column.length === 0) return a;
  const columns = a.columns + 1, data = new Float64Array(a.rows * columns);
  for (let i = 0; i < a.rows; i++) {
    data.set(a.data.subarray(i * a.columns, (i + 1) * a.columns), i * columns);
    data[(i + 1) * columns - 1] = column[i];
  }
  return { rows: a.rows, columns, data };
}
