/**
 * Tensors as the bytes of storage buffers, and back.
 *
 * @module
 */
import { STORAGE } from "../../../kernels/wgsl.ts";
import type { Spec, ValueType } from "../../ops/value.ts";
import { castTensor } from "../../tensor/convert.ts";
import { sizeOf, type TypedArray, viewAs } from "../../tensor/dtype.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";

/** A tensor's contents in the storage format of a type; a multiple of 4 bytes. */
export async function encode(value: Tensor, dtype: ValueType): Promise<Uint8Array<ArrayBuffer>> {
  const data = await (value.dtype === dtype ? value : castTensor(value, dtype)).data();
  return encodeArray(data, dtype);
}

/** A typed array of a type as its storage format. */
function encodeArray(data: TypedArray, dtype: ValueType): Uint8Array<ArrayBuffer> {
  if (dtype === "bool") {
    const words = new Uint32Array(data.length);
    for (let i = 0; i < words.length; i++) words[i] = data[i] ? 1 : 0;
    return new Uint8Array(words.buffer);
  }
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  if (bytes.byteLength % 4 === 0) return bytes;
  const padded = new Uint8Array(Math.ceil(bytes.byteLength / 4) * 4);
  padded.set(bytes);
  return padded;
}

/** The tensor that bytes in storage format stand for; the bytes are not copied where that can be helped. */
export function decode(bytes: Uint8Array, spec: Spec): Tensor {
  const { dtype, shape } = spec;
  const size = sizeOf(shape);
  if (dtype === "bool") {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, size);
    return tensor(Uint8Array.from(words), { dtype, shape });
  }
  const exact = size * 4 / STORAGE[dtype].perWord;
  return tensor(viewAs(bytes.subarray(0, exact), dtype), { dtype, shape });
}
