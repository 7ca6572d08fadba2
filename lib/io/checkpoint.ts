/**
 * Checkpoints: the config and the parameters of a model, wherever they come from.
 *
 * @module
 */
import { basename, dirname, join } from "node:path";
import { FileError } from "../errors.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { wrap } from "./byte-source.ts";
import { withSettledFiles } from "./atomic-files.ts";
import { openGguf, splitName } from "./gguf.ts";
import { ggufTokenizerFiles } from "./gguf-tokenizer.ts";
import { downloadFromHub, type HubOptions, MODEL_FILES } from "./hub.ts";
import { isObject, type JsonObject, readJsonFile } from "./json.ts";
import { show } from "../options.ts";
import { exists, locate } from "./locate.ts";
import { openSafetensors, type SafetensorsFile } from "./safetensors.ts";
import { tokenizerFilesOf, type TokenizerSource } from "./tokenizer.ts";
import type { TokenizerFiles } from "./tokenizer-json.ts";

/** A model on disk. */
export interface Checkpoint extends TokenizerSource {
  /** The contents of `config.json`, or what it would say for a GGUF file. */
  readonly config: JsonObject;
  /** The contents of `generation_config.json`; empty where there is none. */
  readonly generationConfig: JsonObject;
  /**
   * Parameters by name. Only headers have been read; a tensor reads its bytes when its data is
   * asked for.
   */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Where it comes from. */
  readonly source: CheckpointSource;
  /**
   * Reads what its tokenizer is made from.
   *
   * @throws {FileError} `TOKENIZER_MISSING` where it has none.
   */
  readTokenizer(): Promise<TokenizerFiles>;
}

/** Where a checkpoint comes from. */
export interface CheckpointSource {
  /**
   * What was asked for: a path, a URL or the id of a model on the hub. This is what an adapter's
   * config names as its base.
   */
  readonly name: string;
  /** The format of its weights. */
  readonly format: "safetensors" | "gguf";
  /** The files that hold its weights: paths or URLs. */
  readonly files: readonly string[];
  /** The commit, for a model from the hub. */
  readonly revision?: string;
}

/** How to open a checkpoint. */
export interface OpenCheckpointOptions extends HubOptions {
  /**
   * The file of weights to open, where a folder or repository has several, such as the GGUF files
   * of one model.
   */
  readonly file?: string;
}

/**
 * Opens a checkpoint. Only headers are read.
 *
 * @param source A folder with `config.json` and either `model.safetensors`, or
 * `model.safetensors.index.json` and its shards, or a `.gguf` file; one of those files itself; the
 * URL of a `.gguf` file; or the id of a model on the Hugging Face hub, which is downloaded.
 * @throws {FileError} `CHECKPOINT_CONFIG`, `CHECKPOINT_WEIGHTS` (no weights, or several to choose
 * from), `CHECKPOINT_SHARD` (a shard is missing), `CHECKPOINT_KEY` (a parameter is missing from its
 * shard), `CHECKPOINT_INDEX`, or those of the formats.
 *
 * @example
 * ```ts ignore
 * import { openCheckpoint } from "@graft/peft";
 * const { config, parameters } = await openCheckpoint("SmolLM2-135M-Instruct.Q4_1.gguf");
 * console.log(config.model_type, parameters.get("model.norm.weight")?.shape);
 * ```
 */
export async function openCheckpoint(
  source: string | URL,
  options: OpenCheckpointOptions = {},
): Promise<Checkpoint> {
  const place = await locate(source);
  const name = place.kind === "hub" ? place.id : place.kind === "url" ? place.url : place.path;
  switch (place.kind) {
    case "folder":
      return await withSettledFiles(
        place.path,
        () => openFolder(place.path, { name, file: options.file }),
      );
    case "hub": {
      const { file } = options;
      const { folder, revision } = await downloadFromHub(place.id, {
        ...options,
        // The weights of another file are not needed then, but all parts of one.
        ...(file && {
          files: [splitName(file, "*")],
          optionalFiles: MODEL_FILES.filter((name) => !name.includes("safetensors")),
        }),
      });
      return await openFolder(folder, { name, file, revision });
    }
    case "file":
      if (!/\.(gguf|safetensors|safetensors\.index\.json)$/i.test(place.path)) {
        throw new FileError(
          "CHECKPOINT_WEIGHTS",
          `${place.path} is no file of weights. Give the folder, or its .safetensors, .safetensors.index.json or .gguf file.`,
          { path: place.path },
        );
      }
      return await openFolder(dirname(place.path), { name, file: basename(place.path) });
    case "url":
      if (!/\.gguf(\?|$)/i.test(place.url)) {
        throw new FileError(
          "CHECKPOINT_WEIGHTS",
          `${place.url} is not a .gguf file, the only kind of checkpoint that is one file. Give the model's id on the hub, or a folder.`,
          { url: place.url },
        );
      }
      return await openGgufCheckpoint(place.url, { name, fetch: options.fetch });
  }
}

interface FolderOptions {
  readonly name: string;
  readonly file?: string;
  readonly revision?: string;
}

