/**
 * A chat as the text that a tokenizer's own template makes of it.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import {
  applyChatTemplate,
  type ChatMessage,
  type ChatTemplateOptions,
  readsParts,
  renderTemplate,
} from "./chat-template.ts";
import { isObject } from "./json.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** How a tokenizer's template renders a chat. */
export interface RenderChatOptions extends ChatTemplateOptions {
  /**
   * The name of one of the tokenizer's templates, or another template. By default it is `tool_use`
   * where there are tools and such a template, and `default` otherwise.
   */
  readonly template?: string;
}

/**
 * The text of a chat, by the tokenizer's own template. Fields of messages that are null count as
 * absent, except the content; a list of parts is shown as its text where the template does not go
 * through parts.
 *
 * @throws {ValueError} `CHAT_TEMPLATE_MISSING` where the tokenizer has none, `CHAT_TEMPLATE` where
 * it cannot render the messages.
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
  options: RenderChatOptions = {},
): string {
  return applyChatTemplate(...templateFor(tokenizer, messages, options));
}

/** What {@link renderChat} gives, and which parts the template marks as the assistant's. */
export function renderMarkedChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: RenderChatOptions = {},
): ReturnType<typeof renderTemplate> {
  return renderTemplate(...templateFor(tokenizer, messages, options));
}

function templateFor(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  { template: asked, ...options }: RenderChatOptions,
): [string, readonly ChatMessage[], ChatTemplateOptions] {
  const template = chosen(tokenizer, asked, options.tools);
  const { bos_token, eos_token, ...others } = specialTokens(tokenizer.files.config);
  return [template, messages.map((message) => plain(message, template)), {
    bosToken: bos_token,
    eosToken: eos_token,
    ...options,
    variables: { ...others, ...options.variables },
  }];
}

function chosen(
  { chatTemplates }: Tokenizer,
  asked: string | undefined,
  tools: ChatTemplateOptions["tools"],
): string {
  const named = (name: string) =>
    Object.hasOwn(chatTemplates, name) ? chatTemplates[name] : undefined;
  if (asked !== undefined) {
    const found = named(asked) ?? (/\{[{%]/.test(asked) ? asked : undefined);
    if (found !== undefined) return found;
  } else {
    const found = (tools ? named("tool_use") : undefined) ?? named("default");
    if (found !== undefined) return found;
  }
  const names = Object.keys(chatTemplates);
  throw new ValueError(
    "CHAT_TEMPLATE_MISSING",
    names.length === 0
      ? "The messages of a chat were given, but the tokenizer has no chat template. " +
        "Give the prompt as text, or a tokenizer with a chat_template."
      : `The tokenizer has no chat template called "${asked ?? "default"}"; it has ${
        names.join(", ")
      }. Ask for one of them.`,
    { asked, names },
  );
}

/** The tokens that templates know by name, such as `bos_token`. */
function specialTokens(config: Tokenizer["files"]["config"]): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(config).flatMap(([name, value]) => {
      const token = isObject(value) ? value.content : value;
      return /_token$/.test(name) && typeof token === "string" ? [[name, token]] : [];
    }),
  );
}

/** A message without nulls, whose content is a text where the template knows nothing else. */
function plain(message: ChatMessage, template: string): ChatMessage {
  const fields: [string, unknown][] = [];
  for (const [name, value] of Object.entries(message)) {
    const list = Array.isArray(value) ? value : null;
    // Templates ask whether there is none beside calls of tools.
    if (name === "content") fields.push([name, list ? text(list, template) : value]);
    else if (name === "tool_calls" && list) fields.push([name, list.map(plainCall)]);
    else if (value != null) fields.push([name, value]);
  }
  return Object.fromEntries(fields) as unknown as ChatMessage;
}

/** What is null inside of a call's arguments is meant so. */
function plainCall(call: unknown): unknown {
  if (!isObject(call) || !isObject(call.function)) return withoutNulls(call);
  return withoutNulls({ ...call, function: withoutNulls(call.function) });
}

function withoutNulls(value: unknown): unknown {
  return isObject(value)
    ? Object.fromEntries(Object.entries(value).filter(([, field]) => field != null))
    : value;
}

function text(parts: readonly unknown[], template: string): unknown {
  if (readsParts(template)) return parts.map(withoutNulls);
  return parts.map((part) => {
    if (typeof part === "string") return part;
    if (isObject(part) && typeof part.text === "string") return part.text;
    throw new ValueError(
      "CHAT_TEMPLATE",
      `A message has a part of type ${
        JSON.stringify(isObject(part) ? part.type : part)
      }, but the chat template shows text only.`,
    );
  }).join("");
}
