/**
 * GGUF files of the llama family, as transformers would have saved the same model.
 *
 * @module
 */
import { basename, dirname, join } from "node:path";
import { FileError, UnsupportedError } from "../errors.ts";
import { byteLength } from "../tensor/dtype.ts";
import { lazyTensor, type Tensor } from "../tensor/tensor.ts";
import type { ByteSourceOptions } from "./byte-source.ts";
import { ggufArchitecture, ggufConfig, ggufGenerationConfig } from "./gguf-config.ts";
import { type GgufContents, type GgufValue, readGguf } from "./gguf-reader.ts";
import type { JsonObject } from "./json.ts";

/** A GGUF model under transformers' names. */
export interface GgufFile {
  /** Its path or URL. */
  readonly name: string;
  /** Paths or URLs of all its files, where it is split. */
  readonly files: readonly string[];
  /** Metadata by key, the tokenizer's included. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** What transformers' `config.json` would say. */
  readonly config: JsonObject;
  /** What `generation_config.json` would say. */
  readonly generationConfig: JsonObject;
  /**
   * Parameters by transformers' names, such as `model.layers.0.self_attn.q_proj.weight`. Block
   * types stay quantized; each tensor reads its bytes when its data is asked for.
   */
  readonly parameters: ReadonlyMap<string, Tensor>;
}

const NAMES: Readonly<Record<string, string>> = {
  "token_embd": "model.embed_tokens",
  "output_norm": "model.norm",
  "output": "lm_head",
};

const LAYER_NAMES: Readonly<Record<string, string>> = {
  "attn_norm": "input_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
  "ffn_norm": "post_attention_layernorm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
};

/** Tables that follow from the config. */
const DERIVED = /^(rope_freqs\.weight|blk\.\d+\.attn_rot_embd)/;

/**
 * Opens a GGUF file of the llama family (architectures `llama`, which is also Mistral's, `qwen2`
 * and `qwen3`). Only its header is read. A model that is split into several files is opened by any
 * of them.
 *
 * llama.cpp stores the rows of the query and key projections of `llama` models in another order;
 * they are put back.
 *
 * @param source A path, a `file:` or `http(s):` URL, or the bytes of a file.
 * @throws {FileError} where the file is missing, damaged, incomplete or lacks metadata.
 * @throws {UnsupportedError} for another architecture, element type or tensor.
 */
export async function openGguf(
  source: string | URL | Uint8Array,
  options: ByteSourceOptions = {},
): Promise<GgufFile> {
  const contents = await withSplits(await readGguf(source, options), source, options);
  const { name, files, metadata, tensors } = contents;
  const architecture = ggufArchitecture(contents);
  const config = await ggufConfig(contents);
  const layers = new Set([...tensors.keys()].map((key) => key.match(/^blk\.(\d+)\./)?.[1]));
  layers.delete(undefined);
  if (layers.size !== config.num_hidden_layers) {
    throw new FileError(
      "GGUF_INVALID",
      `${name} says that it has ${config.num_hidden_layers} layers, and has tensors of ${layers.size}.`,
      { name, layers: layers.size },
    );
  }
  const heads = {
    attn_q: config.num_attention_heads as number,
    attn_k: config.num_key_value_heads as number,
  };
  const parameters = new Map<string, Tensor>();
  const unknown: string[] = [];
  for (const [key, tensor] of tensors) {
    if (DERIVED.test(key)) continue;
    const renamed = renameTensor(key);
    if (renamed === undefined) {
      unknown.push(key);
      continue;
    }
    const projection = key.match(/\.(attn_[qk])\./)?.[1] as keyof typeof heads | undefined;
    parameters.set(
      renamed,
      architecture === "llama" && projection
        ? restoreRows(tensor, { heads: heads[projection], name: key })
        : tensor,
    );
  }
  if (unknown.length) {
    throw new UnsupportedError(
      "GGUF_TENSOR",
      `${name} has ${unknown.length} tensors that a plain ${architecture} model lacks: ${
        unknown.slice(0, 5).join(", ")
      }${unknown.length > 5 ? " …" : ""}. Mixtures of experts and other extensions cannot be read.`,
      { name, tensors: unknown },
    );
  }
  return {
    name,
    files,
    metadata,
    config,
    generationConfig: ggufGenerationConfig(metadata),
    parameters,
  };
}

