/**
 * `getEvaStateDict` and `initializeLoraEvaWeights`: measures where EVA adapters begin, and begins
 * there.
 *
 * @module
 */
import { ShapeError, ValueError } from "../../errors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import { type LoraConfig, loraShape } from "../../methods/lora/lora-config.ts";
import { patternValue } from "../../methods/site-pattern.ts";
import { REGISTRY, type RegistryOptions } from "../../methods/mod.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { BOOLEAN, checkOptions, FUNCTION, SIGNAL } from "../../options.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import type { CalibrationBatches } from "../calibrate/observe.ts";
import { type EvaProgress, measureEva } from "./measure-eva.ts";
import { checkBegins } from "./begins.ts";
import { type AdapterLeaves, partsOf } from "../parts.ts";
import {
  type Adapter,
  type AnyModel,
  baseOf,
  type PeftModel,
  pristineBase,
} from "../peft-model.ts";
import { checkPlan, planAdapter } from "../plan/plan.ts";
import { adapterOf } from "../select.ts";

/** What the functions of EVA take alike. */
export interface EvaOptions extends RegistryOptions {
  /** Is told before each batch. */
  readonly onProgress?: (progress: EvaProgress) => void;
  /** Stops between batches. */
  readonly signal?: AbortSignal;
  /** As for `getPeftModel`. */
  readonly allowUnmatched?: boolean;
}

/** What {@link getEvaStateDict} needs beside the model and the config. */
export interface EvaStateOptions extends EvaOptions {
  /**
   * What the model is run on, over and over until no direction turns any more: rows of the data that
   * the adapter is for. Each batch must hold as many tokens as a layer can get ranks, `rho * r`.
   */
  readonly batches: CalibrationBatches;
}

/** What {@link initializeLoraEvaWeights} needs beside the model. */
export interface EvaWeightsOptions extends EvaOptions {
  /** See {@link EvaStateOptions.batches}; not needed with `evaStateDict`. */
  readonly batches?: CalibrationBatches;
  /** What {@link getEvaStateDict} gave. */
  readonly evaStateDict?: ReadonlyMap<string, Tensor>;
  /** The adapter; `"default"` by default. */
  readonly adapterName?: string;
}

const MEASURING = {
  batches: null,
  onProgress: FUNCTION,
  signal: SIGNAL,
  allowUnmatched: BOOLEAN,
  registry: REGISTRY,
};

/**
 * The directions in which what goes into linear layers varies most, by incremental singular value
 * decomposition, and as many of them for each layer as its share of what is to be explained (EVA;
 * Paischer et al., 2024, arXiv:2410.07170). The model stays as it is.
 *
 * Padding does not count, nor, with `useLabelMask`, tokens whose label is `labelMaskValue`. Layers
 * with the same input are measured once. Batches that are a stream are kept, as they are run again.
 *
 * @param model The base, or a model on it; its base is run.
 * @param config A config with `initLoraWeights: "eva"`.
 * @param options What to run it on; see {@link EvaStateOptions}.
 * @returns A [rank, in] of each layer by module path; of rank 0 where a layer gets none.
 * @throws {ConfigError} for another config, and where a layer has fewer inputs than `rho * r`.
 * @throws {TargetError} as `getPeftModel` does.
 * @throws {ValueError} without batches, and where none has as many tokens as are needed.
 *
 * @example
 * ```ts
 * import { getEvaStateDict, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 2, initLoraWeights: "eva", targetModules: ["o_proj"] });
 * const batches = [{ inputIds: [[5, 6, 7, 8, 9, 10, 11, 12]] }];
 * for (const [path, { shape }] of await getEvaStateDict(base, config, { batches })) {
 *   console.log(path, shape); // model.layers.0.self_attn.o_proj [3, 32] …
 * }
 * ```
 */
export async function getEvaStateDict(
  model: AnyModel,
  config: PeftConfig,
  options: EvaStateOptions,
): Promise<ReadonlyMap<string, Tensor>> {
  baseOf(model);
  checkOptions(options, MEASURING, { code: "CALIBRATION_OPTION", of: "getEvaStateDict" });
  const { registry, allowUnmatched } = options;
  const plan = checkPlan(planAdapter(model, config, { registry }), { allowUnmatched });
  const { base } = plan;
  const lora = checkBegins(plan.config, { with: "eva", of: "getEvaStateDict" });
  return await measureEva(base, { sites: plan.sites.map(({ site }) => site), lora, options });
}

