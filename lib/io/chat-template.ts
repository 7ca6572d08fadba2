/**
 * Chat templates: a conversation as the text that a model was trained on.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { compile, type Rendered, type Template } from "./jinja/render.ts";
import { TemplateError } from "./jinja/values.ts";

/** One message of a conversation. Templates may read further fields, such as `tool_calls`. */
export interface ChatMessage {
  /** Who speaks: `system`, `user`, `assistant`, `tool` … */
  readonly role: string;
  /** What is said; some templates take a list of parts. */
  readonly content?: unknown;
  /** Whatever else the template reads. */
  readonly [field: string]: unknown;
}

/** What a template gets beside the messages. */
export interface ChatTemplateOptions {
  /** Ends the text where the assistant's answer begins; false by default. */
  readonly addGenerationPrompt?: boolean;
  /** Leaves the last message open, for the model to go on with it; false by default. */
  readonly continueFinalMessage?: boolean;
  /** What the template calls `bos_token`. */
  readonly bosToken?: string;
  /** What the template calls `eos_token`. */
  readonly eosToken?: string;
  /** JSON schemas of functions that the model may call. */
  readonly tools?: readonly unknown[];
  /** Documents that the model may quote. */
  readonly documents?: readonly unknown[];
  /** Other variables, under the template's own names, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/**
 * Renders a conversation with a Jinja template. Encode the result with `addSpecialTokens: false`:
 * the template writes the special tokens itself.
 *
 * @param template The template, for example `tokenizer.chatTemplate`.
 * @param messages The conversation.
 * @throws {ValueError} `CHAT_TEMPLATE` where the template is not valid or refuses the messages.
 *
 * @example
 * ```ts
 * import { applyChatTemplate } from "@graft/peft";
 * const template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";
 * const text = applyChatTemplate(template, [{ role: "user", content: "Hello" }]);
 * console.log(text); // "[user] Hello\n"
 * ```
 */
export function applyChatTemplate(
  template: string,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions = {},
): string {
  const { addGenerationPrompt = false, continueFinalMessage = false } = options;
  if (!continueFinalMessage) return renderTemplate(template, messages, options).text;
  const last = messages[messages.length - 1];
  if (addGenerationPrompt || typeof last?.content !== "string") {
    throw new ValueError(
      "CHAT_TEMPLATE",
      addGenerationPrompt
        ? "addGenerationPrompt begins a new message and continueFinalMessage goes on with the last; ask for one of them."
        : "continueFinalMessage needs a last message whose content is a text.",
    );
  }
  // What the template writes after the last message's text is cut off; a mark shows where that is.
  // The mark ends in a space: where that is gone, the template trims messages, and so the space at
  // the end of the real one.
  const mark = "CONTINUE_FINAL_MESSAGE_TAG";
  const marked = [...messages.slice(0, -1), { ...last, content: `${last.content}${mark} ` }];
  const { text } = renderTemplate(template, marked, options);
  const end = text.lastIndexOf(mark);
  if (end < 0) {
    throw new ValueError(
      "CHAT_TEMPLATE",
      `The chat template does not show the last message ("${last.role}"), so it cannot be continued.`,
    );
  }
  const open = text.slice(0, end);
  return text[end + mark.length] === " " ? open : open.trimEnd();
}

/**
 * Renders a conversation and says which parts of the text the template marks as the assistant's.
 *
 * @throws {ValueError} `CHAT_TEMPLATE`, with `expression` and, inside a loop over the messages,
 * `message` (from 0) among its details.
 */
export function renderTemplate(
  template: string,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions = {},
): Rendered & { readonly marksGenerated: boolean } {
  // Templates ask whether tokens are defined; tools and documents are none where there are none.
  const variables = {
    messages,
    add_generation_prompt: options.addGenerationPrompt ?? false,
    tools: options.tools ?? null,
    documents: options.documents ?? null,
    bos_token: options.bosToken,
    eos_token: options.eosToken,
    ...options.variables,
  };
  try {
    const { marksGenerated, render } = compiled(template);
    return { ...render(variables), marksGenerated };
  } catch (cause) {
    if (!(cause instanceof TemplateError)) throw cause;
    const { reason, expression, item } = cause;
    throw new ValueError(
      "CHAT_TEMPLATE",
      `The chat template cannot render these ${messages.length} messages (roles ${
        messages.map((m) => m.role).join(", ")
      })${item === undefined ? "" : `, at message ${item + 1}`}: ${reason}${
        expression === undefined ? "" : `. It happened in ${expression}`
      }`,
      { cause, reason, expression, message: item },
    );
  }
}

// Parsing is pure: what is kept here saves time only.
const parsed = new Map<string, Template>();
function compiled(template: string): Template {
  const known = parsed.get(template);
  if (known) return known;
  if (parsed.size > 32) parsed.clear();
  const made = compile(template);
  parsed.set(template, made);
  return made;
}

/** Whether a template goes through the parts that a message's content can have. */
export function readsParts(template: string): boolean {
  try {
    return compiled(template).readsParts;
  } catch {
    return false; // rendering says what is wrong with it
  }
}
