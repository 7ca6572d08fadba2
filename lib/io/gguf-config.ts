/**
 * transformers' `config.json` from the metadata of a GGUF file.
 *
 * @module
 */
import { FileError, UnsupportedError } from "../errors.ts";
import { toFloat32 } from "../tensor/convert.ts";
import type { GgufContents, GgufValue } from "./gguf-reader.ts";
import type { JsonObject } from "./json.ts";

const CLASSES: Readonly<Record<string, string>> = {
  llama: "LlamaForCausalLM",
  mistral: "MistralForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
};

/** The architectures, as GGUF names them, that can be read. */
export type GgufArchitecture = "llama" | "qwen2" | "qwen3";

/**
 * The architecture of a file.
 *
 * @throws {FileError} where the file does not say.
 * @throws {UnsupportedError} where it is not one of the llama family.
 */
export function ggufArchitecture(contents: GgufContents): GgufArchitecture {
  const { name, metadata } = contents;
  const architecture = metadata.get("general.architecture");
  if (typeof architecture !== "string") {
    throw new FileError("GGUF_METADATA", `${name} does not say its general.architecture.`, {
      name,
    });
  }
  if (architecture !== "llama" && architecture !== "qwen2" && architecture !== "qwen3") {
    throw new UnsupportedError(
      "GGUF_ARCHITECTURE",
      `${name} is a "${architecture}" model. Supported are llama (also Mistral), qwen2 and qwen3.`,
      { name, architecture },
    );
  }
  return architecture;
}

/**
 * The config that transformers would have saved with the model. Floats that GGUF keeps in 32 bits
 * come as the shortest decimal that means the same (1e-5, not 9.99999974738e-6).
 *
 * @throws {FileError} `GGUF_METADATA` where the file lacks what a config needs.
 */
