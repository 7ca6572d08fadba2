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
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw wrap(cause, "JSON_INVALID", `${name} is not valid JSON`, { name });
  }
  if (!isObject(value)) {
    throw new FileError("JSON_INVALID", `${name} holds no JSON object.`, { name });
  }
  const key = findDuplicateKey(text);
  if (key !== undefined) {
    throw new FileError(
      "JSON_DUPLICATE_KEY",
      `${name} has the key ${JSON.stringify(key)} twice in one object.`,
      { name, key },
    );
  }
  return value;
}

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

/** The first key that one object of valid JSON holds twice. */
function findDuplicateKey(text: string): string | undefined {
  const token = /"(?:[^"\\]|\\.)*"(\s*:)?|[{}]/gs;
  const open: Set<string>[] = [];
  for (const match of text.matchAll(token)) {
    const piece = match[0];
    if (piece === "{") open.push(new Set());
    else if (piece === "}") open.pop();
    else if (match[1] !== undefined) {
      const quoted = piece.slice(0, piece.length - match[1].length);
      const key = quoted.includes("\\") ? JSON.parse(quoted) as string : quoted.slice(1, -1);
      const keys = open[open.length - 1];
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}
