/**
 * LoRA-FA: LoRA with A frozen, and B's gradient projected to where it is nearest to the gradient of
 * the whole weight (Zhang et al., 2023, arXiv:2308.03303), as PEFT's `create_lorafa_optimizer` makes
 * it.
 *
 * @module
 */
import { leafName } from "../adapters/leaves.ts";
import { type AnyModel, takingPart } from "../adapters/peft-model.ts";
import { partsOfKind } from "../adapters/parts.ts";
import type { LoraConfig } from "../methods/lora/lora-config.ts";
import { loraShape } from "../methods/lora/lora-config.ts";
import { siteAt } from "../model/model-graph.ts";
import { add, div, mul, sqrt, sub } from "../ops/elementwise.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { checkOptions } from "../options.ts";
import { adamW, ADAMW_RULES, type AdamWOptions } from "./adamw.ts";
import { loraPairs, type Optimizer } from "./optimizer.ts";
import { dampedInverse, rowsMetric } from "./riemannian.ts";

/** The optimizer's settings: `epsilon` is 1e-6, and `weightDecay` 0, by default. */
export type LoraFaOptions = AdamWOptions;

const ENDS = [[".lora_A", ".lora_B"], [".lora_embedding_A", ".lora_embedding_B"]] as const;

/**
 * The optimizer of LoRA-FA for a model: A stays as it is, and B gets gB·(AAᵀ)⁻¹/scale² in the place of
 * its gradient. Steps are those of Adam as transformers had it: `epsilon` is added before the
 * correction of the mean square, and weights decay after the step.
 *
 * @param model The model that is trained, for the scale of each adapter at each of its modules.
 * @throws {ValueError} `OPTIMIZER_OPTION` for settings that cannot be.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, loraFa, tinyModel, train, trainableLeaves } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 8, taskType: "CAUSAL_LM" }));
 * const { history, model: trained } = await train(model, [{ inputIds: [[1, 2, 3, 4]] }], {
 *   learningRate: 1e-3,
 *   optimizer: loraFa(model),
 *   steps: 10,
 * });
 * console.log(history[9].loss < history[0].loss); // true
 * const name = "a0.model.layers.0.self_attn.q_proj.lora_A";
 * const [a, b] = [model, trained].map((m) => trainableLeaves(m).get(name)!);
 * console.log(String(await a.data()) === String(await b.data())); // true
 * ```
 */
export function loraFa(model: AnyModel, options: LoraFaOptions = {}): Optimizer {
  checkOptions(options, ADAMW_RULES, { code: "OPTIMIZER_OPTION", of: "loraFa" });
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-6, weightDecay = 0 } = options;
  const scales = scalesOf(model);
  return {
    ...adamW(),
    name: "lorafa",
    frozen: "A",
    group: ({ name }) => ENDS.some(([a]) => name.endsWith(a)) ? "A" : "",
    precondition({ leaves, gradients }) {
      return new Map(
        loraPairs(leaves, ENDS).map(({ a, b }) => {
          const A = leaves.get(a)!, gradient = gradients.get(b)!, [rank] = A.shape;
          const scale = scales.get(b) ?? 1;
          // Kernels of convolutions are rows, too.
          const inverse = dampedInverse(rowsMetric(reshape(A, [rank, -1])), 1e-8);
          const projected = matmul(reshape(gradient, [-1, rank]), inverse);
          return [b, reshape(mul(projected, 1 / scale ** 2), gradient.shape)];
        }),
      );
    },
    rates: ({ step, learningRate, factor }) => ({
      size: learningRate * factor * Math.sqrt(1 - beta2 ** step) / (1 - beta1 ** step),
      decay: 1 - learningRate * factor * weightDecay,
    }),
    update({ parameters, gradient, state, rate }) {
      const mean = add(mul(state.mean, beta1), mul(gradient, 1 - beta1));
      const square = add(mul(state.square, beta2), mul(mul(gradient, gradient), 1 - beta2));
      const change = mul(div(mean, add(sqrt(square), epsilon)), rate("size"));
      return {
        parameters: mul(sub(parameters, change), rate("decay")),
        state: { mean, square },
      };
    },
  };
}

/** The scale of each B by the name of its leaf. */
function scalesOf(model: AnyModel): ReadonlyMap<string, number> {
  const scales = new Map<string, number>();
  if (model.type !== "peft") return scales;
  takingPart(model).forEach((adapter, position) => {
    if (adapter.config.peftType !== "LORA") return;
    const factor = model.multipliers.get(adapter.name) ?? 1;
    for (const { place: { path } } of partsOfKind(adapter, "site")) {
      const { scale } = loraShape(adapter.config as LoraConfig, siteAt(model.base, path));
      for (const [, b] of ENDS) scales.set(leafName(position, path, b.slice(1)), scale * factor);
    }
  });
  return scales;
}
