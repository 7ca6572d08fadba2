/**
 * ONNX for the element-by-element operations, with the conversions that their kernels need.
 *
 * @module
 */
import { ONNX_TYPES, type OnnxContext, type OnnxType } from "./onnx-rule.ts";
import type { ValueType } from "./value.ts";

/** The type in which ONNX Runtime computes on values of a type. */
function computedIn(dtype: ValueType): OnnxType {
  switch (dtype) {
    case "u8":
      return "i32";
    case "u32":
      return "i64"; // wraps to the same low bits
    case "bool":
    case "i32":
      return dtype;
    default:
      return "f32";
  }
}

/** An operator, perhaps with its second argument. */
export type OnnxStep = string | readonly [operator: string, argument: number];

function convert(context: OnnxContext, x: string, to: OnnxType): string {
  return context.emit("Cast", [x], { to: ONNX_TYPES[to] });
}

function prepared(context: OnnxContext, x: string, dtype: ValueType): string {
  return dtype === "u8" || dtype === "u32" ? convert(context, x, computedIn(dtype)) : x;
}

/** The result in the type of the node: integers cut to their width, 16-bit floats rounded. */
function finished(context: OnnxContext, x: string): string {
  const { dtype } = context.node;
  switch (dtype) {
    case "u8":
    case "u32":
      return convert(context, x, dtype);
    case "f16":
    case "bf16":
      return convert(context, convert(context, x, dtype), "f32");
    default:
      return x;
  }
}

/** ONNX for `binary`. */
export function emitBinary(
  context: OnnxContext,
  { onnx: [operator] }: { readonly onnx: readonly OnnxStep[] },
): string {
  const { node, inputs, emit } = context;
  const { dtype } = node.inputs[0];
  const y = emit(operator as string, inputs.map((x) => prepared(context, x, dtype)));
  return node.dtype === "bool" ? y : finished(context, y);
}

/** ONNX for `unary`. */
export function emitUnary(
  context: OnnxContext,
  { onnx, asGiven }: { readonly onnx: readonly OnnxStep[]; readonly asGiven?: true },
): string {
  const { node: { dtype }, inputs, emit, scalar } = context;
  const asFloat = computedIn(dtype) !== "f32" && !asGiven;
  const x = asFloat ? convert(context, inputs[0], "f32") : prepared(context, inputs[0], dtype);
  const y = onnx.reduce(
    (value: string, step) =>
      typeof step === "string" ? emit(step, [value]) : emit(step[0], [value, scalar(step[1])]),
    x,
  );
  return asFloat ? convert(context, y, dtype as OnnxType) : finished(context, y);
}

/** ONNX for `cast`. */
export function emitCast(context: OnnxContext): string {
  const { node, inputs: [x] } = context;
  const from = node.inputs[0].dtype;
  const bothFloat = computedIn(from) === "f32" && computedIn(node.dtype) === "f32";
  // Floats of all widths lie in f32 already, so only the rounding is left to do.
  const y = bothFloat || node.dtype === "u8" || node.dtype === "u32"
    ? x
    : convert(context, x, computedIn(node.dtype));
  return finished(context, y);
}

/** ONNX for `select`. */
export function emitSelect(context: OnnxContext): string {
  const { node, inputs: [condition, a, b], emit } = context;
  if (node.dtype === "bool") {
    return emit("Or", [
      emit("And", [condition, a]),
      emit("And", [emit("Not", [condition]), b]),
    ]);
  }
  const y = emit("Where", [
    condition,
    prepared(context, a, node.dtype),
    prepared(context, b, node.dtype),
  ]);
  return node.dtype === "u8" || node.dtype === "u32" ? finished(context, y) : y;
}
