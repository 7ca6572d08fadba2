/**
 * Programs: tracing a function into one, looking at it, rewriting it.
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { sameShape, showSpec } from "../ops/shapes.ts";
import {
  type Attributes,
  createGraph,
  type Graph,
  stringify,
  textOf,
  type Value,
} from "../ops/value.ts";

/**
 * An immutable computation: named inputs, named outputs and the nodes between them in an order in which
 * each comes after its inputs.
 */
export interface Program {
  /** Input nodes by name. */
  readonly inputs: ReadonlyMap<string, Value>;
  /** Output nodes by name. */
  readonly outputs: ReadonlyMap<string, Value>;
  /** All nodes that the outputs need, in order of creation. */
  readonly nodes: readonly Value[];
  /** After a run, the state input of this name takes the value of the output of that name: `[input, output]`. */
  readonly updates: ReadonlyMap<string, string>;
  /** A text that is equal for programs of the same structure, shapes and attributes. */
  readonly key: string;
}

/**
 * Traces a function into a program.
 *
 * @param fn Gets the graph, for {@link input} and constants, and returns the outputs by name.
 * @param options `updates` maps a state input's name to the output that replaces its value after each run.
 * @throws {ShapeError} where an update names an unknown input or output, or their shapes differ.
 */
export function trace(
  fn: (graph: Graph) => Readonly<Record<string, Value>>,
  options: { readonly updates?: Readonly<Record<string, string>> } = {},
): Program {
  return programOf(fn(createGraph()), options.updates);
}

/** The program that computes these values. */
export function programOf(
  outputs: Readonly<Record<string, Value>>,
  updates: Readonly<Record<string, string>> = {},
): Program {
  const reached = new Set<Value>(Object.values(outputs));
  for (const value of reached) for (const i of value.inputs) reached.add(i);
  // The order of creation is the order in which a person would compute: forward, then backward from the last layer to the first. It keeps
  // few values alive, which an order by depth does not.
  const nodes = [...reached].sort((a, b) => a.id - b.id);
  const inputs = new Map<string, Value>();
  for (const node of nodes) {
    if (node.op === "input") inputs.set(node.attributes.name as string, node);
  }
  for (const [from, to] of Object.entries(updates)) {
    const i = inputs.get(from), o = outputs[to];
    if (!i || !o || !sameShape(i.shape, o.shape) || i.dtype !== o.dtype) {
      throw new ShapeError(
        "STATE_UPDATE",
        `The state "${from}" (${
          i ? showSpec(i) : "no such input"
        }) cannot be updated from the output "${to}" (${o ? showSpec(o) : "no such output"}).`,
      );
    }
  }
  let key: string | undefined;
  return {
    inputs,
    outputs: new Map(Object.entries(outputs)),
    nodes,
    updates: new Map(Object.entries(updates)),
    // Most programs are steps on the way to another one, and nobody asks for their keys.
    get key() {
      return key ??= keyOf(nodes, outputs, updates);
    },
  };
}

function keyOf(
  nodes: readonly Value[],
  outputs: Readonly<Record<string, Value>>,
  updates: Readonly<Record<string, string>>,
): string {
  const number = new Map(nodes.map((v, i) => [v, i]));
  const lines = nodes.map((v) =>
    `${v.op}(${v.inputs.map((i) => number.get(i)).join(",")})${
      textOf(v.attributes)
    }:${v.dtype}[${v.shape}]`
  );
  for (const [name, v] of Object.entries(outputs)) lines.push(`${name}=${number.get(v)}`);
  for (const [from, to] of Object.entries(updates)) lines.push(`${from}<-${to}`);
  return lines.join("\n");
}

/** The program as text, one node per line, for people. */
export function printProgram(program: Program): string {
  const number = new Map(program.nodes.map((v, i) => [v, i]));
  const lines = program.nodes.map((v, i) => {
    const attributes: Attributes = v.attributes;
    const text = Object.keys(attributes).length ? ` ${stringify(attributes)}` : "";
    return `%${i} = ${v.op}(${v.inputs.map((x) => `%${number.get(x)}`).join(", ")})${text} : ${
      showSpec(v)
    }`;
  });
  for (const [name, v] of program.outputs) lines.push(`return ${name} = %${number.get(v)}`);
  for (const [from, to] of program.updates) lines.push(`update ${from} <- ${to}`);
  return lines.join("\n");
}

/**
 * Rebuilds a program node by node in a fresh graph.
 *
 * @param program What to rewrite.
 * @param replace Gets each node with its already rewritten inputs and gives what stands for it; `keep` copies it.
 */
export function rewrite(
  program: Program,
  replace: (node: Value, inputs: readonly Value[], keep: () => Value, graph: Graph) => Value,
): Program {
  const graph = createGraph();
  const map = new Map<Value, Value>();
  for (const node of program.nodes) {
    const inputs = node.inputs.map((i) => map.get(i)!);
    map.set(
      node,
      replace(node, inputs, () => graph.node(node.op, inputs, node.attributes, node), graph),
    );
  }
  const outputs: Record<string, Value> = {};
  for (const [name, v] of program.outputs) outputs[name] = map.get(v)!;
  return programOf(outputs, Object.fromEntries(program.updates));
}
