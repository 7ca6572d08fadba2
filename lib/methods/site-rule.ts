/**
 * What a method does at a site, as one of a few rules, and what follows from them.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { AdaptedAttention } from "../model/forward-pass.ts";
import type { Site, SiteKind } from "../model/site.ts";
import { add, mul } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { priceOf } from "../ops/price.ts";
import { perFeature, product } from "../model/site-product.ts";
import { dense, type LowRank } from "../model/weight.ts";
import type { Value } from "../ops/value.ts";
import type { PeftConfig } from "./config.ts";
import type { PeftMethod, SiteTrace } from "./method.ts";
import { mergedRows, withRows } from "./token-rows.ts";

/** A site's input and output, for rules that run it. */
export interface SiteCall {
  /** What goes into the site: [..., in], or token ids for an embedding. */
  readonly x: Value;
  /** What came out so far: the base's output with the adapters that are active before this one. */
  readonly result: Value;
  /** Runs the site, with the adapters before this one, on any input. */
  base(x: Value): Value;
  /** The weight of the site, in f32 and as the layer stores it, with the adapters before this one. */
  weight(): Value;
  /** Runs it with a change of its weight; adapters before this one leave no weight to change. */
  changed?(delta: Value): Value;
}

/** Parameters of a site in f32, as the layer stores them. */
export interface SiteValues {
  /** The weight. */
  readonly weight: Value;
  /** The bias, where the layer has one. */
  readonly bias?: Value;
}

/** Adds a delta to the weight. */
export interface DeltaRule<C extends PeftConfig> {
  /** The delta as the layer stores its weight, without the caller's factor. */
  delta(trace: SiteTrace<C>): Value;
  /**
   * What the delta adds to the output, without making it: of x [..., in], [..., out]. It is taken
   * where it is the cheaper way, by the sizes of the site and of the batch.
   */
  apply?(trace: SiteTrace<C>, x: Value): Value;
  /** Probability with which training drops a feature of the input before the delta; 0 without it. */
  dropout?(config: C): number;
  /** Random factors that training puts on what the delta adds to the output, where it has any. */
  keep?(trace: SiteTrace<C>): Value | undefined;
  /** What it adds to the bias, where it does, without the caller's factor: [out]. */
  bias?(trace: SiteTrace<C>): Value | undefined;
  /** The delta of a parameter as a product, without the caller's factor. */
  factors?(trace: SiteTrace<C>): LowRank;
  /** Runs the site where there is more to it than the delta; applies the caller's factor itself. */
  forward?(trace: SiteTrace<C>, call: SiteCall): Value;
  /** Merges where there is more to it than the delta; applies the caller's factor itself. */
  weight?(trace: SiteTrace<C>, values: SiteValues): SiteValues;
}

/** Changes what goes in or what comes out. */
export interface ChangeRule<C extends PeftConfig> {
  /** Changes the input. */
  input?(trace: SiteTrace<C>, x: Value): Value;
  /** Changes the output. */
  output?(trace: SiteTrace<C>, y: Value): Value;
  /** Does the same to the weights; without it the method cannot be merged. */
  weight?(trace: SiteTrace<C>, values: SiteValues): SiteValues;
}

/** Puts leaves in the place of the site's own parameters. */
export interface ReplaceRule {
  /** Names of the leaves that stand for the weight and the bias. */
  readonly replaces: { readonly weight?: string; readonly bias?: string };
  /** Numbers of the rows of the weight that the leaf stands for; all of it without them. */
  readonly rows?: readonly number[];
}

/** Runs the site in its own way. */
export interface ForwardRule<C extends PeftConfig> {
  /** Gives the output. */
  forward(trace: SiteTrace<C>, call: SiteCall): Value;
  /** Does the same to the weights; without it the method cannot be merged. */
  weight?(trace: SiteTrace<C>, values: SiteValues): SiteValues;
  /** Whether it applies the caller's factor on its strength. */
  readonly scales?: true;
}

/** Adds to what an attention module gives. */
export interface AttentionRule<C extends PeftConfig> {
  /** Gives the output, of the module's own [B, T, D], which its projection has left. */
  attention(trace: SiteTrace<C>, call: AdaptedAttention, output: Value): Value;
}

/** What a method does at a site. */
export type SiteRule<C extends PeftConfig> =
  | DeltaRule<C>
  | ChangeRule<C>
  | ReplaceRule
  | ForwardRule<C>
  | AttentionRule<C>;

/** The rules of a method by kind of site. */
export type SiteRules<C extends PeftConfig> = { readonly [K in SiteKind]?: SiteRule<C> };

/** A number or a value times the factor that the caller asked for. */
export function scaled(x: Value, multiplier: Value | 1): Value {
  return multiplier === 1 ? x : mul(x, multiplier);
}

