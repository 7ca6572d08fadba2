/**
 * How LoRA adapters become one.
 *
 * With effective scale s and weight w of each adapter, the exact ways stack the factors: Σ w·s·B·A =
 * [B₁ B₂ …]·[w₁s₁A₁; w₂s₂A₂; …] (`cat`), perhaps cut to its largest singular values (`svd`). The
 * ways without `svd` in their name merge all A and all B apart from each other, with √|w·s| on each
 * and the sign on A, which is rough where adapters differ; those with it merge the products B·A. The
 * combined adapter always has the scale 1.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../../errors.ts";
import { fanIn, isOutIn, type Site } from "../../model/site.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import type {
  CombineContext,
  CombineOptions,
  CombinePart,
  CombineRule,
  CombineSite,
} from "../combine.ts";
import {
  type FlatMatrix,
  type LeadingSvd,
  leadingSvd,
  matrixProduct,
  transposed,
} from "../linalg.ts";
import { checkFactors, type LoraConfig, loraShape, takesFromBase } from "./lora-config.ts";
import {
  factorLeaves,
  type Factors,
  factorsOf,
  leadingFactors,
  magnitudes,
  outIn,
  productSvd,
  scaled,
  stacked,
  sum,
} from "./lora-factors.ts";
import { decomposes, initLora, loraLeafShapes } from "./lora-init.ts";
import type { Leaves } from "../method.ts";
import { type MergeKind, mergeTasks } from "../prune-and-merge.ts";

type Part = CombinePart<LoraConfig>;
type Context = CombineContext<LoraConfig>;

/** The sum with nothing lost and no rank wasted; not one of PEFT's types. */
const SUM = "sum";

/** LoRA's rule. */
export const loraCombine: CombineRule<LoraConfig> = {
  types: [
    "svd",
    "linear",
    "cat",
    "ties",
    "ties_svd",
    "dare_ties",
    "dare_linear",
    "dare_ties_svd",
    "dare_linear_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
  ],
  exact: SUM,
  config: combinedConfig,
  combine,
  draws: {
    count: drawCount,
    async before(random, { config, sites }) {
      // PEFT starts the adapter as any other, at its full rank, before it overwrites it.
      const fresh = { ...config, useDora: false, rankPattern: {} };
      const weight = () => Promise.reject(new TypeError("Not read without DoRA."));
      for (const site of sites) await initLora({ site, config: fresh, random, weight });
    },
  },
  rescale(config, factor) {
    checkFactors(config);
    // What PiSSA, OLoRA and CorDA took out of the base is computed again on load, for the scale of
    // the config; what LoftQ put in its place has none.
    if (takesFromBase(config) || config.initLoraWeights === "loftq") return undefined;
    return {
      ...config,
      loraAlpha: config.loraAlpha * factor,
      alphaPattern: Object.fromEntries(
        Object.entries(config.alphaPattern).map(([key, alpha]) => [key, alpha * factor]),
      ),
    };
  },
  compress: {
    config(part, rank) {
      checkFactors(part.config);
      return withRanks(
        part.config,
        new Map(part.sites.map((site) => [
          site.path,
          Math.min(rank, rankAt(part, site.path)!, fanIn(site), site.outFeatures),
        ])),
      );
    },
    rank: (config, site) => loraShape(config, site).r,
    async site({ site, part, rank }) {
      refuseGroups(site);
      const leaves = part.leavesAt(site.path)!;
      const factors = await factorsOf(leaves);
      const scale = scaleOf(part, site);
      const svd = productSvd({ a: scaled(factors.a, scale), b: factors.b });
      const squares = svd.s.map((s) => s * s);
      const bias = leaves.lora_bias && (await toFloat32(leaves.lora_bias)).map((x) => x * scale);
      return {
        leaves: {
          ...factorLeaves(site, leadingFactors(svd, rank), rank),
          ...(bias && { lora_bias: tensor(bias) }),
          ...(leaves.lora_magnitude_vector &&
            { lora_magnitude_vector: leaves.lora_magnitude_vector }),
        },
        total: sum(squares),
        lost: sum(squares.subarray(rank)),
      };
    },
  },
};

/** A single adapter is only scaled, whatever the way, as in PEFT. */
function typeOf(parts: readonly Part[], { combinationType }: CombineOptions): string {
  return parts.length === 1 && combinationType !== SUM ? "linear" : combinationType;
}

/** How the elements are merged in the ways that prune; `undefined` in the others. */
function mergeKind(type: string): MergeKind | undefined {
  const kind = type.replace(/_svd$/, "");
  return ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"].includes(kind)
    ? kind as MergeKind
    : undefined;
}