async function openFolder(folder: string, options: FolderOptions): Promise<Checkpoint> {
  const file = options.file ?? await findWeights(folder);
  const path = join(folder, file);
  if (/\.gguf$/i.test(file)) return await openGgufCheckpoint(path, options);
  const config = await readConfig(folder);
  const shards = /\.index\.json$/.test(file)
    ? await openShards(folder, file)
    : [await openSafetensors(path)];
  const parameters = new Map<string, Tensor>();
  for (const { tensors } of shards) {
    for (const [key, tensor] of tensors) parameters.set(key, tensor);
  }
  const generation = join(folder, "generation_config.json");
  return {
    config,
    generationConfig: await exists(generation) ? await readJsonFile(generation) : {},
    parameters,
    source: {
      name: options.name,
      format: "safetensors",
      files: shards.map((shard) => shard.name),
      ...(options.revision && { revision: options.revision }),
    },
    readTokenizer: () => tokenizerFilesOf(folder),
  };
}

async function openGgufCheckpoint(
  path: string,
  options: { readonly name: string; readonly revision?: string; readonly fetch?: typeof fetch },
): Promise<Checkpoint> {
  const { files, config, generationConfig, parameters, metadata } = await openGguf(path, options);
  return {
    config,
    generationConfig,
    parameters,
    source: {
      name: options.name,
      format: "gguf",
      files,
      ...(options.revision && { revision: options.revision }),
    },
    readTokenizer: () => Promise.resolve().then(() => ggufTokenizerFiles(metadata, { name: path })),
  };
}

/** The file of weights in a folder: transformers' names first, else the only one there is. */
async function findWeights(folder: string): Promise<string> {
  const names: string[] = [];
  try {
    for await (const entry of Deno.readDir(folder)) names.push(entry.name);
  } catch (cause) {
    throw wrap(cause, "FILE_UNREADABLE", `${folder} could not be read`, { folder });
  }
  names.sort();
  for (const usual of ["model.safetensors", "model.safetensors.index.json"]) {
    if (names.includes(usual)) return usual;
  }
  const fail = (what: string) =>
    new FileError("CHECKPOINT_WEIGHTS", `${folder} ${what}`, { folder, files: names });
  if (names.includes("adapter_config.json")) {
    throw fail(
      "holds an adapter, not a model. Load the model that it was trained on, and the adapter onto that.",
    );
  }
  const safetensors = names.filter((name) => name.endsWith(".safetensors"));
  const candidates = safetensors.length
    ? safetensors
    : names.filter((name) =>
      /\.gguf$/i.test(name) && !/-(?!00001)\d{5}-of-\d{5}\.gguf$/i.test(name)
    );
  if (candidates.length === 1) return candidates[0];
  if (candidates.length > 1) {
    throw fail(`has several files of weights: ${candidates.join(", ")}. Say which, as { file }.`);
  }
  if (names.some((name) => /^(pytorch_)?model.*\.(bin|pt|pth|h5|msgpack)$/.test(name))) {
    throw fail(
      "has its weights in another format than safetensors. Save the model again with transformers, which writes model.safetensors.",
    );
  }
  throw fail("has no model.safetensors, model.safetensors.index.json or .gguf file.");
}

async function readConfig(folder: string): Promise<JsonObject> {
  const path = join(folder, "config.json");
  if (!await exists(path)) {
    throw new FileError(
      "CHECKPOINT_CONFIG",
      `${folder} has no config.json, so the kind of model is not known.`,
      { folder },
    );
  }
  return await readJsonFile(path);
}

/**
 * Opens the files that an index (`….safetensors.index.json`) in a folder names.
 *
 * @throws {FileError} `CHECKPOINT_INDEX`, `CHECKPOINT_SHARD` or `CHECKPOINT_KEY`.
 */
export async function openShards(folder: string, file: string): Promise<SafetensorsFile[]> {
  const path = join(folder, file);
  const { weight_map: map } = await readJsonFile(path);
  if (!isObject(map) || Object.keys(map).length === 0) {
    throw new FileError("CHECKPOINT_INDEX", `${path} has no weight_map.`, { path });
  }
  const keys = new Map<string, string[]>();
  for (const [key, shard] of Object.entries(map)) {
    if (typeof shard !== "string" || basename(shard) !== shard || !/^[^\0]+$/.test(shard)) {
      throw new FileError(
        "CHECKPOINT_INDEX",
        `${path} says that "${key}" lies in ${show(shard)}, which is no file name.`,
        { path, key },
      );
    }
    keys.set(shard, keys.get(shard) ?? []);
    keys.get(shard)!.push(key);
  }
  return await Promise.all(
    [...keys].map(async ([shard, wanted]) => {
      const opened = await openShard(join(folder, shard), wanted);
      const missing = wanted.filter((key) => !opened.tensors.has(key));
      if (missing.length) {
        throw new FileError(
          "CHECKPOINT_KEY",
          `${opened.name} lacks ${
            few(missing)
          }, which ${file} says it holds. The files do not belong together.`,
          { shard, keys: missing },
        );
      }
      // A shard may repeat what the index takes from another one.
      const tensors = [...opened.tensors].filter(([key]) =>
        !Object.hasOwn(map, key) || map[key] === shard
      );
      return { ...opened, tensors: new Map(tensors) };
    }),
  );
}

async function openShard(path: string, keys: readonly string[]): Promise<SafetensorsFile> {
  if (!await exists(path)) {
    throw new FileError(
      "CHECKPOINT_SHARD",
      `The shard ${path} is missing. It holds ${few(keys)}. Get it again.`,
      { path, keys },
    );
  }
  return await openSafetensors(path);
}

function few(keys: readonly string[]): string {
  const shown = keys.slice(0, 3).map((key) => `"${key}"`).join(", ");
  return keys.length > 3 ? `${shown} and ${keys.length - 3} more` : shown;
}
