/**
 * GGUF's block-quantized types: their values, and one layout for all of them that devices compute
 * with.
 *
 * Every block is little-endian and starts with its half-precision scales, but for `q2_k`, `q3_k` and
 * `q6_k`, which end with them (`ggml-common.h` of llama.cpp defines them).
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
 * How devices compute with a block type. What has more than 4 bits, or codes that stand for values of
 * a table, is stored with 8.
 */
export interface BlockLayout extends Pick<BlockQuantized, "bits" | "block"> {
  /** Whether it has offsets. */
  readonly offsets: boolean;
}

/** The layout that {@link repackBlocks} gives a type. */
export function blockLayout(dtype: BlockType): BlockLayout {
  return TYPES[dtype];
}

/**
 * Brings a block-quantized tensor into the devices' layout without dequantizing it. The values are
 * those of `toFloat32` up to the rounding of one addition; exactly those where there are no
 * offsets.
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
  const { bits, block, offsets: hasOffsets } = TYPES[dtype];
  const packed = new Uint8Array(size * bits / 8);
  const scales = new Float32Array(size / block);
  const offsets = hasOffsets ? new Float32Array(size / block) : undefined;
  repackAll(dtype, { bytes, packed, scales, offsets: offsets ?? scales });
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

/** Bytes that {@link dequantizeBlocks} unpacks at a time: what a core's caches hold. */
const CHUNK = 1 << 16;

/**
 * The elements of consecutive blocks, to the bit as ggml's reference functions compute them:
 * products of a code and a scale are exact in 32 bits, and the offset is added with one rounding.
 *
 * @param bytes Whole blocks.
 * @param dtype Their type.
 */
export function dequantizeBlocks(bytes: Uint8Array, dtype: BlockType): Float32Array {
  const { bits, block, offsets: hasOffsets } = TYPES[dtype];
  const length = blockLength(dtype), stride = byteLength(dtype, [1]);
  const out = new Float32Array(bytes.length / stride * length);
  const most = Math.min(bytes.length / stride, Math.floor(CHUNK / stride));
  const packed = new Uint8Array(most * length * bits / 8);
  const scales = new Float32Array(most * length / block);
  const offsets = new Float64Array(hasOffsets ? scales.length : 0);
  for (let from = 0, to = 0; from < bytes.length; from += most * stride) {
    const blocks = bytes.subarray(from, from + most * stride);
    repackAll(dtype, { bytes: blocks, packed: packed.fill(0), scales, offsets });
    const count = blocks.length / stride * length / block;
    for (let b = 0, at = 0; b < count; b++) {
      const scale = scales[b], offset = hasOffsets ? offsets[b] : -0; // what adds nothing, to -0 either
      if (bits === 8) {
        for (let i = 0; i < block; i++) out[to++] = (packed[at++] - 128) * scale + offset;
        continue;
      }
      for (let i = 0; i < block; i += 2) {
        const two = packed[at++];
        out[to++] = ((two & 15) - 8) * scale + offset;
        out[to++] = ((two >> 4) - 8) * scale + offset;
      }
    }
  }
  return out;
}

/** Blocks, and where their elements go. */
interface Repacking {
  readonly bytes: Uint8Array;
  /** The half-precision number at a byte offset. */
  halves(at: number): number;
  /** Zero, and at least what the blocks need, as the others. */
  readonly packed: Uint8Array;
  readonly scales: Float32Array;
  /** Not for types without. */
  readonly offsets: Float32Array | Float64Array;
}

/** Writes the codes, scales and offsets of whole blocks. */
function repackAll(dtype: BlockType, to: Omit<Repacking, "halves">): void {
  const { bytes } = to, { block, repack } = TYPES[dtype];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const all = { ...to, halves: (at: number) => view.getFloat16(at, true) };
  const stride = byteLength(dtype, [1]), scales = blockLength(dtype) / block;
  for (let b = 0, from = 0; from < bytes.length; b += scales, from += stride) repack(all, from, b);
}

