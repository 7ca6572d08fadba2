/**
 * Adapters that took a part of the base over (PiSSA, OLoRA, CorDA, LoRA-GA) as plain LoRAs: by the
 * difference to their initial state.
 *
 * With W = R + s·B₀·A₀ for the base and R + s·B·A for the adapted weight, what the adapter changes
 * is s·(B·A − B₀·A₀) = s·[B, −B₀]·[A; A₀]: a LoRA of twice the rank on the whole W.
 *
 * @module
 */
import { CheckpointError, UnsupportedError, ValueError } from "../../errors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import { checkFactors, type LoraConfig, loraShape } from "../../methods/lora/lora-config.ts";
import { joined } from "../../methods/lora/lora-factors.ts";
import type { Site } from "../../model/site.ts";
import { sizeOf } from "../../tensor/dtype.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import { adapterKeys } from "../checkpoint/adapter-keys.ts";
import { partsOfKind } from "../parts.ts";
import { type Adapter, type PeftModel, pristineBase } from "../peft-model.ts";
import { type AdapterParts, readAdapter } from "../checkpoint/read-adapter.ts";
import { getAdapterStateDict } from "../checkpoint/state-dict.ts";
import { adapterOf } from "../select.ts";

/**
 * From what the state is known in which an adapter began: `true` for what the adapter itself keeps
 * of it, or an adapter that was saved or made before training, as a folder, an id on the hub, its
 * parts, or a model that has it under the same name.
 */
export type InitialState = true | string | URL | AdapterParts | PeftModel;

