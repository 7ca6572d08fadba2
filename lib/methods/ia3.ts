/**
 * (IA)³: infused adapter by inhibiting and amplifying inner activations (Liu et al., 2022,
 * arXiv:2205.05638).
 *
 * A layer y = W·x + b becomes y = l ⊙ (W·x + b) with one learned factor for each output feature, or
 * in a feed-forward module y = W·(l ⊙ x) + b with one for each input feature. Factors of several
 * adapters multiply.
 *
 * @module
 */
import type { Site } from "../model/site.ts";
import { mul } from "../ops/binary.ts";
import { reshape } from "../ops/reshape.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { tensor } from "../tensor/tensor.ts";
import { averageCombine } from "./average-combine.ts";
import { parseConfig } from "./config.ts";
import { IA3_TARGETS } from "./default-targets.ts";
import { completeIa3, type Ia3Config, ia3Schema, isFeedforward } from "./ia3-config.ts";
import type {
  ForwardContext,
  InitContext,
  MergeContext,
  PeftMethod,
  SiteLeaves,
} from "./method.ts";

/** The method `IA3`. */
export const ia3: PeftMethod<Ia3Config> = {
  peftType: "IA3",
  prefix: "ia3_",
  parseConfig: (config) => parseConfig(ia3Schema, config),
  completeConfig: completeIa3,
  isIdentityAtInit: true,
  siteKinds: ["linear", "conv1d"],
  defaultTargets: IA3_TARGETS,
  keepsTargets: true,
  leafShapes: (config, site) => ({ ia3_l: shapeOf(config, site) }),
  init,
  forward({ config, site, leaves, x, result, base }: ForwardContext<Ia3Config>): Value {
    const factors = reshape(leaves.ia3_l, [-1]);
    return isFeedforward(config, site.path) ? base(mul(x, factors)) : mul(result, factors);
  },
  merge,
  combine: averageCombine({ neutral: 1, patterns: { feedforwardModules: isFeedforward } }),
  keyOf: (leaf) => leaf,
};

/** A column where outputs are scaled, a row where inputs are: as they multiply W [out, in]. */
function shapeOf(config: Ia3Config, site: Site): readonly number[] {
  return isFeedforward(config, site.path) ? [1, site.inFeatures] : [site.outFeatures, 1];
}

function init({ config, site, random }: InitContext<Ia3Config>): Promise<SiteLeaves> {
  const shape = shapeOf(config, site);
  // PEFT draws them also where it then sets them to 1.
  const drawn = random.normal(shape[0] * shape[1]);
  const values = config.initIa3Weights ? drawn.fill(1) : drawn;
  return Promise.resolve({ leaves: { ia3_l: tensor(values, { shape }) }, frozen: {} });
}

function merge(
  { config, site, leaves: { ia3_l }, weight, bias }: MergeContext<Ia3Config>,
): { readonly weight: Value; readonly bias?: Value } {
  const factors = site.kind === "conv1d" ? transpose(ia3_l) : ia3_l;
  const merged = mul(weight, factors);
  if (!bias) return { weight: merged };
  return {
    weight: merged,
    bias: isFeedforward(config, site.path) ? bias : mul(bias, reshape(ia3_l, [-1])),
  };
}
