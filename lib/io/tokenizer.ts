/**
 * Tokenizers: text to ids and back.
 *
 * @module
 */
import { Tokenizer as Backend } from "@huggingface/tokenizers";
import { join } from "node:path";
import { FileError, ValueError } from "../errors.ts";
import { withAddedTokens } from "./added-tokens.ts";
import { type ByteSourceOptions, wrap } from "./byte-source.ts";
import { readGguf } from "./gguf-reader.ts";
import { ggufTokenizerFiles } from "./gguf-tokenizer.ts";
import { checkPatterns, checkTokenizerFiles } from "./check-tokenizer.ts";
import { createEncoder, type Encoding } from "./encode-text.ts";
import { downloadFromHub, type HubOptions, TOKENIZER_FILES } from "./hub.ts";
import { isObject, type JsonObject, readJsonFile, readTextFile } from "./json.ts";
import { exists, locate } from "./locate.ts";
import { alignPreTokenizer } from "./pre-tokenizer.ts";
import { type RowTemplate, rowTemplate } from "./post-processor.ts";
import type { TokenizerFiles } from "./tokenizer-json.ts";

/** Turns text into token ids and ids into text. */
export interface Tokenizer {
  /**
   * The ids of a text. Special tokens that are written out in the text become their ids.
   *
   * @param options `addSpecialTokens` (true by default) adds what the tokenizer puts around each
   * text, such as a beginning-of-text token.
   */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): number[];
  /**
   * The ids of a text, each with the part of the text that it stands for.
   *
   * @param options `losesSpaces` (false by default) has tokens of nothing but spaces stand for
   * nothing where the post-processor trims them, as in transformers.
   */
  encodeWithOffsets(
    text: string,
    options?: { readonly addSpecialTokens?: boolean; readonly losesSpaces?: boolean },
  ): Encoding;
  /** What is put around one text, and around two. */
  readonly rowTemplate: RowTemplate;
  /**
   * The text of ids. Ids that the vocabulary lacks (padding of the embedding) give nothing;
   * incomplete characters give U+FFFD, see {@link createDecodeStream}.
   *
   * @param options `skipSpecialTokens` (false by default) leaves special tokens out.
   * @throws {ValueError} for an id that is not a natural number.
   */
  decode(ids: Iterable<number>, options?: { readonly skipSpecialTokens?: boolean }): string;
  /** The id of a token as the vocabulary spells it. */
  tokenToId(token: string): number | undefined;
  /** How the vocabulary spells an id. */
  idToToken(id: number): string | undefined;
  /** The id that begins a text, if there is one. */
  readonly bosId: number | undefined;
  /** The id that ends a text, if there is one. */
  readonly eosId: number | undefined;
  /** The id that pads a batch, if there is one. */
  readonly padId: number | undefined;
  /** The id that stands for a whole text, if there is one. */
  readonly clsId: number | undefined;
  /** The id of what the vocabulary cannot spell, if there is one. */
  readonly unkId: number | undefined;
  /** Ids of the special tokens. */
  readonly specialIds: ReadonlySet<number>;
  /** One more than the highest id. */
  readonly vocabSize: number;
  /** The Jinja template for chats that is used when none is named. */
  readonly chatTemplate: string | undefined;
  /** All templates for chats by name; the one above is `default`. */
  readonly chatTemplates: Readonly<Record<string, string>>;
  /** What the tokenizer was made from, for saving it beside a model. */
  readonly files: TokenizerFiles;
}

/** Something that can say what its tokenizer is made from, such as a checkpoint. */
export interface TokenizerSource {
  /** Reads the tokenizer's files. */
  readTokenizer(): Promise<TokenizerFiles>;
}

/**
 * Loads a tokenizer.
 *
 * @param source A folder with `tokenizer.json`, that file itself, a `.gguf` file (whose metadata
 * hold the tokenizer), a model on the Hugging Face hub, an open checkpoint, or the parsed files.
 * @param options For the hub and for URLs.
 * @throws {FileError} `TOKENIZER_MISSING` where there is no tokenizer, `TOKENIZER_INVALID` where it
 * cannot be used.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, loadTokenizer } from "@graft/peft";
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * console.log(tokenizer.encode("hé")); // [104, 195, 169]
 * console.log(tokenizer.decode([104, 195, 169])); // "hé"
 * ```
 */
