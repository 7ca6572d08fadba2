/**
 * SHiRA: sparse high-rank adapters (Bhardwaj et al., 2024, arXiv:2406.13175).
 *
 * A layer trains a few elements of its weight [O, I]: r·(O + I), as many as a LoRA of rank r has. Which
 * they are a mask says, random or made by a function; files hold their places.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import {
  commonFields,
  type ConfigSchema,
  described,
  field,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import type { InitSource, PeftMethod, SitePlace } from "./method.ts";
import { placesTensor, sparseRule } from "./places.ts";
import { createTorchRandom } from "./torch-random.ts";

/** What a mask is made for. */
export interface ShiraLayer {
  /** Path of the layer. */
  readonly path: string;
  /** Number of rows of the weight: features that come out. */
  readonly outFeatures: number;
  /** Number of columns: features that go in. */
  readonly inFeatures: number;
  /** The weight in f32, row by row [out, in]. */
  readonly weight: Float32Array;
  /** The config's `r`: the mask is to have `r·(outFeatures + inFeatures)` ones. */
  readonly r: number;
}

/** Makes the mask of a layer: 1 for each element of the weight that is trained, 0 for the others. */
export type ShiraMask = (layer: ShiraLayer) => ArrayLike<number> | Promise<ArrayLike<number>>;

/** A SHiRA config with every field, as {@link shiraConfig} makes it. */
export interface ShiraConfig
  extends
    PeftConfig,
    Required<Pick<TargetConfig, "targetModules" | "modulesToSave" | "fanInFanOut">> {
  /** `"SHIRA"`. */
  readonly peftType: "SHIRA";
  /** A layer trains as many elements as a LoRA of this rank has. 32 by default. */
  readonly r: number;
  /**
   * How elements are chosen: `"random"` (default), or any name for what `maskFn` does, which says to
   * readers of the file how it was.
   */
  readonly maskType: string;
  /** Chooses elements. Files do not hold it, and need it no more than the random one. */
  readonly maskFn: ShiraMask | null;
  /** Seed of random masks; that of a new generator of torch by default. */
  readonly randomSeed: number | null;
  /**
   * Whether changes start as zero (default). With `false` they are normal random numbers, for tests.
   */
  readonly initWeights: boolean;
}

const { targetModules, modulesToSave } = targetFields();

const schema: ConfigSchema<ShiraConfig> = {
  peftType: "SHIRA",
  targets: { ...ATTENTION_TARGETS, phi: ["q_proj", "v_proj"] },
  mixes: true,
  isIdentityAtInit: true,
  example: { r: 2 },
  fields: {
    ...commonFields("SHIRA"),
    targetModules,
    modulesToSave,
    r: field.integer(32, 1),
    maskType: z.string().default("random").describe("a string"),
    maskFn: described(
      z.custom<ShiraMask | null>((x) => x === null || typeof x === "function").default(null)
        .describe("a function that makes a mask, or null"),
      { unsaved: true },
    ),
    randomSeed: z.int().nullable().default(null).describe("a whole number or null"),
    fanInFanOut: field.boolean(false),
    initWeights: field.boolean(true),
  },
};

/**
 * A complete SHiRA config (Bhardwaj et al., 2024, arXiv:2406.13175): a few elements of each weight
 * are trained.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields.
 *
 * @example The elements that are largest
 * ```ts
 * import { getPeftModel, shiraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = shiraConfig({
 *   r: 4,
 *   targetModules: ["q_proj"],
 *   maskType: "largest",
 *   maskFn({ weight, r, outFeatures, inFeatures }) {
 *     const order = [...weight.keys()].sort((a, b) => Math.abs(weight[b]) - Math.abs(weight[a]));
 *     const mask = new Uint8Array(weight.length);
 *     for (const i of order.slice(0, r * (outFeatures + inFeatures))) mask[i] = 1;
 *     return mask;
 *   },
 * });
 * console.log(getPeftModel(base, config).active); // ["default"]
 * ```
 */
export function shiraConfig(config: Partial<ShiraConfig> = {}): ShiraConfig {
  return parseConfig(schema, config);
}

/** The method `SHIRA`. */
export const shira: PeftMethod<ShiraConfig> = {
  name: "shira",
  config: schema,
  leaves: {
    site(at) {
      const { config: { initWeights }, site: { outFeatures, inFeatures } } = at;
      const count = countOf(at);
      return {
        shira_weight: {
          shape: [count],
          init: ({ random }) => initWeights ? new Float32Array(count) : random.normal(count),
        },
        shira_indices: {
          shape: [2, count],
          kind: "fixed",
          key: "shira_indices",
          whole: { stored: "i32", below: [outFeatures, inFeatures] },
          init: async (from) => placesTensor(await chosen(at, from), inFeatures),
        },
      };
    },
  },
  sites: () => ({
    linear: sparseRule(({ leaves: { shira_weight: values, shira_indices: places } }) => ({
      values,
      places,
    })),
  }),
};

function countOf({ config: { r }, site }: SitePlace<ShiraConfig>): number {
  const { path, outFeatures, inFeatures } = site;
  const count = r * (outFeatures + inFeatures), most = outFeatures * inFeatures;
  if (count <= most) return count;
  throw new ConfigError(
    "CONFIG_RANK",
    `With r ${r}, ${path} would train ${count} elements, and its weight [${outFeatures}, ${inFeatures}] has ${most}. Lower r, or leave the module out.`,
    { path, r, count, most },
  );
}

/** Seed of a generator of torch that was given none. */
const TORCH_SEED = 67280421310721;

/** Numbers of the elements that are trained, in their order. */
async function chosen(
  at: SitePlace<ShiraConfig>,
  { weight }: InitSource,
): Promise<Int32Array> {
  const { config: { maskFn, maskType, randomSeed, r }, site } = at;
  const { path, outFeatures, inFeatures } = site, count = countOf(at);
  const size = outFeatures * inFeatures;
  if (!maskFn && maskType === "random") {
    return createTorchRandom(randomSeed ?? TORCH_SEED).permutation(size, count).sort();
  }
  if (!maskFn) {
    throw new ConfigError(
      "CONFIG_MASK",
      `maskType ${
        JSON.stringify(maskType)
      } is not one that the library makes ("random"). Give maskFn, which makes the mask of a layer, or load an adapter, which has its places.`,
      { maskType },
    );
  }
  const mask = await maskFn({ path, outFeatures, inFeatures, r, weight: await weight() });
  const elements = Int32Array.from({ length: mask.length }, (_, i) => i).filter((i) =>
    mask[i] === 1
  );
  if (mask.length === size && elements.length === count) return elements;
  throw new ConfigError(
    "CONFIG_MASK",
    `maskFn must give ${size} numbers for ${path} [${outFeatures}, ${inFeatures}], r·(out + in) = ${count} of them 1; it gave ${mask.length}, ${elements.length} of them 1.`,
    { path, expected: count, found: elements.length },
  );
}
