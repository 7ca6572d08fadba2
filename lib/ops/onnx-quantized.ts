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

/** `accuracy_level` of `MatMulNBits`: activations in f32, or rounded to 8 bits in each block, which its kernels are fastest with. */
const ACCURACY = { f32: 1, int8: 4 } as const;

/** Rows of a 4-bit weight from which on rounding the activations is worth its own operators. */
const MANY_ROWS = 8192;

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
  const { node, inputs: [x], emit, embed, ints } = context;
  const weight = quantizedOf(node, 1), { bits, block } = weight;
  const [rows, columns] = quantizedShape(weight), blocks = columns / block;
  const same = (data: TypedArray) => data;
  const product = (activations: string, accuracy: number) =>
    emit(
      "MatMulNBits",
      [
        activations,
        embed(1, {
          shape: [rows, blocks, block * bits / 8],
          type: "u8",
          label: "packed",
          prepare: same,
        }),
        embed(2, { shape: [rows * blocks], type: "f32", label: "scales", prepare: same }),
      ],
      { K: columns, N: rows, bits, block_size: block, accuracy_level: accuracy },
      MICROSOFT,
    );
  // With activations in f32 the 8-bit kernel would unpack the whole weight each time.
  if (bits === 4 && rows < MANY_ROWS) return product(x, ACCURACY.f32);
  const both = product(emitRoundedAndRest(context, block), ACCURACY.int8);
  const m = node.shape[0];
  const parts = m === 1 ? both : emit("Reshape", [both, ints([2, m, rows])]);
  return emit("ReduceSum", [parts, ints([0])], { keepdims: m === 1 ? 1 : 0 });
}

/**
 * The rows of the node's first input twice: rounded to 8 bits in each block as the kernel rounds them, which it then does without an error, and
 * what that left, whose rounding is 127 times finer. The sum of the two products is off by about 2e-5 of its largest element.
 */
function emitRoundedAndRest(
  { node, inputs: [x], emit, ints, scalar }: OnnxContext,
  block: number,
): string {
  const [m, columns] = node.inputs[0].shape;
  const cut = emit("Reshape", [x, ints([m * columns / block, block])]);
  const largest = emit("ReduceMax", [emit("Abs", [cut]), ints([1])]);
  // A block of zeros has to have a step, too.
  const step = emit("Mul", [emit("Max", [largest, scalar(1e-30)]), scalar(1 / 127)]);
  const rounded = emit("Mul", [emit("Round", [emit("Div", [cut, step])]), step]);
  const both = emit("Concat", [rounded, emit("Sub", [cut, rounded])], { axis: 0 });
  return emit("Reshape", [both, ints([2 * m, columns])]);
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