/**
 * The model with an EVA adapter where its layers are to begin (Paischer et al., 2024,
 * arXiv:2410.07170): A holds what {@link getEvaStateDict} finds, B is zero, and ranks, and with
 * `adjustScalingFactors` alphas, go from layers that explain little to those that explain much.
 *
 * The adapter's config says so in `rankPattern`, `alphaPattern` and `targetModules`, where layers
 * without any rank are missing. What is no linear layer stays as it is.
 *
 * @param model A model whose only active adapter has `initLoraWeights: "eva"`.
 * @param options What to run it on, or what was found already; see {@link EvaWeightsOptions}.
 * @throws {ConfigError} for an adapter of another kind.
 * @throws {ValueError} with several active adapters, and as {@link getEvaStateDict}.
 * @throws {ShapeError} for directions that do not fit the model.
 *
 * @example
 * ```ts
 * import { getPeftModel, initializeLoraEvaWeights, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 2, initLoraWeights: "eva", targetModules: ["q_proj", "o_proj"] });
 * const batches = [{ inputIds: [[5, 6, 7, 8, 9, 10, 11, 12]] }];
 * const model = await initializeLoraEvaWeights(getPeftModel(base, config), { batches });
 * console.log(model.adapters.get("default")!.config); // LORA, with rankPattern
 * ```
 */
export async function initializeLoraEvaWeights(
  model: PeftModel,
  options: EvaWeightsOptions,
): Promise<PeftModel> {
  baseOf(model);
  checkOptions(options, {
    ...MEASURING,
    adapterName: null,
    evaStateDict: { must: "a Map of tensors by module path", holds: (x) => x instanceof Map },
  }, { code: "CALIBRATION_OPTION", of: "initializeLoraEvaWeights" });
  const { adapterName = "default", evaStateDict } = options;
  const adapter = adapterOf(model, adapterName);
  if (model.active.length > 1) {
    throw new ValueError(
      "EVA_ACTIVE",
      `initializeLoraEvaWeights works with a single active adapter; active are ${
        model.active.join(", ")
      }. Choose one with setAdapter.`,
      { active: model.active },
    );
  }
  const lora = checkBegins(adapter.config, { with: "eva", of: "initializeLoraEvaWeights" });
  const base = pristineBase(model);
  const sites = [...adapter.parts.values()].flatMap(({ place }) =>
    place.kind === "site" ? base.sites.get(place.path) ?? [] : []
  );
  const found = evaStateDict ??
    await measureEva(base, { sites, lora, options });
  const begun = withDirections(base, adapter, { lora, found, options });
  return { ...model, adapters: new Map([...model.adapters, [adapterName, begun]]) };
}

/** The adapter with these A, zero B, and a config that says their ranks. */
function withDirections(
  base: ModelGraph,
  adapter: Adapter,
  of: {
    readonly lora: LoraConfig;
    readonly found: ReadonlyMap<string, Tensor>;
    readonly options: RegistryOptions;
  },
): Adapter {
  const { lora, found, options: { registry } } = of;
  const rankPattern: Record<string, number> = {}, alphaPattern: Record<string, number> = {};
  const targets: string[] = [], others: string[] = [];
  const parts = [...adapter.parts.values()].flatMap((part) => {
    if (part.place.kind !== "site") return part;
    const { path } = part.place, site = base.sites.get(path)!, a = found.get(path);
    const { r } = loraShape(lora, site);
    const alpha = patternValue(lora.alphaPattern, path) ?? lora.loraAlpha;
    const rank = a?.shape[0] ?? r,
      own = lora.evaConfig!.adjustScalingFactors ? alpha * (rank / r) : alpha;
    if (rank === 0) return [];
    (a ? targets : others).push(path);
    if (rank !== lora.r) rankPattern[path] = rank;
    if (own !== lora.loraAlpha) alphaPattern[path] = own;
    return a ? { ...part, leaves: directed(part.leaves, a, path) } : part;
  });
  const targetModules = [...targets, ...others];
  const dealt: LoraConfig = { ...lora, targetModules, rankPattern, alphaPattern };
  const { config } = planAdapter(base, dealt, { registry });
  return { ...adapter, config, parts: partsOf(parts) };
}

function directed(leaves: AdapterLeaves, a: Tensor, path: string): AdapterLeaves {
  const { lora_A, lora_B } = leaves, [rank] = a.shape;
  if (a.shape.length !== 2 || a.shape[1] !== lora_A.shape[1]) {
    throw new ShapeError(
      "CALIBRATION_SHAPE",
      `evaStateDict has shape [${a.shape}] for ${path}, and [rank, ${
        lora_A.shape[1]
      }] is needed. It was made for another model.`,
      { path, found: a.shape },
    );
  }
  const shape = [lora_B.shape[0], rank];
  const b = tensor(new Float32Array(shape[0] * rank), { shape });
  return {
    ...leaves,
    lora_A: { ...lora_A, shape: a.shape, tensor: a },
    lora_B: { ...lora_B, shape, tensor: b },
  };
}
