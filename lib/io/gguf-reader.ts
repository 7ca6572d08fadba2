/**
 * The contents of a GGUF file as they are: metadata and tensors under GGUF's own names.
 *
 * @module
 */
import { GGMLQuantizationType, gguf } from "@huggingface/gguf";
import { FileError, UnsupportedError } from "../errors.ts";
import { blockLength, byteLength, type DType, sizeOf } from "../tensor/dtype.ts";
import { lazyTensor, type Tensor } from "../tensor/tensor.ts";
import { type ByteSource, type ByteSourceOptions, openByteSource, wrap } from "./byte-source.ts";

/** A metadata value. 64-bit integers are numbers where a number holds them exactly. */
export type GgufValue = string | number | bigint | boolean | readonly GgufValue[];

/** What one GGUF file holds. */
export interface GgufContents {
  /** Its path or URL. */
  readonly name: string;
  /** Metadata by key, such as `general.architecture`. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /**
   * Tensors by GGUF name, dimensions outermost first, each reading its bytes when its data is asked
   * for.
   */
  readonly tensors: ReadonlyMap<string, Tensor>;
}

const TYPES: ReadonlyMap<number, DType> = new Map<number, DType>([
  [GGMLQuantizationType.F32, "f32"],
  [GGMLQuantizationType.F16, "f16"],
  [GGMLQuantizationType.BF16, "bf16"],
  [GGMLQuantizationType.F64, "f64"],
  [GGMLQuantizationType.I8, "i8"],
  [GGMLQuantizationType.I16, "i16"],
  [GGMLQuantizationType.I32, "i32"],
  [GGMLQuantizationType.I64, "i64"],
  [GGMLQuantizationType.Q8_0, "q8_0"],
  [GGMLQuantizationType.Q4_0, "q4_0"],
  [GGMLQuantizationType.Q4_1, "q4_1"],
  [GGMLQuantizationType.Q5_0, "q5_0"],
  [GGMLQuantizationType.Q5_1, "q5_1"],
  [GGMLQuantizationType.Q2_K, "q2_k"],
  [GGMLQuantizationType.Q3_K, "q3_k"],
  [GGMLQuantizationType.Q4_K, "q4_k"],
  [GGMLQuantizationType.Q5_K, "q5_k"],
  [GGMLQuantizationType.Q6_K, "q6_k"],
  [GGMLQuantizationType.IQ4_NL, "iq4_nl"],
  [GGMLQuantizationType.IQ4_XS, "iq4_xs"],
]);

/**
 * Reads the header of a GGUF file.
 *
 * @param source A path, a `file:` or `http(s):` URL, or the bytes of a file.
 * @throws {FileError} `GGUF_INVALID`, `GGUF_TRUNCATED`, `GGUF_OVERLAP`, or those of opening a file.
 * @throws {UnsupportedError} `GGUF_TYPE` where a tensor has an element type that is not supported.
 */
export async function readGguf(
  source: string | URL | Uint8Array,
  options: ByteSourceOptions = {},
): Promise<GgufContents> {
  const bytes = await openByteSource(source, options);
  const { name } = bytes;
  await checkCounts(bytes);
  const parsed = await parse(bytes);
  if (!parsed.littleEndian) {
    throw new UnsupportedError(
      "GGUF_BIG_ENDIAN",
      `${name} is a big-endian GGUF file. Convert it to little-endian with llama.cpp's gguf-py.`,
      { name },
    );
  }
  const headerEnd = parsed.tensorInfoByteRange[1];
  if (headerEnd > bytes.size) throw truncated(name, "Its header", headerEnd, bytes.size);

  const invalid = (what: string, details: Record<string, unknown> = {}) =>
    new FileError("GGUF_INVALID", `${name} is not a valid GGUF file: ${what}.`, {
      name,
      ...details,
    });
  const metadata = new Map(
    Object.entries(parsed.metadata).map(([key, value]) => [key, toValue(value)]),
  );
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || !Number.isInteger(Math.log2(alignment)) || alignment < 1) {
    throw invalid(`general.alignment is ${alignment}, and should be a power of two`, { alignment });
  }
  const dataOffset = Math.ceil(headerEnd / alignment) * alignment;
  const tensors = new Map<string, Tensor>();
  const ranges: { name: string; begin: number; end: number }[] = [];
  for (const info of parsed.tensorInfos) {
    const dtype = TYPES.get(info.dtype);
    if (!dtype) throw unsupportedType(name, info.name, info.dtype);
    const shape = info.shape.map(Number).reverse();
    const columns = shape[shape.length - 1] ?? 1;
    if (!Number.isSafeInteger(sizeOf(shape) * 8) || columns % blockLength(dtype)) {
      throw invalid(
        `the tensor "${info.name}" has the impossible shape [${shape}] for ${dtype}`,
        { tensor: info.name, shape, dtype },
      );
    }
    if (Number(info.offset) % alignment) {
      throw invalid(
        `the tensor "${info.name}" begins at ${info.offset}, which is no multiple of the alignment ${alignment}`,
        { tensor: info.name },
      );
    }
    const begin = dataOffset + Number(info.offset);
    const length = byteLength(dtype, shape);
    if (begin + length > bytes.size) {
      throw truncated(name, `The tensor "${info.name}"`, begin + length, bytes.size);
    }
    if (tensors.has(info.name)) {
      throw invalid(`it has the tensor "${info.name}" twice`);
    }
    ranges.push({ name: info.name, begin, end: begin + length });
    tensors.set(info.name, lazyTensor({ dtype, shape }, () => bytes.read(begin, length)));
  }
  checkOverlap(ranges, name);
  return { name, metadata, tensors };
}

