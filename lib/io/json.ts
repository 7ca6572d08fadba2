/**
 * Reading JSON without losing anything in silence.
 *
 * @module
 */
import { FileError } from "../errors.ts";
import { openByteSource, wrap } from "./byte-source.ts";

/** An object as `JSON.parse` gives it. */
export type JsonObject = Readonly<Record<string, unknown>>;

/**
 * Parses a JSON object. Repeated keys, of which `JSON.parse` would keep the last, are refused.
 *
 * @param text JSON.
 * @param name What messages call it.
 * @throws {FileError} `JSON_INVALID` or `JSON_DUPLICATE_KEY`.
 */
export function parseJsonObject(text: string, name: string): JsonObject {
  const { value, twice: key } = parseJson(text, name);
  if (!isObject(value)) {
    throw new FileError("JSON_INVALID", `${name} holds no JSON object.`, { name });
  }
  if (key !== undefined) {
    throw new FileError(
      "JSON_DUPLICATE_KEY",
      `${name} has the key ${JSON.stringify(key)} twice in one object.`,
      { name, key },
    );
  }
  return value;
}

/**
 * Parses JSON whose nesting ends at a depth that no file needs, as whatever walks a value that is
 * nested without end runs out of stack.
 *
 * @throws {FileError} `JSON_INVALID`.
 */
export function parseJson(
  text: string,
  name: string,
): { readonly value: unknown; /** A key that one object holds twice. */ readonly twice?: string } {
  const { depth, twice } = scan(text);
  if (depth > DEEPEST) {
    throw new FileError(
      "JSON_INVALID",
      `${name} is not usable JSON: it is nested more than ${DEEPEST} levels deep.`,
      { name },
    );
  }
  try {
    return { value: JSON.parse(text), twice };
  } catch (cause) {
    throw wrap(cause, "JSON_INVALID", `${name} is not valid JSON`, { name });
  }
}

const DEEPEST = 200;

/** Reads a file that holds a JSON object; see {@link parseJsonObject} for the errors. */
export async function readJsonFile(path: string): Promise<JsonObject> {
  return parseJsonObject(await readTextFile(path), path);
}

/**
 * Reads a UTF-8 file.
 *
 * @throws {FileError} `FILE_NOT_FOUND`, `FILE_UNREADABLE`, `TEXT_INVALID`.
 */
export async function readTextFile(path: string): Promise<string> {
  const source = await openByteSource(path);
  return decodeText(await source.read(0, source.size), path);
}

/** Decodes UTF-8 strictly. */
export function decodeText(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw wrap(cause, "TEXT_INVALID", `${name} is not valid UTF-8`, { name });
  }
}

/** Whether a value is an object that is neither null nor an array. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** How deep text that may be JSON is nested, and the first key that one of its objects holds twice. */
function scan(text: string): { readonly depth: number; readonly twice?: string } {
  const token = /"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|[{}[\]]/gs;
  const open: (Set<string> | undefined)[] = [];
  let depth = 0, twice: string | undefined;
  for (const match of text.matchAll(token)) {
    const piece = match[0];
    if (piece === "{") open.push(new Set());
    else if (piece === "[") open.push(undefined);
    else if (piece === "}" || piece === "]") open.pop();
    else if (match[1] !== undefined) {
      const key = plain(piece.slice(0, piece.length - match[1].length)), keys = open.at(-1);
      if (keys?.has(key)) twice ??= key;
      keys?.add(key);
    }
    depth = Math.max(depth, open.length);
  }
  return { depth, twice };
}

/** What a quoted key stands for; it may not be valid. */
function plain(quoted: string): string {
  try {
    return quoted.includes("\\") ? JSON.parse(quoted) : quoted.slice(1, -1);
  } catch {
    return quoted;
  }
}
