/**
 * The header of a safetensors file: reading it, checking it, writing it.
 *
 * @module
 */
import { FileError } from "../errors.ts";
import { byteLength, type DType, type ScalarType, sizeOf } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type ByteSource, type ByteSourceOptions, openByteSource } from "./byte-source.ts";
import { decodeText, isObject, type JsonObject, parseJsonObject } from "./json.ts";

/** Where a tensor lies. */
export interface SafetensorsEntry {
  /** Element type. */
  readonly dtype: ScalarType;
  /** Dimensions, outermost first. */
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

/** The header of a safetensors file. */
export interface SafetensorsHeader {
  /** The entries by name, in the file's order. */
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
  /** The texts under `__metadata__`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Where the tensors' bytes begin. */
  readonly dataOffset: number;
}

/**
 * The names of the types in files, in the order in which Python's writer places them, last first.
 */
const NAMES: readonly (readonly [name: string, dtype: ScalarType])[] = [
  ["BOOL", "bool"],
  ["F4", "f4"],
  ["F6_E2M3", "f6_e2m3"],
  ["F6_E3M2", "f6_e3m2"],
  ["U8", "u8"],
  ["I8", "i8"],
  ["F8_E5M2", "f8_e5m2"],
  ["F8_E4M3", "f8_e4m3"],
  ["F8_E8M0", "f8_e8m0"],
  ["F8_E4M3FNUZ", "f8_e4m3fnuz"],
  ["F8_E5M2FNUZ", "f8_e5m2fnuz"],
  ["I16", "i16"],
  ["U16", "u16"],
  ["F16", "f16"],
  ["BF16", "bf16"],
  ["I32", "i32"],
  ["U32", "u32"],
  ["F32", "f32"],
  ["C64", "c64"],
  ["F64", "f64"],
  ["I64", "i64"],
  ["U64", "u64"],
];
const BY_NAME: ReadonlyMap<unknown, ScalarType> = new Map(NAMES);
const RANK: ReadonlyMap<DType, number> = new Map(NAMES.map(([, dtype], i) => [dtype, i]));

/**
 * The place of a type in the format's own order, narrow types first; -1 for types that it cannot
 * hold.
 */
export function safetensorsRank(dtype: DType): number {
  return RANK.get(dtype) ?? -1;
}

const MAX_HEADER = 100_000_000;

/**
 * Reads the header of a safetensors file and checks it against the length of the file.
 *
 * @param source A path, a `file:` or `http(s):` URL, or the bytes of a file.
 * @throws {FileError} with one of these codes:
 * - `SAFETENSORS_TRUNCATED`: the file ends before its header or its last tensor does;
 * - `SAFETENSORS_HEADER_SIZE`: the header claims more than 100 MB;
 * - `SAFETENSORS_HEADER`: the header is not UTF-8, not a JSON object, or an entry lacks a field or
 *   has one of a wrong type;
 * - `SAFETENSORS_DUPLICATE_KEY`: a name appears twice;
 * - `SAFETENSORS_DTYPE`, `SAFETENSORS_SHAPE`: an unknown element type, a dimension that is no
 *   natural number;
 * - `SAFETENSORS_SIZE`: a tensor's range does not have the size of its type and shape;
 * - `SAFETENSORS_OVERLAP`, `SAFETENSORS_HOLE`: tensors share bytes, or bytes belong to none.
 */
export async function readSafetensorsHeader(
  source: string | URL | Uint8Array,
  options: ByteSourceOptions = {},
): Promise<SafetensorsHeader> {
  return await readHeader(await openByteSource(source, options));
}

/** {@link readSafetensorsHeader} for a source that is open already. */
export async function readHeader(source: ByteSource): Promise<SafetensorsHeader> {
  const { name, size } = source;
  if (size < 8) {
    throw new FileError(
      "SAFETENSORS_TRUNCATED",
      `${name} has ${size} bytes, too few for a safetensors file, which begins with the length of its header in 8 bytes.`,
      { name, size },
    );
  }
  const start = await source.read(0, 8);
  const length = Number(new DataView(start.buffer, start.byteOffset).getBigUint64(0, true));
  if (length > MAX_HEADER) {
    throw new FileError(
      "SAFETENSORS_HEADER_SIZE",
      `${name} claims a header of ${length} bytes; at most ${MAX_HEADER} are allowed. It is not a safetensors file, or damaged.`,
      { name, length },
    );
  }
  const dataOffset = 8 + length;
  if (dataOffset > size) {
    throw new FileError(
      "SAFETENSORS_TRUNCATED",
      `${name} should have a header of ${length} bytes, but is only ${size} bytes long. The file is incomplete; get it again.`,
      { name, length, size },
    );
  }
  const header = parseHeader(await source.read(8, length), name);
  const metadata = readMetadata(header.__metadata__, name);
  const entries = Object.entries(header)
    .filter(([key]) => key !== "__metadata__")
    .map(([key, info]) => [key, readEntry(key, info, dataOffset, name)] as const)
    .sort(([, a], [, b]) => a.offset - b.offset || a.length - b.length);
  checkCover(entries, dataOffset, size, name);
  return { entries: new Map(entries), metadata, dataOffset };
}

function parseHeader(bytes: Uint8Array, name: string): JsonObject {
  const title = `The header of ${name}`;
  if (bytes[0] !== 0x7b) {
    throw new FileError(
      "SAFETENSORS_HEADER",
      `${title} does not begin with "{". It is not a safetensors file, or damaged.`,
      { name },
    );
  }
  try {
    const text = decodeText(bytes, title);
    const header = parseJsonObject(text, title);
    if (/\d[.eE]/.test(text.replace(/"(?:[^"\\]|\\.)*"/gs, '""'))) {
      throw new FileError("JSON_INVALID", `${title} has a number that is not whole.`, { name });
    }
    return header;
  } catch (cause) {
    if (!(cause instanceof FileError)) throw cause;
    const duplicate = cause.code === "JSON_DUPLICATE_KEY";
    throw new FileError(
      duplicate ? "SAFETENSORS_DUPLICATE_KEY" : "SAFETENSORS_HEADER",
      cause.message,
      cause.details,
      { cause },
    );
  }
}

function readMetadata(value: unknown, name: string): Readonly<Record<string, string>> {
  if (value === undefined) return {};
  if (!isObject(value) || !Object.values(value).every((v) => typeof v === "string")) {
    throw new FileError(
      "SAFETENSORS_HEADER",
      `The __metadata__ of ${name} must map texts to texts.`,
      { name },
    );
  }
  return value as Readonly<Record<string, string>>;
}

/** As many axes as a tensor of torch or NumPy can have. */
const MOST_AXES = 64;

function readEntry(key: string, info: unknown, dataOffset: number, name: string): SafetensorsEntry {
  const title = `The tensor ${JSON.stringify(key)} of ${name}`;
  const fail = (code: string, what: string) =>
    new FileError(code, `${title} ${what}.`, { name, key });
  if (!isObject(info)) throw fail("SAFETENSORS_HEADER", "is not described by an object");
  const { dtype: type, shape, data_offsets: offsets } = info;
  if (typeof type !== "string" || !Array.isArray(shape) || !Array.isArray(offsets)) {
    throw fail("SAFETENSORS_HEADER", "lacks a dtype, a shape or data_offsets");
  }
  const dtype = BY_NAME.get(type);
  if (dtype === undefined) {
    throw fail(
      "SAFETENSORS_DTYPE",
      `has the unknown dtype ${JSON.stringify(type)}; known are ${
        NAMES.map(([n]) => n).join(", ")
      }`,
    );
  }
  const natural = (n: unknown) => Number.isSafeInteger(n) && !Object.is(n, -0) && n as number >= 0;
  if (shape.length > MOST_AXES) {
    throw fail("SAFETENSORS_SHAPE", `has ${shape.length} axes, and tensors at most ${MOST_AXES}`);
  }
  const sizes = shape.map((_, i) => sizeOf(shape.slice(0, i + 1)) * 8);
  if (!shape.every(natural) || !sizes.every(Number.isSafeInteger)) {
    throw fail("SAFETENSORS_SHAPE", `has the impossible shape ${JSON.stringify(shape)}`);
  }
  const [begin, end] = offsets;
  if (offsets.length !== 2 || !natural(begin) || !natural(end) || end < begin) {
    throw fail("SAFETENSORS_HEADER", `has the impossible data_offsets ${JSON.stringify(offsets)}`);
  }
  const wanted = byteLength(dtype, shape);
  const whole = wanted === sizeOf(shape) * (byteLength(dtype, [24]) / 24);
  if (!whole || end - begin !== wanted) {
    throw fail(
      "SAFETENSORS_SIZE",
      whole
        ? `takes ${end - begin} bytes, but a ${type} tensor of shape [${shape}] has ${wanted}`
        : `does not fill whole bytes: ${type} of shape [${shape}]`,
    );
  }
  return { dtype, shape, offset: dataOffset + begin, length: wanted };
}

/**
 * The tensors, sorted by offset, must cover the file from the header to its end, each byte once.
 */
function checkCover(
  entries: readonly (readonly [string, SafetensorsEntry])[],
  dataOffset: number,
  size: number,
  name: string,
): void {
  let at = dataOffset;
  let previous = "the header";
  const hole = (from: number, to: number, where: string) =>
    new FileError(
      "SAFETENSORS_HOLE",
      `${name} has ${
        to - from
      } bytes ${where} that belong to no tensor. The file is damaged, or was not written as safetensors.`,
      { name, from, to },
    );
  for (const [key, { offset, length }] of entries) {
    const title = JSON.stringify(key);
    if (offset < at) {
      throw new FileError(
        "SAFETENSORS_OVERLAP",
        `The tensors ${previous} and ${title} of ${name} overlap: the second begins at byte ${offset}, before the first ends at ${at}.`,
        { name, key },
      );
    }
    if (offset > at) throw hole(at, offset, `between ${previous} and ${title}`);
    at = offset + length;
    previous = title;
  }
  if (at > size) {
    throw new FileError(
      "SAFETENSORS_TRUNCATED",
      `The tensor ${previous} of ${name} should end at byte ${at}, but the file has only ${size}. It is incomplete; get it again.`,
      { name, size, end: at },
    );
  }
  if (at < size) throw hole(at, size, `after ${previous}`);
}

/**
 * The bytes before the tensors' own: the header, padded so that they begin at a multiple of 8.
 *
 * @param entries The tensors in the order in which their bytes follow.
 */
export function encodeSafetensorsHeader(
  entries: readonly (readonly [string, Tensor])[],
  metadata: Readonly<Record<string, string>> | undefined,
): Uint8Array {
  // A list of pairs, as an object would move names that look like numbers to the front.
  const fields: string[] = [];
  if (metadata) fields.push(`"__metadata__":${JSON.stringify(metadata)}`);
  let at = 0;
  for (const [name, { dtype, shape }] of entries) {
    const end = at + byteLength(dtype, shape);
    const info = { dtype: NAMES[safetensorsRank(dtype)][0], shape, data_offsets: [at, end] };
    fields.push(`${JSON.stringify(name)}:${JSON.stringify(info)}`);
    at = end;
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const length = Math.ceil(json.length / 8) * 8;
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, 8);
  return header;
}
