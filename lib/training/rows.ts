/**
 * The forms that rows of data sets have, and what they say.
 *
 * @module
 */
import type { ChatMessage } from "../io/chat-template.ts";
import { isObject, type JsonObject } from "../io/json.ts";
import type { RenderChatOptions } from "../io/render-chat.ts";

/** What a row says, whatever its form. */
export type Content =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "completion"; readonly prompt: string; readonly completion: string }
  | Conversation;

/** A chat, and which of its messages are learned. */
export interface Conversation {
  readonly kind: "chat";
  readonly messages: readonly ChatMessage[];
  readonly learned: readonly boolean[];
  /** What the template gets beside the messages. */
  readonly options: RenderChatOptions;
  /** What is learned by a model without chat template. */
  readonly plain?: Content & { readonly kind: "completion" };
}

/** A row that could be read. */
export interface Row {
  readonly content: Content;
  /** Fields that nothing reads. */
  readonly unread: readonly string[];
  /** The field by which the row was recognised, and that of another form that it has too. */
  readonly forms: readonly string[];
}

interface Form {
  /** The fields by which it is recognised. */
  readonly keys: readonly string[];
  /** Other fields that are read. */
  readonly fields: readonly string[];
  /** What the row says, or what is wrong with it. */
  read(row: JsonObject): Content | string;
}

const CHAT_FIELDS = ["tools", "documents", "chat_template_kwargs"];

const FORMS: readonly Form[] = [
  {
    keys: ["messages"],
    fields: CHAT_FIELDS,
    read: (row) => conversation(row, "messages", row.messages),
  },
  { keys: ["conversations"], fields: ["system", ...CHAT_FIELDS], read: shareGpt },
  { keys: ["prompt", "completion"], fields: CHAT_FIELDS, read: completion },
  {
    keys: ["instruction", "output"],
    fields: ["input", "system", "history", ...CHAT_FIELDS],
    read: instruction,
  },
  {
    keys: ["text"],
    fields: [],
    read: ({ text }) =>
      typeof text === "string" ? { kind: "text", text } : 'has a "text" that is no string',
  },
];

/** The forms, for messages. */
export const KNOWN_FORMS =
  '{"text"}, {"prompt", "completion"}, {"messages"}, {"conversations"} or {"instruction", "output"}';

/** Reads a row; gives what keeps it from being one, as the end of a sentence, where it is none. */
export function readRow(value: unknown): Row | string {
  if (!isObject(value)) return "holds no JSON object";
  const row = withoutNulls(value);
  const whole = FORMS.filter(({ keys }) => keys.every((key) => key in row));
  const form = whole[0] ?? FORMS.find(({ keys }) => keys.some((key) => key in row));
  if (!form) {
    const names = Object.keys(row);
    return `has none of the known fields${names.length ? ` (found ${names.join(", ")})` : ""}`;
  }
  const content = form.read(row);
  if (typeof content === "string") return content;
  const forms = whole.map(({ keys }) => keys[keys.length - 1]);
  const known = new Set([...form.keys, ...form.fields, ...whole.flatMap(({ keys }) => keys)]);
  return { content, forms, unread: Object.keys(row).filter((name) => !known.has(name)) };
}

function withoutNulls(value: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field != null));
}

function completion(row: JsonObject): Content | string {
  const { prompt, completion } = row;
  if (typeof prompt === "string" && typeof completion === "string") {
    return { kind: "completion", prompt, completion };
  }
  if (!Array.isArray(prompt) || !Array.isArray(completion)) {
    return 'needs both "prompt" and "completion" as strings, or as lists of messages';
  }
  const whole = conversation(row, "completion", [...prompt, ...completion]);
  if (typeof whole === "string") return whole;
  const learned = whole.learned.map((is, i) => is && i >= prompt.length);
  return { ...whole, learned };
}

function instruction(row: JsonObject): Content | string {
  const { instruction, input = "", output, system, history = [] } = row;
  const texts = [instruction, input, output];
  if (!texts.every((text) => typeof text === "string")) {
    return 'needs "instruction" and "output" as strings, and "input" as one where it has it';
  }
  const asks = (text: unknown) => ({ role: "user", content: text });
  const answers = (text: unknown) => ({ role: "assistant", content: text });
  if (!Array.isArray(history) || !history.every((pair) => Array.isArray(pair))) {
    return 'has a "history" that is no list of pairs';
  }
  const chat = conversation(row, "history", [
    ...system === undefined ? [] : [{ role: "system", content: system }],
    ...history.flatMap(([question, answer]) => [asks(question), answers(answer)]),
    asks([instruction, input].filter((text) => text !== "").join("\n")),
    answers(output),
  ]);
  if (typeof chat === "string" || history.length || system !== undefined) return chat;
  const prompt = `Below is an instruction that describes a task${
    input ? ", paired with an input that provides further context" : ""
  }. Write a response that appropriately completes the request.\n\n### Instruction:\n${instruction}\n\n${
    input ? `### Input:\n${input}\n\n` : ""
  }### Response:\n`;
  return { ...chat, plain: { kind: "completion", prompt, completion: String(output) } };
}

