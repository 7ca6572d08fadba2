/**
 * `loadAdapter`: an adapter from PEFT's files.
 *
 * @module
 */
import { CheckpointError, FileError, TargetError, ValueError } from "../../errors.ts";
import { isObject, type JsonObject } from "../../io/json.ts";
import type { Calibration } from "../../methods/calibration.ts";
import type { PeftConfig } from "../../methods/config.ts";
import { type MethodRegistry, REGISTRY, type RegistryOptions } from "../../methods/mod.ts";
import { knownFields } from "../../methods/peft-json.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import type { TaskType } from "../../model/task-type.ts";
import { BOOLEAN, checkOptions, FUNCTION, type OptionRules, show } from "../../options.ts";
import { once } from "../../tensor/computed.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { hashBase, sameBase } from "../hash-base.ts";
import { checkNewName, createAdapter, emptyModel, ownBase, withNewAdapter } from "../inject.ts";
import { adapterKeys } from "./adapter-keys.ts";
import { expertAdapter, expertConfig } from "./expert-adapter.ts";
import { plainKeys, presentForm } from "./foreign-adapter.ts";
import { type KeyMapping, mapKeys, type RenamedKey } from "./key-mapping.ts";
import { type AnyModel, type PeftModel, pristineBase } from "../peft-model.ts";
import {
  ADAPTER_SOURCE_RULES,
  type AdapterFiles,
  type AdapterParts,
  type AdapterSource,
  configOf,
  readAdapter,
} from "./read-adapter.ts";
import { BASE_DIGEST } from "./save.ts";
import { type LoadReport, setAdapterStateDict } from "./state-dict.ts";
import { fitVocabulary, type Vocabularies } from "./trained-vocabulary.ts";

/** What is known of the base that an adapter was trained on. */
export interface AdapterLoadReport extends LoadReport {
  /** What else a caller should know, in words: that the adapter is of a method with a new name. */
  readonly notes: readonly string[];
  /**
   * Whether its file records a digest of this base, of another one, or none that could be compared.
   */
  readonly base: "same" | "other" | "unknown";
  /**
   * The number of tokens of the base that was given and of what the file holds for the embedding and
   * the head. Where the latter is larger, the base of the model that was returned has it.
   */
  readonly vocabulary: Vocabularies;
  /**
   * Keys that `keyMapping` changed, and those that other programs write otherwise; the other lists
   * have them as they became.
   */
  readonly renamed: readonly RenamedKey[];
  /** Fields of its config that are not known here and are off; they were left out. */
  readonly ignoredFields: readonly string[];
}

/** How to load an adapter. */
export interface LoadAdapterOptions extends AdapterSource, RegistryOptions {
  /** Its name in the model; `"default"` by default. */
  readonly adapterName?: string;
  /** Whether training changes it; false by default. */
  readonly isTrainable?: boolean;
  /**
   * Whether keys that are missing or unexpected, other shapes and another base are errors. True by
   * default.
   */
  readonly strict?: boolean;
  /** Loads onto a base other than the one whose digest the file records. */
  readonly allowOtherBase?: boolean;
  /**
   * Other names for keys of the file, where the model calls its modules otherwise: regular
   * expressions in Python's syntax with what replaces their matches, as in `{ "^model\\.": "" }`. As
   * in PEFT, the prefix `base_model.model.` is no part of what they see, and of several expressions
   * the first that is found in a key counts.
   */
  readonly keyMapping?: KeyMapping;
  /** Whether adapter weights in f16 and bf16 become f32. True by default, as in PEFT. */
  readonly autocastAdapterDtype?: boolean;
  /**
   * Whether weights stay in the file until they are first used, and are kept from then on (PEFT's
   * `low_cpu_mem_usage`). False by default: they are read at once, so that the file may change
   * afterwards.
   */
  readonly lowMemory?: boolean;
  /**
   * Seed of what a method draws again on loading, such as the sketch of `pissa_niter`; that of
   * training. 0 by default.
   */
  readonly seed?: number;
  /**
   * What the adapter began with, where it took over a part of the base that its files do not tell:
   * of adapters with `initLoraWeights` `"corda"` or `"lora_ga"`, what measured it gave, or
   * `initialCalibration`.
   */
  readonly calibration?: Calibration;
  /** Is told what was used and what was not. */
  readonly onReport?: (report: AdapterLoadReport) => void;
}

