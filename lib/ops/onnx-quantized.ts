/**
 * ONNX for the operations on block-quantized matrices.
 *
 * @module
 */
import type { TypedArray } from "../tensor/dtype.ts";
import { quantizedOf, quantizedShape } from "./matmul-quantized.ts";
import { MICROSOFT, type OnnxContext } from "./onnx-rule.ts";

/**
 * Up to this many rows a product reads the packed weight; from there on it is worth making f32 of it first, which needs no copy of
 * the weight inside the session.
 */
const FEW_ROWS = 32;

/** `accuracy_level` of `MatMulNBits` that keeps the activations in f32. */
const EXACT = 1;

/** ONNX for `matmulQuantized`. */
export function emitMatmulQuantized(context: OnnxContext): string {
  const { node, inputs: [x, , , offsets], emit } = context;
  const weight = quantizedOf(node, 1);
  if (!node.attributes.transposeB) return emit("MatMul", [x, emitDequantize(context, 1)]);
  const [rows] = quantizedShape(weight);
  const packed = node.shape[0] <= FEW_ROWS &&
    node.inputs.every((_, i) => i === 0 || context.embeddable(i));
  const product = packed ? emitPackedProduct(context) : emit(
    "FusedMatMul",
    [x, emitScaled(context, 1, allRows(context, rows))],
    { transB: 1 },
    MICROSOFT,
  );
  if (!weight.offsets) return product;
  // Σ x·(q·scale + offset) = Σ x·q·scale + Σ over blocks of offset · Σ x.
  const added = packed
    ? context.embed(3, {
      shape: weight.offsets.shape,
      type: "f32",
      label: "offsets",
      prepare: (data) => data,
    })
    : offsets;
  return emit("Gemm", [emitBlockSums(context, weight.block), added, product], { transB: 1 });
}

/** Sums of each row of the node's first input over the blocks of the weight. */
function emitBlockSums(
  { node, inputs: [x], emit, ints, constant }: OnnxContext,
  block: number,
): string {
  const [m, columns] = node.inputs[0].shape, blocks = columns / block;
  if (m > FEW_ROWS) {
    const cut = emit("Reshape", [x, ints([m, blocks, block])]);
    return emit("ReduceSum", [cut, ints([2])], { keepdims: 0 });
  }
  // One product with zeros and ones is one node less than cutting and adding.
  const ones = new Float32Array(columns * blocks);
  for (let k = 0; k < columns; k++) ones[k * blocks + Math.floor(k / block)] = 1;
  return emit("MatMul", [x, constant(ones, [columns, blocks])]);
}

/** `MatMulNBits`, whose weights have to be constants to be fast. */
function emitPackedProduct(context: OnnxContext): string {
  const { node, inputs: [x], emit, embed } = context;
  const { bits, block, packed } = quantizedOf(node, 1);
  const [rows, columns] = quantizedShape({ ...quantizedOf(node, 1), packed });
  const blocks = columns / block;
  const product = (
    half: string,
    prepare: (data: TypedArray) => TypedArray,
    factor: number,
    zero?: string,
  ) =>
    emit(
      "MatMulNBits",
      [
        x,
        embed(1, { shape: [rows, blocks, block / 2], type: "u8", label: half, prepare }),
        embed(2, {
          shape: [rows * blocks],
          type: "f32",
          label: `times ${factor}`,
          prepare: (data) => factor === 1 ? data : (data as Float32Array).map((s) => s * factor),
        }),
        ...(zero ? [zero] : []),
      ],
      { K: columns, N: rows, bits: 4, block_size: block, accuracy_level: EXACT },
      MICROSOFT,
    );
  if (bits === 4) return product("packed", (data) => data, 1);
  // The 8-bit kernel rounds activations to 8 bits, or else unpacks the whole weight each time. Two 4-bit products are exact:
  // q − 128 = 16 · (high − 8) + low.
  const zeros = context.constant(new Uint8Array(rows * Math.ceil(blocks / 2)), [
    rows * Math.ceil(blocks / 2),
  ]);
  return emit("Add", [
    product("high", (data) => nibbles(data as Uint8Array, 4), 16),
    product("low", (data) => nibbles(data as Uint8Array, 0), 1, zeros),
  ]);
}

/** The high (`shift` 4) or low (0) halves of bytes, two in a byte, the first in the low half. */
function nibbles(bytes: Uint8Array, shift: 0 | 4): Uint8Array {
  const out = new Uint8Array(bytes.length / 2);
  for (let i = 0; i < out.length; i++) {
    out[i] = (bytes[2 * i] >> shift & 15) | (bytes[2 * i + 1] >> shift & 15) << 4;
  }
  return out;
}

/** Row numbers, to take a whole matrix with an operator that takes rows of it. */
function allRows({ constant }: OnnxContext, rows: number): string {
  return constant(Int32Array.from({ length: rows }, (_, i) => i), [rows]);
}

/** Rows `ids` of the quantized matrix that starts at input `from`, without its offsets, in f32. */
function emitScaled(context: OnnxContext, from: number, ids: string): string {
  const { node, inputs, emit } = context;
  const { bits, block } = quantizedOf(node, from);
  return emit("GatherBlockQuantized", [inputs[from], ids, inputs[from + 1]], {
    bits,
    block_size: block,
    gather_axis: 0,
    quantize_axis: 1,
  }, MICROSOFT);
}

/** Rows `ids` [n] of the quantized matrix that starts at input `from`, in f32. */
function emitRows(context: OnnxContext, from: number, ids: string, count: number): string {
  const { node, inputs, emit, ints } = context;
  const weight = quantizedOf(node, from);
  const columns = quantizedShape(weight)[1];
  const scaled = emitScaled(context, from, ids);
  if (!weight.offsets) return scaled;
  const blocks = columns / weight.block;
  const offsets = emit("Gather", [inputs[from + 2], ids], { axis: 0 });
  const sum = emit("Add", [
    emit("Reshape", [scaled, ints([count, blocks, weight.block])]),
    emit("Reshape", [offsets, ints([count, blocks, 1])]),
  ]);
  return emit("Reshape", [sum, ints([count, columns])]);
}

/** ONNX for the whole quantized matrix in f32, from input `from` on. */
export function emitDequantize(context: OnnxContext, from: number): string {
  const rows = quantizedShape(quantizedOf(context.node, from))[0];
  return emitRows(context, from, allRows(context, rows), rows);
}

/** ONNX for `gatherQuantized`. */
export function emitGatherQuantized(context: OnnxContext): string {
  return emitRows(context, 1, context.inputs[0], context.node.shape[0]);
}
