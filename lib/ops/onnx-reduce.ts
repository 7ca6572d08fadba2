/**
 * ONNX for `reduce`, in stages so that long sums stay accurate.
 *
 * @module
 */
import { sizeOf } from "../tensor/dtype.ts";
import { ONNX_TYPES, type OnnxContext } from "./onnx-rule.ts";

/**
 * The most elements that one `ReduceSum` may add: it adds them in order, and a sum of 10⁶ is 3e-5 off. A second sum over the partial sums keeps
 * the error near that of one rounding.
 */
const LONGEST = 1024;

/** ONNX for `reduce`. */
export function emitReduce(context: OnnxContext): string {
  const { node, inputs: [x], emit, ints } = context;
  const { fn, axes } = node.attributes as { fn: string; axes: readonly number[] };
  const { shape, dtype } = node.inputs[0];
  const float = dtype === "f32" || dtype === "f16" || dtype === "bf16";
  const convert = (value: string, to: keyof typeof ONNX_TYPES) =>
    emit("Cast", [value], { to: ONNX_TYPES[to] });
  const operator = fn === "max" ? "ReduceMax" : "ReduceSum";
  if (!float) {
    const y = emit(operator, [dtype === "i32" ? x : convert(x, "i64"), ints(axes)]);
    return dtype === "i32" ? y : convert(y, dtype);
  }
  const y = fn === "max" ? emit(operator, [x, ints(axes)]) : sumInStages(context, x, shape, axes);
  return dtype === "f32" ? y : convert(convert(y, dtype), "f32");
}

function sumInStages(
  { node, emit, ints }: OnnxContext,
  x: string,
  shape: readonly number[],
  axes: readonly number[],
): string {
  if (sizeOf(axes.map((a) => shape[a])) <= LONGEST) return emit("ReduceSum", [x, ints(axes)]);
  let y = x;
  // Neighbouring axes are one axis in memory. From the last group to the first, so that what lies before is unchanged.
  const groups: [number, number][] = [];
  for (const a of axes) {
    const last = groups[groups.length - 1];
    if (last && last[1] === a) last[1]++;
    else groups.push([a, a + 1]);
  }
  const current = [...shape];
  for (const [from, to] of groups.reverse()) {
    const before = sizeOf(current.slice(0, from)), after = sizeOf(current.slice(to));
    // The runtime's fast paths do not look past axes of length 1.
    const cut = (...middle: number[]) => [
      ...(before > 1 ? [before] : []),
      ...middle,
      ...(after > 1 ? [after] : []),
    ];
    const first = before > 1 ? 1 : 0;
    let length = sizeOf(current.slice(from, to));
    while (length > 1) {
      const part = partOf(length);
      if (part === undefined) {
        // No way to cut it evenly: wider numbers instead.
        y = emit("Reshape", [y, ints(cut(length))]);
        y = emit("Cast", [y], { to: ONNX_TYPES.f64 });
        y = emit("Cast", [emit("ReduceSum", [y, ints([first])])], { to: ONNX_TYPES.f32 });
        length = 1;
      } else {
        y = emit("Reshape", [y, ints(cut(length / part, part))]);
        y = emit("ReduceSum", [y, ints([first + 1])]);
        length /= part;
      }
    }
    current.fill(1, from, to);
  }
  return emit("Reshape", [y, ints(node.shape)]);
}

/** A divisor that is neither too long to add at once nor so short that little is gained. */
function partOf(length: number): number | undefined {
  if (length <= LONGEST) return length;
  for (let d = LONGEST; d >= 16; d--) if (length % d === 0) return d;
  return undefined;
}
