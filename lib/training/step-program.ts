/**
 * The programs of a training run: one that takes a whole optimizer step, one that only adds
 * gradients up, one that evaluates.
 *
 * @module
 */
import { causalLoss } from "../adapters/forward.ts";
import type { AnyModel } from "../adapters/peft-model.ts";
import { type TracedModel, traceModel } from "../adapters/trace-model.ts";
import type { ForwardPass } from "../model/forward-pass.ts";
import { add, div, min, mul } from "../ops/binary.ts";
import { constant } from "../ops/constant.ts";
import { input } from "../ops/input.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { sqrt } from "../ops/unary.ts";
import type { Graph, Value } from "../ops/value.ts";
import { checkpoint, expensiveValues } from "../program/checkpoint.ts";
import { gradients } from "../program/grad.ts";
import { programOf } from "../program/program.ts";
import { adamW, type AdamWOptions } from "./adamw.ts";
import { joinLeaves, leafOf, type Packing } from "./packing.ts";

/** Names of the state that training programs share. */
export const STATE = {
  parameters: "train.parameters",
  mean: "train.mean",
  square: "train.square",
  gradient: "train.gradient",
} as const;

/** What a step's program is made for. */
export interface StepOptions extends AdamWOptions {
  /** Rows of the batch. */
  readonly batch: number;
  /** Tokens in a row. */
  readonly length: number;
  /** Where each leaf lies in the vector of parameters. */
  readonly packing: Packing;
  /** Whether dropout is on. */
  readonly dropout: boolean;
  /** Gradients are scaled down to this norm where theirs is larger; not at all without it. */
  readonly maxGradientNorm?: number;
  /** Computes activations again in the backward pass, layer by layer. */
  readonly gradientCheckpointing?: boolean;
  /**
   * `update` ends in an optimizer step, `accumulate` adds to the gradient only, `evaluate` computes
   * the loss only, `gradients` gives each leaf's gradient as an output.
   */
  readonly kind: "update" | "accumulate" | "evaluate" | "gradients";
  /** Whether an `update` also takes in what `accumulate` has added up. */
  readonly accumulated?: boolean;
}

/**
 * Traces one of the programs. All take `labels` [B, T] (shifted) and `lossScale` [1], by which the
 * sum of the losses is multiplied, and read the state {@link STATE}`.parameters`; an `update` takes
 * `rate.decay`, `rate.size` and `rate.correction` [1]. They give `loss` (scaled), and an update
 * `gradientNorm` before clipping.
 */
export function traceStep(model: AnyModel, options: StepOptions): TracedModel {
  const { batch, length, packing, kind } = options;
  const state = (graph: Graph, name: string) =>
    input(graph, name, { shape: [packing.size], dtype: "f32", role: "state" });
  const one = (graph: Graph, name: string) => input(graph, name, { shape: [1], dtype: "f32" });
  const leaf = (graph: Graph, name: string) => {
    const packed = packing.leaves.get(name);
    return packed && leafOf(state(graph, STATE.parameters), packed);
  };
  let forward: ForwardPass | undefined;
  const updates: Record<string, string> = {};
  const update = (name: string, value: Value, outputs: Record<string, Value>) => {
    outputs[`next.${name}`] = value;
    updates[name] = `next.${name}`;
  };
  const traced = traceModel(model, {
    batch,
    length,
    dropout: options.dropout && kind !== "evaluate",
    trained: leaf,
    outputs: (pass, { logits }) => {
      forward = pass;
      const { graph } = pass;
      const labels = input(graph, "labels", { shape: [batch, length], dtype: "i32" });
      const loss = mul(causalLoss(logits, labels).total, reshape(one(graph, "lossScale"), []));
      const outputs: Record<string, Value> = { loss };
      if (kind === "evaluate") return outputs;
      const names = [...packing.leaves.keys()];
      const parts = gradients(loss, names.map((name) => leaf(graph, name)!));
      if (kind === "gradients") {
        names.forEach((name, i) => outputs[`grad.${name}`] = parts[i]);
        return outputs;
      }
      let gradient = joinLeaves(parts);
      const held = state(graph, STATE.gradient);
      if (kind === "accumulate") {
        update(STATE.gradient, add(held, gradient), outputs);
        return outputs;
      }
      if (options.accumulated) gradient = add(held, gradient);
      const norm = sqrt(sum(mul(gradient, gradient)));
      outputs.gradientNorm = norm;
      if (options.maxGradientNorm !== undefined) {
        // As torch's clip_grad_norm_, whose small term keeps the division defined.
        gradient = mul(gradient, min(div(options.maxGradientNorm, add(norm, 1e-6)), 1));
      }
      const next = adamW({
        parameters: state(graph, STATE.parameters),
        mean: state(graph, STATE.mean),
        square: state(graph, STATE.square),
      }, {
        ...options,
        gradient,
        rates: [one(graph, "rate.decay"), one(graph, "rate.size"), one(graph, "rate.correction")],
      });
      update(STATE.parameters, next.parameters, outputs);
      update(STATE.mean, next.mean, outputs);
      update(STATE.square, next.square, outputs);
      if (options.accumulated) {
        update(STATE.gradient, constant(graph, 0, { shape: [packing.size] }), outputs);
      }
      return outputs;
    },
  });
  const program = programOf(Object.fromEntries(traced.program.outputs), updates);
  if (kind === "evaluate") return { ...traced, program };
  // What costs next to nothing to compute again is never kept; with gradient checkpointing, only
  // what enters a layer is.
  const keep = options.gradientCheckpointing
    ? forward!.boundaries
    : [...forward!.boundaries, ...expensiveValues(program)];
  return { ...traced, program: checkpoint(program, { of: "loss", keep }) };
}
