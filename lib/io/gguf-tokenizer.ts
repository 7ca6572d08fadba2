/**
 * `tokenizer.json` from the metadata of a GGUF file.
 *
 * @module
 */
import { FileError, UnsupportedError } from "../errors.ts";
import { byteAlphabet } from "./byte-alphabet.ts";
import type { GgufValue } from "./gguf-reader.ts";
import type { JsonObject } from "./json.ts";
import { GPT2_PATTERN, SPELL_BYTES, splitBy } from "./pre-tokenizer.ts";
import {
  addedToken,
  type SpecialToken,
  type TokenizerFiles,
  wrapSequences,
} from "./tokenizer-json.ts";

type Metadata = ReadonlyMap<string, GgufValue>;

/** `tokenizer.ggml.token_type`. */
const NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4;

interface Split {
  readonly patterns: readonly string[];
  readonly normalizer?: JsonObject;
  /** Words that are in the vocabulary are taken whole. */
  readonly ignoreMerges?: boolean;
  /** Whether texts begin with the beginning-of-text token, where the file does not say. */
  readonly addBos?: boolean;
}

const LLAMA3 = String
  .raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const QWEN2 = LLAMA3.replace("{1,3}", "");
const UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const CASED = (ending: string) =>
  `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+${ending}|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*${ending}`;
const REST = String.raw` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

const SPLITS: Readonly<Record<string, Split>> = {
  gpt2: { patterns: [GPT2_PATTERN] },
  digits: { patterns: ["\\p{N}", GPT2_PATTERN] },
  llama3: { patterns: [LLAMA3], ignoreMerges: true, addBos: true },
  dbrx: { patterns: [LLAMA3] },
  qwen2: { patterns: [QWEN2], normalizer: { type: "NFC" } },
  stablelm2: { patterns: [QWEN2] },
  tekken: {
    patterns: [`${CASED("")}|\\p{N}|${REST}`],
    ignoreMerges: true,
    addBos: true,
  },
  "gpt-4o": {
    patterns: [`${CASED("(?i:'s|'t|'re|'ve|'m|'ll|'d)?")}|\\p{N}{1,3}|${REST}`],
  },
  "deepseek-coder": {
    patterns: ["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\p{N}"],
  },
};

/** `tokenizer.ggml.pre`, the name under which llama.cpp knows how a vocabulary splits text. */
const PRE: ReadonlyMap<string, string> = new Map(
  Object.entries({
    gpt2: "default gpt-2 gpt2 phi-2 mpt olmo jais gigachat a.x-4.0 mellum trillion",
    digits: "smollm starcoder refact command-r codeshell exaone minerva-7b",
    llama3: "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    dbrx: "dbrx smaug-bpe",
    qwen2: "qwen2",
    stablelm2: "stablelm2 deepseek-r1-qwen hunyuan kormo f2llmv2 megrez",
    tekken: "tekken",
    "gpt-4o": "gpt-4o llama4 kanana2 talkie",
    "deepseek-coder": "deepseek-coder",
  }).flatMap(([split, names]) => names.split(" ").map((name) => [name, split])),
);

/**
 * Builds the files of a tokenizer from a GGUF file's metadata.
 *
 * @param metadata The file's metadata: byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`).
 * @param options `name` is what messages call the file.
 * @throws {FileError} `TOKENIZER_MISSING` or `TOKENIZER_INVALID`.
 * @throws {UnsupportedError} `TOKENIZER_KIND` for another kind of tokenizer or of splitting text.
 */
