import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { basename, join } from "node:path";
import { FileError, UnsupportedError } from "../../lib/errors.ts";
import { openCheckpoint } from "../../lib/io/checkpoint.ts";
import { openGguf } from "../../lib/io/gguf.ts";
import { readGguf } from "../../lib/io/gguf-reader.ts";
import { repackBlocks } from "../../lib/tensor/blocks.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import golden from "../tensor/blocks.golden.json" with { type: "json" };
import { codeOf, inFolder } from "./folder.ts";
import { hubServer } from "./hub-server.ts";
import {
  f32,
  GGML,
  type GgufTensor,
  LLAMA,
  llamaTensors,
  type Meta,
  writeGguf,
} from "./gguf-writer.ts";

/** LLAMA under another architecture's name. */
function renamed(architecture: string, more: Record<string, Meta> = {}): Record<string, Meta> {
  const entries = Object.entries(LLAMA).map(([key, value]) => [
    key.replace(/^llama\./, `${architecture}.`),
    value,
  ]);
  return { ...Object.fromEntries(entries), "general.architecture": architecture, ...more };
}

Deno.test("a llama's parameters come under transformers' names, dimensions outermost first", async () => {
  const { parameters } = await openGguf(writeGguf(LLAMA, llamaTensors()));
  const shapes = Object.fromEntries([...parameters].map(([name, t]) => [name, t.shape.join("x")]));
  assertEquals(shapes, {
    "model.embed_tokens.weight": "10x32",
    "model.layers.0.input_layernorm.weight": "32",
    "model.layers.0.self_attn.q_proj.weight": "32x32",
    "model.layers.0.self_attn.k_proj.weight": "16x32",
    "model.layers.0.self_attn.v_proj.weight": "16x32",
    "model.layers.0.self_attn.o_proj.weight": "32x32",
    "model.layers.0.post_attention_layernorm.weight": "32",
    "model.layers.0.mlp.gate_proj.weight": "64x32",
    "model.layers.0.mlp.up_proj.weight": "64x32",
    "model.layers.0.mlp.down_proj.weight": "32x64",
    "model.norm.weight": "32",
    "lm_head.weight": "10x32",
  });
  const embedding = await parameters.get("model.embed_tokens.weight")!.data();
  assertEquals([embedding[0], embedding[33]], [0, Math.fround(0.033)]);
});

Deno.test("the config says what transformers' would say", async () => {
  const metadata = {
    ...LLAMA,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 5,
  };
  const { config, generationConfig } = await openGguf(
    writeGguf(metadata, llamaTensors({ tied: true })),
  );
  assertEquals(config, {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    vocab_size: 10,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 1,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 8,
    hidden_act: "silu",
    max_position_embeddings: 128,
    rms_norm_eps: 1e-5,
    rope_theta: 10000.5,
    rope_scaling: null,
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: true,
    bos_token_id: 1,
    eos_token_id: 2,
    pad_token_id: null,
  });
  assertEquals(generationConfig, { bos_token_id: 1, eos_token_id: [2, 5] });
});

/** Where transformers' row r of a head of 8 rows lies in a GGUF file: the two halves alternate. */
const stored = (r: number) => Math.floor(r / 8) * 8 + (r % 4) * 2 + Math.floor(r % 8 / 4);

Deno.test("rows of llama's query and key projections are put back, biases too", async () => {
  const { parameters } = await openGguf(writeGguf(LLAMA, llamaTensors({ bias: true })));
  for (const [name, rows, base] of [["q_proj", 32, 2], ["k_proj", 16, 3]] as const) {
    const weight = await parameters.get(`model.layers.0.self_attn.${name}.weight`)!.data();
    for (let r = 0; r < rows; r++) {
      assertEquals(
        weight[r * 32 + 5],
        Math.fround(base + (stored(r) * 32 + 5) / 1000),
        `${name} ${r}`,
      );
    }
  }
  const bias = await parameters.get("model.layers.0.self_attn.k_proj.bias")!.data();
  assertEquals([...bias], Array.from({ length: 16 }, (_, r) => Math.fround(13 + stored(r) / 1000)));
  const value = await parameters.get("model.layers.0.self_attn.v_proj.weight")!.data();
  assertEquals(value[33], Math.fround(4.033), "values are not permuted");
});

