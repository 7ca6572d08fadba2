/**
 * Algebra on programs: constants are folded and operations that change nothing disappear.
 *
 * @module
 */
import { add, div, mul, neg, sub } from "../ops/elementwise.ts";
import { broadcast } from "../ops/broadcast.ts";
import { cast } from "../ops/cast.ts";
import { constant, scalarOf } from "../ops/constant.ts";
import { reshapeThrough } from "../ops/reshape.ts";
import { sameShape } from "../ops/shapes.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { type Program, rewrite } from "./program.ts";

/** An equal program with fewer nodes. Results may differ by the rounding of reassociated constants only. */
export function simplify(program: Program): Program {
  return rewrite(program, (node, inputs, keep) => simpler(node, inputs) ?? keep());
}

function simpler(node: Value, inputs: readonly Value[]): Value | undefined {
  const [a, b] = inputs;
  const filled = (x: number) => constant(a.graph, x, { shape: node.shape, dtype: a.dtype });
  const x = a && scalarOf(a);
  switch (node.op) {
    case "stopGradient":
    case "withGradientOf":
      return a;
    case "cast":
      return cast(a, node.dtype);
    case "reshape":
      return x === undefined ? reshapeThrough(a, node.shape) : filled(x);
    case "transpose": {
      const order = node.attributes.permutation as readonly number[];
      if (a.op !== "transpose") return undefined;
      const inner = a.attributes.permutation as readonly number[];
      return transpose(a.inputs[0], order.map((i) => inner[i]));
    }
    case "broadcast":
      return x === undefined ? undefined : filled(x);
    case "unary":
      if (node.attributes.fn !== "neg") return undefined;
      if (x !== undefined) return filled(-x);
      return a.op === "unary" && a.attributes.fn === "neg" ? a.inputs[0] : undefined;
    case "binary":
      return simplerBinary(node, a, b);
    default:
      return undefined;
  }
}

function simplerBinary(node: Value, a: Value, b: Value): Value | undefined {
  const fn = node.attributes.fn as string;
  const x = scalarOf(a), y = scalarOf(b);
  const shaped = (v: Value) => sameShape(v.shape, node.shape) ? v : broadcast(v, node.shape);
  if (x !== undefined && y !== undefined && a.dtype === "f32") {
    const folded = fold(fn, x, y);
    if (folded !== undefined) {
      return constant(a.graph, folded, { shape: node.shape, dtype: a.dtype });
    }
  }
  switch (fn) {
    case "add":
      if (x === 0) return shaped(b);
      if (y === 0) return shaped(a);
      break;
    case "sub":
      if (y === 0) return shaped(a);
      if (x === 0 && sameShape(b.shape, node.shape)) return neg(b);
      break;
    case "mul": {
      if (x === 1) return shaped(b);
      if (y === 1) return shaped(a);
      if ((x === 0 || y === 0) && a.dtype === "f32") {
        return constant(a.graph, 0, { shape: node.shape, dtype: a.dtype });
      }
      // (v · c) · d = v · (c · d)
      const [v, d] = y !== undefined ? [a, y] : x !== undefined ? [b, x] : [undefined, 0];
      if (v?.op === "binary" && v.attributes.fn === "mul" && v.dtype === "f32") {
        const [p, q] = v.inputs;
        const c = scalarOf(q) ?? scalarOf(p);
        if (c !== undefined) {
          const rest = scalarOf(q) !== undefined ? p : q;
          if (sameShape(rest.shape, node.shape)) return mul(rest, c * d);
        }
      }
      break;
    }
    case "div":
      if (y === 1) return shaped(a);
      if (y !== undefined && a.dtype === "f32" && Math.log2(Math.abs(y)) % 1 === 0) {
        return mul(shaped(a), 1 / y); // exact for powers of two
      }
      break;
  }
  // A filled constant needs no shape of its own beside a value that has it.
  if (x !== undefined && a.shape.length && sameShape(b.shape, node.shape)) {
    return again(fn, constant(a.graph, x, { dtype: a.dtype }), b);
  }
  if (y !== undefined && b.shape.length && sameShape(a.shape, node.shape)) {
    return again(fn, a, constant(a.graph, y, { dtype: b.dtype }));
  }
  return undefined;
}

function again(fn: string, a: Value, b: Value): Value | undefined {
  const functions: Readonly<Record<string, (a: Value, b: Value) => Value>> = { add, sub, mul, div };
  return functions[fn]?.(a, b);
}

function fold(fn: string, x: number, y: number): number | undefined {
  switch (fn) {
    case "add":
      return x + y;
    case "sub":
      return x - y;
    case "mul":
      return x * y;
    case "div":
      return y === 0 ? undefined : x / y;
    default:
      return undefined;
  }
}
