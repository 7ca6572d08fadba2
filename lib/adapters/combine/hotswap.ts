/**
 * Hot swap: an adapter takes the place of another in the programs that exist already.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../../errors.ts";
import { checkOptions, NAMES, TEXT, wholeFrom } from "../../options.ts";
import { LOAD_ADAPTER_OPTIONS, loadAdapter, type LoadAdapterOptions } from "../checkpoint/load.ts";
import { type Adapter, checkPeft, type PeftModel, pristineBase } from "../peft-model.ts";
import type { AdapterParts } from "../checkpoint/read-adapter.ts";
import { adapterOf, withAdapter } from "../select.ts";
import { canResize, resizedAdapter, swappedAdapter } from "./swapped-adapter.ts";

/** How to load what is swapped in, and where to. */
export type HotswapOptions = Omit<LoadAdapterOptions, "isTrainable">;

/** Which adapters {@link swapAdapter} takes. */
export interface SwapOptions {
  /** The adapter that is replaced, and keeps its name; `"default"` by default. */
  readonly adapterName?: string;
  /**
   * The one that takes its place; by default that of the same name in the other model, or the only
   * one there.
   */
  readonly otherName?: string;
}

/** How to make room for adapters that are swapped in. */
export interface PrepareHotswapOptions {
  /** The largest rank of all adapters that are to be swapped in; without it ranks stay. */
  readonly targetRank?: number;
  /** Which adapters; by default all whose rank can be changed. */
  readonly adapterNames?: readonly string[];
}

/**
 * The model with the values of an adapter replaced by those of another, from a file. The model then
 * does what the other adapter does, under the name of the replaced one, and runs the programs that
 * were compiled for that one: nothing is compiled again.
 *
 * The adapter keeps its rank and scale. LoRAs of smaller ranks are padded with zeros, and the
 * quotient of the scales goes into B, so that ranks, `loraAlpha`, patterns and rsLoRA may differ.
 * Modules that the other one does not adapt are left as the base has them. For other methods, all
 * fields of the config that say what is computed, and the adapted modules, must agree. What is saved
 * from the model is an adapter like any other.
 *
 * @param model A model with adapters; it stays as it is.
 * @param source The adapter to take in: a folder, an id on the hub, or its parts.
 * @param options The name of the adapter that is replaced (`"default"`), and how to load; see
 * {@link LoadAdapterOptions}.
 * @throws {ValueError} for a name that does not exist, for an adapter that is merged, and where a
 * rank is larger than that of the replaced one ({@link prepareModelForCompiledHotswap}).
 * @throws {UnsupportedError} where the methods or what their programs compute differ, and where the
 * other one adapts more modules.
 * @throws {CheckpointError} and others as {@link loadAdapter}.
 *
 * @example
 * ```ts
 * import { forward, getAdapterStateDict, getPeftModel, tinyModel } from "@graft/peft";
 * import { hotswapAdapter, loraConfig } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 4, loraAlpha: 32, initLoraWeights: false });
 * const small = { config, tensors: getAdapterStateDict(getPeftModel(base, config)) };
 * const model = getPeftModel(base, loraConfig({ r: 8 }));
 * await forward(model, { inputIds: [[1, 2, 3]] });
 * const swapped = await hotswapAdapter(model, small);
 * await forward(swapped, { inputIds: [[1, 2, 3]] }); // runs at once
 * console.log(swapped.active, swapped === model); // ["default"] false
 * ```
 */
export async function hotswapAdapter(
  model: PeftModel,
  source: string | URL | AdapterParts,
  options: HotswapOptions = {},
): Promise<PeftModel> {
  checkOptions(options, LOAD_ADAPTER_OPTIONS, { code: "LOAD_OPTION", of: "hotswapAdapter" });
  const { adapterName = "default" } = options;
  checkSwappable(model, adapterName);
  const base = pristineBase(model);
  const other = await loadAdapter(base, source, { ...options, adapterName });
  if (pristineBase(other) !== base) {
    throw new UnsupportedError(
      "HOTSWAP_BASE",
      "The adapter brings an embedding or a head of its own for the base, which would be another program. Load it beside this one with loadAdapter, or onto a base for as many tokens (resizeTokenEmbeddings).",
    );
  }
  return swapAdapter(model, other, { adapterName });
}