/** Writes those of the block at byte `from`, whose first scale has the index `b`. */
type Repack = (all: Repacking, from: number, b: number) => void;

const TYPES: Readonly<Record<BlockType, BlockLayout & { readonly repack: Repack }>> = {
  q4_0: {
    bits: 4,
    block: 32,
    offsets: false,
    repack({ bytes, halves, packed, scales }, from, b) {
      scales[b] = halves(from);
      packLow(bytes, from + 2, packed, b * 16, 8);
      packHigh(bytes, from + 2, packed, b * 16 + 8, 8);
    },
  },
  q4_1: {
    bits: 4,
    block: 32,
    offsets: true,
    repack({ bytes, halves, packed, scales, offsets }, from, b) {
      const scale = scales[b] = halves(from);
      offsets[b] = halves(from + 2) + 8 * scale;
      packLow(bytes, from + 4, packed, b * 16, 8);
      packHigh(bytes, from + 4, packed, b * 16 + 8, 8);
    },
  },
  q5_0: {
    bits: 8,
    block: 32,
    offsets: false,
    repack({ bytes, halves, packed, scales }, from, b) {
      scales[b] = halves(from);
      packFive(bytes, from + 2, packed, b * 32, 128 - 16);
    },
  },
  q5_1: {
    bits: 8,
    block: 32,
    offsets: true,
    repack({ bytes, halves, packed, scales, offsets }, from, b) {
      scales[b] = halves(from);
      offsets[b] = halves(from + 2);
      packFive(bytes, from + 4, packed, b * 32, 128);
    },
  },
  q8_0: {
    bits: 8,
    block: 32,
    offsets: false,
    repack({ bytes, halves, packed, scales }, from, b) {
      scales[b] = halves(from);
      // Flipping the sign bit adds 128 to a signed byte.
      for (let i = 0; i < 32; i++) packed[b * 32 + i] = bytes[from + 2 + i] ^ 0x80;
    },
  },
  q2_k: {
    bits: 4,
    block: 16,
    offsets: true,
    repack({ bytes, halves, packed, scales, offsets }, from, b) {
      const d = halves(from + 80), dmin = halves(from + 82);
      for (let j = 0; j < 16; j++) {
        scales[b + j] = d * (bytes[from + j] & 15);
        offsets[b + j] = -dmin * (bytes[from + j] >> 4);
      }
      for (let i = 0; i < 256; i++) {
        packCode(packed, b * 16 + i, 8 + twoBits(bytes, from + 16, i));
      }
    },
  },
  q3_k: {
    bits: 4,
    block: 16,
    offsets: false,
    repack({ bytes, halves, packed, scales }, from, b) {
      const d = halves(from + 108), at = from + 96;
      for (let j = 0; j < 16; j++) {
        const low = bytes[at + j % 8] >> 4 * (j >> 3) & 15;
        const high = bytes[at + 8 + j % 4] >> 2 * (j >> 2) & 3;
        scales[b + j] = d * ((low | high << 4) - 32);
      }
      // Codes have their zero at 4.
      for (let i = 0; i < 256; i++) {
        const high = bytes[from + i % 32] >> (i >> 5) & 1;
        packCode(packed, b * 16 + i, 4 + (twoBits(bytes, from + 32, i) | high << 2));
      }
    },
  },
  q4_k: {
    bits: 4,
    block: 32,
    offsets: true,
    repack({ bytes, halves, packed, scales, offsets }, from, b) {
      const d = halves(from), dmin = halves(from + 2);
      for (let j = 0; j < 8; j++) {
        const scale = scales[b + j] = d * scaleOf(bytes, from + 4, j);
        offsets[b + j] = 8 * scale - dmin * minOf(bytes, from + 4, j);
      }
      for (let j = 0; j < 4; j++) {
        packLow(bytes, from + 16 + j * 32, packed, (b + 2 * j) * 16, 16);
        packHigh(bytes, from + 16 + j * 32, packed, (b + 2 * j + 1) * 16, 16);
      }
    },
  },
  q5_k: {
    bits: 8,
    block: 32,
    offsets: true,
    repack({ bytes, halves, packed, scales, offsets }, from, b) {
      const d = halves(from), dmin = halves(from + 2);
      for (let j = 0; j < 8; j++) {
        scales[b + j] = d * scaleOf(bytes, from + 4, j);
        offsets[b + j] = -dmin * minOf(bytes, from + 4, j);
        const low = from + 48 + (j >> 1) * 32, high = from + 16, to = (b + j) * 32;
        for (let i = 0; i < 32; i++) {
          const code = bytes[low + i] >> 4 * (j & 1) & 15;
          packed[to + i] = 128 + (code | (bytes[high + i] >> j & 1) << 4);
        }
      }
    },
  },
  q6_k: {
    bits: 8,
    block: 16,
    offsets: false,
    repack({ bytes, halves, packed, scales }, from, b) {
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
    },
  },
  iq4_nl: {
    bits: 8,
    block: 32,
    offsets: false,
    repack({ bytes, halves, packed, scales }, from, b) {
      scales[b] = halves(from);
      packLevels(bytes, from + 2, packed, b * 32);
    },
  },
  iq4_xs: {
    bits: 8,
    block: 32,
    offsets: false,
    repack({ bytes, halves, packed, scales }, from, b) {
      const d = halves(from), high = bytes[from + 2] | bytes[from + 3] << 8;
      for (let j = 0; j < 8; j++) {
        const low = bytes[from + 4 + (j >> 1)] >> 4 * (j & 1) & 15;
        scales[b + j] = d * ((low | (high >> 2 * j & 3) << 4) - 32);
        packLevels(bytes, from + 8 + j * 16, packed, (b + j) * 32);
      }
    },
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

/** 32 codes of which four bytes hold the fifth bits and sixteen the others; `zero` is added. */
function packFive(from: Uint8Array, at: number, to: Uint8Array, out: number, zero: number): void {
  for (let i = 0; i < 32; i++) {
    const low = from[at + 4 + i % 16] >> 4 * (i >> 4) & 15;
    to[out + i] = zero + (low | (from[at + (i >> 3)] >> i % 8 & 1) << 4);
  }
}

/** The values that the codes of `iq4_nl` and `iq4_xs` stand for, in steps of the scale. */
const LEVELS = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/** 32 values out of sixteen bytes, whose low halves come first. */
function packLevels(from: Uint8Array, at: number, to: Uint8Array, out: number): void {
  for (let i = 0; i < 16; i++) {
    to[out + i] = 128 + LEVELS[from[at + i] & 15];
    to[out + 16 + i] = 128 + LEVELS[from[at + i] >> 4];
  }
}

/** The two bits of element `i` of 256: those of 128 lie in 32 bytes, the first 32 lowest. */
function twoBits(bytes: Uint8Array, at: number, i: number): number {
  return bytes[at + (i >> 7) * 32 + i % 32] >> 2 * (i >> 5 & 3) & 3;
}

/** Writes a code of four bits where there is none yet. */
function packCode(to: Uint8Array, i: number, code: number): void {
  to[i >> 1] |= code << 4 * (i & 1);
}

function signed(byte: number): number {
  return byte << 24 >> 24;
}

/**
 * The 6-bit scale of sub-block `j` of a `q4_k` or `q5_k` block, whose packed scales and minima start at `at`.
 */
function scaleOf(bytes: Uint8Array, at: number, j: number): number {
  return j < 4 ? bytes[at + j] & 63 : (bytes[at + j + 4] & 15) | bytes[at + j - 4] >> 6 << 4;
}

/** The 6-bit minimum of sub-block `j` of a `q4_k` or `q5_k` block. */
function minOf(bytes: Uint8Array, at: number, j: number): number {
  return j < 4 ? bytes[at + j + 4] & 63 : bytes[at + j + 4] >> 4 | bytes[at + j] >> 6 << 4;
}