/** What each option must be. */
export const LOAD_ADAPTER_OPTIONS: OptionRules<LoadAdapterOptions> = {
  ...ADAPTER_SOURCE_RULES,
  adapterName: null,
  isTrainable: BOOLEAN,
  strict: BOOLEAN,
  allowOtherBase: BOOLEAN,
  keyMapping: null,
  autocastAdapterDtype: BOOLEAN,
  lowMemory: BOOLEAN,
  seed: null,
  calibration: null,
  onReport: FUNCTION,
  registry: REGISTRY,
};

/**
 * A model with an adapter from a file. The first adapter of a model is active; further ones join it
 * and wait for `setAdapter`, as in PEFT. Weights in 16-bit floats become f32. The tensors are read
 * at once, so the file may change afterwards, unless `lowMemory` is set. Adapters of mlx-lm are
 * converted, keys that other programs write otherwise (`lora_A.default.weight`) are renamed, LoRAs
 * of single experts become those of the parameters that hold all of them, and adapters of BONE, which
 * PEFT no longer has, become those of MISS.
 * Where the file has an embedding or a head for more tokens than a base without other adapters has,
 * the base is resized (`resizeTokenEmbeddings`).
 *
 * @param model A base, or a model with adapters.
 * @param source A folder, the id of an adapter on the hub, or its parts.
 * @throws {CheckpointError} where the adapter does not fit the model: keys are missing or
 * unexpected, shapes differ, its file records that it was made for other weights, or holds values that
 * are no finite numbers; with `lowMemory` the last is found when they are used.
 * @throws {FileError} where files are missing or damaged; with `lowMemory` also later, where a
 * weight is first needed and its file is another by then.
 * @throws {ConfigError} where the config or `keyMapping` is not valid.
 * @throws {ValueError} where the name is taken, for a source that is neither a folder, an id nor
 * parts, for an option that cannot be, and where a `calibration` is needed and none is given.
 *
 * @example
 * ```ts
 * import { getPeftModel, loadAdapter, loraConfig, savePretrained, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const folder = await Deno.makeTempDir();
 * await savePretrained(getPeftModel(base, loraConfig({ r: 4 })), folder);
 * const model = await loadAdapter(base, folder, { adapterName: "style" });
 * console.log(model.active); // ["style"]
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function loadAdapter<T extends TaskType = TaskType>(
  model: AnyModel<T>,
  source: string | URL | AdapterParts,
  options: LoadAdapterOptions = {},
): Promise<PeftModel<T>> {
  checkOptions(options, LOAD_ADAPTER_OPTIONS, { code: "LOAD_OPTION", of: "loadAdapter" });
  const target = model?.type === "peft" ? model : emptyModel(model);
  checkNewName(target, options.adapterName ?? "default");
  const parts = typeof source === "string" || source instanceof URL
    ? await readAdapter(source, options)
    : checkParts(source);
  return await attachAdapter(target, parts, options) as PeftModel<T>;
}

/** What {@link loadAdapter} does once the adapter's files are open. */
export async function attachAdapter(
  target: PeftModel,
  given: AdapterParts | AdapterFiles,
  options: LoadAdapterOptions,
): Promise<PeftModel> {
  const { adapterName = "default", isTrainable = false, strict = true, registry } = options;
  const { parts, notes, renamed: former } = presentForm(given, registry);
  const { keyMapping = {}, autocastAdapterDtype = true, lowMemory = false } = options;
  const name = "folder" in parts ? parts.source : "The adapter";
  const { tensors: mapped, renamed } = mapKeys(
    lowMemory && "folder" in parts
      ? readOnUse(parts.tensors, { adapterName, name })
      : parts.tensors,
    keyMapping,
  );
  const asked: PeftConfig = { ...configOf(parts, registry), inferenceMode: !isTrainable };
  const layered = ownBase(target, asked, { registry });
  const { model, tensors, vocabulary } = await fitVocabulary(layered, mapped, {
    name,
    strict,
    lowMemory,
  });
  const origin = pristineBase(model), config = expertConfig(asked, tensors, origin);
  const both = () => describeBases(name, config, origin);
  const compared = await compareBase(origin, parts);
  // Rows that were added can be others than those that the adapter's base had.
  const base = model !== layered && compared === "other" ? "unknown" : compared;
  if (base === "other" && strict && !options.allowOtherBase) {
    throw new CheckpointError(
      "OTHER_BASE",
      `${both()} The weights differ: the digest in its file is not that of the model. ` +
        `Load the base that it was trained on, or pass allowOtherBase: true.`,
      { adapter: config.baseModelNameOrPath, model: origin.source },
    );
  }
  try {
    const adapter = createAdapter(origin, config, {
      adapterName,
      registry,
      seed: options.seed,
      calibration: options.calibration,
      allowUnmatched: true,
      loaded: true,
    });
    const injected = withNewAdapter(model, adapter, {
      active: model.adapters.size === 0,
      trainable: isTrainable,
    });
    const known = adapterKeys(origin, adapter, true);
    const stacked = expertAdapter(tensors, { adapter, known, base: origin });
    const plain = plainKeys(stacked.tensors, known);
    const { model: loaded, report } = await setAdapterStateDict(injected, plain.tensors, {
      adapterName,
      strict,
      autocastAdapterDtype,
      lowMemory,
    });
    options.onReport?.({
      ...report,
      base,
      vocabulary,
      notes,
      renamed: [
        former,
        "renamed" in parts ? parts.renamed ?? [] : [],
        renamed,
        stacked.renamed,
        plain.renamed,
      ].flat(),
      ignoredFields: ignoredFields(parts.config, registry),
    });
    return loaded;
  } catch (error) {
    if (!(error instanceof TargetError || error instanceof CheckpointError)) throw error;
    throw new CheckpointError(
      error.code,
      `${both()} They do not fit together. ${error.message}`,
      error.details,
    );
  }
}

