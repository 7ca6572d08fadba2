/**
 * VeRA: vector-based random matrix adaptation (Kopiczko et al., 2023, arXiv:2310.11454).
 *
 * A linear layer becomes y = W·x + λ_b ⊙ B·(λ_d ⊙ A·x). A [r, I] and B [O, r] are random and fixed,
 * one pair for the whole adapter and as large as its largest layer needs; a layer with fewer
 * features takes the first columns of A and the first rows of B. Trained are λ_d [r] and
 * λ_b [out].
 *
 * @module
 */
import type { Site } from "../model/site.ts";
import { add, mul } from "../ops/binary.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { tensor } from "../tensor/tensor.ts";
import { parseConfig } from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import type {
  ForwardContext,
  InitContext,
  Leaves,
  MergeContext,
  PeftMethod,
  SiteContext,
  SiteLeaves,
} from "./method.ts";
import { createTorchRandom } from "./torch-random.ts";
import { type VeraConfig, veraSchema } from "./vera-config.ts";

const PROJECTION_KEYS = { vera_A: "base_model.vera_A", vera_B: "base_model.vera_B" };

/** The method `VERA`. */
export const vera: PeftMethod<VeraConfig> = {
  peftType: "VERA",
  prefix: "vera_lambda_",
  parseConfig: (config) => parseConfig(veraSchema, config),
  isScalable: true,
  supportsLoraConversion: true,
  isIdentityAtInit: true,
  siteKinds: ["linear", "conv1d"],
  defaultTargets: { ...ATTENTION_TARGETS, phi: ["q_proj", "v_proj"] },
  leafShapes: ({ r }, { outFeatures }) => ({ vera_lambda_b: [outFeatures], vera_lambda_d: [r] }),
  init,
  sharedShapes: (config, { sites }) => ({ leaves: {}, frozen: projectionShapes(config, sites) }),
  initShared: ({ config, sites }) =>
    Promise.resolve({ leaves: {}, frozen: projections(config, sites) }),
  frozenShared: ({ config, sites }) => Promise.resolve(projections(config, sites)),
  sharedKeys: ({ saveProjection }): Readonly<Record<string, string>> =>
    saveProjection ? PROJECTION_KEYS : {},
  ignoredKeys: ({ saveProjection }) => saveProjection ? [] : Object.values(PROJECTION_KEYS),
  // A second adapter's file holds the projections of the first, which may be larger.
  fitsShared: (leaf, { expected: [rows, columns], found: [m, n] }) =>
    leaf === "vera_A" ? m === rows && n >= columns : m >= rows && n === columns,
  forward,
  merge,
  keyOf: (leaf) => leaf,
};

function init({ config, site, random }: InitContext<VeraConfig>): Promise<SiteLeaves> {
  const { r, initWeights, dInitial } = config;
  // PEFT draws them also where it then sets them to a constant.
  const d = random.normal(r);
  const b = new Float32Array(site.outFeatures).fill(initWeights ? 0 : 1);
  return Promise.resolve({
    leaves: {
      vera_lambda_b: tensor(b, { shape: [site.outFeatures] }),
      vera_lambda_d: tensor(initWeights ? d.fill(dInitial) : d, { shape: [r] }),
    },
    frozen: {},
  });
}

function projectionShapes(
  { r }: VeraConfig,
  sites: readonly Site[],
): Readonly<Record<"vera_A" | "vera_B", readonly number[]>> {
  return {
    vera_A: [r, Math.max(0, ...sites.map(({ inFeatures }) => inFeatures))],
    vera_B: [Math.max(0, ...sites.map(({ outFeatures }) => outFeatures)), r],
  };
}

/**
 * Uniform random numbers from the key's own stream, with the variance that keeps signals as they
 * are before a rectifier (He et al., 2015, arXiv:1502.01852).
 */
function projections(config: VeraConfig, sites: readonly Site[]): Leaves {
  const random = createTorchRandom(config.projectionPrngKey);
  const { vera_A, vera_B } = projectionShapes(config, sites);
  const draw = (shape: readonly number[]) => {
    const bound = Math.sqrt(3) * (Math.sqrt(2) / Math.sqrt(shape[1]));
    const values = random.uniform(shape[0] * shape[1], { low: -bound, high: bound });
    return tensor(values, { shape });
  };
  return { vera_A: draw(vera_A), vera_B: draw(vera_B) };
}

interface Parts {
  /** [r, in]. */
  readonly a: Value;
  /** [out, r]. */
  readonly b: Value;
  /** λ_d with the factor that was asked for, [r]. */
  readonly d: Value;
}

/** What a site uses of the projections. */
function partsOf({ site, leaves, shared, multiplier }: SiteContext<VeraConfig>): Parts {
  const { vera_lambda_d: d } = leaves;
  return {
    a: sliceAxis(shared.vera_A, { axis: 1, start: 0, size: site.inFeatures }),
    b: sliceAxis(shared.vera_B, { axis: 0, start: 0, size: site.outFeatures }),
    d: multiplier === 1 ? d : mul(d, multiplier),
  };
}

function forward(context: ForwardContext<VeraConfig>): Value {
  const { pass, config, leaves, x, result } = context;
  const { a, b, d } = partsOf(context);
  const inner = mul(matmul(pass.dropout(x, config.veraDropout), a, { transposeB: true }), d);
  return add(result, mul(matmul(inner, b, { transposeB: true }), leaves.vera_lambda_b));
}

function merge(
  context: MergeContext<VeraConfig>,
): { readonly weight: Value; readonly bias?: Value } {
  const { site, leaves, weight, bias } = context;
  const { a, b, d } = partsOf(context);
  const left = mul(b, reshape(leaves.vera_lambda_b, [-1, 1]));
  const right = mul(a, reshape(d, [-1, 1]));
  const delta = site.kind === "conv1d"
    ? matmul(right, left, { transposeA: true, transposeB: true })
    : matmul(left, right);
  return { weight: add(weight, delta), ...(bias ? { bias } : {}) };
}
