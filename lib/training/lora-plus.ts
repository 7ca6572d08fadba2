/**
 * LoRA+: AdamW with a higher learning rate for LoRA's B than for its A (Hayou et al., 2024,
 * arXiv:2402.12354), in the groups that PEFT's `create_loraplus_optimizer` makes.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { checkOptions, NOT_NEGATIVE, POSITIVE } from "../options.ts";
import { adamW, ADAMW_RULES, type AdamWOptions } from "./adamw.ts";
import type { Optimizer, TrainedLeaf } from "./optimizer.ts";

/** The optimizer's settings. */
export interface LoraPlusOptions extends Omit<AdamWOptions, "weightDecay"> {
  /** The learning rate of B over that of A, which is the run's own; 1 or more, such as 16. */
  readonly loraplusLrRatio: number;
  /** Learning rate of LoRA matrices of embeddings; 1e-6 by default. The schedule applies to it. */
  readonly loraplusLrEmbedding?: number;
  /** Decoupled weight decay of all but biases and layer norms; 0 by default. */
  readonly loraplusWeightDecay?: number;
}

const { weightDecay: _, ...ADAM_RULES } = ADAMW_RULES;

/**
 * The optimizer of LoRA+.
 *
 * @throws {ValueError} `OPTIMIZER_OPTION` for settings that cannot be.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, loraPlus, tinyModel, train } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 8, taskType: "CAUSAL_LM" }));
 * const { history } = await train(model, [{ inputIds: [[1, 2, 3, 4]] }], {
 *   learningRate: 1e-3,
 *   optimizer: loraPlus({ loraplusLrRatio: 16 }),
 *   steps: 10,
 * });
 * console.log(history[9].loss < history[0].loss); // true
 * ```
 */
export function loraPlus(options: LoraPlusOptions): Optimizer {
  checkOptions(options, {
    ...ADAM_RULES,
    loraplusLrRatio: POSITIVE,
    loraplusLrEmbedding: POSITIVE,
    loraplusWeightDecay: NOT_NEGATIVE,
  }, { code: "OPTIMIZER_OPTION", of: "loraPlus" });
  const { loraplusLrRatio, loraplusLrEmbedding = 1e-6, loraplusWeightDecay = 0, ...adam } = options;
  if (loraplusLrRatio === undefined) {
    throw new ValueError("OPTIMIZER_OPTION", "loraPlus needs a loraplusLrRatio, such as 16.");
  }
  const decaying = adamW({ ...adam, weightDecay: loraplusWeightDecay });
  const plain = adamW({ ...adam, weightDecay: 0 });
  return {
    ...decaying,
    name: "loraplus",
    group: groupOf,
    rates(time, group) {
      const learningRate = group === "embedding"
        ? loraplusLrEmbedding
        : time.learningRate * (group === "A" ? 1 : loraplusLrRatio);
      return (group === "B.plain" ? plain : decaying).rates({ ...time, learningRate }, group);
    },
  };
}

function groupOf({ name, shape, site }: TrainedLeaf): "A" | "B" | "B.plain" | "embedding" {
  if (name.includes(".lora_embedding_")) return "embedding";
  if (!name.endsWith(".lora_B") && shape.length !== 1) return "A";
  // Of norms, PEFT leaves those out of the decay that also take off the mean.
  return name.includes("bias") || (site?.kind === "norm" && site.bias) ? "B.plain" : "B";
}
