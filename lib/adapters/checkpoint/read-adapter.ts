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
import { openShards } from "../../io/checkpoint.ts";
import { openSafetensors } from "../../io/safetensors.ts";
import type { PeftConfig } from "../../methods/config.ts";
import type { MethodRegistry } from "../../methods/mod.ts";
import { fromPeftJson } from "../../methods/peft-json.ts";
import { type OptionRules, TEXT } from "../../options.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { fromMlx, isMlxConfig, MLX_WEIGHTS, shellWord } from "./foreign-adapter.ts";
import type { RenamedKey } from "./key-mapping.ts";

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
  /** Keys of another program, and what became of them. */
  readonly renamed?: readonly RenamedKey[];
}

/**
 * Reads the files of an adapter; tensors stay in the file until they are asked for. Weights in several
 * files (`adapter_model.safetensors.index.json`) and folders of mlx-lm are read too.
 *
 * @throws {FileError} where they are missing or damaged, and for weights in a Python pickle.
 * @throws {UnsupportedError} for what mlx-lm trained without an adapter.
 */
export async function readAdapter(
  source: string | URL,
  options: AdapterSource = {},
): Promise<AdapterFiles> {
  const folder = await folderOf(source, options, WEIGHT_FILES);
  const weights = join(folder, ADAPTER_FILES.weights),
    index = `${ADAPTER_FILES.weights}.index.json`;
  return await withSettledFiles(folder, async () => {
    const config = await readJsonFile(join(folder, ADAPTER_FILES.config));
    const found = { source: String(source), folder };
    if (!await exists(weights)) {
      if (await exists(join(folder, index))) {
        const tensors = (await openShards(folder, index)).flatMap((shard) => [...shard.tensors]);
        return { config, tensors: new Map(tensors), ...found };
      }
      if (isMlxConfig(config)) {
        const { tensors } = await openSafetensors(join(folder, MLX_WEIGHTS));
        return { ...fromMlx({ config, tensors }, folder), ...found };
      }
      if (await exists(join(folder, PICKLE))) throw pickled(folder, toSafetensors(folder));
    }
    const { tensors, metadata } = await openSafetensors(weights);
    return { config, tensors, metadata, ...found };
  });
}

/** One file, several of them with their index, or that of mlx-lm. */
const WEIGHT_FILES = ["adapter*.safetensors"];

/** What PEFT called its file of weights before safetensors. */
const PICKLE = "adapter_model.bin";

function pickled(source: string, command: string): FileError {
  return new FileError(
    "ADAPTER_PICKLE",
    `${source} holds its weights as ${PICKLE}, a Python pickle, which is not read here because it ` +
      `can run code. Convert it with\n\n  ${command}\n`,
    { folder: source },
  );
}

/** A command that converts the pickle in a folder, without running code in it. */
function toSafetensors(folder: string): string {
  return `python3 -c "import sys, torch; from safetensors.torch import save_file; ` +
    `save_file({k: v.contiguous().clone() for k, v in torch.load(sys.argv[1], map_location='cpu', ` +
    `weights_only=True).items()}, sys.argv[2], {'format': 'pt'})" ` +
    [PICKLE, ADAPTER_FILES.weights].map((name) => shellWord(join(folder, name))).join(" ");
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
  const folder = await folderOf(source, options, []);
  return await readJsonFile(join(folder, ADAPTER_FILES.config));
}

/** The folder that holds the config of an adapter and these files, where it has them. */
async function folderOf(
  source: string | URL,
  options: AdapterSource,
  names: readonly string[],
): Promise<string> {
  const { subfolder = "" } = options;
  const place = await locate(source);
  if (place.kind === "folder") return join(place.path, subfolder);
  if (place.kind === "hub") {
    const at = subfolder ? `${subfolder}/` : "";
    const files = [ADAPTER_FILES.config, ...names].map((name) => at + name);
    const optionalFiles = names.length ? [`${at}${ADAPTER_FILES.weights}.index.json`] : [];
    try {
      const { folder } = await downloadFromHub(place.id, { ...options, files, optionalFiles });
      return join(folder, subfolder);
    } catch (error) {
      const there = error instanceof FileError && error.details.files;
      if (names.length === 0 || !Array.isArray(there) || !there.includes(`${at}${PICKLE}`)) {
        throw error;
      }
      const folder = place.id.replace(/^.*\//, "");
      throw pickled(
        place.id,
        `hf download ${place.id} --include '${at}adapter*' --local-dir ${folder} && ${
          toSafetensors(join(folder, at))
        }\n\nand load the folder ${folder} instead.`,
      );
    }
  }
  throw new FileError(
    "NOT_A_FOLDER",
    `${source} is no folder; an adapter is a folder with ${ADAPTER_FILES.config} and ${ADAPTER_FILES.weights}, or an id on the hub. ` +
      "Give a parsed config to fromPeftJson, and one with its tensors to loadAdapter.",
  );
}
