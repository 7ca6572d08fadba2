/**
 * Operators of ONNX Runtime that do the work of several operations.
 *
 * @module
 */
import { scalarOf } from "../../ops/constant.ts";
import { MICROSOFT, type OnnxAttributes, type OnnxContext } from "../../ops/onnx-rule.ts";
import { sameShape } from "../../ops/shapes.ts";
import type { Value } from "../../ops/value.ts";
import { sizeOf } from "../../tensor/dtype.ts";

/** What a fusion may look at. */
export interface FusionScope {
  /** Writes nodes in the name of the operation that is fused into. */
  readonly context: OnnxContext;
  /** How many nodes and outputs use a value. */
  readonly uses: ReadonlyMap<Value, number>;
  /** The ONNX name of a value that was lowered before. */
  nameOf(value: Value): string;
}

/** The name of the value when one operator can do this node's and other nodes' work; what those made is dropped if nothing else uses it. */
export function fuse(node: Value, scope: FusionScope): string | undefined {
  switch (node.op === "binary" ? node.attributes.fn : node.op) {
    case "matmul":
      return headsInPlace(node, scope);
    case "mul":
      return gatedUnit(node, scope) ?? scaledProduct(node, scope);
    case "add":
      return accumulatedProduct(node, scope);
    default:
      return undefined;
  }
}

function once(v: Value, scope: FusionScope): boolean {
  return scope.uses.get(v) === 1;
}

/** Operators that multiply x by a function of it. */
const GATES: Readonly<Record<string, readonly [operator: string, attributes?: OnnxAttributes]>> = {
  sigmoid: ["QuickGelu", { alpha: { float: 1 } }],
  normalCdf: ["Gelu"],
};

/** x · gate(x) in one pass, where the gate is not needed for a gradient. */
function gatedUnit(node: Value, scope: FusionScope): string | undefined {
  const [a, b] = node.inputs;
  for (const [x, gate] of [[a, b], [b, a]]) {
    const fused = gate.op === "unary" && GATES[gate.attributes.fn as string];
    if (fused && gate.inputs[0] === x && node.dtype === "f32" && once(gate, scope)) {
      const [operator, attributes = {}] = fused;
      return scope.context.emit(operator, [scope.nameOf(x)], attributes, MICROSOFT);
    }
  }
  return undefined;
}

/** A matrix product and the constant that it is multiplied by. */
interface Product {
  readonly matmul: Value;
  readonly alpha: number;
}

/** The product behind a value, where nothing else uses what lies between. */
function productBehind(value: Value, scope: FusionScope): Product | undefined {
  let alpha = 1;
  for (let v = value; once(v, scope);) {
    if (v.op === "matmul") return { matmul: v, alpha };
    if (v.op === "reshape") {
      v = v.inputs[0];
      continue;
    }
    if (v.op !== "binary" || v.attributes.fn !== "mul") return undefined;
    const [a, b] = v.inputs;
    const factor = scalarOf(b) ?? scalarOf(a);
    if (factor === undefined || v.dtype !== "f32") return undefined;
    alpha *= factor;
    v = scalarOf(b) !== undefined ? a : b;
    if (sizeOf(v.shape) !== sizeOf(value.shape)) return undefined;
  }
  return undefined;
}

/** A value under another shape than its own. */
function reshaped(
  { context }: FusionScope,
  value: { readonly name: string; readonly shape: readonly number[] },
  shape: readonly number[],
): string {
  return sameShape(value.shape, shape)
    ? value.name
    : context.emit("Reshape", [value.name, context.ints(shape)]);
}

/** (a · b) · constant */
function scaledProduct(node: Value, scope: FusionScope): string | undefined {
  const [a, b] = node.inputs;
  const factor = scalarOf(b) ?? scalarOf(a);
  const rest = scalarOf(b) !== undefined ? a : b;
  if (factor === undefined || sizeOf(rest.shape) !== sizeOf(node.shape)) return undefined;
  const product = productBehind(rest, scope);
  if (!product) return undefined;
  const { matmul } = product, alpha = product.alpha * factor;
  const y = headsInPlace(matmul, scope, alpha) ?? emitProduct(matmul, scope, alpha);
  return reshaped(scope, { name: y, shape: matmul.shape }, node.shape);
}

function emitProduct(matmul: Value, scope: FusionScope, alpha: number): string {
  const { transposeA, transposeB } = matmul.attributes;
  return scope.context.emit("FusedMatMul", matmul.inputs.map(scope.nameOf), {
    alpha: { float: alpha },
    transA: transposeA ? 1 : 0,
    transB: transposeB ? 1 : 0,
  }, MICROSOFT);
}

/** a · b + c of plain matrices, where c may be a bias. */
function accumulatedProduct(node: Value, scope: FusionScope): string | undefined {
  const [a, b] = node.inputs;
  for (const [value, addend] of [[b, a], [a, b]]) {
    const product = productBehind(value, scope);
    if (!product || product.matmul.inputs.some((v) => v.shape.length !== 2)) continue;
    const { matmul, alpha } = product;
    const n = matmul.shape[1];
    const rowWise = addend.shape.length === 1 && addend.shape[0] === n &&
      node.shape[node.shape.length - 1] === n;
    const whole = sizeOf(addend.shape) === sizeOf(node.shape);
    if (sizeOf(value.shape) !== sizeOf(node.shape) || !(rowWise || whole)) continue;
    const { context, nameOf } = scope;
    const c = rowWise
      ? nameOf(addend)
      : reshaped(scope, { name: nameOf(addend), shape: addend.shape }, matmul.shape);
    const y = context.emit("Gemm", [...matmul.inputs.map(nameOf), c], {
      alpha: { float: alpha },
      transA: matmul.attributes.transposeA ? 1 : 0,
      transB: matmul.attributes.transposeB ? 1 : 0,
    });
    return reshaped(scope, { name: y, shape: matmul.shape }, node.shape);
  }
  return undefined;
}

/**
 * A product with heads of one sample, whose rows are read where they lie: [S, G, D] as a batch of G matrices, without the transposition.
 */
function headsInPlace(matmul: Value, scope: FusionScope, alpha = 1): string | undefined {
  if (matmul.inputs.some((v) => v.shape.length !== 3)) return undefined;
  const inPlace = matmul.inputs.map((v) =>
    v.op === "transpose" && (v.attributes.permutation as readonly number[]).join() === "1,0,2"
  );
  if (!inPlace.includes(true)) return undefined;
  const sources = matmul.inputs.map((v, i) => scope.nameOf(inPlace[i] ? v.inputs[0] : v));
  return scope.context.emit("FusedMatMul", sources, {
    alpha: { float: alpha },
    transA: matmul.attributes.transposeA ? 1 : 0,
    transB: matmul.attributes.transposeB ? 1 : 0,
    transBatchA: inPlace[0] ? 1 : 0,
    transBatchB: inPlace[1] ? 1 : 0,
  }, MICROSOFT);
}