/** An adapter that is to be saved in another form. */
export interface SavedForm {
  /** The config that goes with the tensors. */
  readonly config: PeftConfig;
  /** The tensors under PEFT's keys. */
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/**
 * An adapter as a plain LoRA that does the same on the base as it is.
 *
 * @param adapter An adapter of the model.
 * @param from The model, what the adapter's file would hold, and its initial state.
 * @throws {UnsupportedError} for a method other than LORA, and for adapters with tied leaves.
 * @throws {ValueError} for an adapter that took nothing out of the base; and, as in PEFT, for rsLoRA
 * together with patterns.
 * @throws {CheckpointError} where the initial state is that of another adapter.
 */
export async function plainLora(
  adapter: Adapter,
  from: {
    readonly model: PeftModel;
    readonly tensors: ReadonlyMap<string, Tensor>;
    readonly initial: InitialState;
  },
): Promise<SavedForm> {
  const { model, initial } = from;
  const config = checkConvertible(adapter, initial);
  const base = pristineBase(model);
  const start = initial === true ? undefined : await initialTensors(initial, adapter.name);
  const tensors = new Map(from.tensors);
  const ranks = new Map<Site, number>();
  for (const [key, target] of adapterKeys(base, adapter, false)) {
    if (target.kind !== "leaf" || !/_[AB]$/.test(target.leaf)) continue;
    const now = tensors.get(key)!;
    const before = start
      ? start.get(key)
      : adapter.parts.get(target.part)!.leaves[`${target.leaf}_init`]?.tensor ?? zeros(now.shape);
    checkInitial(key, { now, before });
    const isA = target.leaf.endsWith("_A"), axis = isA ? 0 : 1;
    const shape = now.shape.map((n, i) => i === axis ? n + before!.shape[i] : n);
    const parts = [{ tensor: now, sign: 1 }, { tensor: before!, sign: isA ? 1 : -1 }] as const;
    tensors.set(key, joined(shape, { parts, axis }));
    if (isA) ranks.set(base.sites.get(target.part)!, shape[0]);
  }
  return { config: doubled(config, ranks), tensors };
}

function checkConvertible(adapter: Adapter, initial: InitialState): LoraConfig {
  const { name } = adapter;
  const leaves = partsOfKind(adapter, "site").flatMap(({ leaves }) => Object.values(leaves));
  const called = JSON.stringify(name);
  if (adapter.config.peftType !== "LORA") {
    throw new UnsupportedError(
      "CONVERT_METHOD",
      `pathInitialModelForWeightConversion makes a plain LoRA of PiSSA, OLoRA, CorDA and LoRA-GA adapters; the adapter ${called} is of the method ${adapter.config.peftType}. ` +
        "Save it as it is, or see convertToLora.",
      { adapter: name, peftType: adapter.config.peftType },
    );
  }
  const config = adapter.config as LoraConfig;
  checkFactors(config);
  if (config.useRslora && hasPatterns(config)) {
    throw new ValueError(
      "CONVERT_RSLORA",
      `The adapter ${called} has useRslora together with ${
        Object.keys(config.rankPattern).length ? "rankPattern" : "alphaPattern"
      }, and cannot be saved with pathInitialModelForWeightConversion then, as in PEFT. ` +
        "convertToLora can make a plain LoRA of it.",
      { adapter: name },
    );
  }
  const keeps = leaves.some(({ takenOut }) => takenOut);
  // With a state from elsewhere, the base may be what is left after the decomposition, on which
  // the adapter is a LoRA like any other.
  const fits = keeps || (initial !== true && config.initLoraWeights === true);
  if (!fits) {
    throw new ValueError(
      "CONVERT_INIT",
      `The adapter ${called} began with initLoraWeights ${
        JSON.stringify(config.initLoraWeights)
      }, which takes nothing out of the base: it is a plain LoRA already. ` +
        "Save it without pathInitialModelForWeightConversion.",
      { adapter: name, initLoraWeights: config.initLoraWeights },
    );
  }
  if (leaves.some(({ tie }) => tie)) {
    throw new UnsupportedError(
      "CONVERT_TIED",
      `The adapter ${called} ties leaves of the embedding and the head (ensureWeightTying); what each took out of its weight is not tied, so no plain LoRA with tied leaves does the same. ` +
        "Save it as it is, or see convertToLora.",
      { adapter: name },
    );
  }
  return config;
}

function hasPatterns({ rankPattern, alphaPattern }: LoraConfig): boolean {
  return Object.keys(rankPattern).length + Object.keys(alphaPattern).length > 0;
}

/** What is known of an adapter as it began. */
export async function initialParts(
  initial: Exclude<InitialState, true>,
  adapterName: string,
): Promise<AdapterParts> {
  if (typeof initial === "string" || initial instanceof URL) return await readAdapter(initial);
  if (typeof initial !== "object" || !initial || !("type" in initial)) return initial;
  const { config } = adapterOf(initial, adapterName);
  return { config, tensors: getAdapterStateDict(initial, adapterName) };
}

async function initialTensors(
  initial: Exclude<InitialState, true>,
  adapterName: string,
): Promise<ReadonlyMap<string, Tensor>> {
  const isBase = (initial as { readonly type?: unknown } | null)?.type === "model";
  const parts = isBase ? undefined : await initialParts(initial, adapterName);
  if (parts?.tensors instanceof Map) return parts.tensors;
  throw new ValueError(
    "CONVERT_INITIAL",
    "pathInitialModelForWeightConversion is a folder or id of the adapter as it began, its { config, tensors }, a model with it, or true.",
  );
}

function checkInitial(
  key: string,
  { now, before }: { readonly now: Tensor; readonly before: Tensor | undefined },
): void {
  if (before?.shape.join() === now.shape.join()) return;
  throw new CheckpointError(
    "CONVERT_INITIAL",
    `The initial state ${
      before
        ? `has ${key} with shape [${before.shape}], and the adapter with shape [${now.shape}]`
        : `lacks ${key}`
    }: it is that of another adapter. Give the one that was saved before training.`,
    { key, expected: now.shape, found: before?.shape },
  );
}

/** The config of a LoRA of twice the rank, with the same scale at every site. */
function doubled(config: LoraConfig, ranks: ReadonlyMap<Site, number>): LoraConfig {
  const twice = (pattern: Readonly<Record<string, number>>) =>
    Object.fromEntries(Object.entries(pattern).map(([key, value]) => [key, 2 * value]));
  const plain: LoraConfig = {
    ...config,
    initLoraWeights: true,
    r: 2 * config.r,
    // The scale alpha/√r of rsLoRA stays where alpha grows as √r does.
    loraAlpha: config.loraAlpha * (config.useRslora ? Math.SQRT2 : 2),
    rankPattern: twice(config.rankPattern),
    alphaPattern: twice(config.alphaPattern),
  };
  // A decomposition has no more columns than the weight, so that some sites have a smaller rank.
  const clipped = [...ranks].filter(([site, rank]) => loraShape(plain, site).r !== rank);
  const alphaOf = ([site, rank]: readonly [Site, number]) =>
    loraShape(config, site).scale * (config.useRslora ? Math.sqrt(rank) : rank);
  return {
    ...plain,
    rankPattern: {
      ...Object.fromEntries(clipped.map(([{ path }, rank]) => [path, rank])),
      ...plain.rankPattern,
    },
    alphaPattern: {
      ...Object.fromEntries(clipped.map((entry) => [entry[0].path, alphaOf(entry)])),
      ...plain.alphaPattern,
    },
  };
}

function zeros(shape: readonly number[]): Tensor {
  return tensor(new Float32Array(sizeOf(shape)), { shape });
}
