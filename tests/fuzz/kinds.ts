/**
 * What is damaged, and what has to be right where it loads all the same.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { join } from "node:path";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { loadPeftConfig } from "../../lib/adapters/checkpoint/load-peft-config.ts";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { generate } from "../../lib/generation/generate.ts";
import { openDevice } from "../../lib/device/open.ts";
import { withSettledFiles, writeFilesAtomic } from "../../lib/io/atomic-files.ts";
import { byteAlphabet } from "../../lib/io/byte-alphabet.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { applyChatTemplate, type ChatMessage } from "../../lib/io/chat-template.ts";
import { openCheckpoint } from "../../lib/io/checkpoint.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { encodeSafetensors, openSafetensors } from "../../lib/io/safetensors.ts";
import { loadTokenizer, type Tokenizer } from "../../lib/io/tokenizer.ts";
import { addedToken, type TokenizerFiles } from "../../lib/io/tokenizer-json.ts";
import { parseConfig } from "../../lib/methods/config.ts";
import { defaultMethods } from "../../lib/methods/mod.ts";
import { siteKinds } from "../../lib/methods/site-rule.ts";
import { TASK_TYPES } from "../../lib/methods/peft-types.ts";
import { vocabularySize, writtenSequence } from "../../lib/model/model-graph.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { isFloating } from "../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { readCheckpoint, writeCheckpoint } from "../../lib/training/checkpoint.ts";
import { tokenizeExamples } from "../../lib/training/tokenize.ts";
import { parseJsonl } from "../../lib/training/examples.ts";
import { labelsIn } from "../../lib/training/labels.ts";
import { readTable } from "../../lib/training/read-table.ts";
import { golden } from "../adapters/bases.ts";
import { LLAMA, llamaTensors, writeGguf } from "../io/gguf-writer.ts";
import { mutateBytes, mutateJson, mutateText, type Random } from "./mutate.ts";

/** Damages a file by these choices, in a folder of its own, and uses it; throws where it may. */
export type Subject = (random: Random, folder: string) => Promise<void>;

/** Makes what is damaged. */
export type Kind = () => Subject | Promise<Subject>;

/** One CPU device for all models. */
const device = openDevice("cpu", { threads: 1 });

async function areFinite(tensors: Iterable<Tensor>, below = Infinity): Promise<boolean> {
  for (const each of tensors) {
    if (isFloating(each.dtype) && !(await toFloat32(each)).every((x) => Math.abs(x) < below)) {
      return false;
    }
  }
  return true;
}

/** Runs a model on a few tokens; what it gives is finite. */
async function run(model: AnyModel, more: object = {}): Promise<void> {
  const base = model.type === "peft" ? model.base : model;
  const ids = [[1, 2, 3, 4].map((id) => id % vocabularySize(base))];
  const decoder = writtenSequence(base) === "decoderTokens" ? { decoderInputIds: ids } : {};
  const outputs = await forward(model, { inputIds: ids, ...decoder, ...more });
  assert(await areFinite(Object.values(outputs)), "what the model gives is finite");
}

const pairs = () => ({
  a: tensor([[1, 2], [3, 4]]),
  "b.weight": tensor([1, 2, 3, 4, 5]),
  c: tensor([7]),
});

const safetensors: Kind = async () => {
  const seed = await encodeSafetensors(pairs(), { metadata: { format: "pt" } });
  return async (random) => {
    const bytes = damaged(seed, random);
    const { tensors } = await openSafetensors(bytes);
    let sum = 0;
    for (const each of tensors.values()) sum += (await each.data()).byteLength;
    assert(sum <= bytes.length, "tensors hold no more than the file");
  };
};

/** A safetensors file with other bytes, or whose header says something else. */
function damaged(file: Uint8Array, random: Random): Uint8Array<ArrayBuffer> {
  const length = new DataView(file.buffer, file.byteOffset).getUint32(0, true);
  if (random.chance(0.4)) return mutateBytes(file, random, 8 + length);
  const text = new TextDecoder();
  const header = JSON.parse(text.decode(file.subarray(8, 8 + length)));
  const json = new TextEncoder().encode(mutateJson(header, random));
  const out = new Uint8Array(8 + json.length + file.length - 8 - length);
  new DataView(out.buffer).setUint32(0, json.length, true);
  out.set(json, 8);
  out.set(file.subarray(8 + length), 8 + json.length);
  return out;
}

