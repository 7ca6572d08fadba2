/**
 * The variants of LoRA. Another one is a file and a line here.
 *
 * @module
 */
import type { SiteKind } from "../../model/site.ts";
import { add } from "../../ops/elementwise.ts";
import type { SitePlace } from "../method.ts";
import { type DeltaRule, scaled } from "../site-rule.ts";
import type { MethodTraining, TrainedAdapter } from "../training-rule.ts";
import { alora } from "./alora.ts";
import { arrow } from "./arrow.ts";
import { bdlora } from "./bdlora.ts";
import { dora } from "./dora.ts";
import { kasa } from "./kasa.ts";
import { loraBias } from "./lora-bias.ts";
import { isOn, type LoraConfig } from "./lora-config.ts";
import { loraLeaves } from "./lora-init.ts";
import type { LoraTrace } from "./lora-trace.ts";
import { monteclora } from "./monteclora.ts";
import { qalora } from "./qalora.ts";
import type { LoraRule, LoraVariant } from "./variant.ts";
import { velora } from "./velora.ts";

/** All of them: where two are on, the second starts from what the first makes of plain LoRA. */
const VARIANTS: readonly LoraVariant[] = [
  dora,
  bdlora,
  kasa,
  velora,
  monteclora,
  qalora,
  loraBias,
  alora,
  arrow,
];

/** Those that a config turns on. */
export function variantsOf(config: LoraConfig): readonly LoraVariant[] {
  return VARIANTS.filter(({ field }) => isOn(config, field));
}

/** The leaves of a site. */
export function variantLeaves(at: SitePlace<LoraConfig>): ReturnType<typeof loraLeaves> {
  return variantsOf(at.config).reduce(
    (rules, { leaves }) => leaves?.(at, rules) ?? rules,
    loraLeaves(at),
  );
}

/** The rule of a kind of site, from that of plain LoRA; `undefined` where the variants have none. */
export function variantRule(
  config: LoraConfig,
  kind: SiteKind,
  plain: DeltaRule<LoraConfig>,
): LoraRule | undefined {
  const on = variantsOf(config);
  if (on.some(({ kinds }) => kinds && !kinds.includes(kind))) return undefined;
  const rule = on.reduce<LoraRule>((rule, { values, rule: own }) => {
    const before = rule as DeltaRule<LoraConfig>;
    return own?.(before, kind) ?? (values ? onValues(before, values) : rule);
  }, plain);
  if (rule.forward || !("apply" in rule)) return rule;
  // A low rank is never dearer than the weight that it changes, and groups have none to change.
  return {
    ...rule,
    forward: (trace, { x, result }) => add(result, scaled(rule.apply!(trace, x), trace.multiplier)),
  };
}

/** A rule that works with other values of the leaves. */
function onValues(
  rule: DeltaRule<LoraConfig>,
  values: NonNullable<LoraVariant["values"]>,
): DeltaRule<LoraConfig> {
  const instead = (trace: LoraTrace) => ({
    ...trace,
    leaves: { ...trace.leaves, ...values(trace) },
  });
  return {
    delta: (trace) => rule.delta(instead(trace)),
    apply: (trace, x) => rule.apply!(instead(trace), x),
  };
}

/** What they take of the token ids of rows. */
export function variantRowInputs(
  config: LoraConfig,
): Readonly<Record<string, (ids: Int32Array) => number>> {
  return Object.assign({}, ...variantsOf(config).map(({ rowInputs }) => rowInputs?.(config)));
}

/** What they add to training. */
export function variantTraining(
  adapter: TrainedAdapter<LoraConfig>,
): MethodTraining<LoraConfig> | undefined {
  return variantsOf(adapter.config).find((one) => one.training)?.training?.(adapter);
}
