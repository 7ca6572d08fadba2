/**
 * `preprocessCorda`: measures where CorDA adapters begin.
 *
 * @module
 */
import { ValueError } from "../../errors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import { checkCalibration } from "../../methods/calibration.ts";
import {
  CORDA,
  type CordaCalibration,
  cordaEigens,
  dampedCovariance,
} from "../../methods/lora/corda.ts";
import type { CordaConfig } from "../../methods/lora/corda-config.ts";
import { type FlatMatrix, flatMatrix, matrixOf } from "../../methods/linalg.ts";
import { loraShape } from "../../methods/lora/lora-config.ts";
import { decomposes } from "../../methods/lora/lora-init.ts";
import { REGISTRY, type RegistryOptions } from "../../methods/mod.ts";
import { type ModelGraph, parameterOf } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import { BOOLEAN, checkOptions, FUNCTION, SIGNAL } from "../../options.ts";
import { isHalf } from "../../tensor/dtype.ts";
import { onHost, type Tensor } from "../../tensor/tensor.ts";
import { checkBegins } from "./begins.ts";
import {
  checkFile,
  isFilled,
  loadCalibration,
  readTensors,
  saveCalibration,
  writeTensors,
} from "./calibration-files.ts";
import { measureCovariances } from "./covariance.ts";
import type { CalibrationBatches } from "../calibrate/observe.ts";
import { weightOutIn } from "../lazy-leaves.ts";
import { type AnyModel, baseOf } from "../peft-model.ts";
import { checkPlan, planAdapter } from "../plan/plan.ts";

/** What {@link preprocessCorda} needs beside the model and the config. */
export interface PreprocessCordaOptions extends RegistryOptions {
  /**
   * What the model is run on, such as a few hundred rows of the data that the adapter is for (`ipm`)
   * or of text that shows what the model knows (`kpm`). Not needed where the config names a
   * `cacheFile` or `covarianceFile` that exists, or with `covariances`.
   */
  readonly batches?: CalibrationBatches;
  /**
   * Covariances from an earlier calibration with `pruneTemporaryFields: false`, for another rank or
   * the other method.
   */
  readonly covariances?: ReadonlyMap<string, Tensor>;
  /** The model that is run, where it is another one than the one to adapt, with adapters or not. */
  readonly hookedModel?: AnyModel;
  /** Is told after each batch and each module. */
  readonly onProgress?: (progress: CordaProgress) => void;
  /** Stops between batches and between modules. */
  readonly signal?: AbortSignal;
  /** As for `getPeftModel`. */
  readonly allowUnmatched?: boolean;
}

/** How far {@link preprocessCorda} has come. */
export type CordaProgress =
  /** So many batches have been run. */
  | { readonly phase: "covariance"; readonly batches: number }
  /** The weight of one more module has been decomposed. */
  | {
    readonly phase: "eigens";
    readonly path: string;
    readonly done: number;
    readonly total: number;
  };

/**
 * Runs a model on batches and finds the part of each weight that a CorDA adapter begins with, by the
 * covariance C of what goes into the layer: r columns of the singular value decomposition of W·C,
 * the largest (`ipm`) or the smallest (`kpm`; Yang et al., 2024, arXiv:2406.05223). The model stays
 * as it is.
 *
 * Each row of a batch is one sample and is divided by its largest element, as in PEFT, which takes
 * one row at a time; padding does not count. With fewer tokens in all than a layer has inputs the
 * covariance says little. Files that the config names are read where they exist and written where
 * they do not; they are safetensors files, as PEFT's are pickles.
 *
 * @param model The base, or a model on it.
 * @param config A config with `initLoraWeights: "corda"`.
 * @param options What to run it on; see {@link PreprocessCordaOptions}.
 * @returns What `getPeftModel`, `addAdapter` and `loadAdapter` take as `calibration`, with this
 * config or one with another `loraAlpha`.
 * @throws {ConfigError} for another config, and for a rank that a weight does not have.
 * @throws {TargetError} as `getPeftModel` does.
 * @throws {ValueError} without batches, and where what goes into a layer is NaN, infinite or zero.
 * @throws {FileError} for a file of the config that cannot be read or written.
 * @throws {CheckpointError} for a file of the config that is of another model or config.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, preprocessCorda, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 4, initLoraWeights: "corda", targetModules: ["q_proj"] });
 * const batches = [{ inputIds: [[5, 6, 7, 8, 9]] }, { inputIds: [[10, 11, 12]] }];
 * const calibration = await preprocessCorda(base, config, { batches });
 * const model = getPeftModel(base, config, { calibration });
 * console.log(model.adapters.get("default")!.parts.size); // 2
 * ```
 */
export async function preprocessCorda(
  model: AnyModel,
  config: PeftConfig,
  options: PreprocessCordaOptions = {},
): Promise<CordaCalibration> {
  baseOf(model);
  checkOptions(options, {
    batches: null,
    covariances: { must: "a Map of tensors by module path", holds: (x) => x instanceof Map },
    hookedModel: null,
    onProgress: FUNCTION,
    signal: SIGNAL,
    allowUnmatched: BOOLEAN,
    registry: REGISTRY,
  }, { code: "CALIBRATION_OPTION", of: "preprocessCorda" });
  const { registry, allowUnmatched } = options;
  const plan = checkPlan(planAdapter(model, config, { registry }), { allowUnmatched });
  const { base } = plan;
  const lora = checkBegins(plan.config, { with: "corda", of: "preprocessCorda" });
  const corda = lora.cordaConfig!;
  const { cacheFile, covarianceFile, pruneTemporaryFields } = corda;
  const sites = plan.sites.map(({ site }) => site).filter((site) => decomposes(lora, site));
  const layers = sites.map((site) => ({ site, r: loraShape(lora, site).r }));
  if (cacheFile !== null && await isFilled(cacheFile)) {
    const cached = await loadCalibration(cacheFile);
    checkFile(
      cacheFile,
      () => checkCalibration(CORDA, layers, { calibration: cached, loaded: false }),
    );
    return cached as CordaCalibration;
  }
  using measured = await covariancesOf(base, { sites, corda, asked: options });
  const { tensors } = measured;
  checkCovariances(sites, tensors);
  const calibration: CordaCalibration = {
    init: "corda",
    sites: await eigensOf(base, { layers, tensors, corda, asked: options }),
    ...(pruneTemporaryFields ? {} : { covariances: await kept(sites, tensors) }),
  };
  if (covarianceFile !== null && measured.isNew) {
    await writeTensors(
      covarianceFile,
      new Map(sites.map(({ path }) => [path, tensors.get(path)!])),
    );
  }
  if (cacheFile !== null) await saveCalibration(calibration, cacheFile);
  return calibration;
}

