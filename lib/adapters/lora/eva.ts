/**
 * `getEvaStateDict` and `initializeLoraEvaWeights`: measures where EVA adapters begin, and begins
 * there.
 *
 * @module
 */
import { ConfigError, ShapeError, ValueError } from "../../errors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import { type FlatMatrix, flatMatrix, matrixTensor } from "../../methods/linalg.ts";
import {
  addRows,
  type Components,
  distributeRanks,
  evaFactor,
  type EvaLayer,
  roundHalfEven,
  settled,
} from "../../methods/lora/eva.ts";
import type { EvaConfig } from "../../methods/lora/init-config.ts";
import { type LoraConfig, loraShape, patternValue } from "../../methods/lora/lora-config.ts";
import { REGISTRY, type RegistryOptions } from "../../methods/mod.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import { BOOLEAN, checkOptions, FUNCTION, SIGNAL } from "../../options.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import {
  type CalibrationBatch,
  type CalibrationBatches,
  inputsOf,
  type InputsSeen,
  nothingSeen,
} from "../calibrate/observe.ts";
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

/** How far EVA has come. */
export interface EvaProgress {
  /** Batches so far. */
  readonly batches: number;
  /** Layers whose directions are found. */
  readonly settled: number;
  /** Layers in all. */
  readonly total: number;
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
  const { lora, eva } = checkEva(plan.config, "getEvaStateDict");
  return await measured(base, { sites: plan.sites.map(({ site }) => site), lora, eva, options });
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
  const { adapterName = "default", batches, evaStateDict } = options;
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
  const { lora, eva } = checkEva(adapter.config, "initializeLoraEvaWeights");
  const base = pristineBase(model);
  const sites = [...adapter.parts.values()].flatMap(({ place }) =>
    place.kind === "site" ? base.sites.get(place.path) ?? [] : []
  );
  if (!evaStateDict && batches === undefined) throw noBatches();
  const found = evaStateDict ??
    await measured(base, { sites, lora, eva, options: { ...options, batches: batches! } });
  const begun = withDirections(base, adapter, { lora, eva, found, options });
  return { ...model, adapters: new Map([...model.adapters, [adapterName, begun]]) };
}

function noBatches(): ValueError {
  return new ValueError(
    "CALIBRATION_BATCHES",
    "EVA needs batches to run the model on. Pass { batches: [{ inputIds: [[…]] }, …] }, or { evaStateDict }.",
  );
}

function checkEva(
  config: PeftConfig,
  of: string,
): { readonly lora: LoraConfig; readonly eva: EvaConfig } {
  const lora = config as LoraConfig;
  if (config.peftType === "LORA" && lora.initLoraWeights === "eva") {
    return { lora, eva: lora.evaConfig! };
  }
  throw new ConfigError(
    "CONFIG_EVA",
    `${of} is for adapters with initLoraWeights "eva"; this one is of the method ${config.peftType}${
      config.peftType === "LORA"
        ? `, with initLoraWeights ${JSON.stringify(lora.initLoraWeights)}`
        : ""
    }. Make it with loraConfig({ initLoraWeights: "eva" }).`,
    { peftType: config.peftType, initLoraWeights: lora.initLoraWeights },
  );
}

/** What is known of the layers that have the same inputs. */
interface Measured {
  readonly most: number;
  components?: Components;
  /** How many of them have settled. */
  settled: number;
}

async function measured(
  base: ModelGraph,
  of: {
    readonly sites: readonly Site[];
    readonly lora: LoraConfig;
    readonly eva: EvaConfig;
    readonly options: EvaStateOptions;
  },
): Promise<ReadonlyMap<string, Tensor>> {
  const { lora, eva, options: { batches, signal, onProgress } } = of;
  if (batches === undefined) throw noBatches();
  const sites = new Map(
    of.sites.filter(({ kind }) => kind === "linear" || kind === "conv1d")
      .map((site) => [site.path, site]),
  );
  const rankOf = (path: string) => loraShape(lora, sites.get(path)!).r;
  const budget = [...sites.keys()].reduce((sum, path) => sum + rankOf(path), 0);
  const rho = eva.rho > FEW ? Math.min(eva.rho, Math.floor(widest(base) / lora.r)) : eva.rho;
  const mostOf = (path: string) => mostRanks(sites.get(path)!, roundHalfEven(rankOf(path) * rho));

  const known = new Map<string, Measured>();
  let layers: readonly EvaLayer[] = [], ranks: ReadonlyMap<string, number> = new Map();
  const again = { count: 0, whole: false };
  let done = 0;
  for await (
    const seen of inputsOf(base, {
      paths: [...sites.keys()],
      batches: cycled(batches, again),
      signal,
    })
  ) {
    if (known.size === 0) {
      for (const { paths } of seen.groups) {
        known.set(paths[0], { most: Math.max(...paths.map(mostOf)), settled: 0 });
      }
      layers = layersOf(seen, known);
      ranks = new Map(layers.map(({ path, most }) => [path, most]));
    }
    const turning = seen.groups.filter(({ paths: [first] }) =>
      known.get(first)!.settled < ranks.get(first)!
    );
    const missing = seen.groups.find(({ paths: [first] }) => !known.get(first)!.components);
    if (again.whole && missing) throw tooFew(missing.paths[0], known.get(missing.paths[0])!);
    const total = sites.size;
    const left = turning.reduce((sum, { paths }) => sum + paths.length, 0);
    onProgress?.({ batches: done, settled: total - left, total });
    if (turning.length === 0) break;
    const mask = await maskOf(seen, eva);
    (await seen.read(turning)).forEach((runs, i) => {
      const own = known.get(turning[i].paths[0])!;
      for (const x of runs) {
        const rows = chosenRows(x, mask);
        if (rows.rows < own.most) continue;
        const before = own.components;
        own.components = addRows(before, rows, own.most);
        if (before) own.settled = settled(before, own.components, eva.tau);
      }
    });
    done++;
    if ([...known.values()].some(({ components }) => !components)) continue;
    const explained = new Map(
      [...known].map(([path, { components }]) => [path, components!.explained]),
    );
    ranks = distributeRanks(layers, explained, budget);
  }
  if (known.size === 0) throw nothingSeen(0);
  return new Map(layers.map(({ path, first }) => {
    const rank = ranks.get(path)!, { components } = known.get(first)!;
    return [path, matrixTensor(evaFactor(components!, { rank, whiten: eva.whiten }))];
  }));
}

