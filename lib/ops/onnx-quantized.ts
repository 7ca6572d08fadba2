/**
 * ONNX for the operations on block-quantized matrices.
 *
 * @module
 */
import type { TypedArray } from "../tensor/dtype.ts";
import { quantizedOf, quantizedShape } from "./quantized-value.ts";
import { MICROSOFT, ONNX_TYPES, type OnnxContext } from "./onnx-rule.ts";

/**
 * Up to this many rows a product has the weight as a constant, which its kernels lay out once and keep a copy of; with more rows
 * that is not worth the copy and the time to make it.
 */
const FEW_ROWS = 8;

/** `accuracy_level` of `MatMulNBits`: activations in f32, or rounded to 8 bits in each block, which its kernels are fastest with. */
const ACCURACY = { f32: 1, int8: 4 } as const;

/** Rows of a 4-bit weight from which on rounding the activations is worth its own operators. */
const MANY_ROWS = 8192;

/** ONNX for `matmulQuantized`. */
export function emitMatmulQuantized(context: OnnxContext): string {
  const { node, inputs: [x, , , offsets], emit } = context;
  const weight = quantizedOf(node, 1);
  if (!node.attributes.transposeB) return emit("MatMul", [x, emitDequantize(context, 1)]);
  const constant = node.shape[0] <= FEW_ROWS &&
    node.inputs.every((_, i) => i === 0 || context.embeddable(i));
  const product = constant ? emitConstantProduct(context) : emitProduct(context);
  if (!weight.offsets) return product;
  // Σ x·(q·scale + offset) = Σ x·q·scale + Σ over blocks of offset · Σ x.
  const added = constant
    ? context.embed(3, {
      shape: weight.offsets.shape,
      type: "f32",
      label: "offsets",
      prepare: (data) => data,
    })
    : offsets;
  return emit("Gemm", [emitBlockSums(context, weight.block), added, product], { transB: 1 });
}

/** `MatMulNBits` with the weight as it comes. */
function emitProduct(context: OnnxContext): string {
  const { inputs: [x, packed, scales], emit, ints } = context;
  const { bits, block } = quantizedOf(context.node, 1);
  const [rows, columns] = quantizedShape(quantizedOf(context.node, 1));
  return emit(
    "MatMulNBits",
    [
      x,
      emit("Reshape", [packed, ints([rows, columns / block, block * bits / 8])]),
      emit("Reshape", [scales, ints([rows * columns / block])]),
    ],
    { K: columns, N: rows, bits, block_size: block, accuracy_level: ACCURACY.f32 },
    MICROSOFT,
  );
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

/** `MatMulNBits` with the weight as a constant, which it has to be to be fast for few rows. */
function emitConstantProduct(context: OnnxContext): string {
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

/** ONNX for the whole quantized matrix in f32, from input `from` on. */
export function emitDequantize(
  { node, inputs, emit, ints, scalar }: OnnxContext,
  from: number,
): string {
  const weight = quantizedOf(node, from), { bits, block } = weight;
  const [rows, columns] = quantizedShape(weight), blocks = columns / block;
  const zero = 2 ** (bits - 1);
  const perBlock = (x: string) => emit("Reshape", [x, ints([rows, blocks, 1])]);
  const scales = perBlock(inputs[from + 1]);
  const packed = bits === 8 ? inputs[from] : emitHalves(emit, inputs[from], { scalar, ints });
  const q = emit("Reshape", [
    emit("Cast", [packed], { to: ONNX_TYPES.f32 }),
    ints([rows, blocks, block]),
  ]);
  const matrix = weight.offsets
    // One pass over the matrix less than (q − zero) · scale + offset.
    ? emit("Add", [
      emit("Mul", [q, scales]),
      emit("Sub", [perBlock(inputs[from + 2]), emit("Mul", [scales, scalar(zero)])]),
    ])
    : emit("Mul", [emit("Sub", [q, scalar(zero)]), scales]);
  return emit("Reshape", [matrix, ints([rows, columns])]);
}

/** The low and the high half of each byte, one after the other. */
function emitHalves(
  emit: OnnxContext["emit"],
  bytes: string,
  { scalar, ints }: Pick<OnnxContext, "scalar" | "ints">,
): string {
  const low = emit("BitwiseAnd", [bytes, scalar(15, "u8")]);
  const high = emit("BitShift", [bytes, scalar(4, "u8")], { direction: "RIGHT" });
  const pair = (x: string) => emit("Unsqueeze", [x, ints([-1])]);
  return emit("Concat", [pair(low), pair(high)], { axis: -1 });
}

/** ONNX for `gatherQuantized`. */
export function emitGatherQuantized({ node, inputs, emit, ints }: OnnxContext): string {
  const [ids, packed, scales] = inputs, count = node.shape[0];
  const weight = quantizedOf(node, 1), { bits, block } = weight;
  const columns = quantizedShape(weight)[1], blocks = columns / block;
  const scaled = emit("GatherBlockQuantized", [packed, ids, scales], {
    bits,
    block_size: block,
    gather_axis: 0,
    quantize_axis: 1,
  }, MICROSOFT);
  if (!weight.offsets) return scaled;
  const sum = emit("Add", [
    emit("Reshape", [scaled, ints([count, blocks, block])]),
    emit("Reshape", [emit("Gather", [inputs[3], ids], { axis: 0 }), ints([count, blocks, 1])]),
  ]);
  return emit("Reshape", [sum, ints([count, columns])]);
}
