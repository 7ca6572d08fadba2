/**
 * `preprocessLoraga`: measures where LoRA-GA adapters begin.
 *
 * @module
 */
import { checkBegins } from "../adapters/lora/begins.ts";
import {
  checkFile,
  isFilled,
  loadCalibration,
  saveCalibration,
} from "../adapters/lora/calibration-files.ts";
import { type AnyModel, baseOf, pristineBase } from "../adapters/peft-model.ts";
import { checkPlan, planAdapter } from "../adapters/plan/plan.ts";
import { UnsupportedError, ValueError } from "../errors.ts";
import { type Calibration, checkCalibration } from "../methods/calibration.ts";
import type { PeftConfig } from "../methods/config.ts";
import { checkLoraGaConfig, GRADIENT, LORA_GA } from "../methods/lora/lora-ga.ts";
import { loraShape } from "../methods/lora/lora-config.ts";
import { decomposes } from "../methods/lora/lora-init.ts";
import { REGISTRY, type RegistryOptions } from "../methods/mod.ts";
import { type ModelGraph, parameterOf, resolveTied } from "../model/model-graph.ts";
import { type Site, weightName } from "../model/site.ts";
import { BATCHES, BOOLEAN, checkOptions, checkValue, FUNCTION, SIGNAL } from "../options.ts";
import type { Objective } from "../tasks/objective.ts";
import { toFloat32 } from "../tensor/convert.ts";
import { isBlockType } from "../tensor/dtype.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { type AnyBatch, OBJECTIVE, prepareTraining, trainingObjective } from "./batch.ts";
import { packLeaves } from "./packing.ts";
import { openSession } from "./session.ts";

/** What {@link preprocessLoraga} needs beside the model and the config. */
export interface PreprocessLoragaOptions extends RegistryOptions {
  /**
   * Some batches of the data that the adapter is for, with labels as `train` takes them. Not needed
   * with a `cacheFile` that exists.
   */
  readonly batches?: Iterable<AnyBatch> | AsyncIterable<AnyBatch>;
  /**
   * File that the gradients are written to, and read from where there is one: then no batches are
   * needed. Safetensors, with PEFT's keys.
   */
  readonly cacheFile?: string;
  /** What losses are; those of the model's task by default. */
  readonly objective?: Objective;
  /** Is told how many batches have been run. */
  readonly onProgress?: (progress: { readonly batches: number }) => void;
  /** Stops between batches. */
  readonly signal?: AbortSignal;
  /** As for `getPeftModel`. */
  readonly allowUnmatched?: boolean;
}

/**
 * The gradients of the weights that a LoRA-GA adapter begins along: the mean over batches of that of
 * the mean loss (Wang et al., 2024, arXiv:2407.05000). The model stays as it is. What is no linear
 * layer begins as with `initLoraWeights: true`.
 *
 * @param model The base, or a model on it; its base is run, without dropout.
 * @param config A config with `initLoraWeights: "lora_ga"` and a `loraGaConfig`.
 * @param options What to run it on; see {@link PreprocessLoragaOptions}.
 * @returns What `getPeftModel`, `addAdapter` and `loadAdapter` take as `calibration`, with any rank
 * and settings. What is drawn at random beside it follows from their `seed`.
 * @throws {ConfigError} for another config.
 * @throws {TargetError} as `getPeftModel` does.
 * @throws {ValueError} without batches.
 * @throws {UnsupportedError} for quantized weights, which have no gradients.
 * @throws {FileError} for a file that cannot be read or written.
 * @throws {CheckpointError} for a file of another model.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, preprocessLoraga, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({
 *   r: 4,
 *   initLoraWeights: "lora_ga",
 *   loraGaConfig: { direction: "ArBr" },
 *   targetModules: ["q_proj"],
 * });
 * const batches = [{ inputIds: [[5, 6, 7, 8, 9]] }, { inputIds: [[10, 11, 12]] }];
 * const calibration = await preprocessLoraga(base, config, { batches });
 * const model = getPeftModel(base, config, { calibration });
 * console.log(model.adapters.get("default")!.parts.size); // 2
 * ```
 */
