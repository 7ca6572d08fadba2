/**
 * `addWeightedAdapter`: one adapter out of several.
 *
 * @module
 */
import { ValueError } from "../../errors.ts";
import type { MajoritySignMethod } from "../../methods/combine.ts";
import { REGISTRY, type RegistryOptions } from "../../methods/mod.ts";
import {
  BOOLEAN,
  checkOptions,
  checkValue,
  FINITE,
  numberIn,
  oneOf,
  type OptionRules,
  show,
  showName,
  WHOLE,
  wholeFrom,
} from "../../options.ts";
import { combineAdapters, ruleOf } from "./combined-adapter.ts";
import { checkNewName } from "../inject.ts";
import type { PeftModel } from "../peft-model.ts";
import { withAdapter } from "../select.ts";

/** PEFT's ways to combine LoRA adapters. */
export type CombinationType =
  | "svd"
  | "linear"
  | "cat"
  | "ties"
  | "ties_svd"
  | "dare_ties"
  | "dare_linear"
  | "dare_ties_svd"
  | "dare_linear_svd"
  | "magnitude_prune"
  | "magnitude_prune_svd";

/** What to combine, and how. */
export interface WeightedAdapterOptions extends RegistryOptions {
  /** Names of the adapters, all of one method. */
  readonly adapters: readonly string[];
  /** A weight for each, of any sign. */
  readonly weights: readonly number[];
  /** Name of the combined adapter. */
  readonly adapterName: string;
  /**
   * How to combine LoRA adapters; see {@link addWeightedAdapter}. `"svd"` by default. Methods whose
   * values are averaged take `"linear"` alone, which is their default.
   */
  readonly combinationType?: CombinationType;
  /** Rank of the result for the svd types; the largest rank of the adapters by default. */
  readonly svdRank?: number;
  /**
   * For the svd types: factors are clamped to this quantile of their elements and its negative,
   * from 0.5 to 1. None by default.
   */
  readonly svdClamp?: number;
  /** Takes part in PEFT in how the decomposition is computed; changes nothing here. */
  readonly svdFullMatrices?: boolean;
  /** Chooses a routine of CUDA in PEFT; changes nothing here. */
  readonly svdDriver?: "gesvd" | "gesvdj" | "gesvda" | null;
  /** For the types that prune: the share of values that stays, from 0 to 1. */
  readonly density?: number;
  /** For the ties types: how the sign of each element is elected. `"total"` by default. */
  readonly majoritySignMethod?: MajoritySignMethod;
  /** For the dare types: seed of what is dropped, as after `torch.manual_seed`. 0 by default. */
  readonly seed?: number;
}

const OPTIONS: OptionRules<WeightedAdapterOptions> = {
  adapters: null,
  weights: null,
  adapterName: null,
  combinationType: null,
  svdRank: wholeFrom(1),
  svdClamp: numberIn(0.5, 1),
  svdFullMatrices: BOOLEAN,
  svdDriver: {
    must: "gesvd, gesvdj, gesvda or null",
    holds: (x) => x === null || ["gesvd", "gesvdj", "gesvda"].includes(x as string),
  },
  density: numberIn(0, 1),
  majoritySignMethod: oneOf(["total", "frequency"]),
  seed: WHOLE,
  registry: REGISTRY,
};

