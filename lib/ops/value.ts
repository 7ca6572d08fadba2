/**
 * Hash-consing of the nodes that a program is made of.
 *
 * @module
 */
import type { Attribute, Attributes, Graph, Value } from "../../kernels/value.ts";

export type { Attribute, Attributes, Graph, Spec, Value, ValueType } from "../../kernels/value.ts";

/** Makes an empty graph. */
export function createGraph(): Graph {
  /** Nodes by operation, the text of their attributes and their inputs. */
  const nodes = new Map<string, Map<string, Map<number | string, Value>>>();
  let size = 0;
  const graph: Graph = {
    node(op, inputs, attributes, spec) {
      const alike = within(within(nodes, op), textOf(attributes));
      const key = keyOf(inputs);
      const known = alike.get(key);
      if (known) return known;
      for (const v of inputs) {
        if (v.graph !== graph) {
          throw new TypeError(
            `The inputs of ${op} come from two traces. Use a value only inside the function that is being traced.`,
          );
        }
      }
      const value: Value = {
        id: size++,
        op,
        inputs: frozen(inputs),
        attributes,
        shape: frozen(spec.shape),
        dtype: spec.dtype,
        graph,
      };
      alike.set(key, value);
      return value;
    },
  };
  return graph;
}

/** The map under a key, made where there is none. */
function within<K, L, V>(maps: Map<K, Map<L, V>>, key: K): Map<L, V> {
  let map = maps.get(key);
  if (!map) maps.set(key, map = new Map());
  return map;
}

/** Tells inputs apart; a number where there are two at most, as nearly everywhere. */
function keyOf(inputs: readonly Value[]): number | string {
  switch (inputs.length) {
    case 0:
      return 0;
    case 1:
      return inputs[0].id;
    case 2:
      return inputs[0].id * 2 ** 26 + inputs[1].id;
    default:
      return inputs.map((v) => v.id).join();
  }
}

function frozen<T>(list: readonly T[]): readonly T[] {
  return Object.isFrozen(list) ? list : Object.freeze([...list]);
}

const texts = new WeakMap<Attributes, string>();

/** The text of a node's attributes, which passes over a program hand on from node to node. */
export function textOf(attributes: Attributes): string {
  let text = texts.get(attributes);
  if (text === undefined) texts.set(attributes, text = stringify(attributes));
  return text;
}

/** Attributes as text with sorted keys, so that equal attributes give equal text. */
export function stringify(attribute: Attribute): string {
  if (attribute === null || typeof attribute !== "object") {
    return Object.is(attribute, -0) ? "-0" : typeof attribute === "number"
      ? String(attribute) // JSON has no infinity
      : JSON.stringify(attribute);
  }
  if (Array.isArray(attribute)) return `[${attribute.map(stringify).join(",")}]`;
  const entries = Object.entries(attribute).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([k, v]) => `${k}:${stringify(v)}`).join(",")}}`;
}