export async function ggufConfig(contents: GgufContents): Promise<JsonObject> {
  const { metadata, tensors } = contents;
  const architecture = ggufArchitecture(contents);
  const read = reader(contents, architecture);
  const type = modelType(metadata, architecture);
  const embedding = tensors.get("token_embd.weight");
  if (!embedding) {
    throw new FileError("GGUF_METADATA", `${contents.name} has no tensor "token_embd.weight".`, {
      name: contents.name,
    });
  }
  const hiddenSize = read.required("embedding_length");
  const heads = read.required("attention.head_count");
  const headSize = read.optional("attention.key_length") ??
    (architecture === "llama" ? read.optional("rope.dimension_count") : undefined) ??
    hiddenSize / heads;
  const rotary = read.optional("rope.dimension_count") ?? headSize;
  const theta = read.optional("rope.freq_base") ?? 10000;
  const scaling = await ropeScaling(contents, { architecture, theta, rotary });
  const window = read.optional("attention.sliding_window");
  const token = (key: string) => metadata.get(`tokenizer.ggml.${key}_token_id`) ?? null;
  return {
    architectures: [CLASSES[type]],
    model_type: type,
    vocab_size: embedding.shape[0],
    hidden_size: hiddenSize,
    intermediate_size: read.required("feed_forward_length"),
    num_hidden_layers: read.required("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: read.optional("attention.head_count_kv") ?? heads,
    head_dim: headSize,
    hidden_act: "silu",
    max_position_embeddings: read.required("context_length"),
    rms_norm_eps: read.required("attention.layer_norm_rms_epsilon"),
    rope_theta: theta,
    rope_scaling: scaling,
    ...(rotary !== headSize && { partial_rotary_factor: rotary / headSize }),
    ...(type === "mistral" && { sliding_window: window ?? null }),
    ...(architecture !== "qwen2" && { attention_bias: tensors.has("blk.0.attn_q.bias") }),
    ...(architecture === "llama" && { mlp_bias: tensors.has("blk.0.ffn_up.bias") }),
    tie_word_embeddings: !tensors.has("output.weight"),
    bos_token_id: token("bos"),
    eos_token_id: token("eos"),
    pad_token_id: token("padding"),
  };
}

/**
 * The token ids of `generation_config.json`; a separate end-of-turn token ends a generation too.
 */
export function ggufGenerationConfig(metadata: ReadonlyMap<string, GgufValue>): JsonObject {
  const token = (key: string) => metadata.get(`tokenizer.ggml.${key}_token_id`);
  const ends = new Set([token("eos"), token("eot")].filter((id) => typeof id === "number"));
  const config: Record<string, unknown> = {};
  if (token("bos") !== undefined) config.bos_token_id = token("bos");
  if (ends.size) config.eos_token_id = ends.size === 1 ? [...ends][0] : [...ends];
  if (token("padding") !== undefined) config.pad_token_id = token("padding");
  return config;
}

/** Mistral models carry llama's architecture; only their names, or a sliding window, tell. */
function modelType(
  metadata: ReadonlyMap<string, GgufValue>,
  architecture: GgufArchitecture,
): string {
  if (architecture !== "llama") return architecture;
  const names = ["general.name", "general.basename"].map((key) => String(metadata.get(key) ?? ""));
  const mistral = names.some((name) => /mistral/i.test(name)) ||
    metadata.has("llama.attention.sliding_window");
  return mistral ? "mistral" : "llama";
}

interface Reader {
  required(key: string): number;
  optional(key: string): number | undefined;
}

function reader(contents: GgufContents, architecture: GgufArchitecture): Reader {
  const optional = (key: string) => {
    const value = contents.metadata.get(`${architecture}.${key}`);
    // Some writers repeat a number for each layer.
    const one = Array.isArray(value) && new Set(value).size === 1 ? value[0] : value;
    if (one === undefined) return undefined;
    if (typeof one !== "number") {
      throw new UnsupportedError(
        "GGUF_METADATA",
        `${architecture}.${key} of ${contents.name} is ${
          Array.isArray(one) ? "different for each layer" : `no number: ${one}`
        }, which cannot be read.`,
        { name: contents.name, key },
      );
    }
    return Number.isInteger(one) ? one : shortest(one);
  };
  const required = (key: string) => {
    const value = optional(key);
    if (value === undefined) {
      throw new FileError(
        "GGUF_METADATA",
        `${contents.name} lacks the metadata ${architecture}.${key}. Convert the model again.`,
        { name: contents.name, key },
      );
    }
    return value;
  };
  return { optional, required };
}

/** The shortest decimal that rounds to the same 32-bit float. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}

async function ropeScaling(
  contents: GgufContents,
  options: { architecture: GgufArchitecture; theta: number; rotary: number },
): Promise<JsonObject | null> {
  const { metadata, tensors } = contents;
  const read = reader(contents, options.architecture);
  const original = read.optional("rope.scaling.original_context_length");
  const freqs = tensors.get("rope_freqs.weight");
  if (freqs) return fromFactors(await toFloat32(freqs), { ...options, original });
  const type = metadata.get(`${options.architecture}.rope.scaling.type`);
  const factor = read.optional("rope.scaling.factor") ?? read.optional("rope.scale_linear");
  if (factor === undefined || factor === 1 || type === "none") return null;
  if (type === "yarn") {
    const attention = read.optional("rope.scaling.attn_factor") ??
      read.optional("rope.scaling.yarn_attn_factor");
    const fast = read.optional("rope.scaling.yarn_beta_fast");
    const slow = read.optional("rope.scaling.yarn_beta_slow");
    return {
      rope_type: "yarn",
      factor,
      ...(original !== undefined && { original_max_position_embeddings: original }),
      // llama.cpp's factor multiplies the one that follows from the scale; transformers' replaces
      // it.
      ...(attention !== undefined && attention !== 1 && {
        attention_factor: attention * (1 + 0.1 * Math.log(factor)),
      }),
      ...(fast !== undefined && { beta_fast: fast }),
      ...(slow !== undefined && { beta_slow: slow }),
    };
  }
  if (type === undefined || type === "linear") return { rope_type: "linear", factor };
  throw new UnsupportedError(
    "GGUF_METADATA",
    `${contents.name} scales its rotary embedding by "${type}". Supported are none, linear, yarn and llama 3's frequency factors.`,
    { name: contents.name, type },
  );
}

/**
 * Llama 3 models store what their `rope_scaling` amounts to: one divisor per frequency. The
 * parameters are recovered where the divisors are those that Llama's own choice of bands gives; any
 * others are kept as they are, in the form of LongRoPE.
 */
function fromFactors(
  factors: Float32Array,
  options: { theta: number; rotary: number; original?: number },
): JsonObject | null {
  if (factors.every((f) => f === 1)) return null;
  const factor = factors[factors.length - 1];
  const original = options.original ?? 8192;
  const low = 1, high = 4;
  const same = factors.every((found, i) => {
    const wavelength = 2 * Math.PI * options.theta ** (2 * i / options.rotary);
    const smooth = (original / wavelength - low) / (high - low);
    const share = Math.min(1, Math.max(0, smooth));
    return Math.abs(found * ((1 - share) / factor + share) - 1) < 1e-4;
  });
  if (same) {
    return {
      rope_type: "llama3",
      factor,
      low_freq_factor: low,
      high_freq_factor: high,
      original_max_position_embeddings: original,
    };
  }
  const list = [...factors];
  return {
    rope_type: "longrope",
    short_factor: list,
    long_factor: list,
    attention_factor: 1,
    original_max_position_embeddings: original,
  };
}
