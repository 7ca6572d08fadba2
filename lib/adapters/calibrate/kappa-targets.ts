/**
 * `findKappaTargetModules`: target modules by the condition numbers of their weights.
 *
 * @module
 */
import { ValueError } from "../../errors.ts";
import { leadingSvd, matrixOf } from "../../methods/linalg.ts";
import { parameterOf } from "../../model/model-graph.ts";
import { checkOptions, FUNCTION, numberIn, POSITIVE, wholeFrom } from "../../options.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { getBaseModel } from "../status/model-info.ts";
import type { AnyModel } from "../peft-model.ts";

/** Which modules to choose; at most one of `topP`, `numModules` and `threshold`. */
export interface KappaTargetOptions {
  /**
   * Share of the modules, from 0 to 1: those with the lowest condition numbers, and one at least. 0.2
   * by default.
   */
  readonly topP?: number;
  /** How many modules. */
  readonly numModules?: number;
  /** All modules up to this condition number. */
  readonly threshold?: number;
  /** Modules with more features than this on either side are passed over; 16384 by default. */
  readonly maxDimension?: number;
  /** Is told after each module. */
  readonly onProgress?: (progress: KappaProgress) => void;
}

/** How far an analysis has come. */
export interface KappaProgress {
  /** The module that was analysed. */
  readonly path: string;
  /** Modules so far. */
  readonly done: number;
  /** Modules in all. */
  readonly total: number;
}

/** What {@link findKappaTargetModules} found. */
export interface KappaTargets {
  /** Paths of the chosen modules, lowest condition number first: for `targetModules` of a config. */
  readonly targetModules: readonly string[];
  /** Condition numbers of all modules that were analysed by path, lowest first. */
  readonly conditionNumbers: ReadonlyMap<string, number>;
}

/** What is added to the smallest singular value, so that a singular matrix has a number too. */
const SMALLEST = 1e-8;

/**
 * The linear layers whose weights have the lowest condition numbers, as KappaTune chooses what to
 * adapt (Ludwig, 2025, arXiv:2506.16289; PEFT's `find_kappa_target_modules`): the ratio of a
 * weight's largest singular value to its smallest is low where no direction prevails, so that an
 * adapter there disturbs least of what was learned before.
 *
 * Linear layers with a weight stored either way count, the output head among them. PEFT passes over
 * GPT-2's Conv1D. The singular values are computed on the host, in the order of the model: about a
 * second for a layer of 576 by 1536, and eight times that for each doubling.
 *
 * @param model A model; its base is analysed. Quantized weights are analysed as what they stand for.
 * @param options Which modules to choose.
 * @throws {ValueError} for an option that cannot be, for several ways to choose, and
 * `WEIGHT_NOT_FINITE` for a weight that is infinite or NaN.
 *
 * @example
 * ```ts
 * import { findKappaTargetModules, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const { targetModules, conditionNumbers } = await findKappaTargetModules(base, { topP: 0.25 });
 * console.log(targetModules.length, conditionNumbers.size); // 3 15
 * const model = getPeftModel(base, loraConfig({ targetModules }));
 * ```
 */
export async function findKappaTargetModules(
  model: AnyModel,
  options: KappaTargetOptions = {},
): Promise<KappaTargets> {
  checkOptions(options, {
    topP: numberIn(0, 1),
    numModules: wholeFrom(1),
    threshold: POSITIVE,
    maxDimension: wholeFrom(1),
    onProgress: FUNCTION,
  }, { code: "KAPPA_OPTION", of: "findKappaTargetModules" });
  const { maxDimension = 16384, onProgress } = options;
  const ways = (["topP", "numModules", "threshold"] as const)
    .filter((name) => options[name] !== undefined);
  if (ways.length > 1) {
    throw new ValueError(
      "KAPPA_OPTION",
      `findKappaTargetModules got ${ways.join(" and ")}, which choose modules in different ways. ` +
        "Give one of them.",
      { ways },
    );
  }
  const base = getBaseModel(model);
  const sites = [...base.sites.values()].filter(({ kind, inFeatures, outFeatures }) =>
    (kind === "linear" || kind === "conv1d") && Math.max(inFeatures, outFeatures) <= maxDimension
  );
  const found: [string, number][] = [];
  for (const { path } of sites) {
    found.push([path, await conditionNumber(path, parameterOf(base, `${path}.weight`))]);
    onProgress?.({ path, done: found.length, total: sites.length });
  }
  // The sort is stable: equal numbers stay in the order of the model.
  found.sort(([, a], [, b]) => a - b);
  return {
    targetModules: chosen(found, options).map(([path]) => path),
    conditionNumbers: new Map(found),
  };
}

function chosen<T extends readonly [string, number]>(
  sorted: readonly T[],
  options: KappaTargetOptions,
): readonly T[] {
  const { topP = 0.2, numModules, threshold } = options;
  if (threshold !== undefined) return sorted.filter(([, kappa]) => kappa <= threshold);
  return sorted.slice(0, numModules ?? Math.max(1, Math.trunc(sorted.length * topP)));
}

async function conditionNumber(path: string, weight: Tensor): Promise<number> {
  // A matrix and its transpose have the same singular values: it is taken as it is stored.
  const matrix = await matrixOf(weight);
  if (!matrix.data.every(Number.isFinite)) {
    throw new ValueError(
      "WEIGHT_NOT_FINITE",
      `The weight of ${path} has elements that are infinite or NaN, so it has no condition number. ` +
        "Was its file damaged, or did training diverge?",
      { path },
    );
  }
  const { s } = leadingSvd(matrix, Math.min(matrix.rows, matrix.columns));
  return s[0] / (s[s.length - 1] + SMALLEST);
}