interface Measured extends Disposable {
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Whether they come from batches and not from what was there. */
  readonly isNew: boolean;
}

async function covariancesOf(
  base: ModelGraph,
  of: {
    readonly sites: readonly Site[];
    readonly corda: CordaConfig;
    readonly asked: PreprocessCordaOptions;
  },
): Promise<Measured> {
  const { sites, corda: { covarianceFile, useFloat16ForCovariance, verbose }, asked } = of;
  const there = { isNew: false, [Symbol.dispose]() {} };
  if (covarianceFile !== null && await isFilled(covarianceFile)) {
    const tensors = await readTensors(covarianceFile);
    checkFile(covarianceFile, () => checkCovariances(sites, tensors));
    return { ...there, tensors };
  }
  if (asked.covariances) return { ...there, tensors: asked.covariances };
  if (asked.batches === undefined) {
    throw new ValueError(
      "CALIBRATION_BATCHES",
      "preprocessCorda needs batches to run the model on, as there are no covariances yet (no covarianceFile or " +
        "cacheFile that exists). Pass { batches: [{ inputIds: [[…]] }, …] }.",
    );
  }
  const { hookedModel = base } = asked;
  const measured = await measureCovariances(hookedModel, {
    paths: sites.map(({ path }) => path),
    batches: asked.batches,
    precision: useFloat16ForCovariance ? precisionOf(base, sites) : "f32",
    signal: asked.signal,
    onBatch: (batches) => report(asked, verbose, { phase: "covariance", batches }),
  });
  return { ...measured, isNew: true };
}

/** The type that PEFT would compute in: that of the weights. */
function precisionOf(base: ModelGraph, [site]: readonly Site[]): "f32" | "f16" | "bf16" {
  const dtype = site && parameterOf(base, `${site.path}.weight`).dtype;
  return dtype && isHalf(dtype) ? dtype : "f32";
}

function checkCovariances(
  sites: readonly Site[],
  tensors: ReadonlyMap<string, Tensor>,
): void {
  for (const { path, inFeatures } of sites) {
    const found = tensors.get(path)?.shape;
    if (found?.join() === `${inFeatures},${inFeatures}`) continue;
    throw new ValueError(
      "CALIBRATION_COVARIANCE",
      `The covariance of what goes into ${path} ${
        found ? `has shape [${found}]` : "is missing"
      }, and shape [${inFeatures}, ${inFeatures}] is needed.`,
      { path, expected: [inFeatures, inFeatures], found },
    );
  }
}

async function eigensOf(
  base: ModelGraph,
  of: {
    readonly layers: readonly { readonly site: Site; readonly r: number }[];
    readonly tensors: ReadonlyMap<string, Tensor>;
    readonly corda: CordaConfig;
    readonly asked: PreprocessCordaOptions;
  },
): Promise<CordaCalibration["sites"]> {
  const { layers, tensors, corda: { cordaMethod: method, verbose }, asked } = of;
  const found = new Map<string, Readonly<Record<string, Tensor>>>();
  let latest: { readonly source: Tensor; readonly covariance: FlatMatrix } | undefined;
  for (const { site, r } of layers) {
    // Lets go of the thread between decompositions.
    await new Promise((resume) => setTimeout(resume));
    asked.signal?.throwIfAborted();
    const { path, inFeatures: n, outFeatures } = site;
    const weight = flatMatrix(await weightOutIn(base, site), { rows: outFeatures, columns: n });
    const source = tensors.get(path)!;
    // Modules that get the same input follow one another.
    if (latest?.source !== source) {
      latest = { source, covariance: dampedCovariance(await matrixOf(source), path) };
    }
    found.set(path, cordaEigens({ site, weight, ...latest }, { r, method }));
    report(asked, verbose, { phase: "eigens", path, done: found.size, total: layers.length });
  }
  return found;
}

function report(
  { onProgress }: PreprocessCordaOptions,
  verbose: boolean,
  progress: CordaProgress,
): void {
  if (onProgress) onProgress(progress);
  else if (verbose) {
    console.error(
      progress.phase === "covariance"
        ? `Calculating covariances: ${progress.batches} batches`
        : `Collecting eigens: ${progress.done}/${progress.total} ${progress.path}`,
    );
  }
}

/** Covariances read from the device; modules that share one still do. */
async function kept(
  sites: readonly Site[],
  tensors: ReadonlyMap<string, Tensor>,
): Promise<ReadonlyMap<string, Tensor>> {
  const copies = new Map<Tensor, Tensor>();
  for (const source of sites.map(({ path }) => tensors.get(path)!)) {
    if (!copies.has(source)) copies.set(source, await onHost(source));
  }
  return new Map(sites.map(({ path }) => [path, copies.get(tensors.get(path)!)!]));
}
