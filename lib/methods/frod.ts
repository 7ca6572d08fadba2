/**
 * FRoD: full-rank adaptation in a basis that the layers of one kind share
 * (doi.org/10.1609/aaai.v40i31.39813).
 *
 * The weights of all layers of a kind give a basis V [in, in], in which each is U·diag(λ)·Vᵀ with
 * columns of U [out, in] of length 1. A layer becomes y = U·(S + diag(λ))·Vᵀ·x + b: λ [in] is trained,
 * and so are the few elements of S [in, in] that a random pattern leaves. V and the pattern are saved
 * once for each kind; U follows from V and the weight.
 *
 * Which of many bases it is depends on rounding. Here U follows from the V of a file, so that all files
 * of PEFT give its outputs; PEFT takes U from a basis that it finds again, so that it reads only what it
 * began itself.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError, UnsupportedError } from "../errors.ts";
import { isOutIn, type Site, weightName } from "../model/site.ts";
import { product } from "../model/site-product.ts";
import { dense } from "../model/weight.ts";
import { constant } from "../ops/constant.ts";
import { add, mul, sub } from "../ops/elementwise.ts";
import { scatterAdd } from "../ops/gather.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { tensor } from "../tensor/tensor.ts";
import {
  checkLayersPattern,
  commonFields,
  type ConfigSchema,
  described,
  field,
  parseConfig,
  type TargetConfig,
} from "./config.ts";
import { VERA_TARGETS } from "./default-targets.ts";
import { lapackBasis } from "./lapack-svd.ts";
import {
  type FlatMatrix,
  flatMatrix,
  inverted,
  leadingQr,
  matrixOf,
  matrixTensor,
  norm,
  rowProducts,
  scaledRows,
  solved,
  symmetricVectors,
  transposed,
} from "./linalg.ts";
import type { AdapterPlace, InitSource, LeafRule, PeftMethod, SiteTrace } from "./method.ts";
import { projection, type ProjectionConfig, projectionFields } from "./projections.ts";
import type { DeltaRule } from "./site-rule.ts";
import { createTorchRandom } from "./torch-random.ts";

/** A FRoD config with every field, as {@link frodConfig} makes it. */
export interface FrodConfig
  extends Omit<ProjectionConfig, "r">, Required<Pick<TargetConfig, "bias">> {
  /** `"FROD"`. */
  readonly peftType: "FROD";
  /** Probability with which training drops an input feature. 0 by default. */
  readonly frodDropout: number;
  /** Which biases of the base are trained too: none, all, or those of the adapted modules. */
  readonly bias: "none" | "all" | "frod_only";
  /** Elements of S that are trained beside its diagonal, as a share of all. 0.01 by default. */
  readonly sparseRate: number;
  /** What keeps layers apart that are alike, when the basis is made. 0.001 by default. */
  readonly regularizationAlpha: number;
  /** Has no effect here; in PEFT, whether progress is shown. */
  readonly progressbar: boolean;
  /** Has no effect here; in PEFT, whether weights of the base leave the GPU. */
  readonly runtimeOffloadBaseWeight: boolean;
}

const { r: _r, ...shared } = projectionFields(1);

const schema: ConfigSchema<FrodConfig> = {
  peftType: "FROD",
  targets: { ...VERA_TARGETS, vit: ["query", "value"] },
  isIdentityAtInit: true,
  fields: {
    ...commonFields("FROD"),
    ...shared,
    frodDropout: field.probability(0),
    bias: field.choice("none", ["none", "all", "frod_only"]),
    sparseRate: described(
      z.number().min(0).max(1).default(0.01).describe("a number from 0 to 1"),
      { float: true },
    ),
    regularizationAlpha: field.float(1e-3),
    progressbar: field.boolean(true),
    runtimeOffloadBaseWeight: field.boolean(false),
  },
  check(config) {
    checkLayersPattern(config);
    if (config.saveProjection) return;
    throw new UnsupportedError(
      "FROD_PROJECTION",
      "FRoD without its projections (saveProjection: false) cannot be made again: which bases it has " +
        "depends on rounding, so that the same file is another adapter in another program. Save it " +
        "with its projections (save_projection=True in PEFT).",
    );
  },
};

