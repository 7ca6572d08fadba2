/**
 * What happens to a program before it is written as ONNX: operations without an ONNX form of their own become others, and what ONNX Runtime does
 * for free (broadcasting, transposed operands, reshapes) is said in its terms.
 *
 * @module
 */
import { matmul } from "../../ops/matmul.ts";
import { reshapeThrough } from "../../ops/reshape.ts";
import { broadcastShapes, sameShape } from "../../ops/shapes.ts";
import { operationOf } from "../../ops/mod.ts";
import { transpose } from "../../ops/transpose.ts";
import { createGraph, type Spec, type Value } from "../../ops/value.ts";
import { type Program, rewrite } from "../../program/program.ts";
import { simplify } from "../../program/simplify.ts";

/** An equal program of operations that emit ONNX. */
export function prepare(program: Program): Program {
  return rewrite(
    simplify(decompose(program)),
    (node, inputs, keep) => replaced(node, inputs) ?? keep(),
  );
}

function decompose(program: Program): Program {
  let current = program;
  while (current.nodes.some(decomposes)) {
    const origin = createOrigins();
    current = rewrite(current, (node, inputs, keep) => {
      const rule = operationOf(node).onnx;
      let result: Value;
      if (!rule || !("decompose" in rule)) result = keep();
      else if (!node.attributes.recomputed) result = rule.decompose(node, inputs);
      else result = inScope(node, inputs, { decompose: rule.decompose, origin });
      origin(result);
      return result;
    });
  }
  return current;
}

function decomposes(node: Value): boolean {
  const rule = operationOf(node).onnx;
  return rule !== undefined && "decompose" in rule;
}

/** What a value depends on: inputs of the program only, the first pass, or values that are computed a second time. */
type Origin = "inputs" | "first" | "second";

function createOrigins(): (value: Value) => Origin {
  const known = new Map<Value, Origin>();
  return function origin(value): Origin {
    let found = known.get(value);
    if (!found) {
      const inputs = value.inputs.map(origin);
      if (value.attributes.recomputed || inputs.includes("second")) found = "second";
      // Of the operations without activations only masks are made, which both passes may share.
      else found = inputs.every((o) => o === "inputs") ? "inputs" : "first";
      known.set(value, found);
    }
    return found;
  };
}

/** Decomposes a node that is computed a second time, and marks those of its parts that would be the same nodes as in the first pass. */
function inScope(
  node: Value,
  inputs: readonly Value[],
  scope: {
    readonly decompose: (node: Value, inputs: readonly Value[]) => Value;
    readonly origin: (value: Value) => Origin;
  },
): Value {
  const scratch = createGraph();
  const outer = inputs[0].graph;
  const copies = new Map<Value, Value>();
  const stand = inputs.map((v, i) => {
    const copy = scratch.node("outside", [], { number: i }, v);
    copies.set(copy, v);
    return copy;
  });
  const result = scope.decompose(node, stand);
  const reached = new Set([result]);
  for (const v of reached) if (!copies.has(v)) { for (const i of v.inputs) reached.add(i); }
  for (const v of [...reached].sort((a, b) => a.id - b.id)) {
    if (copies.has(v)) continue;
    const args = v.inputs.map((i) => copies.get(i)!);
    const from = args.map(scope.origin);
    const same = from.includes("first") && !from.includes("second");
    const attributes = same ? { ...v.attributes, recomputed: true } : v.attributes;
    copies.set(v, outer.node(v.op, args, attributes, v));
  }
  return copies.get(result)!;
}

/** What ONNX Runtime needs no node, or a cheaper one, for. */
function replaced(node: Value, inputs: readonly Value[]): Value | undefined {
  const again = (op: string, args: readonly Value[], attributes = node.attributes) =>
    args[0].graph.node(op, args, attributes, node);
  switch (node.op) {
    case "unary":
    case "binary":
    case "select": {
      const bare = withoutBroadcasts(node, inputs);
      return elementwiseBeforeReshape(node, bare) ??
        (bare.some((v, i) => v !== inputs[i]) ? again(node.op, bare) : undefined);
    }
    case "reduce": {
      const axes = node.attributes.axes as readonly number[], [x] = inputs;
      return axes.length === 1 && axes[0] === x.shape.length - 1
        ? rowwiseBeforeReshape(node, inputs)
        : undefined;
    }
    case "concat":
    case "slice":
      return withoutFirstOne(node, inputs);
    case "rmsNorm":
    case "layerNorm":
    case "softmax":
      return rowwiseBeforeReshape(node, inputs);
    case "reshape":
      return reshapeThrough(inputs[0], node.shape);
    case "transpose": {
      const [x] = inputs, order = node.attributes.permutation as readonly number[];
      // Moving dimensions of length 1 about moves no element.
      const moved = order.filter((a) => x.shape[a] !== 1);
      if (moved.every((a, i) => i === 0 || a > moved[i - 1])) return reshapeThrough(x, node.shape);
      if (order[0] !== 0 || x.shape[0] !== 1) return undefined;
      const inner = reshapeThrough(x, x.shape.slice(1));
      return reshapeThrough(transpose(inner, order.slice(1).map((a) => a - 1)), node.shape);
    }
    case "matmul": {
      const [a, b] = inputs;
      if (inputs.every((v) => v.shape.length === node.shape.length && v.shape[0] === 1)) {
        const [p, q] = inputs.map((v) => reshapeThrough(v, v.shape.slice(1)));
        if (p.shape.length > 1) return reshapeThrough(matmul(p, q, node.attributes), node.shape);
      }
      const turned = [a, b].map(swapsLastTwo);
      if (!turned[0] && !turned[1]) return undefined;
      const { transposeA, transposeB } = node.attributes;
      return again(node.op, [turned[0] ? a.inputs[0] : a, turned[1] ? b.inputs[0] : b], {
        ...node.attributes,
        transposeA: transposeA !== turned[0],
        transposeB: transposeB !== turned[1],
      });
    }
    default:
      return undefined;
  }
}

