/**
 * Rematerialisation: the backward pass computes forward values again instead of keeping them.
 *
 * @module
 */
import { operationOf } from "../ops/mod.ts";
import { createGraph, type Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { type Program, programOf } from "./program.ts";

/** FLOPs per element above which a value is dearer to compute again than to read from memory. */
const EXPENSIVE = 64;

/**
 * The values of a program that take many operations per element, such as products over long rows and attention, each with what is only added to
 * it. Where {@link checkpoint} keeps these, what it computes again costs about as much as reading it would have.
 */
export function expensiveValues(program: Program): Value[] {
  const users = new Map<Value, Value[]>();
  for (const v of program.nodes) {
    for (const x of v.inputs) users.set(x, [...users.get(x) ?? [], v]);
  }
  /** The sum that a value, under whatever shape, is a part of and nothing else. */
  const total = (v: Value, sum = v): Value => {
    const [user, ...others] = users.get(v) ?? [];
    if (!user || others.length > 0 || sizeOf(user.shape) !== sizeOf(v.shape)) return sum;
    if (user.op === "reshape") return total(user, sum);
    return user.attributes.fn === "add" ? total(user) : sum;
  };
  return program.nodes
    .filter((v) => operationOf(v).flops(v) > EXPENSIVE * sizeOf(v.shape))
    .map((v) => total(v));
}

/**
 * The program with what lies between the kept values computed a second time for the backward pass (Chen et al., 2016,
 * arXiv:1604.06174): memory for activations becomes that of the kept values and of one stretch between them, for at most one more forward pass.
 *
 * @param program A program that holds a forward and a backward pass.
 * @param options `of` names the output where the forward pass ends; `keep` are the values between which it is cut, one per layer as a rule.
 */
export function checkpoint(
  program: Program,
  options: { readonly of: string; readonly keep: Iterable<Value> },
): Program {
  const end = program.outputs.get(options.of);
  if (!end) {
    throw new TypeError(
      `The program has no output "${options.of}"; it has ${
        [...program.outputs.keys()].join(", ")
      }.`,
    );
  }
  const forward = new Set<Value>([end]);
  for (const v of forward) for (const i of v.inputs) forward.add(i);
  const kept = new Set<Value>(options.keep);
  const graph = createGraph();
  const map = new Map<Value, Value>();
  const second = new Map<Value, Value>();

  /** What the backward pass reads in the place of a forward value. Made when it is first needed, so that it lives briefly. */
  function recomputed(node: Value): Value {
    if (kept.has(node) || node.op === "input" || node.op === "constant") return map.get(node)!;
    const known = second.get(node);
    if (known) return known;
    const inputs = node.inputs.map(recomputed);
    // The mark keeps the two apart, which would otherwise be one node.
    const again = graph.node(node.op, inputs, { ...node.attributes, recomputed: true }, node);
    second.set(node, again);
    return again;
  }

  for (const node of program.nodes) {
    const inputs = node.inputs.map((i) =>
      forward.has(i) && !forward.has(node) ? recomputed(i) : map.get(i)!
    );
    map.set(node, graph.node(node.op, inputs, node.attributes, node));
  }
  const outputs: Record<string, Value> = {};
  for (const [name, v] of program.outputs) outputs[name] = map.get(v)!;
  return programOf(outputs, Object.fromEntries(program.updates));
}
