/**
 * Random programs of elementwise, layout and reduction nodes, to try fusion and planning on.
 *
 * @module
 */
import {
  add,
  and,
  equal,
  less,
  max,
  mul,
  not,
  sigmoid,
  sub,
  tanh,
} from "../../../lib/ops/elementwise.ts";
import { broadcast } from "../../../lib/ops/broadcast.ts";
import { cast } from "../../../lib/ops/cast.ts";
import { concat } from "../../../lib/ops/concat.ts";
import { constant } from "../../../lib/ops/constant.ts";
import { input } from "../../../lib/ops/input.ts";
import { iota } from "../../../lib/ops/iota.ts";
import { reduceMax, sum } from "../../../lib/ops/reduce.ts";
import { reshape } from "../../../lib/ops/reshape.ts";
import { select } from "../../../lib/ops/select.ts";
import { pad, slice } from "../../../lib/ops/slice.ts";
import { transpose } from "../../../lib/ops/transpose.ts";
import type { Value } from "../../../lib/ops/value.ts";
import { type Program, trace } from "../../../lib/program/program.ts";
import { sizeOf } from "../../../lib/tensor/dtype.ts";

/** A generator of numbers in [0, 1) that a seed determines. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return ((state ^ state >>> 13) >>> 0) % 65536 / 65536;
  };
}

/** A random program with inputs `x0` …, a state `s` that may be updated, and a few outputs. All but masks are f32. */
export function randomProgram(seed: number, nodes: number): Program {
  const random = randomOf(seed);
  const below = (n: number) => Math.floor(random() * n);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)];
  const dimension = () => pick([1, 2, 3, 4, 5, 8, 12, 16, 64]);
  const updates: Record<string, string> = {};
  return trace((graph) => {
    const shape = () => {
      const s = Array.from({ length: 1 + below(3) }, dimension);
      return sizeOf(s) > 4096 ? s.slice(0, 2) : s;
    };
    const pool: Value[] = Array.from(
      { length: 2 + below(3) },
      (_, i) =>
        input(graph, `x${i}`, { shape: shape(), dtype: "f32", role: i % 2 ? "weight" : "data" }),
    );
    const state = input(graph, "s", { shape: shape(), dtype: "f32", role: "state" });
    pool.push(state);
    /** A value that has, or is brought to, a shape. */
    const like = (to: readonly number[]): Value => {
      const fitting = pool.filter((v) =>
        v.shape.length <= to.length &&
        v.shape.every((d, i) => d === 1 || d === to[i + to.length - v.shape.length])
      );
      if (fitting.length && random() < 0.8) return pick(fitting);
      const same = pool.filter((v) => sizeOf(v.shape) === sizeOf(to));
      if (same.length && random() < 0.8) return reshape(pick(same), to);
      return constant(graph, random() - 0.5, random() < 0.5 ? {} : { shape: to });
    };
    const make = (): Value => {
      const x = random() < 0.6
        ? pool[pool.length - 1 - below(Math.min(4, pool.length))]
        : pick(pool);
      const axis = below(x.shape.length);
      switch (below(14)) {
        case 0:
          return tanh(x);
        case 1:
          return sigmoid(x);
        case 2:
        case 3:
          return mul(x, like(x.shape));
        case 4:
        case 5:
          return add(x, like(x.shape));
        case 6:
          return max(sub(x, like(x.shape)), -2);
        case 7: {
          const mask = less(x, like(x.shape));
          const other = random() < 0.5 ? mask : and(mask, not(equal(x, 0)));
          return select(other, x, random() < 0.5 ? 0.25 : like(x.shape));
        }
        case 8:
          return random() < 0.5
            ? tanh(sum(x, { axes: [axis], keepDims: x.shape.length === 1 || random() < 0.5 }))
            : reduceMax(x, {
              axes: random() < 0.5 ? [0, x.shape.length - 1] : [axis],
              keepDims: true,
            });
        case 9:
          return transpose(x, x.shape.map((_, i) => i).reverse());
        case 10: {
          const sizes = x.shape.map((d) => 1 + below(d));
          return slice(x, { sizes, starts: sizes.map((s, i) => below(x.shape[i] - s + 1)) });
        }
        case 11: {
          if (sizeOf(x.shape) > 2048) return tanh(x);
          return pad(x, { low: x.shape.map(() => below(3)), high: x.shape.map(() => below(3)) });
        }
        case 12: {
          if (sizeOf(x.shape) > 2048) return sigmoid(x);
          const piece = pool.find((v) =>
            v !== x && v.shape.length === x.shape.length &&
            v.shape.every((d, i) => i === axis || d === x.shape[i])
          );
          return concat([x, piece ?? tanh(x), x], { axis });
        }
        default:
          return random() < 0.5
            ? mul(x, mul(cast(iota(graph, x.shape, { axis }), "f32"), 0.1))
            : sizeOf(x.shape) <= 512
            ? broadcast(x, [3, ...x.shape])
            : x;
      }
    };
    for (let i = 0; i < nodes; i++) {
      const v = make();
      pool.push(sizeOf(v.shape) > 8192 ? sum(v, { axes: [0], keepDims: true }) : v);
    }
    const outputs: Record<string, Value> = { last: pool[pool.length - 1] };
    for (let i = 0; i < 3; i++) outputs[`o${i}`] = pick(pool);
    // Uses the state, so that the program has it, and perhaps replaces it.
    outputs.used = sum(mul(state, 0.5));
    const next = pool.filter((v) => v.shape.join() === state.shape.join() && v !== state);
    outputs.next = next.length && random() < 0.7 ? pick(next) : add(mul(state, 0.9), 0.1);
    updates.s = "next";
    return outputs;
  }, { updates });
}