export async function preprocessLoraga(
  model: AnyModel,
  config: PeftConfig,
  options: PreprocessLoragaOptions = {},
): Promise<Calibration> {
  baseOf(model);
  checkOptions(options, {
    batches: null,
    cacheFile: { must: "the path of a file", holds: (x) => typeof x === "string" && x !== "" },
    objective: OBJECTIVE,
    onProgress: FUNCTION,
    signal: SIGNAL,
    allowUnmatched: BOOLEAN,
    registry: REGISTRY,
  }, { code: "CALIBRATION_OPTION", of: "preprocessLoraga" });
  const base = pristineBase(model), { registry, allowUnmatched, cacheFile } = options;
  const plan = checkPlan(planAdapter(base, config, { registry }), { allowUnmatched });
  const lora = checkBegins(plan.config, { with: "lora_ga", of: "preprocessLoraga" });
  checkLoraGaConfig(lora);
  const sites = plan.sites.map(({ site }) => site).filter((site) => decomposes(lora, site));
  const layers = sites.map((site) => ({ site, r: loraShape(lora, site).r }));
  if (cacheFile !== undefined && await isFilled(cacheFile)) {
    const cached = await loadCalibration(cacheFile);
    checkFile(
      cacheFile,
      () => checkCalibration(LORA_GA, layers, { calibration: cached, loaded: false }),
    );
    return cached;
  }
  const calibration = { init: LORA_GA.init, sites: await gradientsOf(base, sites, options) };
  if (cacheFile !== undefined) await saveCalibration(calibration, cacheFile);
  return calibration;
}

async function gradientsOf(
  base: ModelGraph,
  sites: readonly Site[],
  options: PreprocessLoragaOptions,
): Promise<Calibration["sites"]> {
  const { batches, signal, onProgress } = options;
  checkValue(batches, BATCHES, { code: "CALIBRATION_BATCHES", of: "batches" });
  const leaves = new Map(sites.map((site): [string, Tensor] => {
    const weight = parameterOf(base, weightName(site));
    if (isBlockType(weight.dtype)) throw quantized(site, weight);
    return [ownerOf(base, site), weight];
  }));
  const objective = trainingObjective(base, options.objective);
  using session = await openSession(base, leaves, { objective, packing: packLeaves(leaves) });
  const sums = new Map<string, Float32Array<ArrayBuffer>>();
  let count = 0;
  for await (const batch of batches!) {
    signal?.throwIfAborted();
    const found = await session.gradients(await prepareTraining(base, batch, objective));
    for (const name of leaves.keys()) {
      const gradient = await toFloat32(found[`grad.${name}`]), sum = sums.get(name);
      if (sum) gradient.forEach((x, i) => sum[i] += x);
      else sums.set(name, gradient.slice());
    }
    count++;
    onProgress?.({ batches: count });
  }
  if (count === 0) {
    throw new ValueError(
      "CALIBRATION_BATCHES",
      "preprocessLoraga needs batches to learn from: pass at least one, as { batches: [{ inputIds: [[…]] }, …] }.",
    );
  }
  return new Map(sites.map((site) => {
    const name = ownerOf(base, site);
    const mean = tensor(sums.get(name)!.map((x) => x / count), { shape: leaves.get(name)!.shape });
    return [site.path, { [GRADIENT]: mean }];
  }));
}

function ownerOf(base: ModelGraph, site: Site): string {
  return resolveTied(base, weightName(site));
}

function quantized({ path }: Site, { dtype }: Tensor): UnsupportedError {
  return new UnsupportedError(
    "CALIBRATION_QUANTIZED",
    `The weight of ${path} is quantized (${dtype}), and has no gradient. Run preprocessLoraga on the model in f32 or 16 bits.`,
    { path, dtype },
  );
}