/**
 * A complete FRoD config (doi.org/10.1609/aaai.v40i31.39813): each weight is learned in a basis that
 * all layers of its kind share.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 *
 * @example
 * ```ts
 * import { frodConfig } from "@graft/peft";
 * const config = frodConfig({ sparseRate: 0.02, targetModules: ["q_proj", "v_proj"] });
 * console.log(config.saveProjection); // true
 * ```
 */
export function frodConfig(config: Partial<FrodConfig> = {}): FrodConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<FrodConfig>;

/** S + diag(λ) [in, in] */
function middle({ site, leaves, shared }: Trace): Value {
  const { frod_lambda_l: diagonal, frod_lambda_s_values: values } = leaves;
  const n = site.inFeatures, { graph } = diagonal;
  const along = constant(graph, Array.from({ length: n }, (_, i) => i * (n + 1)), { dtype: "i32" });
  const placed = (x: Value, ids: Value) => scatterAdd(reshape(x, [-1, 1]), ids, { rows: n * n });
  const whole = placed(diagonal, along);
  if (values.shape[0] === 0) return reshape(whole, [n, n]);
  const indices = shared[`frod_s_indices.${kindOf(site.path)}`];
  const [rows, columns] = [0, 1].map((start) =>
    reshape(sliceAxis(indices, { axis: 0, start, size: 1 }), [-1])
  );
  return reshape(add(whole, placed(values, add(mul(rows, n), columns))), [n, n]);
}

const rule: DeltaRule<FrodConfig> = {
  delta(trace) {
    const { pass, site, leaves, shared } = trace, v = shared[`frod_V.${kindOf(site.path)}`];
    const adapted = matmul(matmul(leaves.frod_U, middle(trace)), v, { transposeB: true });
    const weight = dense(pass.weight(weightName(site)));
    return sub(isOutIn(site) ? adapted : transpose(adapted), weight);
  },
  dropout: ({ frodDropout }) => frodDropout,
  apply(trace, x) {
    const { pass, site, leaves, shared } = trace, v = shared[`frod_V.${kindOf(site.path)}`];
    const inner = matmul(matmul(x, v), middle(trace), { transposeB: true });
    const y = matmul(inner, leaves.frod_U, { transposeB: true });
    return sub(y, product(site, x, pass.weight(weightName(site))));
  },
};

