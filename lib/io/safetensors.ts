/**
 * safetensors: reading by byte range, and writing.
 *
 * A file is the length of its header (8 bytes), a JSON header and the tensors' bytes without gaps.
 * Files written here are byte for byte those of Python's `safetensors` 0.8, and what that refuses
 * is refused here.
 *
 * @example
 * ```ts
 * import { encodeSafetensors, openSafetensors, tensor } from "@graft/peft/safetensors";
 * const bytes = await encodeSafetensors({ weight: tensor([[1, 2], [3, 4]]) }, {
 *   metadata: { format: "pt" },
 * });
 * const file = await openSafetensors(bytes);
 * console.log(file.metadata, await file.tensors.get("weight")!.data());
 * ```
 *
 * @module
 */
import { ShapeError, ValueError } from "../errors.ts";
import { byteLength } from "../tensor/dtype.ts";
import { lazyTensor, type Tensor } from "../tensor/tensor.ts";
import { writeFileAtomic } from "./atomic.ts";
import { type ByteSourceOptions, openByteSource } from "./byte-source.ts";
import { encodeSafetensorsHeader, readHeader, safetensorsRank } from "./safetensors-header.ts";

export { FileError, GraftError } from "../errors.ts";
export type { BlockType, DType, ScalarType, TypedArray } from "../tensor/dtype.ts";
export { type NestedNumbers, type Tensor, tensor } from "../tensor/tensor.ts";
export type { ByteSourceOptions } from "./byte-source.ts";
export {
  readSafetensorsHeader,
  type SafetensorsEntry,
  type SafetensorsHeader,
} from "./safetensors-header.ts";

/** A safetensors file whose header has been read. */
export interface SafetensorsFile {
  /** Its path or URL. */
  readonly name: string;
  /**
   * The tensors by name, in the file's order; each reads its own bytes when its data is asked for.
   */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** The texts under `__metadata__`. */
  readonly metadata: Readonly<Record<string, string>>;
}

/** Tensors to write, by name. */
export type NamedTensors = ReadonlyMap<string, Tensor> | Readonly<Record<string, Tensor>>;

/** What is written beside the tensors. */
export interface WriteSafetensorsOptions {
  /** Texts for `__metadata__`; transformers wants `{ format: "pt" }`. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/**
 * Opens a safetensors file. Only its header is read; each tensor reads its bytes when its data is
 * asked for.
 *
 * @param source A path, a `file:` or `http(s):` URL, or the bytes of a file.
 * @throws {FileError} where the file is missing or not a valid safetensors file; see {@link
 * readSafetensorsHeader}.
 *
 * @example
 * ```ts ignore
 * import { openSafetensors } from "@graft/peft/safetensors";
 * const { tensors } = await openSafetensors("adapter_model.safetensors");
 * for (const [name, { dtype, shape }] of tensors) console.log(name, dtype, shape);
 * ```
 */
export async function openSafetensors(
  source: string | URL | Uint8Array,
  options: ByteSourceOptions = {},
): Promise<SafetensorsFile> {
  const bytes = await openByteSource(source, options);
  const { entries, metadata } = await readHeader(bytes);
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape, offset, length }] of entries) {
    tensors.set(name, lazyTensor({ dtype, shape }, () => bytes.read(offset, length)));
  }
  return { name: bytes.name, tensors, metadata };
}

/**
 * Writes a safetensors file atomically: to a temporary file in the same folder, which is flushed
 * and then renamed. When anything fails, the target is as it was. Tensors are read and written one
 * after the other, so memory holds one at a time.
 *
 * @param path The target; its folder must exist.
 * @param tensors What to write. Block-quantized tensors have no safetensors type; convert them to
 * floats first.
 * @throws {ValueError} for a name or type that the format cannot hold.
 * @throws {FileError} `WRITE_FAILED` where the file system refuses.
 *
 * @example
 * ```ts
 * import { tensor, writeSafetensors } from "@graft/peft/safetensors";
 * const path = await Deno.makeTempFile({ suffix: ".safetensors" });
 * await writeSafetensors(path, { "lora_A.weight": tensor([[0.5, -1]]) }, {
 *   metadata: { format: "pt" },
 * });
 * await Deno.remove(path);
 * ```
 */
export async function writeSafetensors(
  path: string | URL,
  tensors: NamedTensors,
  options: WriteSafetensorsOptions = {},
): Promise<void> {
  await writeFileAtomic(path, pieces(tensors, options));
}

/**
 * The bytes of a safetensors file.
 *
 * @param tensors What to write; see {@link writeSafetensors} for the errors.
 *
 * @example
 * ```ts
 * import { encodeSafetensors, openSafetensors, tensor } from "@graft/peft/safetensors";
 * const file = await openSafetensors(await encodeSafetensors({ w: tensor([[1, 2]]) }));
 * console.log(file.tensors.get("w")!.shape); // [1, 2]
 * ```
 */
export async function encodeSafetensors(
  tensors: NamedTensors,
  options: WriteSafetensorsOptions = {},
): Promise<Uint8Array> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  for await (const piece of pieces(tensors, options)) parts.push(piece as Uint8Array<ArrayBuffer>);
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function* pieces(
  tensors: NamedTensors,
  options: WriteSafetensorsOptions,
): AsyncGenerator<Uint8Array> {
  const entries = sortEntries(tensors);
  yield encodeSafetensorsHeader(entries, options.metadata);
  for (const [name, tensor] of entries) {
    const { dtype, shape } = tensor;
    const array = await tensor.data();
    if (array.byteLength !== byteLength(dtype, shape)) {
      throw new ShapeError(
        "TENSOR_SIZE",
        `The tensor ${JSON.stringify(name)} is ${dtype} of shape [${shape}], ${
          byteLength(dtype, shape)
        } bytes, but its data has ${array.byteLength}.`,
        { name, dtype, shape },
      );
    }
    yield new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  }
}

/**
 * The widest types first, so that every tensor is aligned for its type; names in order of their
 * UTF-8.
 */
function sortEntries(tensors: NamedTensors): [string, Tensor][] {
  const entries = tensors instanceof Map
    ? [...tensors as ReadonlyMap<string, Tensor>]
    : Object.entries(tensors);
  for (const [name, { dtype }] of entries) {
    if (name === "__metadata__" || !name.isWellFormed()) {
      throw new ValueError(
        "SAFETENSORS_NAME",
        `A tensor cannot have the name ${JSON.stringify(name)} in a safetensors file.`,
        { name },
      );
    }
    if (safetensorsRank(dtype) < 0) {
      throw new ValueError(
        "SAFETENSORS_DTYPE",
        `The tensor ${
          JSON.stringify(name)
        } is ${dtype}, which safetensors cannot hold. Convert it with castTensor(tensor, "f16").`,
        { name, dtype },
      );
    }
  }
  const rank = (tensor: Tensor) => safetensorsRank(tensor.dtype);
  return entries.sort(([a, x], [b, y]) => rank(y) - rank(x) || compareUtf8(a, b));
}

function compareUtf8(a: string, b: string): number {
  const x = [...a], y = [...b];
  for (let i = 0; i < x.length && i < y.length; i++) {
    if (x[i] !== y[i]) return x[i].codePointAt(0)! - y[i].codePointAt(0)!;
  }
  return x.length - y.length;
}
