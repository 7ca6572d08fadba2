/**
 * GGUF's block-quantized types: their values, and one layout for all of them that devices compute
 * with.
 *
 * Every block is little-endian and starts with its half-precision scales, but for `q6_k`, which
 * ends with it (`ggml-common.h` of llama.cpp defines them).
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { blockLength, type BlockType, byteLength, isBlockType, sizeOf } from "./dtype.ts";
import type { Tensor } from "./tensor.ts";

/**
 * A block-quantized matrix in the layout that both devices compute with: the `B` input of ONNX
 * Runtime's `MatMulNBits` [rows, columns / block, block · bits / 8]. Element (r, c) is `(q −
 * zeroPoint) · scale + offset`, with the scale and offset of block ⌊c / block⌋ of row r.
 */
export interface BlockQuantized {
  /** Bits per element. */
  readonly bits: 4 | 8;
  /** Elements that share a scale. */
  readonly block: 16 | 32;
  /** Rows (all dimensions but the last) and columns. */
  readonly shape: readonly [rows: number, columns: number];
  /** Unsigned codes, row by row; of two 4-bit elements in a byte the first has the low half. */
  readonly packed: Uint8Array;
  /** One per block [rows, columns / block]. */
  readonly scales: Float32Array;
  /** One per block; absent when all are zero. */
  readonly offsets?: Float32Array;
  /** The code that stands for zero: 8 for 4 bits, 128 for 8 bits. */
  readonly zeroPoint: 8 | 128;
}

/**
 * Brings a block-quantized tensor into the devices' layout without dequantizing it. The values are
 * those of `toFloat32` up to the rounding of one addition; exactly those where there are no
 * offsets.
 *
 * | type | bits | block | offsets |
 * | --- | --- | --- | --- |
 * | `q4_0` | 4 | 32 | no |
 * | `q4_1` | 4 | 32 | yes |
 * | `q8_0` | 8 | 32 | no |
 * | `q4_k` | 4 | 32 | yes |
 * | `q6_k` | 8 | 16 | no |
 *
 * @param tensor A tensor of block type, of any number of dimensions; its last dimension is a whole
 * number of blocks.
 * @throws {ShapeError} where the tensor is not of block type or a row does not hold whole blocks.
 */
export async function repackBlocks(tensor: Tensor): Promise<BlockQuantized> {
  const { dtype } = tensor;
  const columns = tensor.shape[tensor.shape.length - 1] ?? 1;
  if (!isBlockType(dtype) || columns % blockLength(dtype)) {
    throw new ShapeError(
      "BLOCK_LAYOUT",
      `Only block-quantized tensors whose rows hold whole blocks can be repacked, not ${dtype} of shape [${tensor.shape}].`,
      { dtype, shape: tensor.shape },
    );
  }
  const size = sizeOf(tensor.shape);
  const bytes = await tensor.data() as Uint8Array;
  const bits = dtype === "q8_0" || dtype === "q6_k" ? 8 : 4;
  const block = dtype === "q6_k" ? 16 : 32;
  const packed = new Uint8Array(size * bits / 8);
  const scales = new Float32Array(size / block);
  const offsets = dtype === "q4_1" || dtype === "q4_k" ? new Float32Array(size / block) : undefined;
  REPACK[dtype](bytes, packed, scales, offsets ?? scales);
  return {
    bits,
    block,
    shape: [columns ? size / columns : 0, columns],
    packed,
    scales,
    ...(offsets && { offsets }),
    zeroPoint: bits === 4 ? 8 : 128,
  };
}

type Repack = (
  bytes: Uint8Array,
  packed: Uint8Array,
  scales: Float32Array,
  offsets: Float32Array,
) => void;

