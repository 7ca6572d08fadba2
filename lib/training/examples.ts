/**
 * Examples to learn from, and reading them from files of JSON lines.
 *
 * @module
 */
import { FileError, TrainingError } from "../errors.ts";
import type { ChatMessage } from "../io/chat-template.ts";
import { isObject, readTextFile } from "../io/json.ts";

/** Text that is learned as a whole. */
export interface TextExample {
  /** The text. */
  readonly text: string;
}

/** A text of which the second part is learned, given the first. */
export interface CompletionExample {
  /** What is given. */
  readonly prompt: string;
  /** What is learned. */
  readonly completion: string;
}

/** A chat of which the assistant's turns are learned. */
export interface ChatExample {
  /** The turns in order. */
  readonly messages: readonly ChatMessage[];
}

/** One line of a data set. */
export type Example = TextExample | CompletionExample | ChatExample;

/**
 * Reads examples from a file of JSON lines: `{"text"}`, `{"prompt", "completion"}` or
 * `{"messages"}`, one in each line. Other fields are ignored, empty lines skipped.
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
  const examples: Example[] = [];
  for (const [i, line] of text.replace(/^\ufeff/, "").split(/\r?\n/).entries()) {
    if (line.trim() === "") continue;
    const fail = (problem: string) =>
      new FileError(
        "DATA_LINE",
        `Line ${
          i + 1
        } of ${name} ${problem}. Each line is an object {"text"}, {"prompt", "completion"} or {"messages"}.`,
        { name, line: i + 1 },
      );
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      throw fail(`is not valid JSON (${(cause as Error).message})`);
    }
    const problem = problemOf(value);
    if (problem) throw fail(problem);
    examples.push(value as unknown as Example);
  }
  if (examples.length === 0) {
    throw new TrainingError(
      "DATASET_EMPTY",
      `${name} holds no example: it has no line with data.`,
      {
        name,
      },
    );
  }
  return examples;
}

/** What keeps a value from being an example, as the end of a sentence; `null` where it is one. */
export function problemOf(value: unknown): string | null {
  if (!isObject(value)) return "holds no JSON object";
  const text = (name: string) => typeof value[name] === "string";
  if ("messages" in value) {
    const { messages } = value;
    if (!Array.isArray(messages)) return 'has "messages" that are no list';
    if (messages.length === 0) return 'has "messages" that are empty';
    const bad = messages.findIndex((m) => !isObject(m) || typeof m.role !== "string");
    if (bad >= 0) return `has a message (number ${bad + 1}) without a "role"`;
    const mute = messages.findIndex((m) => m.role === "assistant" && !speaks(m));
    if (mute >= 0) return `has a message of the assistant (number ${mute + 1}) without "content"`;
    return messages.some((m) => m.role === "assistant")
      ? null
      : 'has no message of the "assistant", so nothing to learn';
  }
  if ("prompt" in value || "completion" in value) {
    return text("prompt") && text("completion")
      ? null
      : 'needs both "prompt" and "completion" as strings';
  }
  if (!("text" in value)) {
    const names = Object.keys(value);
    return `has none of the known fields${names.length ? ` (found ${names.join(", ")})` : ""}`;
  }
  return text("text") ? null : 'has a "text" that is no string';
}

/** A template would write "undefined" for a message without content, unless that calls tools. */
function speaks(message: Readonly<Record<string, unknown>>): boolean {
  return message.content != null || "tool_calls" in message;
}