const index: Kind = async () => {
  const { a, c, ...rest } = pairs();
  const files = [await encodeSafetensors({ a, c }), await encodeSafetensors(rest)];
  const seed = {
    metadata: { total_size: 40 },
    weight_map: { a: "m-1.safetensors", c: "m-1.safetensors", "b.weight": "m-2.safetensors" },
  };
  return async (random, folder) => {
    await Deno.writeTextFile(join(folder, "config.json"), '{"model_type":"llama"}');
    for (const [i, bytes] of files.entries()) {
      await Deno.writeFile(join(folder, `m-${i + 1}.safetensors`), bytes);
    }
    await Deno.writeTextFile(
      join(folder, "model.safetensors.index.json"),
      mutateJson(seed, random),
    );
    const { parameters } = await openCheckpoint(folder);
    assert(await areFinite(parameters.values()), "parameters are those of the shards");
  };
};

const BASES = ["llama", "gpt2", "bert_seq_cls", "t5", "rope_yarn", "rope_llama3", "qwen3"];

const config: Kind = async () => {
  const seeds = await Promise.all(BASES.map(async (name) => ({
    name,
    json: JSON.parse(await Deno.readTextFile(`${golden}base/${name}/config.json`)) as object,
  })));
  return async (random, folder) => {
    const { name, json } = random.pick(seeds);
    await Deno.symlink(`${golden}base/${name}/model.safetensors`, `${folder}/model.safetensors`);
    await Deno.writeTextFile(`${folder}/config.json`, mutateJson(json, random));
    const options = random.chance(0.5) ? { eos_token_id: 1, decoder_start_token_id: 0 } : undefined;
    if (options) {
      const text = random.chance(0.5) ? mutateJson(options, random) : JSON.stringify(options);
      await Deno.writeTextFile(`${folder}/generation_config.json`, text);
    }
    const taskType = random.chance(0.2) ? random.pick(TASK_TYPES) : undefined;
    const model = await loadModel(folder, { device: await device, taskType });
    await run(model);
    if (!options || !model.taskType.endsWith("LM")) return;
    const { tokenIds } = await generate(model, [1, 2], { maxNewTokens: 2 });
    for (const id of tokenIds) assert(id < vocabularySize(model), `the id ${id}`);
  };
};

const adapter: Kind = async () => {
  const base = await loadModel(`${golden}base/llama`, { device: await device });
  const TARGETS = { linear: "q_proj", embedding: "embed_tokens", norm: "norm" } as const;
  const seeds: { config: object; weights: Uint8Array<ArrayBuffer>; more: object }[] = [];
  for (const method of defaultMethods.values()) {
    const { example = {} } = method.config;
    const kinds = siteKinds({ method, config: parseConfig(method.config, example) });
    const target = kinds.flatMap((kind) => TARGETS[kind as keyof typeof TARGETS] ?? [])[0];
    const targets = target ? { targetModules: [target] } : {};
    const config = parseConfig(method.config, {
      taskType: "CAUSAL_LM",
      ...targets,
      ...example,
      ..."alphaPattern" in method.config.fields ? { alphaPattern: { "0.*q_proj": 4 } } : {},
    });
    const folder = await Deno.makeTempDir();
    await savePretrained(getPeftModel(base, config), folder);
    seeds.push({
      config: JSON.parse(await Deno.readTextFile(`${folder}/adapter_config.json`)),
      weights: await Deno.readFile(`${folder}/adapter_model.safetensors`),
      more: Object.fromEntries(
        (method.pass?.inputs?.(config) ?? []).map(({ name, from = 0 }) => [name, [from]]),
      ),
    });
    await Deno.remove(folder, { recursive: true });
  }
  return async (random, folder) => {
    const { config, weights, more } = random.pick(seeds);
    const [json, bytes] = random.chance(0.8)
      ? [mutateJson(config, random), weights]
      : [JSON.stringify(config), damaged(weights, random)];
    await Deno.writeTextFile(`${folder}/adapter_config.json`, json);
    await Deno.writeFile(`${folder}/adapter_model.safetensors`, bytes);
    await loadPeftConfig(folder);
    const model = await loadAdapter(base, folder);
    for (const part of model.adapters.get("default")!.parts.values()) {
      const own = Object.values(part.leaves).flatMap(({ tensor }) => tensor ?? []);
      assert(await areFinite(own), "leaves of the adapter are finite");
    }
    // Weights that were damaged can be finite and still be too large for what follows.
    if (bytes === weights) await run(model, more);
  };
};

