/**
 * The options of `generate`.
 *
 * @module
 */
import type { RenderChatOptions } from "../io/render-chat.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import {
  BOOLEAN,
  documented,
  FINITE,
  NOT_NEGATIVE,
  type OptionRules,
  rule,
  SIGNAL,
  TEXT,
  WHOLE,
  wholeFrom,
} from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { PrefixCache } from "./prefix-cache.ts";
import { SAMPLING_RULES, type SamplingOptions } from "./sampling.ts";

/**
 * How to generate. Without any of `doSample`, `temperature`, `topK` and `topP`, the most probable
 * token is taken each time.
 */
export interface GenerateOptions extends SamplingOptions {
  /** How many tokens to add at most; 128 by default. The model's last position ends a text too. */
  readonly maxNewTokens?: number;
  /**
   * Draws tokens at random instead of taking the most probable; true by default where `temperature`
   * (other than 0), `topK` or `topP` is given.
   */
  readonly doSample?: boolean;
  /** Divides the scores, as in {@link SamplingOptions}; 0 takes the most probable token. */
  readonly temperature?: number;
  /**
   * Where random numbers start from, 0 by default: the same seed gives the same text. Each row
   * draws its own.
   */
  readonly seed?: number;
  /**
   * Texts that are followed at a time, 1 by default: above that, of all texts the one that is found to
   * be most probable as a whole. Nothing is drawn then.
   */
  readonly numBeams?: number;
  /**
   * With several beams, a text's score is the sum of its log-probabilities over its length to this
   * power: above 0 prefers long texts, below 0 short ones; 1 by default.
   */
  readonly lengthPenalty?: number;
  /**
   * Whether a search of beams ends as soon as there are as many texts that ended (true), when none that
   * goes on is likely to become better (false, the default), or when none can ("never").
   */
  readonly earlyStopping?: boolean | "never";
  /** How many of the texts that beams found to give, as `alternatives` of the best; 1 by default. */
  readonly numReturnSequences?: number;
  /** Strings that end a text; the text stops before them. */
  readonly stop?: string | readonly string[];
  /** Keeps the stop string in the text. */
  readonly includeStop?: boolean;
  /**
   * Ids that end a text, in place of those of the model's `generation_config.json` or
   * `config.json`; `[]` for none.
   */
  readonly eosTokenId?: number | readonly number[];
  /** Reads prompts and writes text; the one that lies beside the model's weights by default. */
  readonly tokenizer?: Tokenizer;
  /** Whether prompts of text get the tokenizer's special tokens; true by default. */
  readonly addSpecialTokens?: boolean;
  /** Whether special tokens are left out of the text; true by default. */
  readonly skipSpecialTokens?: boolean;
  /** What a chat template gets beside the messages, such as `tools`. */
  readonly chatTemplate?: RenderChatOptions;
  /**
   * The adapter of each prompt, active or not, `"__base__"` for none; without it all get the active
   * adapters.
   */
  readonly adapterNames?: readonly string[];
  /** Number of each prompt's task, where an active adapter routes by it. */
  readonly taskIds?: readonly number[] | Tensor;
  /**
   * Keeps what was read and written for the next call, which reads only what is new of its prompt; see
   * `createPrefixCache`.
   */
  readonly cache?: PrefixCache;
  /** Stops with the signal's reason as the error. */
  readonly signal?: AbortSignal;
}

/** What the options may be, and what tools show of them. */
export const GENERATE_RULES: OptionRules<GenerateOptions> = {
  maxNewTokens: documented(
    wholeFrom(1),
    "How many tokens to add at most; 128 by default. The model's last position ends a text too.",
  ),
  doSample: documented(
    BOOLEAN,
    "Draws tokens at random instead of taking the most probable; true by default where `temperature` (other than 0), `topK` or `topP` is given.",
  ),
  ...SAMPLING_RULES,
  temperature: documented(
    NOT_NEGATIVE,
    "Divides the scores, as in SamplingOptions; 0 takes the most probable token.",
  ),
  seed: documented(
    WHOLE,
    "Where random numbers start from, 0 by default: the same seed gives the same text. Each row draws its own.",
  ),
  numBeams: documented(
    wholeFrom(1),
    "Texts that are followed at a time, 1 by default: above that, of all texts the one that is found to be most probable as a whole. Nothing is drawn then.",
  ),
  lengthPenalty: documented(
    FINITE,
    "With several beams, a text's score is the sum of its log-probabilities over its length to this power: above 0 prefers long texts, below 0 short ones; 1 by default.",
  ),
  earlyStopping: documented(
    rule('true, false or "never"', (x) => typeof x === "boolean" || x === "never"),
    'Whether a search of beams ends as soon as there are as many texts that ended (true), when none that goes on is likely to become better (false, the default), or when none can ("never").',
    'boolean | "never"',
  ),
  numReturnSequences: documented(
    wholeFrom(1),
    "How many of the texts that beams found to give, as `alternatives` of the best; 1 by default.",
  ),
  stop: documented(
    {
      must: "a string that is not empty, or a list of such strings",
      holds: (x) => [x].flat().every(TEXT.holds),
      type: "string | readonly string[]",
    },
    "Strings that end a text; the text stops before them.",
  ),
  includeStop: documented(BOOLEAN, "Keeps the stop string in the text."),
  eosTokenId: documented(
    {
      must: "a token id or a list of token ids",
      holds: (x) => [x].flat().every(wholeFrom(0).holds),
      type: "number | readonly number[]",
    },
    "Ids that end a text, in place of those of the model's `generation_config.json` or `config.json`; `[]` for none.",
  ),
  tokenizer: documented(
    null,
    "Reads prompts and writes text; the one that lies beside the model's weights by default.",
    "Tokenizer",
  ),
  addSpecialTokens: documented(
    BOOLEAN,
    "Whether prompts of text get the tokenizer's special tokens; true by default.",
  ),
  skipSpecialTokens: documented(
    BOOLEAN,
    "Whether special tokens are left out of the text; true by default.",
  ),
  chatTemplate: documented(
    null,
    "What a chat template gets beside the messages, such as `tools`.",
    "RenderChatOptions",
  ),
  adapterNames: documented(
    null,
    'The adapter of each prompt, active or not, `"__base__"` for none; without it all get the active adapters.',
    "readonly string[]",
  ),
  taskIds: documented(
    null,
    "Number of each prompt's task, where an active adapter routes by it.",
    "readonly number[] | Tensor",
  ),
  cache: documented(
    null,
    "Keeps what was read and written for the next call, which reads only what is new of its prompt; see `createPrefixCache`.",
    "PrefixCache",
  ),
  signal: documented(SIGNAL, "Stops with the signal's reason as the error."),
};