export function ggufTokenizerFiles(
  metadata: Metadata,
  options: { readonly name: string },
): TokenizerFiles {
  const { name } = options;
  const kind = metadata.get("tokenizer.ggml.model");
  const tokens = metadata.get("tokenizer.ggml.tokens");
  if (kind === undefined || !Array.isArray(tokens) || tokens.length === 0) {
    throw new FileError("TOKENIZER_MISSING", `${name} holds no tokenizer.`, { name });
  }
  const vocabulary = readVocabulary(metadata, tokens as readonly string[], name);
  switch (kind) {
    case "gpt2":
      return byteLevel(metadata, vocabulary, name);
    case "llama":
      return sentencePiece(metadata, vocabulary, name);
    default:
      throw new UnsupportedError(
        "TOKENIZER_KIND",
        `The tokenizer of ${name} is of the kind "${kind}". Supported are gpt2 and llama; load the model's own tokenizer.json instead.`,
        { name, kind },
      );
  }
}

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  readonly ids: Readonly<Record<string, number>>;
}

function readVocabulary(metadata: Metadata, tokens: readonly string[], name: string): Vocabulary {
  const given = metadata.get("tokenizer.ggml.token_type");
  const types = Array.isArray(given) ? given as number[] : tokens.map(() => NORMAL);
  if (types.length !== tokens.length) {
    throw new FileError(
      "TOKENIZER_INVALID",
      `${name} has ${tokens.length} tokens, but ${types.length} token types.`,
      { name },
    );
  }
  // Without a prototype, so that a token named __proto__ is one like any other.
  const ids: Record<string, number> = Object.create(null);
  for (let id = 0; id < tokens.length; id++) ids[tokens[id]] ??= id;
  return { tokens, types, ids };
}

function byteLevel(metadata: Metadata, vocabulary: Vocabulary, name: string): TokenizerFiles {
  const pre = metadata.get("tokenizer.ggml.pre") ?? "default";
  const split = SPLITS[PRE.get(String(pre)) ?? ""];
  if (!split) {
    throw new UnsupportedError(
      "TOKENIZER_KIND",
      `The tokenizer of ${name} splits text in the way called "${pre}". Known are ${
        [...PRE.keys()].join(", ")
      }; load the model's own tokenizer.json instead.`,
      { name, pre },
    );
  }
  const merges = metadata.get("tokenizer.ggml.merges");
  if (!Array.isArray(merges)) {
    throw new FileError("TOKENIZER_INVALID", `${name} has a BPE tokenizer without merges.`, {
      name,
    });
  }
  return files(metadata, vocabulary, {
    normalizer: split.normalizer ?? null,
    preTokenizer: {
      type: "Sequence",
      pretokenizers: [...split.patterns.map(splitBy), SPELL_BYTES],
    },
    decoder: SPELL_BYTES,
    model: {
      type: "BPE",
      vocab: spellInBytes(vocabulary),
      merges,
      ignore_merges: split.ignoreMerges ?? false,
    },
    addBos: split.addBos ?? false,
  });
}

/**
 * Ordinary tokens are spelled in the byte alphabet; a few files have some that are not, which would
 * never match.
 */
function spellInBytes(vocabulary: Vocabulary): Readonly<Record<string, number>> {
  const alphabet = byteAlphabet();
  const known = new Set(alphabet);
  const encoder = new TextEncoder();
  const ids: Record<string, number> = Object.create(null);
  for (let id = 0; id < vocabulary.tokens.length; id++) {
    const token = vocabulary.tokens[id];
    const normal = vocabulary.types[id] === NORMAL;
    const spelled = !normal || [...token].every((c) => known.has(c))
      ? token
      : Array.from(encoder.encode(token), (byte) => alphabet[byte]).join("");
    ids[spelled] ??= id;
  }
  return ids;
}

