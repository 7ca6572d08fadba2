/**
 * `savePretrained`: adapters as PEFT's files.
 *
 * @module
 */
import { join } from "node:path";
import { FileError } from "../../errors.ts";
import { pathOf } from "../../io/atomic.ts";
import { type GroupedFile, writeFilesAtomic } from "../../io/atomic-files.ts";
import { exists } from "../../io/locate.ts";
import { writeSafetensors } from "../../io/safetensors.ts";
import { type FieldType, PEFT_VERSION, type PeftConfig } from "../../methods/config.ts";
import { type MethodRegistry, REGISTRY } from "../../methods/mod.ts";
import { toPeftJson } from "../../methods/peft-json.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { BOOLEAN, checkOptions, NAMES } from "../../options.ts";
import { hashBase } from "../hash-base.ts";
import { configBaseName } from "./base-name.ts";
import { cardFile } from "./model-card.ts";
import { adaptedPaths } from "../parts.ts";
import { type Adapter, checkPeft, type PeftModel, pristineBase } from "../peft-model.ts";
import { type InitialState, plainLora, type SavedForm } from "../lora/plain-lora.ts";
import { ADAPTER_FILES } from "./read-adapter.ts";
import { adapterOf } from "../select.ts";
import {
  getAdapterStateDict,
  knowSizes,
  SAVE_EMBEDDING_LAYERS,
  type StateDictOptions,
} from "./state-dict.ts";

/** Where the weights' file keeps the digest of its base, which PEFT passes over. */
export const BASE_DIGEST = "base_digest";

/** How to save adapters. */
export interface SaveOptions extends StateDictOptions {
  /** Names of the adapters to save; all by default. */
  readonly selectedAdapters?: readonly string[];
  /**
   * Whether a digest of the base is stored with the weights, so that loading them onto another base
   * of the same shape is noticed. It takes reading the base once. True by default.
   */
  readonly recordBase?: boolean;
  /**
   * Saves adapters that began as a part of the base (PiSSA, OLoRA, CorDA) as plain LoRAs of twice the
   * rank, by the difference to their initial state, so that they can be used beside others without
   * taking that part out again. `true` takes the state that the adapter itself keeps. As in PEFT
   * (`path_initial_model_for_weight_conversion`), it may be a folder that was saved before training;
   * or an id on the hub, `{ config, tensors }`, or a model that has the adapter as it began.
   */
  readonly pathInitialModelForWeightConversion?: InitialState;
  /** Methods to look up how configs are written; adapters know it themselves by default. */
  readonly registry?: MethodRegistry;
}