/**
 * The model with the values of an adapter replaced by those of another that is loaded already: what
 * {@link hotswapAdapter} does with a file, at once.
 *
 * @param model A model with adapters; it stays as it is.
 * @param other A model on the same base with the adapter to take in.
 * @param options Which adapters of the two models.
 * @throws {ValueError} as {@link hotswapAdapter}.
 * @throws {UnsupportedError} as {@link hotswapAdapter}.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, swapAdapter, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 8 }), { adapterName: "style" });
 * const other = getPeftModel(base, loraConfig({ r: 2, initLoraWeights: false }));
 * const swapped = swapAdapter(model, other, { adapterName: "style" });
 * console.log([...swapped.adapters.keys()]); // ["style"]
 * ```
 */
export function swapAdapter(
  model: PeftModel,
  other: PeftModel,
  options: SwapOptions = {},
): PeftModel {
  checkOptions(options, { adapterName: TEXT, otherName: TEXT }, {
    code: "HOTSWAP_OPTION",
    of: "swapAdapter",
  });
  const { adapterName = "default" } = options;
  const resident = checkSwappable(model, adapterName);
  checkPeft(other);
  const [only] = other.adapters.size === 1 ? other.adapters.keys() : [adapterName];
  const from = adapterOf(
    other,
    options.otherName ?? (other.adapters.has(adapterName) ? adapterName : only),
  );
  return withAdapter(model, swappedAdapter(pristineBase(model), resident, from));
}

/**
 * The model with the ranks of its LoRAs padded, so that adapters up to that rank can be swapped in
 * ({@link hotswapAdapter}). It gives the same outputs. Afterwards all adapted modules have the same
 * rank and scale; configs say so, and files saved from the model can be loaded by PEFT. LoRAs that
 * took a part of the base over (PiSSA, OLoRA, CorDA) become plain ones of twice their rank.
 *
 * @param model A model with adapters; it stays as it is.
 * @param options The rank.
 * @throws {ValueError} `HOTSWAP_RANK` where an adapter has a larger rank, and `HOTSWAP_NOTHING` where
 * no adapter has a rank.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * import { prepareModelForCompiledHotswap } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4, loraAlpha: 8 }));
 * const ready = prepareModelForCompiledHotswap(model, { targetRank: 16 });
 * const [site] = ready.adapters.get("default")!.parts.values();
 * console.log(site.leaves.lora_A.shape); // [16, 32]
 * ```
 */
export function prepareModelForCompiledHotswap(
  model: PeftModel,
  options: PrepareHotswapOptions = {},
): PeftModel {
  checkPeft(model);
  checkOptions(options, {
    targetRank: wholeFrom(1),
    adapterNames: NAMES,
  }, {
    code: "HOTSWAP_OPTION",
    of: "prepareModelForCompiledHotswap",
  });
  const { targetRank, adapterNames = [...model.adapters.keys()] } = options;
  const chosen = adapterNames.map((name) => adapterOf(model, name))
    .filter(canResize);
  if (chosen.length === 0) {
    throw new ValueError(
      "HOTSWAP_NOTHING",
      "No adapter layers found on the model, make sure to call prepareModelForCompiledHotswap after loading the first adapter and before loading the second adapter: only LORA has a rank to pad.",
      { adapters: adapterNames },
    );
  }
  if (targetRank === undefined) return model;
  const base = pristineBase(model);
  const adapters = new Map(model.adapters);
  for (const adapter of chosen) {
    adapters.set(adapter.name, resizedAdapter(base, adapter, targetRank));
  }
  return { ...model, adapters };
}

function checkSwappable(model: PeftModel, name: string): Adapter {
  const adapter = adapterOf(model, name);
  if (!model.merged?.names.includes(name)) return adapter;
  throw new ValueError(
    "HOTSWAP_MERGED",
    `Cannot hot-swap adapter ${
      JSON.stringify(name)
    } because it is currently merged into the base weights. Take it out first with unmergeAdapter.`,
    { adapter: name },
  );
}