/** The method `FROD`. */
export const frod: PeftMethod<FrodConfig> = {
  name: "frod",
  config: schema,
  leaves: {
    adapter: bases,
    site({ config, site }) {
      const { inFeatures, outFeatures, path } = site, { initWeights } = config;
      const size = trainedElements(config, inFeatures);
      const parts = async (from: InitSource) =>
        decomposed(site, await matrixOf(from.shared![`frod_V.${kindOf(path)}`]), from);
      return {
        frod_lambda_s_values: {
          shape: [size],
          init: ({ random }) =>
            initWeights ? new Float32Array(size) : random.normal(size, { std: 0.1 }),
        },
        frod_lambda_l: {
          shape: [inFeatures],
          async init(from) {
            const { lengths } = await parts(from);
            if (initWeights) return lengths;
            const noise = from.random.normal(inFeatures);
            return lengths.map((x, i) => x + Math.fround(noise[i] * Math.fround(0.1)));
          },
        },
        frod_U: {
          shape: [outFeatures, inFeatures],
          kind: "fixed",
          follows: true,
          init: async (from) => matrixTensor((await parts(from)).u),
        },
      };
    },
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};

/** What layers do that share a basis: the last two names of their path. */
function kindOf(path: string): string {
  const [last, before, third] = path.split(".").reverse();
  if (before === undefined || /^\d+$/.test(before)) return last;
  const kind = `${before}_${last}`;
  return kind === "output_dense" && third === "attention" ? "attention_output" : kind;
}

/** Number of a layer by its path: after `layers`, else the first that there is. */
function layerOf(path: string, otherwise: number): number {
  const parts = path.split("."), after = parts[parts.indexOf("layers") + 1];
  const isNumber = (part: string | undefined) => part !== undefined && /^\d+$/.test(part);
  const found = parts.includes("layers") && isNumber(after) ? after : parts.find(isNumber);
  return found === undefined ? otherwise : Number(found);
}

function trainedElements({ sparseRate }: FrodConfig, n: number): number {
  const count = Math.min(Math.trunc(n * n * sparseRate), n * n - n);
  return sparseRate > 0 && n > 1 ? Math.max(1, count) : count;
}

/** Bases and patterns of all kinds, which are drawn in the order of their names. */
function bases(
  { config, sites }: AdapterPlace<FrodConfig>,
): Readonly<Record<string, LeafRule>> {
  // One layer may hold several of a kind, such as experts: the last one stands for them.
  const kinds = new Map<string, Map<number, Site>>();
  sites.forEach((site, i) => {
    const kind = kindOf(site.path), layers = kinds.get(kind) ?? new Map<number, Site>();
    kinds.set(kind, layers.set(layerOf(site.path, i), site));
  });
  const random = createTorchRandom(config.projectionPrngKey);
  const of = (name: string, kind: string, rule: LeafRule) => {
    const leaf = `${name}.${kind}`;
    return [leaf, projection(leaf, config, rule)] as const;
  };
  const names = [...kinds.keys()].sort();
  return Object.fromEntries(names.flatMap((kind) => {
    const layers = [...kinds.get(kind)!].sort(([a], [b]) => a - b).map(([, site]) => site);
    const n = layers[0].inFeatures, count = trainedElements(config, n);
    const other = layers.find(({ inFeatures }) => inFeatures !== n);
    if (other) {
      throw new ConfigError(
        "CONFIG_FROD_SIZES",
        `FRoD gives layers of one kind one basis, and of ${kind}, ${layers[0].path} has ${n} ` +
          `features in and ${other.path} ${other.inFeatures}. Leave one of them out of targetModules.`,
        { kind },
      );
    }
    const stored = "i64" as const;
    return [
      of("frod_V", kind, {
        shape: [n, n],
        async init({ weight }) {
          const weights: FlatMatrix[] = [];
          for (const site of layers) {
            const shape = { rows: site.outFeatures, columns: n };
            weights.push(flatMatrix(await weight(site), shape));
          }
          return matrixTensor(commonBasis(weights, config.regularizationAlpha));
        },
      }),
      of("frod_s_indices", kind, {
        shape: [2, count],
        whole: { stored, below: n },
        init() {
          const places = count ? random.permutation(n * n - n).subarray(0, count) : [];
          const rows = Int32Array.from(places, (p) => Math.floor(p / (n - 1)));
          const columns = places.map((p, i) => p % (n - 1) + Number(p % (n - 1) >= rows[i]));
          return tensor(Int32Array.from([...rows, ...columns]), { shape: [2, count] });
        },
      }),
      of("frod_s_size", kind, {
        shape: [2],
        whole: { stored, below: n + 1 },
        init: () => tensor(Int32Array.of(n, n)),
      }),
    ];
  }));
}

/** A basis [in, in], as columns, in which all weights of a kind have nearly orthogonal columns. */
function commonBasis(weights: readonly FlatMatrix[], alpha: number): FlatMatrix {
  const n = weights[0].columns, rows = weights.reduce((sum, w) => sum + w.rows, 0);
  const stacked = flatMatrix(weights.flatMap(({ data }) => [...data]), { rows, columns: n });
  if (rows < n) return transposed(lapackBasis(stacked));
  const { q, r } = leadingQr(stacked, n);
  const mean = new Float64Array(n * n);
  let start = 0;
  for (const weight of weights) {
    const part = q.data.subarray(start * n, (start += weight.rows) * n);
    const columns = transposed(flatMatrix(part, { rows: weight.rows, columns: n }));
    const term = rowProducts(columns, columns);
    for (let i = 0; i < n; i++) term.data[i * (n + 1)] += alpha;
    inverted(term).data.forEach((x, i) => mean[i] += x / weights.length);
  }
  return rowProducts(transposed(r), symmetricVectors(flatMatrix(mean, { rows: n, columns: n })));
}

/** A weight in a basis V: its columns W·V⁻ᵀ, and how long they were. */
async function decomposed(
  { inFeatures, outFeatures }: Site,
  v: FlatMatrix,
  { weight }: Pick<InitSource, "weight">,
): Promise<{ readonly u: FlatMatrix; readonly lengths: Float32Array<ArrayBuffer> }> {
  const w = flatMatrix(await weight(), { rows: outFeatures, columns: inFeatures });
  const columns = solved(v, transposed(w));
  const lengths = Array.from(
    { length: inFeatures },
    (_, i) => norm(columns.data.subarray(i * outFeatures, (i + 1) * outFeatures)),
  );
  const scales = lengths.map((x) => x > 1e-12 ? 1 / x : 0);
  return { u: transposed(scaledRows(columns, scales)), lengths: Float32Array.from(lengths) };
}