export async function loadTokenizer(
  source: string | URL | TokenizerSource | TokenizerFiles,
  options: HubOptions = {},
): Promise<Tokenizer> {
  if (typeof source === "string" || source instanceof URL) {
    return createTokenizer(await readTokenizerFiles(source, options));
  }
  return createTokenizer(
    "readTokenizer" in source ? await source.readTokenizer() : withAddedTokens(source),
  );
}

/** Reads what {@link loadTokenizer} makes a tokenizer from. */
async function readTokenizerFiles(
  source: string | URL,
  options: HubOptions = {},
): Promise<TokenizerFiles> {
  const place = await locate(source);
  switch (place.kind) {
    case "folder":
      return await tokenizerFilesOf(place.path);
    case "hub": {
      const { folder } = await downloadFromHub(place.id, {
        optionalFiles: TOKENIZER_FILES,
        ...options,
      });
      return await tokenizerFilesOf(folder);
    }
    case "file":
      if (/\.gguf$/i.test(place.path)) return await ggufFilesOf(place.path, options);
      return await tokenizerFilesOf(join(place.path, ".."));
    case "url":
      return await ggufFilesOf(place.url, options);
  }
}

async function ggufFilesOf(
  path: string | URL,
  options: ByteSourceOptions,
): Promise<TokenizerFiles> {
  const { name, metadata } = await readGguf(path, options);
  return ggufTokenizerFiles(metadata, { name });
}

/** Reads `tokenizer.json` and what may lie beside it in a folder. */
export async function tokenizerFilesOf(folder: string): Promise<TokenizerFiles> {
  const path = join(folder, "tokenizer.json");
  if (!await exists(path)) {
    const slow = await exists(join(folder, "tokenizer.model"));
    throw new FileError(
      "TOKENIZER_MISSING",
      `${folder} has no tokenizer.json.${
        slow
          ? " Its tokenizer.model alone is not enough: save the tokenizer with transformers' AutoTokenizer, which writes tokenizer.json."
          : ""
      }`,
      { folder },
    );
  }
  const optional = async (name: string): Promise<JsonObject> => {
    const file = join(folder, name);
    return await exists(file) ? await readJsonFile(file) : {};
  };
  const stated = await optional("tokenizer_config.json");
  const map = await optional("special_tokens_map.json");
  const config = "added_tokens_decoder" in stated ? { ...map, ...stated } : { ...stated, ...map };
  const templates = await chatTemplateFiles(folder);
  const chat = templates ?? (await optional("chat_template.json")).chat_template;
  const files = {
    tokenizer: await readJsonFile(path),
    config: chat === undefined ? config : { ...config, chat_template: chat },
  };
  checkTokenizerFiles(files);
  return withAddedTokens(files, await optional("added_tokens.json"));
}

/** Chat templates in files of their own: one, or several by name. */
async function chatTemplateFiles(folder: string): Promise<unknown> {
  const main = join(folder, "chat_template.jinja");
  const templates = await exists(main)
    ? [{ name: "default", template: await readTextFile(main) }]
    : [];
  const more = join(folder, "additional_chat_templates");
  if (await exists(more)) {
    for await (const { name } of Deno.readDir(more)) {
      const template = /^(.+)\.jinja$/.exec(name)?.[1];
      if (!template) continue;
      templates.push({ name: template, template: await readTextFile(join(more, name)) });
    }
  }
  if (templates.length === 1 && templates[0].name === "default") return templates[0].template;
  return templates.length ? templates : undefined;
}

/**
 * Makes a tokenizer from parsed files.
 *
 * @throws {FileError} `TOKENIZER_INVALID` where a part is missing or of a kind that is not known.
 */
