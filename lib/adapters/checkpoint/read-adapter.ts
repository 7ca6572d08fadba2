/**
 * The files of an adapter, and what is read from them.
 *
 * @module
 */
import { join } from "node:path";
import { FileError } from "../../errors.ts";
import { withSettledFiles } from "../../io/atomic-files.ts";
import { downloadFromHub, HUB_RULES, type HubOptions } from "../../io/hub.ts";
import { type JsonObject, readJsonFile } from "../../io/json.ts";
import { exists, locate } from "../../io/locate.ts";
import { openSafetensors } from "../../io/safetensors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import type { MethodRegistry } from "../../methods/mod.ts";
import { fromPeftJson } from "../../methods/peft-json.ts";
import { type OptionRules, TEXT } from "../../options.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/** Names of the files, as PEFT has them. */
export const ADAPTER_FILES = {
  config: "adapter_config.json",
  weights: "adapter_model.safetensors",
  card: "README.md",
} as const;

/** An adapter that is in memory already. */
export interface AdapterParts {
  /** The parsed `adapter_config.json`, or a config. */
  readonly config: PeftConfig | Readonly<Record<string, unknown>>;
  /** Tensors under PEFT's keys. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Metadata of the safetensors file. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** The config of an adapter, however it is written. */
export function configOf({ config }: AdapterParts, registry?: MethodRegistry): PeftConfig {
  return "peftType" in config
    ? config as PeftConfig
    : fromPeftJson(config as Readonly<Record<string, unknown>>, { registry });
}

/** Where an adapter's files are. */
export interface AdapterSource extends HubOptions {
  /** A folder inside the source, such as the name of an adapter that is not `default`. */
  readonly subfolder?: string;
}

/** What the options of {@link AdapterSource} must be. */
export const ADAPTER_SOURCE_RULES: OptionRules<AdapterSource> = { subfolder: TEXT, ...HUB_RULES };

/** An adapter as read from its files, and where they are. */
export interface AdapterFiles extends AdapterParts {
  /** The parsed `adapter_config.json`. */
  readonly config: Readonly<Record<string, unknown>>;
  /** What was asked for. */
  readonly source: string;
  /** The folder that holds them; of an adapter from the hub it is in the cache. */
  readonly folder: string;
}

/**
 * Reads the two files of an adapter; tensors stay in the file until they are asked for.
 *
 * @throws {FileError} where they are missing or damaged, and for weights in a Python pickle.
 */
export async function readAdapter(
  source: string | URL,
  options: AdapterSource = {},
): Promise<AdapterFiles> {
  const folder = await folderOf(source, options, [ADAPTER_FILES.config, ADAPTER_FILES.weights]);
  const weights = join(folder, ADAPTER_FILES.weights);
  return await withSettledFiles(folder, async () => {
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
    return { config, tensors, metadata, source: String(source), folder };
  });
}

/**
 * Reads the config of an adapter, and no other of its files.
 *
 * @throws {FileError} where it is missing or damaged.
 */
export async function readAdapterConfig(
  source: string | URL,
  options: AdapterSource = {},
): Promise<JsonObject> {
  const folder = await folderOf(source, options, [ADAPTER_FILES.config]);
  return await readJsonFile(join(folder, ADAPTER_FILES.config));
}

/** The folder that holds these files of an adapter, where it has them. */
async function folderOf(
  source: string | URL,
  options: AdapterSource,
  names: readonly string[],
): Promise<string> {
  const { subfolder = "" } = options;
  const place = await locate(source);
  if (place.kind === "folder") return join(place.path, subfolder);
  if (place.kind === "hub") {
    const files = names.map((name) => join(subfolder, name).replaceAll("\\", "/"));
    const { folder } = await downloadFromHub(place.id, { ...options, files, optionalFiles: [] });
    return join(folder, subfolder);
  }
  throw new FileError(
    "NOT_A_FOLDER",
    `${source} is no folder; an adapter is a folder with ${ADAPTER_FILES.config} and ${ADAPTER_FILES.weights}, or an id on the hub. ` +
      "Give a parsed config to fromPeftJson, and one with its tensors to loadAdapter.",
  );
}
