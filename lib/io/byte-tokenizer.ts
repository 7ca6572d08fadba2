/**
 * A tokenizer whose tokens are bytes.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { byteAlphabet } from "./byte-alphabet.ts";
import { SPELL_BYTES } from "./pre-tokenizer.ts";
import { addedToken, type TokenizerFiles, wrapSequences } from "./tokenizer-json.ts";

/** What a byte-level tokenizer has beside the bytes. */
export interface ByteTokenizerOptions {
  /** Special tokens, which get the ids 256, 257, … */
  readonly specialTokens?: readonly string[];
  /** The special token that begins a text; it is put before every text that is encoded. */
  readonly bosToken?: string;
  /** The special token that ends a text. */
  readonly eosToken?: string;
  /** The special token that pads a batch. */
  readonly padToken?: string;
  /** A Jinja template for chats. */
  readonly chatTemplate?: string;
}

/**
 * The files of a tokenizer that gives each byte of the UTF-8 text its own value as id. Other
 * libraries read them as any `tokenizer.json`: a byte-level BPE without merges.
 *
 * @throws {ValueError} `TOKENIZER_TOKEN` where the beginning, end or padding token is not among the
 * special tokens.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, loadTokenizer } from "@graft/peft";
 * const files = byteTokenizerFiles({ specialTokens: ["<|end|>"], eosToken: "<|end|>" });
 * const tokenizer = await loadTokenizer(files);
 * console.log(tokenizer.encode("A<|end|>"), tokenizer.eosId); // [65, 256] 256
 * ```
 */
export function byteTokenizerFiles(options: ByteTokenizerOptions = {}): TokenizerFiles {
  const { specialTokens = [], bosToken, eosToken, padToken, chatTemplate } = options;
  for (const token of [bosToken, eosToken, padToken]) {
    if (token !== undefined && !specialTokens.includes(token)) {
      throw new ValueError(
        "TOKENIZER_TOKEN",
        `The token "${token}" is not among the special tokens (${specialTokens.join(", ")}).`,
        { token, specialTokens },
      );
    }
  }
  const config = {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    bos_token: bosToken,
    eos_token: eosToken,
    pad_token: padToken,
    chat_template: chatTemplate,
  };
  const tokenizer = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content, i) =>
      addedToken(256 + i, content, { special: true })
    ),
    normalizer: null,
    pre_tokenizer: SPELL_BYTES,
    post_processor: wrapSequences({
      before: bosToken === undefined
        ? undefined
        : { id: 256 + specialTokens.indexOf(bosToken), content: bosToken },
    }),
    decoder: SPELL_BYTES,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(byteAlphabet().map((character, byte) => [character, byte])),
      merges: [],
    },
  };
  return {
    tokenizer,
    config: Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined)),
  };
}
