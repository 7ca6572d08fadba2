/**
 * What a folder of sentence-transformers does with the hidden states of its model.
 *
 * @module
 */
import { join } from "node:path";
import { FileError, ShapeError, UnsupportedError } from "../errors.ts";
import { isObject, parseJson, readJsonFile, readTextFile } from "../io/json.ts";
import { exists } from "../io/locate.ts";
import { openSafetensors } from "../io/safetensors.ts";
import type { Pooling } from "../tasks/pooling.ts";
import { toFloat32 } from "../tensor/convert.ts";

/** How texts become embeddings. */
export interface SentenceModules {
  /** What stands for a text. */
  readonly pooling: Pooling;
  /** What follows on a pooled row, in order. */
  readonly steps: readonly ((row: Float32Array) => Float32Array)[];
  /** The longest row in tokens. */
  readonly maxLength?: number;
  /** Whether texts lose their capitals. */
  readonly lowerCase: boolean;
  /** What texts begin with. */
  readonly prompt: string;
}

const POOLING_MODES: Readonly<Record<string, Pooling>> = {
  cls: "cls",
  cls_token: "cls",
  max: "max",
  max_tokens: "max",
  mean: "mean",
  mean_tokens: "mean",
  lasttoken: "last",
};

const ACTIVATIONS: Readonly<Record<string, (x: number) => number>> = {
  Identity: (x) => x,
  Tanh: Math.tanh,
  ReLU: (x) => Math.max(x, 0),
};

/**
 * Reads what a folder's `modules.json` names.
 *
 * @returns `null` for a folder without it.
 * @throws {UnsupportedError} `SENTENCE_MODULE` for a module or a pooling that is not known here.
 */
export async function readSentenceModules(folder: string): Promise<SentenceModules | null> {
  const index = join(folder, "modules.json");
  if (!await exists(index)) return null;
  const { value } = parseJson(await readTextFile(index), index);
  const isModule = (one: unknown) =>
    isObject(one) && typeof one.path === "string" && !/^[\\/]|\.\.|:/.test(one.path);
  if (!Array.isArray(value) || !value.every(isModule)) {
    throw new FileError(
      "JSON_INVALID",
      `${index} holds no list of modules with a type and a path in its folder.`,
      { path: index },
    );
  }
  const optional = async (name: string) => {
    const path = join(folder, name);
    return await exists(path) ? await readJsonFile(path) : {};
  };
  const transformer = await optional("sentence_bert_config.json");
  const general = await optional("config_sentence_transformers.json");
  let pooling: Pooling = "mean";
  const steps: ((row: Float32Array) => Float32Array)[] = [];
  for (const { type, path } of value as { readonly type: unknown; readonly path: string }[]) {
    const kind = String(type).split(".").at(-1), at = join(folder, path);
    if (kind === "Pooling") pooling = poolingOf(await readJsonFile(join(at, "config.json")), at);
    else if (kind === "Normalize") steps.push(normalize);
    else if (kind === "Dense") steps.push(await readDense(at));
    else if (kind !== "Transformer") throw unsupported(`the module ${String(type)}`, folder);
  }
  const { prompts, default_prompt_name: name } = general;
  const prompt = isObject(prompts) ? prompts[String(name)] : undefined;
  const { max_seq_length: length } = transformer;
  return {
    pooling,
    steps,
    maxLength: typeof length === "number" && length > 0 ? length : undefined,
    lowerCase: transformer.do_lower_case === true,
    prompt: typeof prompt === "string" ? prompt : "",
  };
}

function poolingOf(config: Readonly<Record<string, unknown>>, folder: string): Pooling {
  const named = config.pooling_mode === undefined
    ? Object.keys(config).filter((key) => /^pooling_mode_/.test(key) && config[key] === true)
      .map((key) => key.slice("pooling_mode_".length))
    : [config.pooling_mode].flat().map(String);
  const [mode = "mean"] = named, pooling = POOLING_MODES[mode];
  if (!pooling || named.length > 1) {
    throw unsupported(`the pooling ${named.join(" with ")}`, folder);
  }
  if (config.include_prompt === false) throw unsupported("a pooling without the prompt", folder);
  return pooling;
}

async function readDense(folder: string): Promise<(row: Float32Array) => Float32Array> {
  const config = await readJsonFile(join(folder, "config.json"));
  const name = String(config.activation_function ?? "Identity").split(".").at(-1)!;
  const activation = ACTIVATIONS[name];
  if (!activation) throw unsupported(`the activation ${name}`, folder);
  const { tensors } = await openSafetensors(join(folder, "model.safetensors"));
  const stored = tensors.get("linear.weight"), bias = tensors.get("linear.bias");
  if (!stored || stored.shape.length !== 2) {
    throw new FileError("CHECKPOINT_KEY", `${folder} has no matrix linear.weight.`, { folder });
  }
  const [size, width] = stored.shape, weight = await toFloat32(stored);
  const begin = bias ? await toFloat32(bias) : new Float32Array(size);
  return (row) => {
    if (row.length !== width) {
      throw new ShapeError(
        "SENTENCE_MODULE",
        `${folder} has a weight [${stored.shape}], and gets vectors of ${row.length}.`,
      );
    }
    return begin.map((start, out) => {
      let total = start;
      for (let i = 0; i < width; i++) total += weight[out * width + i] * row[i];
      return activation(total);
    });
  };
}

/** A row of length 1. */
export function normalize(row: Float32Array): Float32Array {
  const length = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0));
  return row.map((x) => x / Math.max(length, 1e-12));
}

function unsupported(what: string, folder: string): UnsupportedError {
  return new UnsupportedError(
    "SENTENCE_MODULE",
    `${folder} asks for ${what}, which embed does not do. Give pooling and normalize yourself.`,
    { folder },
  );
}
