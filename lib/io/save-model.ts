/**
 * `saveModel`: a model as a checkpoint folder that transformers reads.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { FileError, ValueError } from "../errors.ts";
import { fileName, type ModelGraph, parameterOf, structureOf } from "../model/model-graph.ts";
import { checkOptions, oneOf, POSITIVE } from "../options.ts";
import { castTensor } from "../tensor/convert.ts";
import {
  byteLength,
  commonType,
  isBlockType,
  isFloating,
  isWeightType,
  sizeOf,
  WEIGHT_TYPES,
} from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type GroupedFile, writeFilesAtomic } from "./atomic-files.ts";
import { onDisk, pathOf } from "./atomic.ts";
import { tokenizerOf } from "./model-tokenizer.ts";
import { ownConfig } from "./replicate-layers.ts";
import { writeSafetensors } from "./safetensors.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** How to save a model. */
export interface SaveModelOptions {
  /**
   * Type of all floating weights; the model's `dtype` by default.
   */
  readonly dtype?: "f32" | "f16" | "bf16";
  /** Bytes of weights in a file at most, unless one tensor alone has more; 5 · 10⁹ by default. */
  readonly maxShardSize?: number;
  /**
   * The tokenizer to save beside the model, or `false` for none; by default that of the place that
   * the model was loaded from, if there is one.
   */
  readonly tokenizer?: Tokenizer | false;
}

/** Files of an earlier save that the new one replaces by others, or by none. */
const WEIGHT_FILES = /^model(-\d{5}-of-\d{5})?\.safetensors$|^model\.safetensors\.index\.json$/;

/**
 * Saves a model: `config.json`, `generation_config.json` where it has one, `model.safetensors` or
 * numbered shards with `model.safetensors.index.json`, and the tokenizer. Tied parameters are
 * stored once, repeated layers (`replicateLayers`) as often as they come.
 *
 * All files take their places together, those of earlier weights go: whatever ends the process, the
 * folder holds the old model or the new one.
 *
 * @param model The model; adapters are merged before (`mergeAndUnload`).
 * @param folder Where to save it.
 * @throws {FileError} where writing fails; the target is as it was.
 * @throws {ValueError} for a model with adapters.
 *
 * @example
 * ```ts
 * import { loadModel, saveModel, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using device = model.device;
 * const folder = await Deno.makeTempDir();
 * await saveModel(model, folder, { dtype: "f16" });
 * const again = await loadModel(folder, { device });
 * console.log(again.parameters.get("model.norm.weight")!.dtype); // f16
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function saveModel(
  model: ModelGraph,
  folder: string | URL,
  options: SaveModelOptions = {},
): Promise<void> {
  if (model?.type !== "model") {
    throw new ValueError(
      "NOT_A_BASE",
      "saveModel saves a model without adapters. Merge them before (mergeAndUnload), or save them alone (savePretrained).",
    );
  }
  checkOptions(options, {
    dtype: oneOf(["f32", "f16", "bf16"]),
    maxShardSize: POSITIVE,
    tokenizer: null,
  }, { code: "SAVE_OPTION", of: "saveModel" });
  const target = resolve(pathOf(folder));
  if (await Deno.stat(target).then((found) => !found.isDirectory, () => false)) {
    throw new FileError(
      "NOT_A_FOLDER",
      `${target} is a file; saveModel needs the path of a folder.`,
      {
        path: target,
      },
    );
  }
  const parameters = storedParameters(model, options.dtype);
  const text = (name: string, contents: unknown): GroupedFile => ({
    path: join(target, name),
    write: (staged) => onDisk(target, () => Deno.writeTextFile(staged, json(contents))),
  });
  const files = [
    ...weightFiles(target, parameters, options.maxShardSize ?? 5e9),
    text("config.json", savedConfig(model, parameters)),
  ];
  if (Object.keys(model.generationConfig).length) {
    files.push(text("generation_config.json", model.generationConfig));
  }
  const tokenizer = options.tokenizer ?? await ownTokenizer(model);
  if (tokenizer) {
    files.push(
      text("tokenizer.json", tokenizer.files.tokenizer),
      text("tokenizer_config.json", tokenizer.files.config),
    );
  }
  await writeFilesAtomic(files, { replaces: WEIGHT_FILES });
}

function storedParameters(
  model: ModelGraph,
  dtype: SaveModelOptions["dtype"],
): Map<string, Tensor> {
  const ties = ownTies(model);
  const copies = [...model.tied.keys()].filter((name) => !ties.has(name));
  return new Map([...model.parameters.keys(), ...copies].map((name) => {
    const tensor = parameterOf(model, name);
    const to = isBlockType(tensor.dtype) || isWeightType(tensor.dtype)
      ? dtype ?? model.dtype
      : isFloating(tensor.dtype)
      ? dtype
      : undefined;
    return [fileName(name, model.architecture), to ? castTensor(tensor, to) : tensor];
  }));
}

/** What a model's config ties: not layers that are repeated, of which files know nothing. */
function ownTies(model: ModelGraph): ReadonlyMap<string, string> {
  return structureOf({ ...model, layerOrder: undefined }).tied;
}

