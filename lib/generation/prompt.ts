/**
 * The forms that a prompt can have, and the token ids that they become.
 *
 * @module
 */
import { type AnyModel, baseOf, virtualTokens } from "../adapters/peft-model.ts";
import { checkIds } from "../adapters/token-batch.ts";
import { ValueError } from "../errors.ts";
import type { ChatMessage } from "../io/chat-template.ts";
import { isObject } from "../io/json.ts";
import { renderChat, type RenderChatOptions } from "../io/render-chat.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import { positionLimit } from "../model/model-graph.ts";
import { show } from "../options.ts";

/** Text, token ids, or the messages of a chat. */
export type Prompt = string | readonly number[] | readonly ChatMessage[];

/**
 * Whether what was given is one prompt, and not a list of them. An empty list is taken for a prompt
 * without tokens.
 */
export function isPrompt(given: Prompt | readonly Prompt[]): given is Prompt {
  if (typeof given === "string" || given.length === 0) return true;
  const [first] = given;
  return typeof first === "number" ||
    (typeof first === "object" && !Array.isArray(first) && "role" in first);
}

/**
 * Refuses what is neither a prompt nor a list of prompts.
 *
 * @throws {ValueError} `PROMPT_TYPE`.
 */
export function checkPrompts(given: unknown): void {
  const isOne = (prompt: unknown) =>
    typeof prompt === "string" ||
    Array.isArray(prompt) &&
      (prompt.every((id) => typeof id === "number") ||
        prompt.every((message) => isObject(message) && typeof message.role === "string"));
  if (isOne(given)) return;
  let found = given;
  if (Array.isArray(given)) {
    const fits = typeof given[0] === "number" ? (x: unknown) => typeof x === "number" : isOne;
    const odd = given.findIndex((part) => !fits(part));
    if (odd < 0) return;
    found = given[odd];
  }
  throw new ValueError(
    "PROMPT_TYPE",
    `A prompt is a text, a list of token ids, or a list of messages with a role and a content; found ${
      show(found)
    }${Array.isArray(found) && found.length ? `, which holds ${show(found[0])}` : ""}.`,
  );
}

/** How prompts become ids. */
export interface PromptOptions {
  /** Reads and writes text; needed for prompts that are not ids. */
  readonly tokenizer: Tokenizer | null;
  /**
   * Whether text gets the tokenizer's special tokens; true by default. Chat templates write their
   * own.
   */
  readonly addSpecialTokens?: boolean;
  /** What the chat template gets beside the messages. */
  readonly chatTemplate?: RenderChatOptions;
  /** Positions that the model knows. */
  readonly maxPositions: number;
}

/**
 * The token ids of prompts.
 *
 * @throws {ValueError} `PROMPT_EMPTY`, `PROMPT_TOO_LONG`, `TOKEN_ID_RANGE`, or
 * `CHAT_TEMPLATE_MISSING`.
 */
export function promptIds(
  model: AnyModel,
  prompts: readonly Prompt[],
  options: PromptOptions,
): readonly (readonly number[])[] {
  if (prompts.length === 0) {
    throw new ValueError("PROMPT_EMPTY", "There is nothing to generate from: no prompt was given.");
  }
  return prompts.map((prompt, row) => {
    const ids = idsOf(prompt, options);
    const which = prompts.length === 1 ? "The prompt" : `Prompt ${row}`;
    if (ids.length === 0) {
      throw new ValueError(
        "PROMPT_EMPTY",
        `${which} has no tokens. Give it at least one, such as the tokenizer's beginning-of-text token.`,
        { row },
      );
    }
    checkIds(model, ids);
    if (ids.length > options.maxPositions) {
      throw new ValueError(
        "PROMPT_TOO_LONG",
        `${which} has ${ids.length} tokens, but the model knows ${options.maxPositions} positions. Shorten it.`,
        { row, length: ids.length, maxPositions: options.maxPositions },
      );
    }
    return ids;
  });
}

function idsOf(prompt: Prompt, options: PromptOptions): readonly number[] {
  const { tokenizer, addSpecialTokens } = options;
  if (typeof prompt !== "string" && (prompt.length === 0 || typeof prompt[0] === "number")) {
    return prompt as readonly number[];
  }
  // Only prompts of ids come without a tokenizer.
  if (typeof prompt === "string") return tokenizer!.encode(prompt, { addSpecialTokens });
  const messages = prompt as readonly ChatMessage[];
  const text = renderChat(tokenizer!, messages, {
    addGenerationPrompt: options.chatTemplate?.continueFinalMessage !== true,
    ...options.chatTemplate,
  });
  return tokenizer!.encode(text, { addSpecialTokens: false });
}

/**
 * How many positions a model knows beside an adapter's virtual tokens, with what its config stretches
 * them by; as many as one likes where it does not say.
 */
export function maxPositionsOf(model: AnyModel): number {
  const base = baseOf(model), { architecture, config } = base;
  const all = Math.min(architecture.maxPositions?.(config) ?? Infinity, positionLimit(base));
  return all - virtualTokens(model);
}

/**
 * The ids that end a text: of `generation_config.json`, else of `config.json`, else the
 * tokenizer's.
 */
export function endIds(model: AnyModel, tokenizer: Tokenizer | null): ReadonlySet<number> {
  const { config, generationConfig } = baseOf(model);
  const found = generationConfig.eos_token_id ?? config.eos_token_id ?? tokenizer?.eosId ?? [];
  return new Set([found].flat().filter((id): id is number => typeof id === "number"));
}
