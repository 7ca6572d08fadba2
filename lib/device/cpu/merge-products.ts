/**
 * Products of one row with several quantized weights, as one product with all of them.
 *
 * @module
 */
import { concat } from "../../ops/concat.ts";
import { matmulQuantized } from "../../ops/matmul-quantized.ts";
import { quantizedInputs, quantizedOf, type QuantizedValue } from "../../ops/quantized-value.ts";
import { sliceAxis } from "../../ops/slice.ts";
import type { Graph, Value } from "../../ops/value.ts";
import { type Program, rewrite } from "../../program/program.ts";

/**
 * Starting a product costs as much as some hundred rows of a 4-bit weight, so that a layer's query, key and value projections are cheaper as one, and its gate
 * and up projections likewise. Only products of a single row (decoding one text) are merged: with more, cutting the result apart would copy it in pieces.
 */
export function mergeProducts(program: Program): Program {
  const groups = groupsOf(program);
  if (groups.size === 0) return program;
  return rewrite(program, (node, inputs, keep, graph) => {
    const group = groups.get(node);
    if (!group) return keep();
    // Weights come right from outside, so they can be named before their turn.
    const weights = group.map((member) => weightOf(member, graph));
    const joined = matmulQuantized(inputs[0], joinWeights(weights), { transposeB: true });
    const before = group.slice(0, group.indexOf(node)).reduce((n, v) => n + v.shape[1], 0);
    return sliceAxis(joined, { axis: 1, start: before, size: node.shape[1] });
  });
}

/** For each product that is to be merged, all that it is merged with. */
function groupsOf(program: Program): ReadonlyMap<Value, readonly Value[]> {
  const byInput = new Map<string, Value[]>();
  for (const node of program.nodes) {
    if (node.op !== "matmulQuantized" || node.shape[0] !== 1 || !node.attributes.transposeB) {
      continue;
    }
    const weights = node.inputs.slice(1);
    if (!weights.every((w) => w.op === "input" && w.attributes.role === "weight")) continue;
    const { bits, block } = node.attributes;
    if (bits !== 4) continue;
    const key = [node.inputs[0].id, bits, block, weights.length].join();
    byInput.set(key, [...(byInput.get(key) ?? []), node]);
  }
  const groups = new Map<Value, readonly Value[]>();
  for (const group of byInput.values()) {
    if (group.length > 1) { for (const node of group) groups.set(node, group); }
  }
  return groups;
}

function weightOf(node: Value, graph: Graph): QuantizedValue {
  const weight = quantizedOf(node, 1);
  const again = (v: Value) => graph.node(v.op, [], v.attributes, v);
  return {
    ...weight,
    packed: again(weight.packed),
    scales: again(weight.scales),
    offsets: weight.offsets && again(weight.offsets),
  };
}

function joinWeights(weights: readonly QuantizedValue[]): QuantizedValue {
  const [packed, scales, offsets] = quantizedInputs(weights[0]).map((_, i) =>
    concat(weights.map((w) => quantizedInputs(w)[i]), { axis: 0 })
  );
  return { ...weights[0], packed, scales, offsets };
}