/** Runs a site by a rule. */
export function runRule<C extends PeftConfig>(
  rule: SiteRule<C>,
  trace: SiteTrace<C>,
  call: SiteCall,
): Value {
  if ("forward" in rule && rule.forward) return rule.forward(trace, call);
  const { x, result, base } = call;
  if ("delta" in rule) {
    const { pass, config, site, multiplier } = trace;
    const seen = pass.dropout(x, rule.dropout?.(config) ?? 0);
    const kept = pass.training ? rule.keep?.(trace) : undefined;
    const bias = rule.bias?.(trace);
    const biased = (y: Value) => bias ? add(y, perFeature(site, scaled(bias, multiplier))) : y;
    const after = (change: Value) =>
      biased(add(result, scaled(kept ? mul(change, kept) : change, multiplier)));
    const delta = rule.delta(trace);
    const formed = site.kind === "embedding"
      ? after(gather(delta, seen))
      : call.changed && seen === x && !kept
      ? biased(call.changed(scaled(delta, multiplier)))
      : after(product(site, seen, { plain: delta }));
    if (!rule.apply) return formed;
    return cheaper([after(rule.apply(trace, seen)), formed], { given: [x], trained: pass.trained });
  }
  if ("replaces" in rule) {
    const { replaces: { weight = "" }, rows } = rule;
    return rows ? withRows(trace, call, { rows: trace.leaves[weight], indices: rows }) : result;
  }
  const { input, output } = rule as ChangeRule<C>;
  const changed = input?.(trace, x) ?? x;
  const y = changed === x ? result : base(changed);
  return output?.(trace, y) ?? y;
}

function cheaper(ways: readonly Value[], of: Parameters<typeof priceOf>[1]): Value {
  const prices = ways.map((way) => priceOf(way, of));
  return ways[prices.indexOf(Math.min(...prices))];
}

/**
 * Refuses a convolution that a method cannot adapt.
 *
 * @param peftType The method.
 * @param site Any site.
 * @param limits How many dimensions it may have, and whether it may have groups.
 * @throws {UnsupportedError}
 */
export function checkConvolution(
  peftType: string,
  { path, conv }: Site,
  limits: { readonly ranks: readonly number[]; readonly groups?: boolean },
): void {
  if (!conv) return;
  const rank = conv.kernel.length;
  if (limits.ranks.includes(rank) && (conv.groups === 1 || limits.groups)) return;
  throw new UnsupportedError(
    "TARGET_CONVOLUTION",
    `${peftType} adapts convolutions of ${limits.ranks.join(" or ")} dimensions${
      limits.groups ? "" : " without groups"
    }, and ${path} has ${rank}${
      conv.groups > 1 ? ` and ${conv.groups} groups` : ""
    }. Leave it out of targetModules, or use LORA.`,
    { path, rank, groups: conv.groups },
  );
}

/** The parameters of a site with an adapter merged into them. */
export function mergeRule<C extends PeftConfig>(
  rule: SiteRule<C>,
  trace: SiteTrace<C>,
  values: SiteValues,
): SiteValues {
  if ("weight" in rule && rule.weight) return rule.weight(trace, values);
  if ("replaces" in rule) {
    const { replaces: { weight, bias }, rows: indices } = rule;
    if (indices) {
      const { pass, site, leaves } = trace;
      // Of a linear layer, what adapters before it made of these rows stays, as in its output.
      const old = site.kind === "linear"
        ? dense(pass.weight(`${site.path}.weight`))
        : values.weight;
      const rows = { rows: leaves[weight!], indices };
      return { ...values, weight: mergedRows(values.weight, old, rows) };
    }
    return {
      ...values,
      ...(weight && trace.leaves[weight] ? { weight: trace.leaves[weight] } : {}),
      ...(bias && trace.leaves[bias] ? { bias: trace.leaves[bias] } : {}),
    };
  }
  if (!("delta" in rule)) throw new TypeError(`${trace.config.peftType} cannot be merged.`);
  const { multiplier } = trace, change = rule.bias?.(trace);
  return {
    weight: add(values.weight, scaled(rule.delta(trace), multiplier)),
    bias: values.bias && change ? add(values.bias, scaled(change, multiplier)) : values.bias,
  };
}

/** A method with the config of an adapter. */
type Configured = { readonly method: PeftMethod; readonly config: PeftConfig };

/** What an adapter does at a kind of site. */
export function ruleAt(
  { method, config }: Configured,
  kind: SiteKind,
): SiteRule<PeftConfig> | undefined {
  return method.sites?.(config)[kind];
}

/** Kinds of sites that a method can adapt. */
export function siteKinds({ method, config }: Configured): readonly SiteKind[] {
  return Object.keys(method.sites?.(config) ?? {}) as SiteKind[];
}

function everyRule(
  { method, config }: Configured,
  holds: (rule: SiteRule<PeftConfig>) => boolean,
): boolean {
  const rules = Object.values(method.sites?.(config) ?? {});
  return rules.length > 0 && rules.every(holds);
}

/** Whether an adapter can be merged into weights. */
export function isMergeable(of: Configured): boolean {
  return !of.method.pass &&
    everyRule(
      of,
      (rule) =>
        "delta" in rule || "replaces" in rule || ("weight" in rule && rule.weight !== undefined),
    );
}

/** Whether a factor on an adapter's strength means something: what it adds is scaled. */
export function isScalable(of: Configured): boolean {
  return everyRule(of, (rule) => "delta" in rule || "scales" in rule);
}

/** Whether what an adapter does to layers is a change of their weights, for which a LoRA can stand. */
export function isConvertible(of: Configured): boolean {
  return !of.method.pass &&
    everyRule(of, (rule) => "delta" in rule || ("weight" in rule && rule.weight !== undefined));
}