/** What a file's config has that its method does not: all that {@link configOf} let pass. */
function ignoredFields(config: AdapterParts["config"], registry?: MethodRegistry): string[] {
  if ("peftType" in config) return [];
  const known = knownFields(config as JsonObject, { registry });
  return Object.keys(config).filter((key) => !Object.hasOwn(known, key));
}

/**
 * Tensors that are read from their file when they are first used, and kept from then on. Where the
 * file is another by then, the error says whose they were.
 */
function readOnUse(
  tensors: ReadonlyMap<string, Tensor>,
  of: { readonly adapterName: string; readonly name: string },
): ReadonlyMap<string, Tensor> {
  const onUse = (stored: Tensor): Tensor => ({
    ...stored,
    data: once(() =>
      stored.data().catch((cause) => {
        throw cause instanceof FileError ? noLongerReadable(cause, of) : cause;
      })
    ),
  });
  return new Map([...tensors].map(([key, stored]) => [key, onUse(stored)]));
}

function noLongerReadable(
  cause: FileError,
  of: { readonly adapterName: string; readonly name: string },
): FileError {
  return new FileError(
    cause.code,
    `A weight of the adapter ${JSON.stringify(of.adapterName)} cannot be read any more. It was ` +
      `loaded from ${of.name} with lowMemory, which leaves weights in the file until they are ` +
      `first used. ${cause.message} Load the adapter again, without lowMemory if its file is to ` +
      "be written while it is in use.",
    { ...cause.details, adapter: of.adapterName },
    { cause },
  );
}

function checkParts(parts: AdapterParts): AdapterParts {
  if (isObject(parts) && isObject(parts.config) && parts.tensors instanceof Map) return parts;
  throw new ValueError(
    "ADAPTER_SOURCE",
    `An adapter is a folder, an id on the hub, or { config, tensors } with the tensors in a Map; found ${
      show(parts)
    }.`,
  );
}

function describeBases(name: string, config: PeftConfig, base: ModelGraph): string {
  const named = (what: string | null) => what ? `"${what}"` : "a base without a name";
  return `${name} was made for ${named(config.baseModelNameOrPath)}, and the model is ${
    named(base.source)
  } (${base.architecture.name}).`;
}

async function compareBase(
  base: ModelGraph,
  parts: AdapterParts,
): Promise<AdapterLoadReport["base"]> {
  const recorded = parts.metadata?.[BASE_DIGEST];
  if (recorded === undefined) return "unknown";
  const same = sameBase(recorded, await hashBase(base));
  return same === undefined ? "unknown" : same ? "same" : "other";
}