export function createTokenizer(files: TokenizerFiles): Tokenizer {
  checkTokenizerFiles(files);
  const { config } = files;
  let backend: Backend;
  let encode: ReturnType<typeof createEncoder>, template: RowTemplate;
  try {
    const json = {
      normalizer: null,
      post_processor: null,
      decoder: null,
      ...files.tokenizer,
      pre_tokenizer: alignPreTokenizer(files.tokenizer.pre_tokenizer ?? null),
      added_tokens: files.tokenizer.added_tokens ?? [],
    };
    backend = new Backend(json, config);
    if (backend.decoder) keepByteOrderMarks(backend.decoder as object);
    template = rowTemplate(json.post_processor, (token) => backend.token_to_id(token));
    encode = createEncoder(backend, json, template);
  } catch (cause) {
    throw wrap(cause, "TOKENIZER_INVALID", "The tokenizer.json cannot be used");
  }
  checkPatterns([backend.normalizer, backend.pre_tokenizer, backend.decoder]);
  const added = [...backend.get_added_tokens_decoder().values()];
  const specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));
  const idOf = (name: string) => {
    const token = tokenText(config[name]);
    return token === undefined ? undefined : backend.token_to_id(token);
  };
  const model = files.tokenizer.model;
  // The clean-up removes spaces before punctuation, which only WordPiece adds.
  const cleanUp = config.clean_up_tokenization_spaces === true &&
    isObject(model) && model.type === "WordPiece";
  const templates = chatTemplatesOf(config.chat_template);
  let vocabSize = 0;
  for (const id of backend.get_vocab().values()) vocabSize = Math.max(vocabSize, id + 1);
  return {
    encode: (text, { addSpecialTokens = true } = {}) => encode(text, addSpecialTokens).ids,
    encodeWithOffsets: (text, { addSpecialTokens = true, losesSpaces } = {}) =>
      encode(text, addSpecialTokens, losesSpaces),
    decode: (ids, { skipSpecialTokens = false } = {}) => {
      const known: number[] = [];
      for (const id of ids) {
        if (!Number.isInteger(id) || id < 0) {
          throw new ValueError("TOKEN_ID", `${id} is not a token id.`, { id });
        }
        if (skipSpecialTokens && specialIds.has(id)) continue;
        if (backend.id_to_token(id) !== undefined) known.push(id);
      }
      return known.length === 0
        ? ""
        : backend.decode(known, { clean_up_tokenization_spaces: cleanUp });
    },
    rowTemplate: template,
    tokenToId: (token) => backend.token_to_id(token),
    idToToken: (id) => backend.id_to_token(id),
    bosId: idOf("bos_token"),
    eosId: idOf("eos_token"),
    padId: idOf("pad_token"),
    clsId: idOf("cls_token"),
    unkId: idOf("unk_token"),
    specialIds,
    vocabSize,
    chatTemplate: templates.default,
    chatTemplates: templates,
    files,
  };
}

/** Has decoders of bytes keep a U+FEFF at the beginning, which is a character like others. */
function keepByteOrderMarks(
  decoder: { decoders?: readonly unknown[]; text_decoder?: TextDecoder },
): void {
  for (const step of decoder.decoders ?? []) keepByteOrderMarks(step as typeof decoder);
  if (decoder.text_decoder) decoder.text_decoder = new TextDecoder("utf-8", { ignoreBOM: true });
}

/** A token of `tokenizer_config.json` is its text, or an object that holds it. */
function tokenText(value: unknown): string | undefined {
  const text = isObject(value) ? value.content : value;
  return typeof text === "string" ? text : undefined;
}

/** `chat_template` is one template, a list of named ones, or an object of them. */
function chatTemplatesOf(value: unknown): Readonly<Record<string, string>> {
  if (typeof value === "string") return { default: value };
  if (isObject(value)) return value as Readonly<Record<string, string>>;
  if (!Array.isArray(value)) return {};
  return Object.fromEntries(
    value.filter(isObject).map(({ name, template }) => [String(name), String(template)]),
  );
}