const REPACK: Readonly<Record<BlockType, Repack>> = {
  q4_0(bytes, packed, scales) {
    const halves = readHalves(bytes);
    for (let b = 0; b < scales.length; b++) {
      scales[b] = halves(b * 18);
      packLow(bytes, b * 18 + 2, packed, b * 16, 8);
      packHigh(bytes, b * 18 + 2, packed, b * 16 + 8, 8);
    }
  },
  q4_1(bytes, packed, scales, offsets) {
    const halves = readHalves(bytes);
    for (let b = 0; b < scales.length; b++) {
      const scale = scales[b] = halves(b * 20);
      offsets[b] = halves(b * 20 + 2) + 8 * scale;
      packLow(bytes, b * 20 + 4, packed, b * 16, 8);
      packHigh(bytes, b * 20 + 4, packed, b * 16 + 8, 8);
    }
  },
  q8_0(bytes, packed, scales) {
    const halves = readHalves(bytes);
    for (let b = 0, from = 0, to = 0; b < scales.length; b++) {
      scales[b] = halves(from);
      from += 2;
      // Flipping the sign bit adds 128 to a signed byte.
      for (const end = to + 32; to < end;) packed[to++] = bytes[from++] ^ 0x80;
    }
  },
  q4_k(bytes, packed, scales, offsets) {
    const halves = readHalves(bytes);
    for (let b = 0, from = 0; from < bytes.length; b += 8, from += 144) {
      const d = halves(from), dmin = halves(from + 2);
      for (let j = 0; j < 8; j++) {
        const scale = scales[b + j] = d * scaleOf(bytes, from + 4, j);
        offsets[b + j] = 8 * scale - dmin * minOf(bytes, from + 4, j);
      }
      for (let j = 0; j < 4; j++) {
        packLow(bytes, from + 16 + j * 32, packed, (b + 2 * j) * 16, 16);
        packHigh(bytes, from + 16 + j * 32, packed, (b + 2 * j + 1) * 16, 16);
      }
    }
  },
  q6_k(bytes, packed, scales) {
    const halves = readHalves(bytes);
    for (let b = 0, from = 0; from < bytes.length; b += 16, from += 210) {
      const d = halves(from + 208);
      for (let j = 0; j < 16; j++) scales[b + j] = d * signed(bytes[from + 192 + j]);
      for (let half = 0; half < 2; half++) {
        const low = from + half * 64, high = from + 128 + half * 32, to = b * 16 + half * 128;
        for (let i = 0; i < 32; i++) {
          const l = bytes[low + i], m = bytes[low + 32 + i], h = bytes[high + i];
          // 128 - 32: six-bit codes have their zero at 32.
          packed[to + i] = 96 + ((l & 15) | (h & 3) << 4);
          packed[to + 32 + i] = 96 + ((m & 15) | (h >> 2 & 3) << 4);
          packed[to + 64 + i] = 96 + (l >> 4 | (h >> 4 & 3) << 4);
          packed[to + 96 + i] = 96 + (m >> 4 | h >> 6 << 4);
        }
      }
    }
  },
};

/** Pairs the low halves of consecutive bytes: `count` bytes out of 2 · `count`. */
function packLow(from: Uint8Array, at: number, to: Uint8Array, out: number, count: number): void {
  for (let k = 0; k < count; k++, at += 2) to[out + k] = (from[at] & 15) | from[at + 1] << 4;
}

/** Pairs the high halves of consecutive bytes. */
function packHigh(from: Uint8Array, at: number, to: Uint8Array, out: number, count: number): void {
  for (let k = 0; k < count; k++, at += 2) to[out + k] = from[at] >> 4 | (from[at + 1] & 0xf0);
}

/**
 * The elements of consecutive blocks, as ggml's reference functions compute them: each product and
 * each sum rounded once.
 *
 * @param bytes Whole blocks.
 * @param dtype Their type.
 */
export function dequantizeBlocks(bytes: Uint8Array, dtype: BlockType): Float32Array {
  const count = bytes.length / byteLength(dtype, [1]);
  const out = new Float32Array(count * blockLength(dtype));
  DEQUANTIZE[dtype](bytes, out);
  return out;
}

