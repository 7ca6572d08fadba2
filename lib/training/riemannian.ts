/**
 * Riemannian preconditioning: the gradients of LoRA's A and B, scaled by the r×r metric of their
 * product (Zhang and Pilanci, 2024, arXiv:2402.02347), as in PEFT's `create_riemannian_optimizer`.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { constant } from "../ops/constant.ts";
import { add } from "../ops/elementwise.ts";
import { inverse } from "../ops/inverse.ts";
import { matmul } from "../ops/matmul.ts";
import type { Value } from "../ops/value.ts";
import { checkOptions, POSITIVE } from "../options.ts";
import { adamW } from "./adamw.ts";
import { loraPairs, type Optimizer } from "./optimizer.ts";

/** The optimizer's settings. */
export interface RiemannianOptions {
  /** What takes the steps; AdamW with its defaults by default. */
  readonly optimizer?: Optimizer;
  /** What is added to the diagonals of BᵀB and AAᵀ before they are inverted; 0.01 by default. */
  readonly reg?: number;
}

/**
 * An optimizer that gets (BᵀB + reg·I)⁻¹·gA and gB·(AAᵀ + reg·I)⁻¹ in the place of the gradients of
 * A [r, in] and B [out, r], and those of all other leaves as they are.
 *
 * @throws {ValueError} `OPTIMIZER_OPTION` for settings that cannot be; `OPTIMIZER_PAIRS`, as training
 * begins, where the model has no A and B of a linear layer to train.
 *
 * @example
 * ```ts
 * import { adamW, getPeftModel, loraConfig, riemannian, tinyModel, train } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 8, taskType: "CAUSAL_LM" }));
 * const { history } = await train(model, [{ inputIds: [[1, 2, 3, 4]] }], {
 *   learningRate: 1e-3,
 *   optimizer: riemannian({ optimizer: adamW({ weightDecay: 0 }) }),
 *   steps: 10,
 * });
 * console.log(history[9].loss < history[0].loss); // true
 * ```
 */
export function riemannian(options: RiemannianOptions = {}): Optimizer {
  checkOptions(options, { optimizer: null, reg: POSITIVE }, {
    code: "OPTIMIZER_OPTION",
    of: "riemannian",
  });
  const { optimizer = adamW(), reg = 1e-2 } = options;
  return {
    ...optimizer,
    name: `riemannian ${optimizer.name}`,
    precondition(step) {
      const { leaves } = step, gradients = optimizer.precondition?.(step) ?? step.gradients;
      const isMatrix = (name: string) => leaves.get(name)!.shape.length === 2;
      const pairs = loraPairs(leaves).filter(({ a, b }) => isMatrix(a) && isMatrix(b));
      if (pairs.length === 0) {
        throw new ValueError(
          "OPTIMIZER_PAIRS",
          "riemannian found no A and B of a LoRA to train among the leaves (trainableLeaves). Use another optimizer.",
        );
      }
      return new Map([
        ...gradients,
        ...pairs.flatMap(({ a, b }): [string, Value][] => {
          const [A, B] = [leaves.get(a)!, leaves.get(b)!];
          const metric = { a: matmul(B, B, { transposeA: true }), b: rowsMetric(A) };
          return [
            [a, matmul(dampedInverse(metric.a, reg), gradients.get(a)!)],
            [b, matmul(gradients.get(b)!, dampedInverse(metric.b, reg))],
          ];
        }),
      ]);
    },
  };
}

/** A·Aᵀ [r, r]. */
export function rowsMetric(a: Value): Value {
  return matmul(a, a, { transposeB: true });
}

/** The inverse of a matrix with a number added to its diagonal. */
export function dampedInverse(metric: Value, reg: number): Value {
  const [side] = metric.shape;
  const diagonal = Array.from({ length: side ** 2 }, (_, i) => i % (side + 1) ? 0 : reg);
  return inverse(add(metric, constant(metric.graph, diagonal, { shape: metric.shape })));
}