/**
 * The model with one more adapter that combines others. It is neither active nor trainable; see
 * `setAdapter`. Everything is checked at once; its values are computed when they are first needed.
 *
 * For LoRA, with weight w and scale s of each adapter, B·A its change of the weight:
 * - `"cat"`: Σ w·s·B·A exactly; the rank is the sum of the ranks;
 * - `"svd"`: its leading singular vectors, at rank `svdRank`;
 * - `"linear"`: (Σ ±√|w·s|·A, Σ √|w·s|·B), at the adapters' own rank, which must be one: rough;
 * - `"ties"`: the largest values stay (`density`), and only those with the elected sign are averaged
 *   (arXiv:2306.01708); `"magnitude_prune"` the first of the two steps alone;
 * - `"dare_linear"`, `"dare_ties"`: values are dropped at random and the others rescaled
 *   (arXiv:2311.03099), then as above;
 * - each of the last four with `_svd`: merges the products s·B·A, and decomposes the result.
 *
 * One adapter alone is only scaled, whatever the type, as in PEFT. Other methods average their
 * values: Σ w·l, where an adapter that lacks a module counts as changing nothing. What an adapter replaces in the base (`modulesToSave`,
 * biases, token rows) the combined one replaces too, unweighted; no two may replace the same.
 *
 * Unlike PEFT: names that are taken, weights that are too few or too many and a density above 1 are
 * errors; rsLoRA adapters are combined with their own scale, where PEFT multiplies the result by
 * the root of the rank; magnitudes of DoRA and biases of LoRA are combined, where PEFT forgets
 * them; every module that one of the adapters adapts is kept, where PEFT goes by the first one's
 * layers and exclusions; saved modules keep their trained values.
 *
 * @param model A model with adapters.
 * @param options See {@link WeightedAdapterOptions}.
 * @throws {ValueError} where options are missing or contradict each other, and where the adapters
 * do not fit together: other ranks, other kinds of targets, the same saved module.
 * @throws {UnsupportedError} where the method has no way to combine, and for adapters of several
 * methods.
 *
 * @example
 * ```ts
 * import { addAdapter, addWeightedAdapter, getPeftModel, tinyModel } from "@graft/peft";
 * import { forward, loraConfig, setAdapter } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 4, initLoraWeights: false });
 * const two = addAdapter(getPeftModel(base, config), "style", config, { seed: 1 });
 * const model = addWeightedAdapter(two, {
 *   adapters: ["default", "style"],
 *   weights: [0.7, -0.3],
 *   adapterName: "mixed",
 *   combinationType: "ties",
 *   density: 0.5,
 * });
 * const { logits } = await forward(setAdapter(model, "mixed"), { inputIds: [[1, 2, 3]] });
 * console.log(logits.shape); // [1, 3, 96]
 * ```
 */
export function addWeightedAdapter(model: PeftModel, options: WeightedAdapterOptions): PeftModel {
  checkOptions(options, OPTIONS, { code: "COMBINE_OPTION", of: "addWeightedAdapter" });
  const { adapters, weights, adapterName, density, svdRank, svdClamp, seed, registry } = options;
  checkNewName(model, adapterName);
  checkWeights(adapters, weights);
  const { rule, method } = ruleOf(model, adapters, "combined");
  const { combinationType = rule.types[0], majoritySignMethod = "total" } = options;
  if (!rule.types.includes(combinationType)) {
    throw new ValueError(
      "COMBINE_TYPE",
      `${method.config.peftType} adapters cannot be combined by ${
        show(combinationType)
      }; the combination ` +
        `types are ${rule.types.join(", ")}.`,
      { combinationType, known: rule.types },
    );
  }
  const how = { combinationType, svdRank, svdClamp, density, majoritySignMethod };
  return withAdapter(
    model,
    combineAdapters(model, { adapters, weights, adapterName, options: how, seed, registry }),
  );
}

/**
 * Checks that there is a weight for each adapter.
 *
 * @throws {ValueError} `COMBINE_ADAPTERS`, `COMBINE_WEIGHTS`.
 */
export function checkWeights(adapters: readonly string[], weights: readonly number[]): void {
  if (!Array.isArray(adapters) || adapters.length === 0) {
    throw new ValueError(
      "COMBINE_ADAPTERS",
      `The names of the adapters to combine are needed, at least one; found ${show(adapters)}.`,
    );
  }
  if (!Array.isArray(weights) || weights.length !== adapters.length) {
    throw new ValueError(
      "COMBINE_WEIGHTS",
      `Each adapter needs a weight: there are ${adapters.length} adapters (${
        adapters.join(", ")
      }), and ${Array.isArray(weights) ? `${weights.length} weights` : show(weights)}.`,
      { adapters, weights },
    );
  }
  for (const [i, name] of adapters.entries()) {
    const of = `The weight of ${showName(name)}`;
    checkValue(weights[i], FINITE, { code: "COMBINE_WEIGHTS", of });
  }
}