const DEQUANTIZE: Readonly<Record<BlockType, (bytes: Uint8Array, out: Float32Array) => void>> = {
  q4_0(bytes, out) {
    const halves = readHalves(bytes);
    for (let from = 0, to = 0; to < out.length; from += 18, to += 32) {
      const d = halves(from);
      for (let i = 0; i < 16; i++) {
        const q = bytes[from + 2 + i];
        out[to + i] = ((q & 15) - 8) * d;
        out[to + 16 + i] = ((q >> 4) - 8) * d;
      }
    }
  },
  q4_1(bytes, out) {
    const halves = readHalves(bytes);
    for (let from = 0, to = 0; to < out.length; from += 20, to += 32) {
      const d = halves(from), m = halves(from + 2);
      for (let i = 0; i < 16; i++) {
        const q = bytes[from + 4 + i];
        out[to + i] = (q & 15) * d + m;
        out[to + 16 + i] = (q >> 4) * d + m;
      }
    }
  },
  q8_0(bytes, out) {
    const halves = readHalves(bytes);
    for (let from = 0, to = 0; to < out.length; from += 34, to += 32) {
      const d = halves(from);
      for (let i = 0; i < 32; i++) out[to + i] = signed(bytes[from + 2 + i]) * d;
    }
  },
  q4_k(bytes, out) {
    const halves = readHalves(bytes);
    for (let from = 0, to = 0; to < out.length; from += 144, to += 256) {
      const d = halves(from), dmin = halves(from + 2);
      for (let j = 0; j < 4; j++) {
        const d0 = d * scaleOf(bytes, from + 4, 2 * j), m0 = dmin * minOf(bytes, from + 4, 2 * j);
        const d1 = d * scaleOf(bytes, from + 4, 2 * j + 1);
        const m1 = dmin * minOf(bytes, from + 4, 2 * j + 1);
        for (let i = 0; i < 32; i++) {
          const q = bytes[from + 16 + j * 32 + i];
          out[to + j * 64 + i] = d0 * (q & 15) - m0;
          out[to + j * 64 + 32 + i] = d1 * (q >> 4) - m1;
        }
      }
    }
  },
  q6_k(bytes, out) {
    const halves = readHalves(bytes);
    for (let from = 0, to = 0; to < out.length; from += 210, to += 256) {
      const d = halves(from + 208);
      for (let half = 0; half < 2; half++) {
        const low = from + half * 64, high = from + 128 + half * 32, at = to + half * 128;
        for (let i = 0; i < 32; i++) {
          const l = bytes[low + i], m = bytes[low + 32 + i], h = bytes[high + i];
          const s = from + 192 + half * 8 + (i >> 4);
          out[at + i] = d * signed(bytes[s]) * (((l & 15) | (h & 3) << 4) - 32);
          out[at + 32 + i] = d * signed(bytes[s + 2]) * (((m & 15) | (h >> 2 & 3) << 4) - 32);
          out[at + 64 + i] = d * signed(bytes[s + 4]) * ((l >> 4 | (h >> 4 & 3) << 4) - 32);
          out[at + 96 + i] = d * signed(bytes[s + 6]) * ((m >> 4 | h >> 6 << 4) - 32);
        }
      }
    }
  },
};

function signed(byte: number): number {
  return byte << 24 >> 24;
}

/**
 * The 6-bit scale of sub-block `j` of a `q4_k` block, whose packed scales and minima start at `at`.
 */
function scaleOf(bytes: Uint8Array, at: number, j: number): number {
  return j < 4 ? bytes[at + j] & 63 : (bytes[at + j + 4] & 15) | bytes[at + j - 4] >> 6 << 4;
}

/** The 6-bit minimum of sub-block `j` of a `q4_k` block. */
function minOf(bytes: Uint8Array, at: number, j: number): number {
  return j < 4 ? bytes[at + j + 4] & 63 : bytes[at + j + 4] >> 4 | bytes[at + j] >> 6 << 4;
}

/** Reads half-precision numbers at byte offsets. */
function readHalves(bytes: Uint8Array): (at: number) => number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return (at) => view.getFloat16(at, true);
}
