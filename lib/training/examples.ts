/**
 * Examples to learn from, and reading them from files of JSON lines.
 *
 * @module
 */
import type { ChatMessage } from "../io/chat-template.ts";
import { readTextFile } from "../io/json.ts";
import { jsonLines, noRow } from "./read-table.ts";
import { KNOWN_FORMS, readRow } from "./rows.ts";

/** Text that is learned as a whole. */
export interface TextExample {
  /** The text. */
  readonly text: string;
}

/** A text of which the second part is learned, given the first; both may be turns of a chat. */
export interface CompletionExample extends ChatFields {
  /** What is given. */
  readonly prompt: string | readonly ChatMessage[];
  /** What is learned. */
  readonly completion: string | readonly ChatMessage[];
}

/**
 * A chat of which the assistant's turns are learned, except those with `weight: 0` or
 * `train: false`.
 */
export interface ChatExample extends ChatFields {
  /** The turns in order. */
  readonly messages: readonly ChatMessage[];
}

/** A chat in the form of ShareGPT. */
export interface ShareGptExample extends ChatFields {
  /** The turns in order, each with `from` (`human`, `gpt` …) and `value`. */
  readonly conversations: readonly Readonly<Record<string, unknown>>[];
  /** What the system says before. */
  readonly system?: string | null;
}

/** A question and its answer in the form of Alpaca. */
export interface InstructionExample extends ChatFields {
  /** What is asked. */
  readonly instruction: string;
  /** What the question is about. */
  readonly input?: string | null;
  /** What is learned. */
  readonly output: string;
  /** What the system says before. */
  readonly system?: string | null;
  /** Earlier questions with their answers. */
  readonly history?: readonly (readonly [string, string])[] | null;
}

/** What the chat template gets beside the messages. */
export interface ChatFields {
  /** JSON schemas of functions that the model may call, or the JSON of a list of them. */
  readonly tools?: readonly unknown[] | string | null;
  /** Documents that the model may quote. */
  readonly documents?: readonly unknown[] | null;
  /** Variables of the template; `chat_template` is the name of one of the tokenizer's templates. */
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | null;
}

/** One line of a data set. */
export type Example =
  | TextExample
  | CompletionExample
  | ChatExample
  | ShareGptExample
  | InstructionExample;

/**
 * Reads examples from a file of JSON lines: `{"text"}`, `{"prompt", "completion"}`, `{"messages"}`,
 * ShareGPT's `{"conversations"}` or Alpaca's `{"instruction", "input", "output"}`, one in each line.
 * Other fields stay, fields that are null count as absent, and empty lines are skipped.
 *
 * @param path The file.
 * @throws {FileError} `DATA_LINE`, with the file's name and the number of the line, for a line that
 * is none of these; `FILE_NOT_FOUND`.
 * @throws {TrainingError} `DATASET_EMPTY` where there is no line.
 *
 * @example
 * ```ts
 * import { readJsonl } from "@graft/peft";
 * const path = await Deno.makeTempFile({ suffix: ".jsonl" });
 * await Deno.writeTextFile(path, '{"prompt": "1+1=", "completion": "2"}\n');
 * console.log((await readJsonl(path)).length); // 1
 * await Deno.remove(path);
 * ```
 */
export async function readJsonl(path: string): Promise<Example[]> {
  return parseJsonl(await readTextFile(path), path);
}

/**
 * Parses what {@link readJsonl} reads.
 *
 * @param text JSON lines; a byte-order mark and carriage returns are allowed.
 * @param name What messages call it.
 * @throws {FileError} `DATA_LINE`, {TrainingError} `DATASET_EMPTY`.
 *
 * @example
 * ```ts
 * import { parseJsonl } from "@graft/peft";
 * console.log(parseJsonl('{"text": "Call me Ishmael."}', "moby.jsonl").length); // 1
 * ```
 */
export function parseJsonl(text: string, name: string): Example[] {
  const rows = jsonLines(text, name, (value) => {
    const row = readRow(value);
    return typeof row === "string" ? `${row}. Each line is an object ${KNOWN_FORMS}` : undefined;
  });
  if (rows.length === 0) throw noRow(name);
  return rows as unknown as Example[];
}
