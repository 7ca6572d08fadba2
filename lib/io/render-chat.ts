/**
 * A chat as the text that a tokenizer's own template makes of it.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { applyChatTemplate, type ChatMessage, type ChatTemplateOptions } from "./chat-template.ts";
import type { Tokenizer } from "./tokenizer.ts";

/**
 * The text of a chat, by the tokenizer's own template.
 *
 * @throws {ValueError} `CHAT_TEMPLATE_MISSING` where the tokenizer has none.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, loadTokenizer, renderChat } from "@graft/peft";
 * const chatTemplate = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
 * const tokenizer = await loadTokenizer(byteTokenizerFiles({ chatTemplate }));
 * console.log(renderChat(tokenizer, [{ role: "user", content: "hi" }])); // <user>hi
 * ```
 */
export function renderChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions = {},
): string {
  const { chatTemplate, bosId, eosId } = tokenizer;
  if (chatTemplate === undefined) {
    throw new ValueError(
      "CHAT_TEMPLATE_MISSING",
      "The messages of a chat were given, but the tokenizer has no chat template. " +
        "Give the prompt as text, or a tokenizer with a chat_template.",
    );
  }
  const spelling = (id: number | undefined) =>
    id === undefined ? undefined : tokenizer.idToToken(id);
  return applyChatTemplate(chatTemplate, messages, {
    bosToken: spelling(bosId),
    eosToken: spelling(eosId),
    ...options,
  });
}
