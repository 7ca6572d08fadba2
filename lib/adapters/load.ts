/**
 * `loadAdapter`: an adapter from PEFT's files.
 *
 * @module
 */
import { join } from "node:path";
import { CheckpointError, FileError, TargetError, ValueError } from "../errors.ts";
import { downloadFromHub, type HubOptions } from "../io/hub.ts";
import { isObject, readJsonFile } from "../io/json.ts";
import { exists, locate } from "../io/locate.ts";
import { openSafetensors } from "../io/safetensors.ts";
import type { PeftConfig } from "../methods/config.ts";
import type { MethodRegistry } from "../methods/mod.ts";
import { fromPeftJson } from "../methods/peft-json.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { hashBase, sameBase } from "./hash-base.ts";
import { checkNewName, createAdapter, emptyModel, withNewAdapter } from "./inject.ts";
import type { AnyModel, PeftModel } from "./peft-model.ts";
import { ADAPTER_FILES, BASE_DIGEST } from "./save.ts";
import { type LoadReport, setAdapterStateDict } from "./state-dict.ts";

/** An adapter that is in memory already. */
export interface AdapterParts {
  /** The parsed `adapter_config.json`, or a config. */
  readonly config: PeftConfig | Readonly<Record<string, unknown>>;
  /** Tensors under PEFT's keys. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Metadata of the safetensors file. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** What is known of the base that an adapter was trained on. */
export interface AdapterLoadReport extends LoadReport {
  /**
   * Whether its file records a digest of this base, of another one, or none that could be compared.
   */
  readonly base: "same" | "other" | "unknown";
}

/** How to load an adapter. */
export interface LoadAdapterOptions extends HubOptions {
  /** Its name in the model; `"default"` by default. */
  readonly adapterName?: string;
  /** Whether training changes it; false by default. */
  readonly isTrainable?: boolean;
  /** A folder inside the source, such as the name of an adapter that is not `default`. */
  readonly subfolder?: string;
  /**
   * Whether keys that are missing or unexpected, other shapes and another base are errors. True by
   * default.
   */
  readonly strict?: boolean;
  /** Loads onto a base other than the one whose digest the file records. */
  readonly allowOtherBase?: boolean;
  /**
   * Seed of what a method draws again on loading, such as the sketch of `pissa_niter`; that of
   * training. 0 by default.
   */
  readonly seed?: number;
  /** Is told what was used and what was not. */
  readonly onReport?: (report: AdapterLoadReport) => void;
  /** Methods that are known; the library's own by default. */
  readonly registry?: MethodRegistry;
}

/**
 * A model with an adapter from a file. On a base it is active; on a model with adapters it joins
 * them and waits for `setAdapter`, as in PEFT. Weights in 16-bit floats become f32. The tensors are
 * read at once, so the file may change afterwards.
 *
 * @param model A base, or a model with adapters.
 * @param source A folder, the id of an adapter on the hub, or its parts.
 * @throws {CheckpointError} where the adapter does not fit the model: keys are missing or
 * unexpected, shapes differ, or its file records that it was made for other weights.
 * @throws {FileError} where files are missing or damaged.
 * @throws {ConfigError} where the config is not valid.
 * @throws {ValueError} where the name is taken, and for a source that is neither a folder, an id
 * nor parts.
 *
 * @example
 * ```ts
 * import { createModel, getPeftModel, loadAdapter, loraConfig, savePretrained } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const folder = await Deno.makeTempDir();
 * await savePretrained(getPeftModel(base, loraConfig({ r: 4 })), folder);
 * const model = await loadAdapter(base, folder, { adapterName: "style" });
 * console.log(model.active); // ["style"]
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function loadAdapter(
  model: AnyModel,
  source: string | URL | AdapterParts,
  options: LoadAdapterOptions = {},
): Promise<PeftModel> {
  const { adapterName = "default", isTrainable = false, strict = true, registry } = options;
  const target = model?.type === "peft" ? model : emptyModel(model);
  checkNewName(target, adapterName);
  const name = typeof source === "string" || source instanceof URL ? String(source) : "the adapter";
  const parts = typeof source === "string" || source instanceof URL
    ? await readAdapter(source, options)
    : checkParts(source);
  const config: PeftConfig = {
    ...("peftType" in parts.config
      ? parts.config as PeftConfig
      : fromPeftJson(parts.config as Record<string, unknown>, { registry })),
    inferenceMode: !isTrainable,
  };
  const both = () => describeBases(name, config, target.base);
  const base = await compareBase(target.base, parts);
  if (base === "other" && strict && !options.allowOtherBase) {
    throw new CheckpointError(
      "OTHER_BASE",
      `${both()} The weights differ: the digest in its file is not that of the model. ` +
        `Load the base that it was trained on, or pass allowOtherBase: true.`,
      { adapter: config.baseModelNameOrPath, model: target.base.source },
    );
  }
  try {
    const adapter = createAdapter(target.base, config, {
      adapterName,
      registry,
      seed: options.seed,
      allowUnmatched: true,
      loaded: true,
    });
    const injected = withNewAdapter(target, adapter, { active: model.type === "model" });
    const { model: loaded, report } = await setAdapterStateDict(injected, parts.tensors, {
      adapterName,
      strict,
    });
    options.onReport?.({ ...report, base });
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

/** Reads the two files of an adapter; tensors stay in the file until they are asked for. */
export async function readAdapter(
  source: string | URL,
  options: HubOptions & { readonly subfolder?: string } = {},
): Promise<AdapterParts> {
  const folder = join(await folderOf(source, options), options.subfolder ?? "");
  const weights = join(folder, ADAPTER_FILES.weights);
  const config = await readJsonFile(join(folder, ADAPTER_FILES.config));
  if (!await exists(weights) && await exists(join(folder, "adapter_model.bin"))) {
    throw new FileError(
      "ADAPTER_PICKLE",
      `${folder} holds its weights as adapter_model.bin, a Python pickle, which is not read here because it can run code. ` +
        `Convert it with safetensors.torch.save_file in Python.`,
      { folder },
    );
  }
  const { tensors, metadata } = await openSafetensors(weights);
  return { config, tensors, metadata };
}

async function folderOf(
  source: string | URL,
  options: HubOptions & { readonly subfolder?: string },
): Promise<string> {
  const place = await locate(source);
  if (place.kind === "folder") return place.path;
  if (place.kind === "hub") {
    const at = options.subfolder ? `${options.subfolder}/` : "";
    const files = [`${at}${ADAPTER_FILES.config}`, `${at}${ADAPTER_FILES.weights}`];
    return (await downloadFromHub(place.id, { ...options, files, optionalFiles: [] })).folder;
  }
  throw new FileError(
    "NOT_A_FOLDER",
    `${source} is no folder; an adapter is a folder with ${ADAPTER_FILES.config} and ${ADAPTER_FILES.weights}, or an id on the hub.`,
  );
}
