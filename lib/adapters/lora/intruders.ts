/**
 * `reduceIntruderDimension`: takes back what an adapter added in directions that the base does not
 * have.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import {
  type FlatMatrix,
  flatMatrix,
  leadingSvd,
  matrixProduct,
  rowProducts,
  scaledRows,
  transposed,
} from "../../methods/linalg.ts";
import { evenFactors } from "../../methods/lora/loftq.ts";
import { isPlainLora, type LoraConfig, loraShape } from "../../methods/lora/lora-config.ts";
import { factorLeaves, type Factors, factorsOf, scaled } from "../../methods/lora/lora-factors.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import { checkOptions, FUNCTION, numberIn, SIGNAL, wholeFrom } from "../../options.ts";
import { checkNewName } from "../inject.ts";
import { weightOutIn } from "../lazy-leaves.ts";
import { type Part, partsOf, tensorOf } from "../parts.ts";
import { type Adapter, type PeftModel, pristineBase } from "../peft-model.ts";
import { adapterOf, setAdapter } from "../select.ts";

/** Which adapter is reduced, and how far. */
export interface ReduceIntruderOptions {
  /** The adapter; `"default"` by default. */
  readonly oldAdapterName?: string;
  /** Name of the one that is made; `"intruder_reduced"` by default. */
  readonly newAdapterName?: string;
  /** How many of the adapted weight's leading singular vectors are looked at; 10 by default. */
  readonly topK?: number;
  /**
   * A singular vector is an intruder where its cosine to each of the base's is below this; 0.5 by
   * default. From 0 to 1.
   */
  readonly thresholdEpsilon?: number;
  /** Share of an intruder that is left; 0.75 by default. */
  readonly mitigationLambda?: number;
  /** Is told after each module. */
  readonly onProgress?: (progress: IntruderProgress) => void;
  /** Stops between modules. */
  readonly signal?: AbortSignal;
}

/** What {@link reduceIntruderDimension} found in a module. */
export interface IntruderProgress {
  /** The module. */
  readonly path: string;
  /** How many intruders it has. */
  readonly intruders: number;
  /** Modules so far. */
  readonly done: number;
  /** Modules in all. */
  readonly total: number;
}

/**
 * The model with an adapter more, which is active: a LoRA without a part of its intruder dimensions,
 * the leading singular vectors of the adapted weight that none of the base's is like, so that less of
 * what the base knew is forgotten (Shuttleworth et al., 2024, arXiv:2410.21228). It does its task
 * somewhat less well; `mitigationLambda` weighs the two.
 *
 * Weights are decomposed on the host, all of them: about a second for a layer of 576 by 1536, and
 * eight times that for each doubling.
 *
 * @param model A model with a LoRA.
 * @param options The adapter, and see {@link ReduceIntruderOptions}.
 * @throws {UnsupportedError} for an adapter that is no plain LoRA, and at convolutions and parameters.
 * @throws {ValueError} for an unknown name, and for a new one that is taken.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, reduceIntruderDimension, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 4, initLoraWeights: false, targetModules: ["q_proj"] });
 * const model = await reduceIntruderDimension(getPeftModel(base, config), {
 *   onProgress: ({ path, intruders }) => console.log(path, intruders),
 * });
 * console.log(model.active); // ["intruder_reduced"]
 * ```
 */
export async function reduceIntruderDimension(
  model: PeftModel,
  options: ReduceIntruderOptions = {},
): Promise<PeftModel> {
  const base = pristineBase(model);
  checkOptions(options, {
    oldAdapterName: null,
    newAdapterName: null,
    topK: wholeFrom(1),
    thresholdEpsilon: numberIn(0, 1),
    mitigationLambda: numberIn(0, 1),
    onProgress: FUNCTION,
    signal: SIGNAL,
  }, { code: "INTRUDER_OPTION", of: "reduceIntruderDimension" });
  const { oldAdapterName = "default", newAdapterName = "intruder_reduced" } = options;
  const old = adapterOf(model, oldAdapterName);
  const config = checkPlain(old);
  checkNewName(model, newAdapterName);
  const parts: Part[] = [];
  const total = [...old.parts.values()].filter(({ place }) => place.kind === "site").length;
  let done = 0;
  for (const part of old.parts.values()) {
    const site = part.place.kind === "site" ? base.sites.get(part.place.path) : undefined;
    if (!site) {
      parts.push(part);
      continue;
    }
    options.signal?.throwIfAborted();
    // Lets go of the thread between decompositions.
    await new Promise((resume) => setTimeout(resume));
    const { intruders, part: reduced } = await reducedPart(base, {
      old,
      part,
      site,
      config,
      options,
    });
    parts.push(reduced);
    options.onProgress?.({ path: site.path, intruders, done: ++done, total });
  }
  const adapter = { ...old, name: newAdapterName, parts: partsOf(parts) };
  const adapters = new Map([...model.adapters, [newAdapterName, adapter]]);
  return setAdapter({ ...model, adapters }, newAdapterName);
}