function sentencePiece(metadata: Metadata, vocabulary: Vocabulary, name: string): TokenizerFiles {
  const scores = metadata.get("tokenizer.ggml.scores");
  const given = metadata.get("tokenizer.ggml.merges");
  if (!Array.isArray(given) && !Array.isArray(scores)) {
    throw new FileError(
      "TOKENIZER_INVALID",
      `${name} has a SentencePiece tokenizer without scores.`,
      { name },
    );
  }
  const prefix = metadata.get("tokenizer.ggml.add_space_prefix") !== false;
  const unknown = vocabulary.types.indexOf(UNKNOWN);
  const space = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const decoders: JsonObject[] = [
    { type: "Replace", pattern: { String: "▁" }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
  ];
  if (prefix) decoders.push({ type: "Strip", content: " ", start: 1, stop: 0 });
  return files(metadata, vocabulary, {
    normalizer: prefix
      ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "▁" }, space] }
      : space,
    preTokenizer: null,
    decoder: { type: "Sequence", decoders },
    model: {
      type: "BPE",
      vocab: vocabulary.ids,
      merges: given ?? mergesOf(vocabulary, scores as readonly number[]),
      unk_token: unknown < 0 ? null : vocabulary.tokens[unknown],
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
    },
    addBos: true,
  });
}

/**
 * SentencePiece merges the neighbours whose union has the best score. As a list of merges: each
 * piece gives all pairs that it can be made of, and pieces come in the order of their scores.
 */
function mergesOf(vocabulary: Vocabulary, scores: readonly number[]): [string, string][] {
  const { tokens, types, ids } = vocabulary;
  const pieces = tokens.map((_, id) => id).filter((id) => types[id] === NORMAL);
  pieces.sort((a, b) => scores[b] - scores[a] || a - b);
  const merges: [string, string][] = [];
  for (const id of pieces) {
    const characters = [...tokens[id]];
    const pairs: [string, string][] = [];
    for (let i = 1; i < characters.length; i++) {
      const left = characters.slice(0, i).join(""), right = characters.slice(i).join("");
      if (left in ids && right in ids) pairs.push([left, right]);
    }
    pairs.sort((a, b) => ids[a[0]] - ids[b[0]] || ids[a[1]] - ids[b[1]]);
    merges.push(...pairs);
  }
  return merges;
}

interface Parts {
  readonly normalizer: JsonObject | null;
  readonly preTokenizer: JsonObject | null;
  readonly decoder: JsonObject;
  readonly model: JsonObject;
  readonly addBos: boolean;
}

function files(metadata: Metadata, vocabulary: Vocabulary, parts: Parts): TokenizerFiles {
  const { tokens, types } = vocabulary;
  const added = tokens.flatMap((content, id) => {
    const special = types[id] === CONTROL || types[id] === UNKNOWN;
    return special || types[id] === USER_DEFINED ? [addedToken(id, content, { special })] : [];
  });
  const token = (key: string): SpecialToken | undefined => {
    const id = metadata.get(`tokenizer.ggml.${key}_token_id`);
    return typeof id === "number" && id < tokens.length ? { id, content: tokens[id] } : undefined;
  };
  const says = (key: string, otherwise: boolean) =>
    (metadata.get(`tokenizer.ggml.${key}`) ?? otherwise) === true;
  const config = {
    clean_up_tokenization_spaces: false,
    bos_token: token("bos")?.content,
    eos_token: token("eos")?.content,
    unk_token: token("unknown")?.content,
    pad_token: token("padding")?.content,
    chat_template: chatTemplates(metadata),
  };
  return {
    tokenizer: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: parts.normalizer,
      pre_tokenizer: parts.preTokenizer,
      post_processor: wrapSequences({
        before: says("add_bos_token", parts.addBos) ? token("bos") : undefined,
        after: says("add_eos_token", false) ? token("eos") : undefined,
      }),
      decoder: parts.decoder,
      model: parts.model,
    },
    config: Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined)),
  };
}

function chatTemplates(metadata: Metadata): unknown {
  const main = metadata.get("tokenizer.chat_template");
  const prefix = "tokenizer.chat_template.";
  const named = [...metadata].filter(([key]) => key.startsWith(prefix));
  if (named.length === 0) return main;
  return [
    ...(main === undefined ? [] : [{ name: "default", template: main }]),
    ...named.map(([key, template]) => ({ name: key.slice(prefix.length), template })),
  ];
}
