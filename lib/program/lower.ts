/**
 * The passes before fusion that bring a program into the form that the WebGPU device runs.
 *
 * @module
 */
import { STORAGE } from "../../kernels/wgsl.ts";
import { cast } from "../ops/cast.ts";
import { concat } from "../ops/concat.ts";
import { operationOf } from "../ops/mod.ts";
import type { Graph, Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { type Program, programOf, rewrite } from "./program.ts";
import { simplify } from "./simplify.ts";

/**
 * An equal program without operations that only decompose, whose reductions run over neighbouring axes, whose concatenations join whole 32-bit words,
 * and of whose outputs none is an input that the program updates.
 */
export function lower(program: Program): Program {
  let current = simplify(program);
  // Decompositions may be made of operations that decompose in turn.
  while (current.nodes.some((v) => operationOf(v).kernel.kind === "decompose")) {
    current = rewrite(current, (node, inputs, keep) => {
      const rule = operationOf(node).kernel;
      return rule?.kind === "decompose" ? rule.decompose(node, inputs) : keep();
    });
  }
  return copyUpdatedInputs(rewrite(current, (node, inputs, keep, graph) => {
    if (node.op === "reduce") return neighbouring(node, inputs[0], graph);
    if (node.op === "concat") return wholeWords(node, inputs) ?? keep();
    return keep();
  }));
}

/** Sums over axes with others between them, as one reduction per run of axes. */
function neighbouring(node: Value, x: Value, graph: Graph): Value {
  const { shape } = x;
  const axes = (node.attributes.axes as readonly number[]).filter((a) => shape[a] > 1);
  // The last run is summed first, while its elements lie close together.
  let first = axes.length - 1;
  while (first > 0 && sizeOf(shape.slice(axes[first - 1] + 1, axes[first])) === 1) first--;
  const run = axes.slice(first);
  const y = graph.node("reduce", [x], { ...node.attributes, axes: run }, {
    shape: shape.map((d, i) => run.includes(i) ? 1 : d),
    dtype: x.dtype,
  });
  return first === 0 ? y : neighbouring(node, y, graph);
}

/** A concatenation of 16- or 8-bit values whose pieces begin within a word, through 32-bit ones. */
function wholeWords(node: Value, inputs: readonly Value[]): Value | undefined {
  const axis = node.attributes.axis as number;
  const { perWord, register } = STORAGE[node.dtype];
  const inner = sizeOf(node.shape.slice(axis + 1));
  if (inputs.every((v) => v.shape[axis] * inner % perWord === 0)) return undefined;
  const wide = register as "f32" | "u32";
  return cast(concat(inputs.map((v) => cast(v, wide)), { axis }), node.dtype);
}

/** Outputs and updates that are inputs themselves become copies where the input may be overwritten. */
function copyUpdatedInputs(program: Program): Program {
  const rootOf = (v: Value): Value =>
    operationOf(v).kernel.kind === "view" || v.op === "slice" ? rootOf(v.inputs[0]) : v;
  const targets = new Set(program.updates.values());
  const outputs: Record<string, Value> = {};
  let changed = false;
  for (const [name, v] of program.outputs) {
    const root = rootOf(v);
    const copied = root.op === "input" && program.updates.size > 0 &&
      (targets.has(name) || program.updates.has(root.attributes.name as string));
    changed ||= copied;
    // A broadcast to the value's own shape is a copy.
    outputs[name] = copied ? v.graph.node("broadcast", [v], { shape: v.shape }, v) : v;
  }
  return changed ? programOf(outputs, Object.fromEntries(program.updates)) : program;
}
