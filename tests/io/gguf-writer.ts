/** A small writer of GGUF files (version 3, little-endian), for tests. */

/** Metadata: strings, booleans, whole numbers (u32), other numbers (f32), bigints (u64) and lists of one of these. */
export type Meta = string | boolean | number | bigint | readonly (string | number)[];

/** A tensor as the file stores it: dimensions in GGUF's order, innermost first. */
export interface GgufTensor {
  readonly name: string;
  readonly dims: readonly number[];
  /** GGML's number of the element type. */
  readonly type: number;
  readonly bytes: Uint8Array;
}

/** GGML's numbers of element types. */
export const GGML = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q5_0: 6,
  Q5_1: 7,
  Q8_0: 8,
  Q2_K: 10,
  Q3_K: 11,
  Q4_K: 12,
  Q5_K: 13,
  Q6_K: 14,
  IQ2_XXS: 16,
  IQ4_NL: 20,
  IQ4_XS: 23,
  BF16: 30,
};

export function writeGguf(
  metadata: Readonly<Record<string, Meta>>,
  tensors: readonly GgufTensor[],
  alignment = 32,
): Uint8Array<ArrayBuffer> {
  const align = (n: number) => Math.ceil(n / alignment) * alignment;
  const out: number[] = [];
  const scratch = new DataView(new ArrayBuffer(8));
  const put = (bytes: number, write: (view: DataView) => void) => {
    write(scratch);
    for (let i = 0; i < bytes; i++) out.push(scratch.getUint8(i));
  };
  const u32 = (n: number) => put(4, (v) => v.setUint32(0, n, true));
  const u64 = (n: number | bigint) => put(8, (v) => v.setBigUint64(0, BigInt(n), true));
  const text = (s: string) => {
    const bytes = new TextEncoder().encode(s);
    u64(bytes.length);
    out.push(...bytes);
  };
  const scalar = (value: string | number | boolean | bigint, typed: boolean) => {
    switch (typeof value) {
      case "string":
        if (typed) u32(8);
        return text(value);
      case "boolean":
        if (typed) u32(7);
        return out.push(value ? 1 : 0);
      case "bigint":
        if (typed) u32(10);
        return u64(value);
      default:
        if (Number.isInteger(value)) {
          if (typed) u32(5);
          return put(4, (v) => v.setInt32(0, value, true));
        }
        if (typed) u32(6);
        return put(4, (v) => v.setFloat32(0, value, true));
    }
  };
  out.push(...new TextEncoder().encode("GGUF"));
  u32(3);
  u64(tensors.length);
  u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    text(key);
    if (Array.isArray(value)) {
      // A list is of 32-bit floats as soon as one number has a fraction.
      const strings = value.some((v) => typeof v === "string");
      const floats = !strings && value.some((v) => !Number.isInteger(v));
      u32(9);
      u32(strings ? 8 : floats ? 6 : 5);
      u64(value.length);
      for (const v of value) {
        if (floats) put(4, (view) => view.setFloat32(0, v as number, true));
        else scalar(v, false);
      }
    } else scalar(value as string, true);
  }
  let offset = 0;
  for (const tensor of tensors) {
    text(tensor.name);
    u32(tensor.dims.length);
    for (const d of tensor.dims) u64(d);
    u32(tensor.type);
    u64(offset);
    offset = align(offset + tensor.bytes.length);
  }
  const start = align(out.length);
  const file = new Uint8Array(start + offset);
  file.set(out);
  offset = start;
  for (const tensor of tensors) {
    file.set(tensor.bytes, offset);
    offset = align(offset + tensor.bytes.length);
  }
  return file;
}

/** The bytes of 32-bit floats. */
export function f32(values: Iterable<number>): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

/** Metadata of a two-layer llama with hidden size 32, 4 heads, 2 key-value heads. */
export const LLAMA: Readonly<Record<string, Meta>> = {
  "general.architecture": "llama",
  "general.name": "Tiny",
  "llama.block_count": 1,
  "llama.context_length": 128,
  "llama.embedding_length": 32,
  "llama.feed_forward_length": 64,
  "llama.attention.head_count": 4,
  "llama.attention.head_count_kv": 2,
  "llama.attention.layer_norm_rms_epsilon": 1e-5,
  "llama.rope.freq_base": 10000.5,
  "llama.rope.dimension_count": 8,
};

/** The tensors of {@link LLAMA}: element i of tensor number n is n + i / 1000. */
export function llamaTensors(
  options: { readonly bias?: boolean; readonly tied?: boolean; readonly norms?: boolean } = {},
): GgufTensor[] {
  const shapes: [string, number[]][] = [
    ["token_embd.weight", [32, 10]],
    ["blk.0.attn_norm.weight", [32]],
    ["blk.0.attn_q.weight", [32, 32]],
    ["blk.0.attn_k.weight", [32, 16]],
    ["blk.0.attn_v.weight", [32, 16]],
    ["blk.0.attn_output.weight", [32, 32]],
    ["blk.0.ffn_norm.weight", [32]],
    ["blk.0.ffn_gate.weight", [32, 64]],
    ["blk.0.ffn_up.weight", [32, 64]],
    ["blk.0.ffn_down.weight", [64, 32]],
    ["output_norm.weight", [32]],
  ];
  if (!options.tied) shapes.push(["output.weight", [32, 10]]);
  if (options.bias) {
    shapes.push(
      ["blk.0.attn_q.bias", [32]],
      ["blk.0.attn_k.bias", [16]],
      ["blk.0.attn_v.bias", [16]],
    );
  }
  if (options.norms) {
    shapes.push(["blk.0.attn_q_norm.weight", [8]], ["blk.0.attn_k_norm.weight", [8]]);
  }
  return shapes.map(([name, dims], n) => {
    const size = dims.reduce((a, b) => a * b, 1);
    return {
      name,
      dims,
      type: GGML.F32,
      bytes: f32(Array.from({ length: size }, (_, i) => n + i / 1000)),
    };
  });
}