function combinedConfig(parts: readonly Part[], options: CombineOptions): LoraConfig {
  const type = typeOf(parts, options);
  const kind = mergeKind(type);
  if (kind && kind !== "linear" && options.density === undefined) {
    throw new ValueError(
      "COMBINE_DENSITY",
      `The combination type ${JSON.stringify(type)} prunes, so it needs a density: the share of ` +
        "the values that stay, from 0 to 1.",
      { combinationType: type },
    );
  }
  parts.forEach(({ config }) => checkFactors(config));
  if (type === SUM) refuseDora(parts);
  const ranks = parts.map(fullRank);
  const paths = new Set(parts.flatMap(({ sites }) => sites.map(({ path }) => path)));
  const first = parts[0].config;
  const bias = parts.some(({ config }) => config.loraBias);
  const base: LoraConfig = {
    ...first,
    useDora: parts.some(({ config }) => config.useDora),
    loraBias: bias,
    initLoraWeights: bias && typeof first.initLoraWeights === "string"
      ? true
      : first.initLoraWeights,
  };
  const everywhere = (r: number) => new Map([...paths].map((path) => [path, r]));
  const present = (path: string) =>
    parts.map((part) => rankAt(part, path)).filter((r) => r !== undefined);
  if (type === SUM) {
    return withRanks(base, new Map([...paths].map((path) => [path, sum(present(path))])));
  }
  if (type === "cat") return withRanks(base, everywhere(sum(ranks)));
  if (type.endsWith("svd")) {
    return withRanks(base, everywhere(options.svdRank ?? Math.max(...ranks)));
  }
  if (new Set(ranks).size > 1) {
    throw new ValueError(
      "COMBINE_RANKS",
      `All adapters must have the same r for the combination type ${JSON.stringify(type)}; ${
        parts.map(({ adapter }, i) => `${JSON.stringify(adapter)} has ${ranks[i]}`).join(", ")
      }. Use "cat", or one of the svd types, which take any ranks.`,
      { combinationType: type, ranks },
    );
  }
  for (const path of paths) {
    const found = present(path);
    if (new Set(found).size === 1) continue;
    throw new ValueError(
      "COMBINE_RANKS",
      `All adapters must have the same rank at each module for the combination type ${
        JSON.stringify(type)
      }; at ${path} they have ${found.join(" and ")} (rankPattern). Use "cat", or one of the svd ` +
        "types, which take any ranks.",
      { combinationType: type, path, ranks: found },
    );
  }
  return withRanks(base, new Map([...paths].map((path) => [path, present(path)[0]])), ranks[0]);
}

/** Each group of channels has its share of the rank, which no sum of factors leaves where it is. */
function refuseGroups({ path, conv }: Site): void {
  if (!conv || conv.groups === 1) return;
  throw new UnsupportedError(
    "COMBINE_GROUPS",
    `LoRAs of ${path}, a convolution with ${conv.groups} groups, cannot be combined. Leave it out of targetModules, or keep the adapters apart.`,
    { path },
  );
}

function refuseDora(parts: readonly Part[]): void {
  const decomposed = parts.find(({ config }) => config.useDora);
  if (parts.length === 1 || !decomposed) return;
  throw new UnsupportedError(
    "COMBINE_DORA",
    `What adapters with useDora add does not add up to another adapter, and ${
      JSON.stringify(decomposed.adapter)
    } is one. Use addWeightedAdapter, which combines directions and magnitudes apart.`,
    { adapter: decomposed.adapter },
  );
}

/** The largest rank that an adapter has anywhere, as a plain LoRA. */
function fullRank({ config, sites }: Part): number {
  const r = Math.max(config.r, ...Object.values(config.rankPattern));
  return sites.some((site) => decomposes(config, site)) ? 2 * r : r;
}

/** The rank of an adapter at a site, as a plain LoRA; `undefined` where it does not adapt it. */
function rankAt(part: Part, path: string): number | undefined {
  const leaves = part.leavesAt(path);
  if (!leaves) return undefined;
  const { lora_A, lora_embedding_A, lora_A_init } = leaves;
  return (lora_A ?? lora_embedding_A).shape[0] + (lora_A_init?.shape[0] ?? 0);
}

/**
 * The config with these ranks and the scale 1 everywhere.
 *
 * @param config The config.
 * @param ranks Ranks by module path.
 * @param r The rank that needs no pattern; the most frequent one by default.
 */
function withRanks(
  config: LoraConfig,
  ranks: ReadonlyMap<string, number>,
  r: number = mostFrequent([...ranks.values()]),
): LoraConfig {
  const others = Object.fromEntries([...ranks].filter(([, rank]) => rank !== r));
  const { initLoraWeights: init } = config;
  const odd = [r, ...Object.values(others)].some((rank) => rank % 2);
  return {
    ...config,
    r,
    loraAlpha: r,
    useRslora: false,
    rankPattern: others,
    alphaPattern: others,
    // An initialization that would touch the base or refuse the rank on load.
    initLoraWeights: takesFromBase(config) || init === "mica" || (init === "orthogonal" && odd)
      ? true
      : init,
  };
}

function mostFrequent(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].reduce((best, other) => other[1] > best[1] ? other : best)[0];
}

/** The factor on what an adapter adds at a site. */
function scaleOf({ config, multiplier }: Part, site: Site): number {
  return loraShape(config, site).scale * multiplier;
}

interface WeightedFactors extends Factors {
  readonly scale: number;
  readonly weight: number;
}