function checkPlain({ name, config }: Adapter): LoraConfig {
  if (isPlain(config)) return config;
  const { peftType } = config;
  throw new UnsupportedError(
    "INTRUDER_METHOD",
    `reduceIntruderDimension takes plain LoRAs; the adapter ${
      JSON.stringify(name)
    } is of the method ${peftType}${
      peftType === "LORA" ? ", with a variant or an initialization that changes the base" : ""
    }. Make a plain LoRA of it with convertToLora.`,
    { adapter: name, peftType },
  );
}

function isPlain(config: PeftConfig): config is LoraConfig {
  return config.peftType === "LORA" && isPlainLora(config as LoraConfig);
}

async function reducedPart(
  base: ModelGraph,
  of: {
    readonly old: Adapter;
    readonly part: Part;
    readonly site: Site;
    readonly config: LoraConfig;
    readonly options: ReduceIntruderOptions;
  },
): Promise<{ readonly part: Part; readonly intruders: number }> {
  const { old, part, site, config, options } = of;
  const { kind, inFeatures, outFeatures } = site;
  const leaves = Object.entries(part.leaves);
  if (!["linear", "conv1d", "embedding"].includes(kind) || leaves.some(([, { tie }]) => tie)) {
    throw new UnsupportedError(
      "INTRUDER_SITE",
      `reduceIntruderDimension takes linear layers and embeddings with factors of their own, and ${site.path} is ${
        leaves.some(([, { tie }]) => tie) ? "tied to another" : `of the kind ${kind}`
      }.`,
      { path: site.path },
    );
  }
  const { r, scale } = loraShape(config, site);
  const stored = await weightOutIn(base, site);
  const weight = kind === "embedding"
    ? transposed(flatMatrix(stored, { rows: inFeatures, columns: outFeatures }))
    : flatMatrix(stored, { rows: outFeatures, columns: inFeatures });
  const own = await factorsOf(
    Object.fromEntries(leaves.map(([name, leaf]) => [name, tensorOf(old, leaf, part.leaves)])),
  );
  const { factors, intruders } = reducedFactors(weight, { own, r, scale, options });
  if (!factors) return { part, intruders };
  const made = factorLeaves(site, factors, r);
  const replaced = leaves.map(([name, leaf]) => [
    name,
    made[name] ? { ...leaf, tensor: made[name] } : leaf,
  ]);
  return { part: { ...part, leaves: Object.fromEntries(replaced) }, intruders };
}

/** Factors with less of the intruders; none where there are no intruders. */
function reducedFactors(weight: FlatMatrix, of: {
  readonly own: Factors;
  readonly r: number;
  readonly scale: number;
  readonly options: ReduceIntruderOptions;
}): { readonly factors?: Factors; readonly intruders: number } {
  const { own, r, scale, options } = of;
  const { topK = 10, thresholdEpsilon = 0.5, mitigationLambda = 0.75 } = options;
  const smaller = Math.min(weight.rows, weight.columns);
  const change = scaled(matrixProduct(own.b, own.a), scale);
  const merged = sum(weight, change);
  const known = leadingSvd(weight, smaller).u;
  const { u, s, v } = leadingSvd(merged, Math.min(topK, smaller));
  const cosines = rowProducts(u, known);
  const isIntruder = Array.from(
    { length: s.length },
    (_, i) =>
      cosines.data.subarray(i * smaller, (i + 1) * smaller)
        .every((cosine) => Math.abs(cosine) < thresholdEpsilon),
  );
  const intruders = isIntruder.filter(Boolean).length;
  if (intruders === 0) return { intruders };
  const taken = s.map((value, i) => isIntruder[i] ? (mitigationLambda - 1) * value : 0);
  const left = sum(change, matrixProduct(transposed(scaledRows(u, taken)), v));
  return { intruders, factors: evenFactors(scaled(left, 1 / scale), Math.min(r, smaller)) };
}

function sum(a: FlatMatrix, b: FlatMatrix): FlatMatrix {
  return { ...a, data: a.data.map((x, i) => x + b.data[i]) };
}
