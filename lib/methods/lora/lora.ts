/**
 * LoRA: low-rank adaptation (Hu et al., 2021, arXiv:2106.09685), with rsLoRA, the
 * initializations of lora-init.ts, and the variants of variants.ts.
 *
 * A linear layer with weight W becomes y = W·x + scale·B·A·x. PiSSA, OLoRA, CorDA and LoRA-GA take
 * their first A and B out of the weight; as the base is never changed here, the forward pass subtracts
 * them: y = W·x + scale·(B·A − B₀·A₀)·x.
 *
 * @module
 */
import type { SiteKind } from "../../model/site.ts";
import { product } from "../../model/weight.ts";
import { add } from "../../ops/elementwise.ts";
import { stopGradient } from "../../ops/stop-gradient.ts";
import type { PeftMethod } from "../method.ts";
import type { DeltaRule, SiteRules } from "../site-rule.ts";
import { loraCombine } from "./lora-combine.ts";
import { type LoraConfig, loraSchema } from "./lora-config.ts";
import { checkLoraCalibration } from "./lora-init.ts";
import { onQuantized } from "./loftq.ts";
import { loraRefit } from "./lora-refit.ts";
import { added, lookedUp, mergeableChange, stackedFactors, weightChange } from "./lora-trace.ts";
import { variantLeaves, variantRowInputs, variantRule, variantTraining } from "./variants.ts";

const linear: DeltaRule<LoraConfig> = {
  delta: mergeableChange,
  apply: (trace, x) => added(trace, x, trace.pass.dropout(x, trace.config.loraDropout)),
};

/** Plain LoRA. */
const PLAIN: Readonly<Partial<Record<SiteKind, DeltaRule<LoraConfig>>>> = {
  linear,
  conv1d: linear,
  conv: linear,
  embedding: { delta: weightChange, apply: lookedUp },
  parameter: { delta: (trace) => product(stackedFactors(trace)), factors: stackedFactors },
  // PEFT merges for each pass, without dropout, and the output projection twice, of which the
  // gradient sees once: what it learned has to be added as often here.
  multihead: {
    delta(trace) {
      const change = weightChange(trace);
      return trace.site.partOf ? add(change, stopGradient(change)) : change;
    },
  },
};

/** The method `LORA`. */
export const lora: PeftMethod<LoraConfig> = {
  name: "lora",
  config: { ...loraSchema, checkCalibration: checkLoraCalibration },
  leaves: { site: variantLeaves },
  sites: (config): SiteRules<LoraConfig> =>
    Object.fromEntries(
      Object.entries(PLAIN).flatMap(([kind, plain]) => {
        const own = kind === "linear" && config.initLoraWeights === "loftq"
          ? onQuantized(plain)
          : plain;
        const rule = variantRule(config, kind as SiteKind, own);
        return rule ? [[kind, rule]] : [];
      }),
    ),
  rowInputs: variantRowInputs,
  training: variantTraining,
  combine: { ...loraCombine, refit: loraRefit },
};