Deno.test("quantized rows are put back as whole blocks", async () => {
  // One Q8_0 block per row, whose codes are the number of the row.
  const bytes = new Uint8Array(32 * 34);
  for (let r = 0; r < 32; r++) {
    new DataView(bytes.buffer).setFloat16(r * 34, 0.5, true);
    bytes.fill(r, r * 34 + 2, r * 34 + 34);
  }
  const tensors = llamaTensors().map((t) =>
    t.name === "blk.0.attn_q.weight" ? { ...t, type: GGML.Q8_0, bytes } : t
  );
  const { parameters } = await openGguf(writeGguf(LLAMA, tensors));
  const q = parameters.get("model.layers.0.self_attn.q_proj.weight")!;
  assertEquals([q.dtype, q.shape], ["q8_0", [32, 32]]);
  const values = await toFloat32(q);
  const { packed } = await repackBlocks(q);
  for (let r = 0; r < 32; r++) {
    assertEquals(values[r * 32 + 31], stored(r) / 2);
    assertEquals(packed[r * 32], 128 + stored(r));
  }
});

Deno.test("qwen2 and qwen3 keep their rows and have their own biases and norms", async () => {
  const qwen2 = await openGguf(writeGguf(renamed("qwen2"), llamaTensors({ bias: true })));
  const q = await qwen2.parameters.get("model.layers.0.self_attn.q_proj.weight")!.data();
  assertEquals(q[33], Math.fround(2.033));
  assert(qwen2.parameters.has("model.layers.0.self_attn.q_proj.bias"));
  assertEquals(qwen2.config.model_type, "qwen2");
  assertEquals(qwen2.config.architectures, ["Qwen2ForCausalLM"]);
  assert(!("attention_bias" in qwen2.config), "transformers' Qwen2 always has biases");

  const metadata = renamed("qwen3", { "qwen3.attention.key_length": 16 });
  const qwen3 = await openGguf(writeGguf(metadata, llamaTensors({ norms: true })));
  assertEquals([qwen3.config.model_type, qwen3.config.head_dim], ["qwen3", 16]);
  assertEquals(qwen3.parameters.get("model.layers.0.self_attn.q_norm.weight")!.shape, [8]);
  assert(qwen3.parameters.has("model.layers.0.self_attn.k_norm.weight"));
});

Deno.test("mistral is told from llama by its name or its window", async () => {
  const named = await openGguf(
    writeGguf({ ...LLAMA, "general.name": "Mistral 7B v0.3" }, llamaTensors()),
  );
  assertEquals([named.config.model_type, named.config.sliding_window], ["mistral", null]);
  const windowed = await openGguf(
    writeGguf({ ...LLAMA, "llama.attention.sliding_window": 64 }, llamaTensors()),
  );
  assertEquals([windowed.config.model_type, windowed.config.sliding_window], ["mistral", 64]);
});

