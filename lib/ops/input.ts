/**
 * `input`: a value that is given from outside when a program runs.
 *
 * @module
 */
import type { Operation } from "./operation.ts";
import type { Graph, Spec, Value } from "./value.ts";

/**
 * What an input is to a device. A `weight` is shared between programs and stays resident by the tensor's identity; `data` is
 * written when another tensor is given than last time; `state` lives on the device and is updated in place by the program.
 */
export type Role = "weight" | "data" | "state";

/** The spec of a program's input. */
export interface InputSpec extends Spec {
  /** Defaults to `data`. */
  readonly role?: Role;
}

/** A named input of the graph that is being traced. */
export function input(graph: Graph, name: string, spec: InputSpec): Value {
  return graph.node("input", [], { name, role: spec.role ?? "data" }, spec);
}

/** The rules of `input`. */
export const inputOperation: Operation = {
  name: "input",
  gradient: null,
  onnx: { emit: ({ inputs }) => inputs[0] },
  flops: () => 0,
  kernel: { kind: "external" },
};