/** The config with the type of the weights, and without a tie that a change has cut. */
function savedConfig(
  model: ModelGraph,
  parameters: ReadonlyMap<string, Tensor>,
): Record<string, unknown> {
  const config: Record<string, unknown> = { ...ownConfig(model) };
  const cut = [...ownTies(model).keys()].some((name) => !model.tied.has(name));
  if (cut) config.tie_word_embeddings = false;
  const type = WEIGHT_TYPES[commonType(parameters.values())];
  config["torch_dtype" in config ? "torch_dtype" : "dtype"] = type;
  delete config.quantization_config;
  return config;
}

/** The files of weights, and their index where there are several. */
function weightFiles(
  folder: string,
  parameters: ReadonlyMap<string, Tensor>,
  maxShardSize: number,
): GroupedFile[] {
  const metadata = { format: "pt" };
  const shards: Map<string, Tensor>[] = [];
  let room = 0;
  let total = 0;
  for (const [name, tensor] of parameters) {
    const bytes = byteLength(tensor.dtype, tensor.shape);
    if (shards.length === 0 || bytes > room) {
      shards.push(new Map());
      room = maxShardSize;
    }
    shards[shards.length - 1].set(name, tensor);
    room -= bytes;
    total += bytes;
  }
  const weights = (name: string, tensors: ReadonlyMap<string, Tensor>): GroupedFile => ({
    path: join(folder, name),
    write: (staged) => writeSafetensors(staged, tensors, { metadata }),
  });
  if (shards.length === 1) return [weights("model.safetensors", shards[0])];
  const number = (n: number) => String(n).padStart(5, "0");
  const weightMap: Record<string, string> = {};
  const files = shards.map((shard, i) => {
    const file = `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    for (const name of shard.keys()) weightMap[name] = file;
    return weights(file, shard);
  });
  const elements = [...parameters.values()].reduce((n, { shape }) => n + sizeOf(shape), 0);
  const index = {
    metadata: { total_parameters: elements, total_size: total },
    weight_map: weightMap,
  };
  const path = join(folder, "model.safetensors.index.json");
  return [...files, {
    path,
    write: (staged) => onDisk(path, () => Deno.writeTextFile(staged, json(index))),
  }];
}

async function ownTokenizer(model: ModelGraph): Promise<Tokenizer | false> {
  try {
    return await tokenizerOf(model);
  } catch (error) {
    if (error instanceof FileError && error.code === "TOKENIZER_MISSING") return false;
    throw error;
  }
}

/** As Python writes it: keys of the outermost object in order, two spaces. */
function json(contents: unknown): string {
  const sorted = Object.entries(contents as object).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify(Object.fromEntries(sorted), null, 2) + "\n";
}