/** Holds the counts of tensors and of metadata against the size, before anything is read for them. */
async function checkCounts(source: ByteSource): Promise<void> {
  const { name, size } = source;
  if (size < 24) return; // the parser says what it is
  const start = await source.read(0, 24);
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  const short = view.getUint32(4, true) === 1; // the first version has 32-bit counts
  const count = (i: number) =>
    short ? view.getUint32(8 + 4 * i, true) : Number(view.getBigUint64(8 + 8 * i, true));
  const big = !(view.getUint32(4, true) & 0xffff);
  const [tensors, values] = [count(0), count(1)];
  // Of a tensor, its name's length, type and offset; of a value, its key's length, type and a byte.
  const least = tensors * (short ? 20 : 24) + values * (short ? 9 : 13);
  if (!big && least > size) {
    throw new FileError(
      "GGUF_TRUNCATED",
      `${name} says that it has ${tensors} tensors and ${values} metadata values, which its ${size} bytes cannot hold. Get it again.`,
      { name, tensors, values, size },
    );
  }
}

async function parse(source: ByteSource): Promise<Awaited<ReturnType<typeof gguf>>> {
  try {
    // The address is never looked up: the parser asks for ranges, which come from the source.
    return await gguf("https://gguf.invalid/", { fetch: rangesOf(source) });
  } catch (cause) {
    throw wrap(cause, "GGUF_INVALID", `${source.name} is not a valid GGUF file, or incomplete`, {
      name: source.name,
    });
  }
}

function rangesOf(source: ByteSource): typeof fetch {
  return async (_url, init) => {
    const range = new Headers(init?.headers).get("range")?.match(/^bytes=(\d+)-(\d+)$/);
    const begin = Math.min(Number(range?.[1] ?? 0), source.size);
    const end = Math.min(Number(range?.[2] ?? 0) + 1, source.size);
    const bytes = await source.read(begin, end - begin);
    return new Response(bytes as Uint8Array<ArrayBuffer>, { status: 206 });
  };
}

function checkOverlap(
  ranges: { name: string; begin: number; end: number }[],
  file: string,
): void {
  ranges.sort((a, b) => a.begin - b.begin || a.end - b.end);
  for (let i = 1; i < ranges.length; i++) {
    const [a, b] = [ranges[i - 1], ranges[i]];
    if (b.begin < a.end) {
      throw new FileError(
        "GGUF_OVERLAP",
        `The tensors "${a.name}" and "${b.name}" of ${file} overlap at byte ${b.begin}. The file is damaged.`,
        { name: file, tensors: [a.name, b.name] },
      );
    }
  }
}

function truncated(name: string, what: string, end: number, size: number): FileError {
  return new FileError(
    "GGUF_TRUNCATED",
    `${name} is incomplete: ${what.charAt(0).toLowerCase()}${
      what.slice(1)
    } should end at byte ${end}, but the file has only ${size}. Get it again.`,
    { name, end, size },
  );
}

function unsupportedType(name: string, tensor: string, type: number): UnsupportedError {
  const title = GGMLQuantizationType[type] ?? `number ${type}`;
  const supported = [...TYPES.keys()].map((t) => GGMLQuantizationType[t]);
  return new UnsupportedError(
    "GGUF_TYPE",
    `The tensor "${tensor}" of ${name} has the type ${title}. Supported are ${
      supported.join(", ")
    }; get another quantization of the model, such as Q4_K_M, Q8_0 or F16.`,
    { name, tensor, type: title, supported },
  );
}

function toValue(value: unknown): GgufValue {
  if (Array.isArray(value)) return value.map(toValue);
  if (typeof value === "bigint") {
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  return value as GgufValue;
}