function swapsLastTwo(v: Value): boolean {
  if (v.op !== "transpose") return false;
  const order = v.attributes.permutation as readonly number[], n = order.length;
  return order.every((a, i) => a === (i < n - 2 ? i : 2 * n - 3 - i));
}

/** Operands as they are before a broadcast, as operators broadcast by themselves, as long as the result keeps its shape. */
function withoutBroadcasts(node: Value, inputs: readonly Value[]): readonly Value[] {
  const bare = [...inputs];
  bare.forEach((v, i) => {
    if (v.op !== "broadcast") return;
    bare[i] = v.inputs[0];
    const shape = bare.map((b) => b.shape).reduce(broadcastShapes);
    if (!sameShape(shape, node.shape)) bare[i] = v;
  });
  return bare;
}

/**
 * Moves a reshape of an operand behind an elementwise operation, so that reshapes meet and vanish, and so that products and what is
 * added to them are neighbours.
 */
function elementwiseBeforeReshape(node: Value, inputs: readonly Value[]): Value | undefined {
  const source = inputs.find((v) => v.op === "reshape" && sameShape(v.shape, node.shape))
    ?.inputs[0];
  if (!source) return undefined;
  const last = node.shape[node.shape.length - 1];
  const moved: Value[] = [];
  for (const v of inputs) {
    const row = v.shape.length === 1 && v.shape[0] === last &&
      source.shape[source.shape.length - 1] === last;
    if (sameShape(v.shape, node.shape)) moved.push(reshapeThrough(v, source.shape));
    else if (v.shape.length === 0 || row) moved.push(v);
    else if (
      v.shape[0] === 1 && v.shape.length === node.shape.length && dropsFirstOne(source, node)
    ) {
      moved.push(reshapeThrough(v, v.shape.slice(1)));
    } else return undefined;
  }
  return reshapeThrough(
    source.graph.node(node.op, moved, node.attributes, {
      shape: source.shape,
      dtype: node.dtype,
    }),
    node.shape,
  );
}

/** The same for an operation on each row. */
function rowwiseBeforeReshape(node: Value, inputs: readonly Value[]): Value | undefined {
  const [x, ...rest] = inputs;
  if (x.op !== "reshape") return undefined;
  const { shape } = x.inputs[0], last = shape.length - 1;
  if (last < 1 || shape[last] !== x.shape[x.shape.length - 1]) return undefined;
  const reduced = node.op === "reduce";
  const result = x.graph.node(
    node.op,
    [x.inputs[0], ...rest],
    reduced ? { ...node.attributes, axes: [last] } : node.attributes,
    { shape: reduced ? [...shape.slice(0, last), 1] : shape, dtype: node.dtype },
  );
  return reshapeThrough(result, node.shape);
}

/** Whether a shape is another one without a leading dimension of length 1. */
function dropsFirstOne(source: Spec, full: Spec): boolean {
  return full.shape[0] === 1 && sameShape(source.shape, full.shape.slice(1));
}

/** Does without a leading dimension of length 1 that the operands were reshaped to have. */
function withoutFirstOne(node: Value, inputs: readonly Value[]): Value | undefined {
  if (!inputs.every((v) => v.op === "reshape" && dropsFirstOne(v.inputs[0], v))) return undefined;
  const { axis, starts, sizes } = node.attributes as Readonly<Record<string, readonly number[]>>;
  if (node.op === "concat" && Number(axis) === 0) return undefined;
  const attributes = node.op === "concat"
    ? { ...node.attributes, axis: Number(axis) - 1 }
    : { ...node.attributes, starts: starts.slice(1), sizes: sizes.slice(1) };
  const spec = { shape: node.shape.slice(1), dtype: node.dtype };
  return reshapeThrough(
    inputs[0].graph.node(node.op, inputs.map((v) => v.inputs[0]), attributes, spec),
    node.shape,
  );
}