function renameTensor(key: string): string | undefined {
  const layer = key.match(/^blk\.(\d+)\.(\w+)\.(weight|bias)$/);
  if (layer) {
    const name = LAYER_NAMES[layer[2]];
    return name && `model.layers.${layer[1]}.${name}.${layer[3]}`;
  }
  const top = key.match(/^(\w+)\.(weight|bias)$/);
  const name = top && NAMES[top[1]];
  return name ? `${name}.${top[2]}` : undefined;
}

/**
 * llama.cpp interleaves the two halves of each head of llama's query and key projections (rows 0,
 * D/2, 1, D/2 + 1, …), as its rotary embedding turns neighbours. Whole rows move, so quantized
 * blocks stay as they are.
 */
function restoreRows(
  tensor: Tensor,
  options: { readonly heads: number; readonly name: string },
): Tensor {
  const { dtype, shape } = tensor;
  const rows = shape[0], half = rows / options.heads / 2;
  if (!Number.isInteger(half)) {
    throw new FileError(
      "GGUF_INVALID",
      `The tensor "${options.name}" has ${rows} rows, which ${options.heads} heads cannot share evenly.`,
      { tensor: options.name, shape },
    );
  }
  const rowBytes = byteLength(dtype, shape.slice(1));
  return lazyTensor({ dtype, shape }, async () => {
    const data = await tensor.data();
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const out = new Uint8Array(bytes.length);
    for (let head = 0; head < rows; head += 2 * half) {
      for (let i = 0; i < half; i++) {
        for (let side = 0; side < 2; side++) {
          const from = (head + 2 * i + side) * rowBytes;
          out.set(bytes.subarray(from, from + rowBytes), (head + side * half + i) * rowBytes);
        }
      }
    }
    return out;
  });
}

/** The name of one file of a split model: its number, and how many there are. */
const SPLIT = /-(\d{5})-of-(\d{5})\.gguf$/i;

/** The name of another file of the same split model; with `*` for the number, a pattern for all. */
export function splitName(file: string, part: number | "*"): string {
  return file.replace(
    SPLIT,
    (name) => `-${part === "*" ? part : String(part).padStart(5, "0")}${name.slice(6)}`,
  );
}

/**
 * Adds the tensors of the other files of a split model (`…-00001-of-00003.gguf`); the first one has
 * the metadata.
 */
async function withSplits(
  contents: GgufContents,
  source: string | URL | Uint8Array,
  options: ByteSourceOptions,
): Promise<GgufContents & { readonly files: readonly string[] }> {
  const { name, metadata } = contents;
  const count = metadata.get("split.count") ?? 1;
  if (count === 1) return { ...contents, files: [name] };
  const invalid = (what: string) => new FileError("GGUF_SPLIT", what, { name, count });
  const url = /^https?:/.test(name) ? new URL(name) : undefined;
  const file = basename(url?.pathname ?? name), [, , total] = file.match(SPLIT) ?? [];
  if (source instanceof Uint8Array || Number(total) !== count) {
    throw invalid(
      `${name} is one of ${count} parts of a model. Open it under its name, which ends in -00001-of-${
        String(count).padStart(5, "0")
      }.gguf, with the other parts beside it.`,
    );
  }
  const at = (part: string) =>
    url ? String(new URL(part + url.search, url)) : join(dirname(name), part);
  const paths = Array.from({ length: count }, (_, i) => at(splitName(file, i + 1)));
  const tensors = new Map<string, Tensor>();
  let first = metadata;
  for (const [i, path] of paths.entries()) {
    const split = splitName(file, i + 1) === file ? contents : await readGguf(path, options);
    if (i === 0) first = split.metadata;
    if (split.metadata.get("split.count") !== count || split.metadata.get("split.no") !== i) {
      throw invalid(
        `${path} should be part ${
          i + 1
        } of ${count} of a model, and says otherwise. The files do not belong together.`,
      );
    }
    for (const [key, tensor] of split.tensors) {
      if (tensors.has(key)) throw invalid(`The parts of ${name} have the tensor "${key}" twice.`);
      tensors.set(key, tensor);
    }
  }
  const wanted = first.get("split.tensors.count");
  if (wanted !== undefined && wanted !== tensors.size) {
    throw invalid(
      `The ${count} parts of ${name} hold ${tensors.size} tensors, but should hold ${wanted}.`,
    );
  }
  return { name, files: paths, metadata: first, tensors };
}
