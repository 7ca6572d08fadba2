/**
 * Reverse-mode differentiation of programs.
 *
 * @module
 */
import { ShapeError, ValueError } from "../errors.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { add } from "../ops/elementwise.ts";
import { broadcast } from "../ops/broadcast.ts";
import { constant } from "../ops/constant.ts";
import { operationOf } from "../ops/mod.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { sameShape } from "../ops/shapes.ts";
import type { Value } from "../ops/value.ts";
import { type Program, programOf, rewrite } from "./program.ts";

/**
 * The gradients of a scalar with respect to values that it was computed from. Only paths that lead to one of
 * them are walked, so gradients of frozen weights never exist.
 *
 * @param y A value with one element.
 * @param xs Inputs or any values between; each gradient has the shape of its value, zeros where `y` does not depend on it.
 */
export function gradients(y: Value, xs: readonly Value[]): Value[] {
  if (sizeOf(y.shape) !== 1) {
    throw new ShapeError(
      "GRAD_SCALAR",
      `A gradient needs a scalar, but the value has shape [${y.shape}].`,
    );
  }
  const { graph } = y;
  const targets = new Set(xs);
  const order = reachable(y);
  const leads = new Set<Value>();
  for (const node of order) {
    if (
      targets.has(node) || (operationOf(node).gradient && node.inputs.some((i) => leads.has(i)))
    ) leads.add(node);
  }
  const found = new Map<Value, Value>();
  found.set(y, constant(graph, 1, { shape: y.shape }));
  for (let i = order.length - 1; i >= 0; i--) {
    const node = order[i];
    const g = found.get(node);
    // The gradient of a requested value is complete here, and inputs of that value are walked only where they are requested too.
    if (!g || !leads.has(node)) continue;
    const { gradient } = operationOf(node);
    if (!gradient || !node.inputs.some((v) => leads.has(v))) continue;
    const rules = gradient(node, g);
    node.inputs.forEach((x, j) => {
      const rule = rules[j];
      if (!rule || !leads.has(x)) return;
      const part = reduceTo(rule(), x.shape);
      const before = found.get(x);
      found.set(x, before ? add(before, part) : part);
    });
  }
  return xs.map((x) => found.get(x) ?? broadcast(constant(graph, 0, { dtype: x.dtype }), x.shape));
}

/** Sums out what broadcasting added, so that the result has this shape: the gradient of a broadcast. */
function reduceTo(x: Value, shape: readonly number[]): Value {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.shape.length - shape.length;
  const axes = x.shape.map((_, i) => i).filter((i) =>
    i < lead || (shape[i - lead] === 1 && x.shape[i] !== 1)
  );
  return reshape(sum(x, { axes, keepDims: true }), shape);
}

function reachable(y: Value): Value[] {
  const seen = new Set<Value>([y]);
  const queue = [y];
  for (const v of queue) {
    for (const i of v.inputs) {
      if (!seen.has(i)) {
        seen.add(i);
        queue.push(i);
      }
    }
  }
  // Numbers are given in order of creation, so they are a topological order.
  return queue.sort((a, b) => a.id - b.id);
}

/**
 * The program with gradients added to its outputs.
 *
 * @param program A program with a scalar output.
 * @param options `of` names that output; `wrt` names the inputs. The gradient of input `w` is the output `grad.w`.
 * @throws {ValueError} where a name does not exist.
 */
export function grad(
  program: Program,
  options: { readonly of: string; readonly wrt: readonly string[] },
): Program {
  const copy = rewrite(program, (_node, _inputs, keep) => keep());
  const y = copy.outputs.get(options.of);
  const missing = options.wrt.filter((w) => !copy.inputs.has(w));
  if (!y || missing.length) {
    throw new ValueError(
      "GRAD_NAME",
      `grad was asked for the gradient of "${options.of}" with respect to ${
        options.wrt.join(", ")
      }; the program has outputs ${[...copy.outputs.keys()].join(", ")} and inputs ${
        [...copy.inputs.keys()].join(", ")
      }.`,
    );
  }
  const gs = gradients(y, options.wrt.map((w) => copy.inputs.get(w)!));
  const outputs: Record<string, Value> = Object.fromEntries(copy.outputs);
  options.wrt.forEach((w, i) => outputs[`grad.${w}`] = gs[i]);
  return programOf(outputs, Object.fromEntries(copy.updates));
}