const SPEAKERS: ReadonlyMap<string, string> = new Map([
  ...["human", "user"].map((name) => [name, "user"] as const),
  ...["gpt", "chatgpt", "assistant", "model", "bing", "bard", "function_call"]
    .map((name) => [name, "assistant"] as const),
  ...["tool", "observation", "function_response"].map((name) => [name, "tool"] as const),
  ["system", "system"],
]);

function shareGpt(row: JsonObject): Content | string {
  const { conversations: turns, system } = row;
  if (!Array.isArray(turns)) return 'has "conversations" that are no list';
  const strange = turns.findIndex((turn) =>
    !isObject(turn) || !("role" in turn) && !SPEAKERS.has(String(turn.from))
  );
  if (strange >= 0) {
    const from = isObject(turns[strange]) ? JSON.stringify(turns[strange].from) : "nobody";
    return `has a turn (number ${strange + 1}) from ${from}; known are ${
      [...SPEAKERS.keys()].join(", ")
    }`;
  }
  const messages = turns.map(({ from, value, ...others }) => ({
    ...from === undefined ? {} : { role: SPEAKERS.get(from) },
    ...value === undefined ? {} : from === "function_call" ? called(value) : { content: value },
    ...others,
  }));
  const first = system === undefined ? [] : [{ role: "system", content: system }];
  return conversation(row, "conversations", [...first, ...messages]);
}

/** A call that is written as JSON. */
function called(value: unknown): { readonly tool_calls?: unknown; readonly content?: unknown } {
  const calls = fromJson(value);
  if (typeof calls === "string") return { content: value };
  return { tool_calls: [calls].flat().map((call) => ({ type: "function", function: call })) };
}

function fromJson(value: unknown): unknown {
  try {
    return typeof value === "string" ? JSON.parse(value) : value;
  } catch {
    return value;
  }
}

/** Reads messages and what the template gets beside them. */
function conversation(row: JsonObject, name: string, messages: unknown): Conversation | string {
  if (!Array.isArray(messages)) return `has "${name}" that are no list`;
  if (messages.length === 0) return `has "${name}" that are empty`;
  const number = (is: (message: JsonObject) => boolean) => messages.findIndex(is) + 1;
  const bad = number((m) => !isObject(m) || typeof m.role !== "string");
  if (bad) return `has a message (number ${bad}) without a "role"`;
  // A template would write "undefined" for a message without content, unless that calls tools.
  const mute = number((m) => m.role === "assistant" && m.content == null && m.tool_calls == null);
  if (mute) return `has a message of the assistant (number ${mute}) without "content"`;
  const strange = number(({ weight, train }) =>
    ![undefined, null, 0, 1].includes(weight as number) ||
    ![undefined, null, true, false].includes(train as boolean)
  );
  if (strange) {
    const { weight, train } = messages[strange - 1];
    return `has a message (number ${strange}) with ${JSON.stringify({ weight, train })}; ` +
      '"weight" is 0 or 1, and "train" true or false';
  }
  if (!messages.some((m) => m.role === "assistant")) {
    return 'has no message of the "assistant", so nothing to learn';
  }
  const { chat_template_kwargs: given = {}, ...fields } = row;
  if (!isObject(given)) return 'has "chat_template_kwargs" that are no object';
  const { chat_template: template, tools = fields.tools, documents = fields.documents, ...others } =
    withoutNulls(given);
  const lists = { tools: fromJson(tools), documents: fromJson(documents) };
  for (const [name, list] of Object.entries(lists)) {
    if (list !== undefined && !Array.isArray(list)) return `has "${name}" that are no list`;
  }
  return {
    kind: "chat",
    messages: messages.map(({ weight: _weight, train: _train, ...message }) => message),
    learned: messages.map(({ role, weight, train }) =>
      role === "assistant" && weight !== 0 && train !== false
    ),
    options: {
      ...lists as Pick<RenderChatOptions, "tools" | "documents">,
      template: template as string | undefined,
      variables: others,
    },
  };
}