/**
 * Saves adapters as `adapter_config.json` and `adapter_model.safetensors`, with a model card: the
 * files that Python PEFT writes and reads. The adapter `default` goes into the folder itself,
 * others into subfolders of their name.
 *
 * A base that was loaded by an absolute path is named by the way from the adapter's folder, and in the
 * card only if its id on the hub is known.
 *
 * All files are written under temporary names first and take their places together: when anything
 * fails, the folder is as it was.
 *
 * @param model A model with adapters.
 * @param folder Where to save; made where it does not exist.
 * @throws {ValueError} for a name that the model does not have, for an option that cannot be, and
 * where there is nothing to convert.
 * @throws {UnsupportedError} where an adapter cannot be converted.
 * @throws {CheckpointError} where the initial state is that of another adapter.
 * @throws {FileError} where writing fails, or a model card that is there cannot be read.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, savePretrained, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4 }));
 * const folder = await Deno.makeTempDir();
 * await savePretrained(model, folder);
 * console.log([...Deno.readDirSync(folder)].map(({ name }) => name).sort());
 * // ["README.md", "adapter_config.json", "adapter_model.safetensors"]
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function savePretrained(
  model: PeftModel,
  folder: string | URL,
  options: SaveOptions = {},
): Promise<void> {
  checkPeft(model);
  checkOptions(options, {
    selectedAdapters: NAMES,
    saveEmbeddingLayers: SAVE_EMBEDDING_LAYERS,
    recordBase: BOOLEAN,
    pathInitialModelForWeightConversion: null,
    registry: REGISTRY,
  }, { code: "SAVE_OPTION", of: "savePretrained" });
  const { selectedAdapters = [...model.adapters.keys()], recordBase = true } = options;
  const adapters = [...new Set(selectedAdapters)].map((name) => adapterOf(model, name));
  const root = pathOf(folder);
  if (await exists(root) && !(await Deno.stat(root)).isDirectory) {
    throw new FileError(
      "NOT_A_FOLDER",
      `${root} is a file; savePretrained needs the path of a folder.`,
      { path: root },
    );
  }
  const base = pristineBase(model);
  const digest = recordBase ? await hashBase(base) : undefined;
  const files: GroupedFile[] = [];
  for (const adapter of adapters) {
    const at = adapter.name === "default" ? root : join(root, adapter.name);
    const { config, tensors } = await savedForm(model, adapter, options);
    const metadata = { format: "pt", ...(digest ? { [BASE_DIGEST]: digest } : {}) };
    files.push(
      {
        path: join(at, ADAPTER_FILES.weights),
        write: (staged) => writeSafetensors(staged, tensors, { metadata }),
      },
      text(
        join(at, ADAPTER_FILES.config),
        toPeftJson(
          savedConfig(base, { ...adapter, config }, at),
          options.registry ? { registry: options.registry } : { schema: adapter.method.config },
        ),
      ),
    );
  }
  const about = adapters.find(({ name }) => model.active.includes(name)) ?? adapters[0];
  if (about) files.push(await cardFile(root, base, about.config));
  await writeFilesAtomic(files);
}

/** What an adapter's two files are to hold. */
async function savedForm(
  model: PeftModel,
  adapter: Adapter,
  options: SaveOptions,
): Promise<SavedForm> {
  const { saveEmbeddingLayers } = options;
  const tensors = getAdapterStateDict(model, adapter.name, { saveEmbeddingLayers });
  await knowSizes(adapter, tensors);
  const { pathInitialModelForWeightConversion: initial } = options;
  return initial === undefined
    ? { config: adapter.config, tensors }
    : await plainLora(adapter, { model, tensors, initial });
}

function text(path: string, contents: string): GroupedFile {
  return { path, write: (staged) => Deno.writeTextFile(staged, contents) };
}

/** The config with what PEFT fills in on saving. */
function savedConfig(base: ModelGraph, adapter: Adapter, folder: string): PeftConfig {
  const { config } = adapter;
  return {
    ...withUnorderedPatterns(adapter),
    peftVersion: PEFT_VERSION,
    inferenceMode: true,
    baseModelNameOrPath: configBaseName(
      config.baseModelNameOrPath ?? (base.source || null),
      folder,
    ),
    autoMapping: (config.taskType === null ? autoMapping(base) : null) ?? config.autoMapping,
  };
}

/**
 * In patterns such as `rankPattern` the first key that fits counts, but the file has its keys sorted.
 * Where that would change what a module gets, the patterns become one key for each module.
 */
function withUnorderedPatterns(adapter: Adapter): PeftConfig {
  const { config, method } = adapter, paths = adaptedPaths(adapter);
  const fields: Record<string, unknown> = {};
  for (const [field, { valueAt }] of Object.entries<FieldType<unknown>>(method.config.fields)) {
    const given = config[field as keyof PeftConfig] as unknown as Record<string, number> | null;
    if (!valueAt || !given) continue;
    const sorted = Object.fromEntries(Object.keys(given).sort().map((key) => [key, given[key]]));
    if (paths.every((path) => valueAt(given, path) === valueAt(sorted, path))) continue;
    fields[field] = Object.fromEntries(
      paths.map((path) => [path, valueAt(given, path)]).filter(([, value]) => value !== undefined),
    );
  }
  return { ...config, ...fields };
}

/**
 * The Python class of the base, from which PEFT makes a model where no task type says what it is
 * for.
 */
function autoMapping({ config }: ModelGraph): PeftConfig["autoMapping"] {
  const names = config.architectures;
  const name = Array.isArray(names) ? names[0] : undefined;
  if (typeof name !== "string" || typeof config.model_type !== "string") return null;
  const module = config.model_type.replaceAll("-", "_");
  return {
    base_model_class: name,
    parent_library: `transformers.models.${module}.modeling_${module}`,
  };
}
