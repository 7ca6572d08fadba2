/**
 * Adapters that took a part of the base over (PiSSA, OLoRA, CorDA) as plain LoRAs: by the difference to
 * their initial state.
 *
 * With W = R + s·B₀·A₀ for the base and R + s·B·A for the adapted weight, what the adapter changes
 * is s·(B·A − B₀·A₀) = s·[B, −B₀]·[A; A₀]: a LoRA of twice the rank on the whole W.
 *
 * @module
 */
import { CheckpointError, UnsupportedError, ValueError } from "../../errors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import { type LoraConfig, loraShape } from "../../methods/lora/lora-config.ts";
import type { Site } from "../../model/site.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import { sizeOf } from "../../tensor/dtype.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import { adapterKeys } from "./adapter-keys.ts";
import { type Adapter, type PeftModel, pristineBase } from "../peft-model.ts";
import { type AdapterParts, readAdapter } from "./read-adapter.ts";
import { getAdapterStateDict } from "./state-dict.ts";

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
  const start = initial === true ? undefined : await initialTensors(adapter, initial);
  const tensors = new Map(from.tensors);
  const ranks = new Map<Site, number>();
  for (const [key, target] of adapterKeys(base, adapter, false)) {
    if (target.kind !== "leaf" || !/_[AB]$/.test(target.leaf)) continue;
    const now = tensors.get(key)!;
    const before = start
      ? start.get(key)
      : adapter.sites.get(target.path)!.frozen[`${target.leaf}_init`] ?? zeros(now.shape);
    checkInitial(key, { now, before });
    const isA = target.leaf.endsWith("_A");
    const joined = isA ? stacked(now, before!) : besideNegated(now, before!);
    tensors.set(key, joined);
    if (isA) ranks.set(base.sites.get(target.path)!, joined.shape[0]);
  }
  return { config: doubled(config, ranks), tensors };
}

function checkConvertible(adapter: Adapter, initial: InitialState): LoraConfig {
  const { name, method, sites } = adapter;
  const called = JSON.stringify(name);
  if (method.peftType !== "LORA") {
    throw new UnsupportedError(
      "CONVERT_METHOD",
      `pathInitialModelForWeightConversion makes a plain LoRA of PiSSA, OLoRA and CorDA adapters; the adapter ${called} is of the method ${method.peftType}. ` +
        "Save it as it is, or see convertToLora.",
      { adapter: name, peftType: method.peftType },
    );
  }
  const config = adapter.config as LoraConfig;
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
  const keeps = [...sites.values()].some(({ frozen }) => Object.keys(frozen).length);
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
  if ([...sites.values()].some(({ tied }) => Object.keys(tied ?? {}).length)) {
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

async function initialTensors(
  adapter: Adapter,
  initial: Exclude<InitialState, true>,
): Promise<ReadonlyMap<string, Tensor>> {
  if (typeof initial === "string" || initial instanceof URL) {
    return (await readAdapter(initial)).tensors;
  }
  if (typeof initial === "object" && initial !== null) {
    if ("type" in initial && initial.type === "peft") {
      return getAdapterStateDict(initial, adapter.name);
    }
    if ("tensors" in initial && initial.tensors instanceof Map) return initial.tensors;
  }
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

/** Rows of one matrix, then those of another. */
function stacked(a: Tensor, b: Tensor): Tensor {
  return joined([a.shape[0] + b.shape[0], a.shape[1]], async () => {
    const [x, y] = [await toFloat32(a), await toFloat32(b)];
    const out = new Float32Array(x.length + y.length);
    out.set(x);
    out.set(y, x.length);
    return out;
  });
}

/** Columns of one matrix, then those of another with the sign changed. */
function besideNegated(a: Tensor, b: Tensor): Tensor {
  const [rows, left] = a.shape, right = b.shape[1];
  return joined([rows, left + right], async () => {
    const [x, y] = [await toFloat32(a), await toFloat32(b)];
    const out = new Float32Array(x.length + y.length);
    for (let i = 0; i < rows; i++) {
      out.set(x.subarray(i * left, (i + 1) * left), i * (left + right));
      for (let j = 0; j < right; j++) out[i * (left + right) + left + j] = -y[i * right + j];
    }
    return out;
  });
}

function joined(shape: readonly number[], data: () => Promise<Float32Array>): Tensor {
  return { dtype: "f32", shape, where: "host", data };
}