/** From here on PEFT bounds `rho` by the widest parameter. */
const FEW = 1000;

function widest({ parameters }: ModelGraph): number {
  return Math.max(...[...parameters.values()].flatMap(({ shape }) => shape));
}

function mostRanks({ path, inFeatures }: Site, most: number): number {
  if (most <= inFeatures) return most;
  throw new ConfigError(
    "CONFIG_EVA_RANK",
    `${path} can get ${most} ranks (rho times r), and has ${inFeatures} inputs, in which there are no more directions. Lower rho, r or rankPattern.`,
    { path, most, inFeatures },
  );
}

function tooFew(path: string, { most }: Measured): ValueError {
  return new ValueError(
    "CALIBRATION_BATCHES",
    `No batch has as many tokens as ${path} can get ranks, ${most} (rho times r), so that nothing is known of it. Give larger batches, or lower rho or r.`,
    { path, most },
  );
}

/** Layers in PEFT's order: the first of each group, then the others. */
function layersOf(
  { groups }: InputsSeen,
  known: ReadonlyMap<string, Measured>,
): readonly EvaLayer[] {
  const all = groups.map(({ paths }) =>
    paths.map((path) => ({ path, first: paths[0], most: known.get(paths[0])!.most }))
  );
  return [...all.map(([first]) => first), ...all.flatMap(([, ...others]) => others)];
}

/** Batches over and over; a stream is kept for that. */
async function* cycled(
  batches: CalibrationBatches,
  state: { whole: boolean },
): AsyncGenerator<CalibrationBatch> {
  const kept: CalibrationBatch[] = [];
  for await (const batch of batches) {
    kept.push(batch);
    yield batch;
  }
  state.whole = true;
  while (kept.length) yield* kept;
}

/** Which tokens of a batch count. */
async function maskOf(
  { given, tokens }: InputsSeen,
  { useLabelMask, labelMaskValue }: EvaConfig,
): Promise<Int32Array> {
  const { labels } = given;
  if (!useLabelMask || labels === undefined) return tokens;
  const values = "data" in labels ? [...await labels.data()].map(Number) : labels.flat();
  // Labels of rows, such as classes, mask nothing.
  if (values.length !== tokens.length) return tokens;
  return tokens.map((token, i) => values[i] === labelMaskValue ? 0 : token);
}

/** The rows of tokens that count; all of them where rows are no tokens. */
function chosenRows({ rows, columns, data }: FlatMatrix, mask: Int32Array): FlatMatrix {
  if (mask.length !== rows) return { rows, columns, data };
  const chosen = [...mask.keys()].filter((i) => mask[i] !== 0);
  const out = new Float64Array(chosen.length * columns);
  chosen.forEach((from, to) =>
    out.set(data.subarray(from * columns, (from + 1) * columns), to * columns)
  );
  return flatMatrix(out, { rows: chosen.length, columns });
}

/** The adapter with these A, zero B, and a config that says their ranks. */
function withDirections(
  base: ModelGraph,
  adapter: Adapter,
  of: {
    readonly lora: LoraConfig;
    readonly eva: EvaConfig;
    readonly found: ReadonlyMap<string, Tensor>;
    readonly options: RegistryOptions;
  },
): Adapter {
  const { lora, eva, found, options: { registry } } = of;
  const rankPattern: Record<string, number> = {}, alphaPattern: Record<string, number> = {};
  const targets: string[] = [], others: string[] = [];
  const parts = [...adapter.parts.values()].flatMap((part) => {
    if (part.place.kind !== "site") return part;
    const { path } = part.place, site = base.sites.get(path)!, a = found.get(path);
    const { r } = loraShape(lora, site);
    const alpha = patternValue(lora.alphaPattern, path) ?? lora.loraAlpha;
    const rank = a?.shape[0] ?? r, own = eva.adjustScalingFactors ? alpha * (rank / r) : alpha;
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
