/**
 * QA-LoRA: A sees the mean of each group of inputs, as a group of quantized weights has one scale
 * (Xu et al., 2023, arXiv:2309.14717).
 *
 * With G inputs in a group, A [r, in/G] stands for an A [r, in] of which each column counts for a
 * group. As in PEFT, means are multiplied by the number of groups.
 *
 * @module
 */
import { ConfigError } from "../../errors.ts";
import { type ModelGraph, parameterOf } from "../../model/model-graph.ts";
import { type Site, weightName } from "../../model/site.ts";
import { broadcast } from "../../ops/broadcast.ts";
import { reshape } from "../../ops/reshape.ts";
import type { Value } from "../../ops/value.ts";
import { isBlockType } from "../../tensor/dtype.ts";
import { kaimingUniform } from "./lora-init.ts";
import { times } from "./lora-trace.ts";
import type { LoraVariant } from "./variant.ts";

/** `useQalora`. */
export const qalora: LoraVariant = {
  field: "useQalora",
  leaves({ config: { qaloraGroupSize: size }, model, site }, plain) {
    if (!isQuantized(model, site)) return plain;
    const { inFeatures, path } = site, { lora_A } = plain, [r] = lora_A.shape;
    if (inFeatures % size) {
      throw new ConfigError(
        "CONFIG_QALORA",
        `useQalora requires inFeatures (${inFeatures} of ${path}) to be divisible by qaloraGroupSize (${size}).`,
        { path, inFeatures, size },
      );
    }
    const groups = inFeatures / size;
    return {
      ...plain,
      lora_A: {
        ...lora_A,
        shape: [r, groups],
        // PEFT makes it anew after the layers of plain LoRA.
        async init(from) {
          await lora_A.init!(from);
          return kaimingUniform(from.random, { size: r * groups, features: groups });
        },
      },
    };
  },
  values({ config: { qaloraGroupSize: size }, site: { inFeatures }, leaves: { lora_A } }): Values {
    const [r, groups] = lora_A?.shape ?? [];
    // What is not quantized has a plain LoRA.
    if (!lora_A || groups === inFeatures) return {};
    const each = broadcast(reshape(lora_A, [r, groups, 1]), [r, groups, size]);
    return { lora_A: times(reshape(each, [r, inFeatures]), groups / size) };
  },
};

type Values = Readonly<Record<string, Value>>;

function isQuantized(model: ModelGraph, site: Site): boolean {
  return site.kind === "linear" && isBlockType(parameterOf(model, weightName(site)).dtype);
}
