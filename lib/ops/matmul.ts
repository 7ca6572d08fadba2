/**
 * `matmul`: batched matrix products.
 *
 * @module
 */
import { MICROSOFT, type OnnxContext } from "./onnx-rule.ts";
import { matmulKernels } from "../../kernels/matmul.ts";
import type { MatmulProblem, MatmulSide } from "../../kernels/matmul-problem.ts";
import type { OperandFormat } from "../../kernels/operand.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Operation } from "./operation.ts";
import { reshape } from "./reshape.ts";
import { broadcastShapes, checkShapes } from "./shapes.ts";
import { alignedAxis } from "./split-rule.ts";
import type { Spec, Value } from "./value.ts";

/** Which of the two are used transposed. */
export interface MatmulOptions {
  /** Uses `a` as [..., K, M]. */
  readonly transposeA?: boolean;
  /** Uses `b` as [..., N, K], as a linear layer's weight is stored. */
  readonly transposeB?: boolean;
}

/**
 * `a` [..., M, K] times `b` [..., K, N] gives [..., M, N]; leading dimensions broadcast. `a` is f32; `b` may be stored as f16 or bf16.
 * Sums are kept in f32.
 */
export function matmul(a: Value, b: Value, options: MatmulOptions = {}): Value {
  const { transposeA = false, transposeB = false } = options;
  checkShapes(a.shape.length >= 2 && b.shape.length >= 2, "matmul", "values of rank 2 or more", [
    a,
    b,
  ]);
  const [ar, ac] = a.shape.slice(-2), [br, bc] = b.shape.slice(-2);
  const [m, k] = transposeA ? [ac, ar] : [ar, ac];
  const [k2, n] = transposeB ? [bc, br] : [br, bc];
  checkShapes(
    k === k2 && a.dtype === "f32" && (b.dtype === "f32" || b.dtype === "f16" || b.dtype === "bf16"),
    `matmul${transposeA ? " (a transposed)" : ""}${transposeB ? " (b transposed)" : ""}`,
    "equal inner dimensions, f32 on the left and a float type on the right",
    [a, b],
  );
  // A plain matrix on the right makes all leading dimensions of `a` rows: one large product, not many small ones.
  if (b.shape.length === 2 && a.shape.length > 2 && !transposeA) {
    const flat = matmul(reshape(a, [-1, k]), b, options);
    return reshape(flat, [...a.shape.slice(0, -1), n]);
  }
  const batch = broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2));
  return a.graph.node("matmul", [a, b], { transposeA, transposeB }, {
    shape: [...batch, m, n],
    dtype: "f32",
  });
}

function emitMatmul({ node, inputs, emit }: OnnxContext): string {
  const { transposeA, transposeB } = node.attributes;
  if (!transposeA && !transposeB) return emit("MatMul", inputs);
  const attributes = { transA: transposeA ? 1 : 0, transB: transposeB ? 1 : 0 };
  return emit("FusedMatMul", inputs, attributes, MICROSOFT);
}

function problemOf(node: Value): MatmulProblem {
  const [a, b] = node.inputs;
  const { transposeA, transposeB } = node.attributes as {
    transposeA: boolean;
    transposeB: boolean;
  };
  const side = (value: Value, number: number, kMajor: boolean): MatmulSide => {
    const [lines, length] = value.shape.slice(-2);
    return {
      operand: { format: value.dtype as OperandFormat, lines, length, bindings: [number] },
      kMajor,
      batch: value.shape.slice(0, -2),
    };
  };
  const [m, n] = node.shape.slice(-2);
  return {
    m,
    n,
    k: a.shape[a.shape.length - (transposeA ? 2 : 1)],
    batch: node.shape.slice(0, -2),
    a: side(a, 0, transposeA),
    b: side(b, 1, !transposeB),
  };
}

/** The rules of `matmul`. */
export const matmulOperation: Operation = {
  name: "matmul",
  gradient: (node, g) => {
    const [a, b] = node.inputs;
    const { transposeA: ta, transposeB: tb } = node.attributes as {
      transposeA: boolean;
      transposeB: boolean;
    };
    // y = A·B with A = op(a), B = op(b): dA = g·Bᵀ and dB = Aᵀ·g, transposed back where op transposes.
    return [
      () =>
        ta ? matmul(b, g, { transposeA: tb, transposeB: true }) : matmul(g, b, { transposeB: !tb }),
      () =>
        tb ? matmul(g, a, { transposeA: true, transposeB: ta }) : matmul(a, g, { transposeA: !ta }),
    ];
  },
  onnx: { emit: emitMatmul },
  split: (node, isLarge) => {
    const [a, b] = node.inputs, rank = node.shape.length;
    const { transposeA: ta, transposeB: tb } = node.attributes;
    // One block of products after the other, where there are several.
    const batch = node.shape.slice(0, -2).findIndex((d) => d > 1);
    if (batch >= 0) {
      return { output: batch, inputs: [a, b].map((x) => alignedAxis(x, node, batch)) };
    }
    const fromEnd = (x: Spec, n: number) => x.shape.length - n;
    if (isLarge(node) || (isLarge(a) && !ta)) {
      return { output: rank - 2, inputs: [fromEnd(a, ta ? 1 : 2), null] };
    }
    if (isLarge(b) && tb) return { output: rank - 1, inputs: [null, fromEnd(b, 2)] };
    return { output: null, inputs: [fromEnd(a, ta ? 2 : 1), fromEnd(b, tb ? 1 : 2)] };
  },
  flops: (node) => {
    const a = node.inputs[0];
    const k = a.shape[a.shape.length - (node.attributes.transposeA ? 2 : 1)];
    return 2 * sizeOf(node.shape) * k;
  },
  kernel: {
    kind: "kernel",
    epilogue: true,
    variants: (node, features) => matmulKernels(problemOf(node), features),
  },
};
