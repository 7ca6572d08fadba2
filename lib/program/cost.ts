/**
 * What a program will cost, before it runs.
 *
 * @module
 */
import { operationOf } from "../ops/mod.ts";
import { bytesOf } from "../ops/shapes.ts";
import type { Value } from "../ops/value.ts";
import { fuse } from "./fuse.ts";
import { lower } from "./lower.ts";
import { plan } from "./plan.ts";
import type { Program } from "./program.ts";

/** The cost of one run. */
export interface Cost {
  /** Floating-point operations. */
  readonly flops: number;
  /** Bytes that kernels read and write. */
  readonly bytes: number;
  /** Bytes alive at once: weights, data, state and the buffers of intermediate values. */
  readonly peakMemory: number;
  /** Of those, bytes of weights, data and state, which are alive throughout. */
  readonly inputBytes: number;
  /** Number of kernels that run on WebGPU. */
  readonly dispatches: number;
}

/**
 * Counts a program's FLOPs, bytes moved, peak memory and dispatches, from the same passes that the WebGPU device runs. Temporaries inside of kernels and
 * a device's choice between kernels are not known here.
 *
 * @param program As traced.
 *
 * @example
 * ```ts
 * import { cost, input, matmul, trace } from "@graft/peft";
 * const program = trace((graph) => ({
 *   y: matmul(
 *     input(graph, "x", { shape: [128, 64], dtype: "f32" }),
 *     input(graph, "w", { shape: [64, 32], dtype: "f32" }),
 *   ),
 * }));
 * console.log(cost(program).flops); // 2 * 128 * 64 * 32
 * ```
 */
export function cost(program: Program): Cost {
  const lowered = lower(program);
  const fused = fuse(lowered);
  const { scratch } = plan(fused);
  const total = (values: Iterable<Value>) => {
    let bytes = 0;
    for (const v of values) bytes += bytesOf(v);
    return bytes;
  };
  const inputBytes = total(program.inputs.values());
  return {
    flops: lowered.nodes.reduce((n, v) => n + operationOf(v).flops(v), 0),
    bytes: fused.groups.reduce((n, g) => n + total(g.reads) + total(g.outputs), 0),
    peakMemory: inputBytes + scratch.reduce((n, b) => n + b, 0),
    inputBytes,
    dispatches: fused.groups.length,
  };
}