const MERGES = ["h e", "l l", "he ll", "Ġ Ġ", "1 2", "Ġ hell", "12 3"];
const BYTES = Array.from(
  { length: 256 },
  (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`,
);

const gguf: Kind = () => {
  const tokens = ["<|s|>", "<|e|>", ...byteAlphabet(), ...MERGES.map((m) => m.replace(" ", ""))];
  const metadata = {
    ...LLAMA,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": tokens.map((_, id) => id < 2 ? 3 : 1),
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
  };
  const tensors = llamaTensors(), seed = writeGguf(metadata, tensors);
  const head = seed.length - tensors.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const NUMBERS = [0, -1, 1, 3, 7, 1e9, 20_000, -0.5, 1e30, NaN, 2n ** 53n, 2n ** 63n];
  return async (random, folder) => {
    const key = random.pick(Object.keys(metadata));
    const hostile = random.chance(0.7) ? random.pick(NUMBERS) : random.pick(["", "\0", "(a+)+$"]);
    const bytes = random.chance(0.5)
      ? mutateBytes(seed, random, random.chance(0.5) ? 600 : head)
      : writeGguf({ ...metadata, [key]: hostile }, tensors);
    const path = `${folder}/model.gguf`;
    await Deno.writeFile(path, bytes);
    const model = await loadModel(path, { device: await device });
    use(await loadTokenizer(path));
    // Weights of which a byte was damaged, or that were moved, can be so large that sums overflow.
    if (await areFinite(model.parameters.values(), 1e9)) await run(model);
  };
};

const TEXTS = ["hello 123 wörld\n\t 日本", "<|s|>a<|e|>  ", "", "x ".repeat(300), "a".repeat(300)];

/** Texts become ids that the vocabulary has, and text again. */
function use(tokenizer: Tokenizer): void {
  for (const text of TEXTS) {
    const ids = tokenizer.encode(text);
    for (const id of ids) {
      assert(Number.isSafeInteger(id) && id >= 0 && id < tokenizer.vocabSize, `the id ${id}`);
    }
    assertEquals(typeof tokenizer.decode(ids), "string");
  }
}

const TEMPLATE =
  "{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim }}{% if not loop.last %}\n{% endif %}" +
  "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

function tokenizers(): TokenizerFiles[] {
  const byBytes = byteTokenizerFiles({
    specialTokens: ["<|s|>", "<|e|>"],
    bosToken: "<|s|>",
    eosToken: "<|e|>",
    chatTemplate: TEMPLATE,
  });
  const ids = (list: readonly string[]) => Object.fromEntries(list.map((token, id) => [token, id]));
  const pieces = ["<unk>", "<s>", "</s>", ...BYTES, "▁", "h", "e", "l", "o", "he", "ll", "▁he"];
  const words = ["[UNK]", "[CLS]", "[SEP]", "hello", "he", "##llo", "w", "##o", "1", "##2", "a"];
  const common = { version: "1.0", added_tokens: [addedToken(0, "<|s|>", { special: true })] };
  return [byBytes, {
    tokenizer: {
      ...byBytes.tokenizer,
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          {
            type: "Split",
            pattern: {
              Regex: String.raw`(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+`,
            },
            behavior: "Isolated",
            invert: false,
          },
          { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
        ],
      },
    },
    config: byBytes.config,
  }, {
    tokenizer: {
      ...common,
      normalizer: {
        type: "Sequence",
        normalizers: [
          { type: "Prepend", prepend: "▁" },
          { type: "Replace", pattern: { String: " " }, content: "▁" },
        ],
      },
      pre_tokenizer: null,
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: "▁" }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          { type: "Strip", content: " ", start: 1, stop: 0 },
        ],
      },
      model: {
        type: "BPE",
        vocab: ids(pieces),
        merges: [["h", "e"], ["l", "l"], ["▁", "he"]],
        unk_token: "<unk>",
        fuse_unk: true,
        byte_fallback: true,
        ignore_merges: false,
      },
    },
    config: { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" },
  }, {
    tokenizer: {
      ...common,
      normalizer: { type: "NFKC" },
      pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always" },
      decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always" },
      model: {
        type: "Unigram",
        unk_id: 0,
        vocab: pieces.map((piece, i) => [piece, i < 259 ? 0 : -i / 10]),
        byte_fallback: true,
      },
    },
    config: { eos_token: { content: "</s>" } },
  }, {
    tokenizer: {
      ...common,
      normalizer: { type: "BertNormalizer", clean_text: true, lowercase: true },
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: {
        type: "TemplateProcessing",
        single: [
          { SpecialToken: { id: "[CLS]", type_id: 0 } },
          { Sequence: { id: "A", type_id: 0 } },
        ],
        pair: [],
        special_tokens: { "[CLS]": { id: "[CLS]", ids: [1], tokens: ["[CLS]"] } },
      },
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
      model: {
        type: "WordPiece",
        vocab: ids(words),
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
      },
    },
    config: { clean_up_tokenization_spaces: true, cls_token: "[CLS]" },
  }];
}

const tokenizer: Kind = () => {
  const seeds = tokenizers();
  return async (random, folder) => {
    const { tokenizer, config } = random.pick(seeds), both = random.below(3);
    const text = (value: object, mutated: boolean) =>
      mutated ? mutateJson(value, random) : JSON.stringify(value);
    await Deno.writeTextFile(`${folder}/tokenizer.json`, text(tokenizer, both < 2));
    await Deno.writeTextFile(`${folder}/tokenizer_config.json`, text(config, both === 2));
    use(await loadTokenizer(folder));
  };
};

const TEMPLATES = [
  TEMPLATE,
  "{%- set ns = namespace(n=0) -%}{% for m in messages if m.role != 'x' %}{% set ns.n = ns.n + 1 %}" +
  "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{{ ns.n }}",
  "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}" +
  "{% endif %}{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}" +
  "{{ raise_exception('roles') }}{% endif %}{{ bos_token ~ m.content | upper | replace('A', 'b') }}{% endfor %}",
  "{% macro show(x, n=2) %}{{ x | tojson }}{{ n * 'ab' }}{% endmacro %}{% for m in messages %}" +
  "{{ show(m) }}{% for k, v in m.items() %}{{ k }}={{ v }}{% endfor %}{% endfor %}",
];
const PIECES = [
  ...[
    "{% for i in range(1000000000) %}",
    "{% for j in range(99999) %}x",
    "{% endfor %}",
    "{% endif %}",
  ],
  ...["{{ 'a' * 1000000000 }}", "{% set a = messages * 100000 %}", "{% macro f() %}{{ f() }}"],
  ...[
    "{{ f() }}",
    "{% endmacro %}",
    "{{ 10 ** 1000000 }}",
    "{{ '%s' % m }}",
    "| list",
    "{% raw %}",
  ],
  ...["{{ m.constructor }}", "{{ m.__proto__.x }}", "{{ ''.constructor.constructor('1')() }}"],
  ..."(".repeat(5000),
  `{{ ${"(".repeat(20_000)}1${")".repeat(20_000)} }}`,
  `{{ ${"[".repeat(20_000)} }}`,
  `{{ 1${"+1".repeat(20_000)} }}`,
  "{% if 1 %}".repeat(20_000),
];

const template: Kind = () => (random) => {
  const source = mutateText(random.pick(TEMPLATES), random, PIECES);
  const messages: ChatMessage[] = [
    { role: "user", content: "hello" },
    { role: "assistant", content: "hi", constructor: "x" },
    { role: "user", content: " bye " },
  ];
  const options = { bosToken: "<s>", addGenerationPrompt: random.chance(0.5) };
  assertEquals(typeof applyChatTemplate(source, messages, options), "string");
  return Promise.resolve();
};

const trainer: Kind = async () => {
  const progress = {
    step: 2,
    batches: 4,
    seed: 7,
    history: [1, 2].map((step) => ({
      step,
      loss: 1 / step,
      learningRate: 1e-3,
      gradientNorm: 0.5,
      tokens: 40,
    })),
    fingerprint: { data: "ab", gradientAccumulation: 2, adapters: { default: { r: 8 } } },
  };
  const made = await Deno.makeTempDir();
  const state = new Map(Object.entries(pairs()));
  const path = await writeCheckpoint(made, { progress, state });
  const text = await Deno.readTextFile(`${path}/trainer_state.json`);
  const weights = await Deno.readFile(`${path}/optimizer.safetensors`);
  await Deno.remove(made, { recursive: true });
  return async (random, folder) => {
    const at = `${folder}/checkpoint-2`;
    await Deno.mkdir(at);
    const json = random.chance(0.8);
    await Deno.writeTextFile(
      `${at}/trainer_state.json`,
      json ? mutateJson(JSON.parse(text), random) : text,
    );
    await Deno.writeFile(
      `${at}/optimizer.safetensors`,
      json ? weights : damaged(weights, random),
    );
    const { progress } = await readCheckpoint(
      folder,
      new Map([...state].map(([name, { shape }]) => [name, shape])),
    );
    assertEquals(progress.history.length, progress.step);
    for (const { loss } of progress.history) assert(Number.isFinite(loss));
  };
};

const journal: Kind = () => async (random, folder) => {
  const root = `${folder}/adapter`, outside = `${folder}/outside`;
  await Deno.mkdir(root);
  await Deno.writeTextFile(outside, "safe");
  await Deno.writeTextFile(`${root}/b`, "old");
  await Deno.writeTextFile(`${root}/.a.0123abcd.new`, "new");
  const journal = { tag: "0123abcd", files: ["a", "sub/c"], removed: ["b"] };
  const text = random.chance(0.2)
    ? JSON.stringify({
      ...journal,
      removed: [random.pick(["../outside", "/", outside, "a/../../outside"])],
    })
    : mutateJson(journal, random);
  await Deno.writeTextFile(`${root}/.graft-saving.json`, text);
  await withSettledFiles(root, () => Promise.resolve());
  await writeFilesAtomic([
    { path: `${root}/c`, write: (path) => Deno.writeTextFile(path, "c") },
  ]);
  assertEquals(await Deno.readTextFile(outside), "safe");
  assertEquals(await Deno.readTextFile(`${root}/c`), "c");
  assertEquals([...Deno.readDirSync(folder)].length, 2, "nothing is made outside");
};

const jsonl: Kind = async () => {
  const rows = [
    { text: "Call me Ishmael." },
    { prompt: "1+1=", completion: "2" },
    {
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Hi" },
        { role: "assistant", content: "Hello", tool_calls: null },
      ],
    },
  ];
  const tokenizer = await loadTokenizer(
    byteTokenizerFiles({ specialTokens: ["</s>"], eosToken: "</s>", chatTemplate: TEMPLATE }),
  );
  return (random) => {
    const lines = Array.from({ length: 3 }, () => {
      const row = random.pick(rows);
      return random.chance(0.6) ? mutateJson(row, random) : JSON.stringify(row);
    });
    const text = lines.join(random.pick(["\n", "\r\n", "\n\n", " \n"]));
    const examples = tokenizeExamples(parseJsonl(text, "data.jsonl"), {
      tokenizer,
      maxLength: random.pick([64, Infinity]),
    });
    for (const { ids, labels } of examples) assertEquals(ids.length, labels.length);
    return Promise.resolve();
  };
};

const tables: Kind = async () => {
  const data = new URL("../training/data/", import.meta.url);
  const parquet = await Promise.all(
    ["words", "questions", "pairs"].map((name) => Deno.readFile(new URL(`${name}.parquet`, data))),
  );
  const rows = [{ text: 'a, "b"', label: 1 }, { text: "c\nd", label: [0, "x"] }];
  const csv = 'text,label\n"a, ""b""",spam\n"c\nd",ham\n';
  return async (random, folder) => {
    const ending = random.pick(["parquet", "csv", "tsv", "json"]);
    const contents = ending === "parquet"
      ? mutateBytes(random.pick(parquet), random)
      : new TextEncoder().encode(
        ending === "json" ? mutateJson(rows, random) : mutateText(csv, random, ['"', ",", "\t"]),
      );
    const path = `${folder}/table.${ending}`;
    await Deno.writeFile(path, contents);
    const table = await readTable(path);
    const taskType = "tokens" in table.rows[0] ? "TOKEN_CLS" : "SEQ_CLS";
    if (!("context" in table.rows[0])) labelsIn(table, { taskType });
  };
};

const paths: Kind = () => async (random, folder) => {
  const PARTS = [
    "\0",
    "a\0b",
    "x".repeat(300),
    "a/".repeat(3000),
    "..",
    "\ud800",
    "%00",
    "é",
    ".gguf",
  ];
  const TYPES = ["", ".json", ".gguf", ".safetensors", ".safetensors.index.json", ".jsonl"];
  const path = `${random.pick(["", "./", "/", "file://", "file:///", "http://[", `${folder}/`])}${
    random.pick(PARTS)
  }${random.pick(TYPES)}`;
  const options = { offline: true, cacheDir: `${folder}/cache` };
  switch (random.below(4)) {
    case 0:
      return void await loadModel(path, { device: await device, ...options });
    case 1:
      return void await loadTokenizer(path, options);
    case 2:
      return void await loadPeftConfig(path, options);
    default:
      return void await openSafetensors(path);
  }
};

/** All kinds by name. */
export const KINDS: Readonly<Record<string, Kind>> = {
  safetensors,
  index,
  config,
  adapter,
  gguf,
  tokenizer,
  template,
  trainer,
  journal,
  jsonl,
  tables,
  paths,
};
