/**
 * A model whose adapter's deltas are all formed, or none.
 *
 * @module
 */
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import type { PeftConfig } from "../../lib/methods/config.ts";
import { type DeltaRule, scaled, type SiteRule } from "../../lib/methods/site-rule.ts";
import { add } from "../../lib/ops/elementwise.ts";

/** How a delta takes part. */
export type Way = "formed" | "applied";

const WAYS: Readonly<
  Record<Way, (rule: DeltaRule<PeftConfig>) => DeltaRule<PeftConfig> | undefined>
> = {
  formed: ({ apply, ...rule }) => apply && rule,
  applied: ({ apply, ...rule }) =>
    apply && {
      ...rule,
      forward: (trace, { x, result }) => add(result, scaled(apply(trace, x), trace.multiplier)),
    },
};

/** The model; `undefined` where its method leaves no choice. */
export function withDeltas(model: PeftModel, way: Way): PeftModel | undefined {
  const adapter = model.adapters.get("default")!, { method, config } = adapter;
  const rules = Object.entries(method.sites?.(config) ?? {}).flatMap(([kind, rule]) => {
    const other = "delta" in rule && !rule.forward ? WAYS[way](rule) : undefined;
    return other ? [[kind, other] as readonly [string, SiteRule<PeftConfig>]] : [];
  });
  if (rules.length === 0) return undefined;
  const sites = () => ({ ...method.sites!(config), ...Object.fromEntries(rules) });
  return {
    ...model,
    adapters: new Map([["default", { ...adapter, method: { ...method, sites } }]]),
  };
}