Deno.test("linear and YaRN scaling of the rotary embedding come through", async () => {
  const scaling = async (more: Record<string, Meta>) =>
    (await openGguf(writeGguf({ ...LLAMA, ...more }, llamaTensors()))).config.rope_scaling;
  assertEquals(
    await scaling({ "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5 }),
    { rope_type: "linear", factor: 2.5 },
  );
  assertEquals(
    await scaling({ "llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 2.5 }),
    null,
  );
  assertEquals(
    await scaling({
      "llama.rope.scaling.type": "yarn",
      "llama.rope.scaling.factor": 4,
      "llama.rope.scaling.original_context_length": 32,
    }),
    { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32 },
  );
  await assertRejects(
    () => scaling({ "llama.rope.scaling.type": "odd", "llama.rope.scaling.factor": 4 }),
    UnsupportedError,
    `"odd"`,
  );
});

Deno.test("llama 3's frequency factors become its parameters, others stay factors", async () => {
  const metadata = { ...LLAMA, "llama.rope.freq_base": 500000, "llama.rope.dimension_count": 64 };
  const llama3 = Array.from({ length: 32 }, (_, i) => {
    const wavelength = 2 * Math.PI * 500000 ** (2 * i / 64);
    if (wavelength < 8192 / 4) return 1;
    if (wavelength > 8192) return 32;
    const smooth = (8192 / wavelength - 1) / 3;
    return 1 / ((1 - smooth) / 32 + smooth);
  });
  const scaling = async (factors: number[]) => {
    const freqs: GgufTensor = {
      name: "rope_freqs.weight",
      dims: [32],
      type: GGML.F32,
      bytes: f32(factors),
    };
    return (await openGguf(writeGguf(metadata, [...llamaTensors(), freqs]))).config.rope_scaling;
  };
  assertEquals(await scaling(llama3), {
    rope_type: "llama3",
    factor: 32,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  });
  const odd = llama3.map((f, i) => i === 20 ? f * 1.5 : f);
  const kept = await scaling(odd) as {
    rope_type: string;
    long_factor: number[];
    attention_factor: number;
  };
  assertEquals([kept.rope_type, kept.attention_factor], ["longrope", 1]);
  assertAlmostEquals(kept.long_factor[20], odd[20], 1e-5);
  assertEquals(await scaling(llama3.map(() => 1)), null);
});

Deno.test("other element types, architectures and tensors are refused by name", async () => {
  const bytes = new Uint8Array(176);
  const name = "blk.0.attn_q.weight";
  const iq2: GgufTensor = { name, dims: [256, 1], type: GGML.IQ2_XXS, bytes };
  const error = await assertRejects(
    () => openGguf(writeGguf(LLAMA, [iq2])),
    UnsupportedError,
    `"blk.0.attn_q.weight"`,
  );
  assertEquals([error.code, error.details.type], ["GGUF_TYPE", "IQ2_XXS"]);
  assert(
    /IQ2_XXS.*F32, F16, BF16.*Q8_0, Q4_0, Q4_1, Q5_0.*IQ4_XS/.test(error.message),
    error.message,
  );

  await assertRejects(
    () => openGguf(writeGguf(renamed("mamba"), llamaTensors())),
    UnsupportedError,
    `"mamba"`,
  );
  const experts: GgufTensor = {
    name: "blk.0.ffn_gate_exps.weight",
    dims: [2],
    type: GGML.F32,
    bytes: f32([1, 2]),
  };
  await assertRejects(
    () => openGguf(writeGguf(LLAMA, [...llamaTensors(), experts])),
    UnsupportedError,
    "ffn_gate_exps",
  );
});

Deno.test("a file that is damaged, incomplete or lacks metadata is refused", async () => {
  const whole = writeGguf(LLAMA, llamaTensors());
  assertEquals(await codeOf(openGguf(whole.subarray(0, whole.length - 200))), "GGUF_TRUNCATED");
  assertEquals(await codeOf(openGguf(whole.subarray(0, 700))), "GGUF_TRUNCATED");
  assertEquals(await codeOf(openGguf(new Uint8Array())), "GGUF_INVALID");
  assertEquals(await codeOf(openGguf(new TextEncoder().encode("GGML, not GGUF"))), "GGUF_INVALID");
  const { "llama.block_count": _, ...less } = LLAMA;
  await assertRejects(
    () => openGguf(writeGguf(less, llamaTensors())),
    FileError,
    "llama.block_count",
  );
  await assertRejects(
    () => openGguf(writeGguf({}, llamaTensors())),
    FileError,
    "general.architecture",
  );
  const twice = [...llamaTensors(), llamaTensors()[1]];
  await assertRejects(() => openGguf(writeGguf(LLAMA, twice)), FileError, "twice");
});

Deno.test("counts, layers and alignment are held against the file", async () => {
  const tensors = llamaTensors();
  for (const at of [8, 16]) {
    const file = writeGguf(LLAMA, tensors);
    new DataView(file.buffer).setBigUint64(at, 10n ** 6n, true);
    const error = await assertRejects(() => readGguf(file), FileError, "1000000");
    assertEquals(error.code, "GGUF_TRUNCATED");
  }
  for (const count of [0, 2, 1e9]) {
    const wrong = writeGguf({ ...LLAMA, "llama.block_count": count }, tensors);
    await assertRejects(() => openGguf(wrong), FileError, `${count} layers`);
  }
  for (const alignment of [1, 64, 256]) {
    const file = writeGguf({ ...LLAMA, "general.alignment": alignment }, tensors, alignment);
    const norm = (await openGguf(file)).parameters.get("model.norm.weight")!;
    assertEquals((await norm.data())[1], Math.fround(10.001));
  }
  for (const alignment of [0, 3, 48, -32, 2.5, "32"]) {
    const file = writeGguf({ ...LLAMA, "general.alignment": alignment }, tensors);
    await assertRejects(() => openGguf(file), FileError, "alignment");
  }
  // Offsets of tensors are multiples of it.
  const file = writeGguf({ ...LLAMA, "general.alignment": 256 }, tensors, 32);
  await assertRejects(() => openGguf(file), FileError, "no multiple of the alignment 256");
});

Deno.test("every block type is read", async () => {
  for (const [type, { blocks, values }] of Object.entries(golden)) {
    const bytes = Uint8Array.from(atob(blocks), (c) => c.charCodeAt(0));
    const size = atob(values).length / 4;
    const number = GGML[type.toUpperCase() as keyof typeof GGML];
    const weight = { name: "w", dims: [size / 3, 3], type: number, bytes };
    const { tensors } = await readGguf(writeGguf({}, [weight]));
    const { dtype, shape } = tensors.get("w")!;
    assertEquals([dtype, shape], [type, [3, size / 3]] as unknown as [typeof dtype, typeof shape]);
    assertEquals(await tensors.get("w")!.data(), bytes);
  }
});

Deno.test("tensors that share bytes are refused", async () => {
  const file = writeGguf(LLAMA, llamaTensors());
  // The last tensor's offset is the last eight bytes of the header.
  const { tensors } = await readGguf(file);
  const name = new TextEncoder().encode([...tensors.keys()].pop()!);
  let at = file.length;
  while (!name.every((byte, i) => file[at + i] === byte)) at--;
  new DataView(file.buffer).setBigUint64(at + name.length + 4 + 16 + 4, 32n, true);
  const error = await assertRejects(() => openGguf(file), FileError, "overlap");
  assertEquals(error.code, "GGUF_OVERLAP");
});

Deno.test("metadata keep their values, 64-bit numbers as numbers where they fit", async () => {
  const { metadata } = await readGguf(
    writeGguf({
      text: "é",
      yes: true,
      many: ["a", ""],
      some: [1, 2.5],
      small: 7n,
      large: 2n ** 63n,
    }, []),
  );
  const some = ["text", "yes", "many", "some", "small", "large"].map((key) => metadata.get(key));
  assertEquals(some, ["é", true, ["a", ""], [1, 2.5], 7, 2n ** 63n]);
});

Deno.test("a model in several files is opened by any of them", () =>
  inFolder(async (folder) => {
    const tensors = llamaTensors();
    const split = { "split.count": 2, "split.tensors.count": tensors.length };
    const path = (i: number) => join(folder, `m-0000${i}-of-00002.gguf`);
    await Deno.writeFile(
      path(1),
      writeGguf({ ...LLAMA, ...split, "split.no": 0 }, tensors.slice(0, 5)),
    );
    await Deno.writeFile(path(2), writeGguf({ ...split, "split.no": 1 }, tensors.slice(5)));
    for (const i of [1, 2]) {
      const { parameters, config, files } = await openGguf(path(i));
      assertEquals([parameters.size, config.num_attention_heads], [12, 4]);
      assertEquals(files, [path(1), path(2)]);
      const norm = await parameters.get("model.norm.weight")!.data();
      assertEquals(norm[1], Math.fround(10.001));
    }
    // From the hub, all parts come with the one that is named.
    const served = Object.fromEntries(
      await Promise.all([1, 2].map(async (i) => [basename(path(i)), await Deno.readFile(path(i))])),
    );
    const { parameters, source } = await openCheckpoint("org/model", {
      cacheDir: join(folder, "cache"),
      fetch: hubServer(served).fetch,
      file: basename(path(1)),
    });
    assertEquals([parameters.size, source.files.length], [12, 2]);
    const url = "https://example.org/m-00001-of-00002.gguf?download=true";
    const remote = await openGguf(url, {
      fetch: (input) => {
        const { pathname, searchParams } = new URL(input instanceof Request ? input.url : input);
        assertEquals(searchParams.get("download"), "true");
        return Promise.resolve(new Response(served[pathname.slice(1)]));
      },
    });
    assertEquals(remote.files.length, 2);
    // Parts of other models, or in the wrong place, are no parts of this one.
    const second = async (meta: Record<string, Meta>, own = tensors.slice(5)) => {
      await Deno.writeFile(path(2), writeGguf({ ...split, "split.no": 1, ...meta }, own));
      return await assertRejects(() => openGguf(path(1)), FileError);
    };
    for (const meta of [{ "split.no": 0 }, { "split.count": 3 }] as Record<string, Meta>[]) {
      assert((await second(meta)).message.includes("do not belong together"));
    }
    assert((await second({}, tensors.slice(4))).message.includes("twice"));
    assert((await second({}, tensors.slice(6))).message.includes("hold 11 tensors"));
    await Deno.rename(path(2), join(folder, "m-00002-of-00003.gguf"));
    assertEquals(await codeOf(openGguf(join(folder, "m-00002-of-00003.gguf"))), "GGUF_SPLIT");
    const error = await assertRejects(() => openGguf(path(1)), FileError, "00002-of-00002");
    assertEquals(error.code, "FILE_NOT_FOUND");
    assertEquals(await codeOf(openGguf(await Deno.readFile(path(1)))), "GGUF_SPLIT");
  }));

Deno.test("16-bit types are read", async () => {
  const tensors = llamaTensors().map((t) => {
    if (t.name === "output_norm.weight") {
      return {
        ...t,
        type: GGML.BF16,
        bytes: new Uint8Array(new Uint16Array(32).fill(0x3fc0).buffer),
      };
    }
    if (t.name === "blk.0.ffn_norm.weight") {
      return {
        ...t,
        type: GGML.F16,
        bytes: new Uint8Array(new Uint16Array(32).fill(0xc500).buffer),
      };
    }
    return t;
  });
  const { parameters } = await openGguf(writeGguf(LLAMA, tensors));
  assertEquals((await toFloat32(parameters.get("model.norm.weight")!))[31], 1.5);
  const norm = parameters.get("model.layers.0.post_attention_layernorm.weight")!;
  assertEquals([norm.dtype, (await toFloat32(norm))[0]], ["f16", -5]);
});