async function combine(context: Context): Promise<Leaves> {
  const { site, config, parts, options, random } = context;
  refuseGroups(site);
  const present: WeightedFactors[] = [];
  for (const part of parts) {
    const leaves = part.leavesAt(site.path);
    if (!leaves) continue;
    const factors = await factorsOf(leaves);
    present.push({ ...factors, scale: scaleOf(part, site), weight: part.weight });
  }
  const { r } = loraShape(config, site);
  const type = typeOf(parts, options);
  const { density = 1, majoritySignMethod, svdClamp } = options;
  const merge: Merge = (tasks, weights) => ({
    ...tasks[0],
    data: mergeTasks(tasks.map(({ data }) => data), {
      kind: mergeKind(type)!,
      density,
      majoritySignMethod,
      random,
      weights,
    }),
  });
  const combined = type === SUM || type === "cat"
    ? weightedStack(present)
    : type.endsWith("svd")
    ? leadingFactors(
      type === "svd"
        ? productSvd(weightedStack(present))
        : mergedSvd(site, present, { merge, rank: r }),
      r,
      svdClamp,
    )
    : mergedFactors(present, merge);
  return {
    ...factorLeaves(site, combined, r),
    ...(config.loraBias && { lora_bias: await combinedBias(context) }),
    ...(config.useDora && { lora_magnitude_vector: await combinedMagnitude(context) }),
  };
}

/** Merges matrices of one shape, element by element. */
type Merge = (tasks: readonly FlatMatrix[], weights: readonly number[]) => FlatMatrix;

function weightedStack(present: readonly WeightedFactors[]): Factors {
  return stacked(present.map(({ a, b, scale, weight }) => ({ a: scaled(a, weight * scale), b })));
}

/** A and B merged apart from each other. */
function mergedFactors(present: readonly WeightedFactors[], merge: Merge): Factors {
  const strengths = present.map(({ scale, weight }) => weight * scale);
  const roots = strengths.map((x) => Math.sqrt(Math.abs(x)));
  // In this order, as the random numbers are drawn.
  const a = merge(present.map((p) => p.a), roots.map((x, i) => strengths[i] < 0 ? -x : x));
  const b = merge(present.map((p) => p.b), roots);
  return { a, b };
}

/** The leading singular vectors of the merged changes of the weight. */
function mergedSvd(
  site: Site,
  present: readonly WeightedFactors[],
  { merge, rank }: { readonly merge: Merge; readonly rank: number },
): LeadingSvd {
  // As the layer stores it, because that is the order in which random numbers are drawn.
  const changes = present.map(({ a, b, scale }) => {
    const change = matrixProduct(scaled(b, scale), a);
    return isOutIn(site) ? change : transposed(change);
  });
  const { data } = merge(changes, present.map(({ weight }) => weight));
  return leadingSvd(outIn(site, data), Math.min(rank, fanIn(site), site.outFeatures));
}

/** The weighted sum of the biases of B, which no way prunes. */
async function combinedBias({ site, parts }: Context): Promise<Tensor> {
  const out = new Float32Array(site.outFeatures);
  for (const part of parts) {
    const bias = part.leavesAt(site.path)?.lora_bias;
    if (!bias) continue;
    const values = await toFloat32(bias), strength = part.weight * scaleOf(part, site);
    for (let o = 0; o < out.length; o++) out[o] += strength * values[o];
  }
  return tensor(out);
}

/**
 * DoRA's magnitudes: those of the base, and the weighted sum of how far those of the adapters are
 * from them. An adapter without DoRA has the magnitudes of the weight that it makes.
 */
async function combinedMagnitude(context: Context): Promise<Tensor> {
  const { site, config, parts, options } = context;
  const own = parts[0].leavesAt(site.path)?.lora_magnitude_vector;
  // Scaling an adapter leaves its magnitudes, as its multiplier does.
  if (typeOf(parts, options) === SUM && own) return own;
  const weight = await context.weight();
  const start = magnitudes(weight, { site });
  const out = start.slice();
  for (const part of parts) {
    const leaves = part.leavesAt(site.path);
    if (!leaves) continue;
    const { lora_magnitude_vector: learned } = leaves;
    const change = { ...await factorsOf(leaves), scale: scaleOf(part, site) };
    const values = learned ? await toFloat32(learned) : magnitudes(weight, { site, change });
    for (let o = 0; o < out.length; o++) out[o] += part.weight * (values[o] - start[o]);
  }
  return tensor(Float32Array.from(out), {
    shape: loraLeafShapes(config, site).lora_magnitude_vector,
  });
}

function drawCount({ site, parts, options }: CombineSite<LoraConfig>): number {
  const type = typeOf(parts, options);
  if (!type.startsWith("dare") || options.density! >= 1) return 0;
  const { outFeatures, path } = site, inputs = fanIn(site);
  const ranks = parts.map((part) => rankAt(part, path)).filter((r) => r !== undefined);
  return type.endsWith("svd")
    ? ranks.length * inputs * outFeatures
    : sum(ranks) * (inputs + outFeatures);
}
