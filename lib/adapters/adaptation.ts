/**
 * How the active adapters of a model take part in a forward pass.
 *
 * @module
 */
import type { PeftConfig } from "../methods/config.ts";
import type { CachePrefix, SiteTrace } from "../methods/method.ts";
import {
  type DeltaRule,
  mergeRule,
  ruleAt,
  runRule,
  scaled,
  type SiteRule,
  type SiteValues,
} from "../methods/site-rule.ts";
import { withRows } from "../methods/token-rows.ts";
import type {
  Adaptation,
  AdaptedAttention,
  ForwardPass,
  ParameterSource,
} from "../model/forward-pass.ts";
import { parameterOf, resolveTied, siteAt } from "../model/model-graph.ts";
import { type Site, weightName } from "../model/site.ts";
import { dense, type LowRank } from "../model/weight.ts";
import { equal } from "../ops/elementwise.ts";
import { cast } from "../ops/cast.ts";
import { input } from "../ops/input.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import type { Value } from "../ops/value.ts";
import { castTensor } from "../tensor/convert.ts";
import { isBlockType, isHalf } from "../tensor/dtype.ts";
import { tensor } from "../tensor/tensor.ts";
import { leafName, multiplierLeaf, parameterLeaf, traceLeaves } from "./leaves.ts";
import { leavesAt, type Part, single, sitePart, tokensPart } from "./parts.ts";
import { type Adapter, type PeftModel, takingPart } from "./peft-model.ts";
import { adapterOf } from "./select.ts";

/** Name of the input that says which adapter a row of a mixed batch gets, `i32` [B]; −1 for none. */
export const ROW_ADAPTERS = "rowAdapters";

/** An adapter and its position among those that take part. */
interface Participant {
  readonly model: PeftModel;
  readonly adapter: Adapter;
  readonly position: number;
}

/**
 * The part that a model's active adapters take; `undefined` where none does.
 *
 * @param model A model with adapters.
 * @param options For a mixed batch, the names of the adapters that its rows get: the input
 * {@link ROW_ADAPTERS} then says by number which of them is that of a row.
 */
export function adaptationOf(
  model: PeftModel,
  options: { readonly mixed?: readonly string[] } = {},
): Adaptation | undefined {
  if (options.mixed && model.enabled) return mixedAdaptation(model, options.mixed);
  const active = participants(model, takingPart(model));
  if (active.length === 0) return undefined;
  return {
    site: (pass, site, x) => runSite(pass, site, { x, active }),
    parameter: parameterSource(active),
    added: (pass, name) => active.flatMap((one) => addedTo(pass, name, { ...one, active })),
    prefix: prefixOf(active),
    embeds: embedsOf(active),
    attention: (pass, call, output) => runAttention(pass, call, { output, active }),
  };
}

function participants(model: PeftModel, adapters: readonly Adapter[]): readonly Participant[] {
  return adapters.map((adapter, position) => ({ model, adapter, position }));
}

/**
 * Where several active adapters train the same parameter, the last one's stands, as it does in
 * PEFT.
 */
function parameterSource(active: readonly Participant[]): ParameterSource {
  return (name) => {
    for (const { model, adapter, position } of active.toReversed()) {
      const found = parameterLeaf(adapter, model.base, { name, position });
      if (found) return found;
    }
    return undefined;
  };
}

/** What an adapter does at a site. */
interface Stage extends Participant {
  readonly trace: SiteTrace<PeftConfig>;
  readonly rule?: SiteRule<PeftConfig>;
  readonly tokens?: ReturnType<typeof tokensPart>;
}

/** A site with adapters, one after the other: each works on what those before it give. */
function runSite(
  pass: ForwardPass,
  site: Site,
  of: { readonly x: Value; readonly active: readonly Participant[] },
): Value {
  interface Layer {
    run(x: Value): Value;
    values(): SiteValues;
  }
  const stages = inputOrder(site, of.active).map((one) => stageOf(pass, site, { ...of, one }));
  const around = (before: Layer, stage: Stage, position: number): Layer => {
    const { model, adapter, trace, rule, tokens } = stage;
    return {
      run(x) {
        let result = before.run(x);
        if (rule) {
          const rounded = roundedInput(x, { model, adapter, site });
          const isFirst = position === 0 && rounded === x;
          result = runRule(rule, trace, {
            x: rounded,
            result,
            base: before.run,
            weight: () => before.values().weight,
            ...(isFirst && { changed: (delta: Value) => pass.base(site, x, delta) }),
          });
        }
        if (!tokens) return result;
        const rows = traceRows(pass, tokens, stage), { indices } = tokens.place;
        return withRows(trace, { x, result }, { rows, indices });
      },
      values: () => rule ? mergeRule(rule, trace, before.values()) : before.values(),
    };
  };
  return stages.filter((stage) => stage !== undefined).reduce(around, {
    run: (x) => pass.base(site, x),
    values: () => ({
      weight: dense(pass.weight(weightName(site))),
      ...(site.bias && { bias: pass.parameter(`${site.path}.bias`) }),
    }),
  }).run(of.x);
}

function stageOf(
  pass: ForwardPass,
  site: Site,
  of: { readonly active: readonly Participant[]; readonly one: Participant },
): Stage | undefined {
  const { one, active } = of, { model, adapter } = one;
  const leaves = traceLeaves(pass, { ...one, id: site.path });
  const tokens = tokensPart(adapter, site.path);
  if (!leaves && !tokens) return undefined;
  return {
    ...one,
    tokens,
    rule: leaves && ruleAt(adapter, site.kind),
    trace: {
      pass: unmergedWeights(pass, model, active),
      site,
      config: adapter.config,
      leaves: leaves ?? {},
      shared: traceShared(pass, one),
      multiplier: traceMultiplier(pass, model, one),
      others: () =>
        new Map(
          [...model.adapters].flatMap(([name, other]) => {
            const leaves = other !== adapter && leavesAt(other, site.path);
            return leaves ? [[name, { config: other.config, leaves }] as const] : [];
          }),
        ),
    },
  };
}

/** What an adapter adds to a parameter that it takes part at. */
function addedTo(
  pass: ForwardPass,
  name: string,
  of: Participant & { readonly active: readonly Participant[] },
): readonly LowRank[] {
  if (pass.model.sites.has(name) || !sitePart(of.adapter, name)) return [];
  const { rule, trace } = stageOf(pass, siteAt(pass.model, name), { ...of, one: of })!;
  const { left, right } = (rule as DeltaRule<PeftConfig>).factors!(trace);
  return [{ left: scaled(left, trace.multiplier), right }];
}

/** What an attention module gives with adapters, one after the other. */
function runAttention(
  pass: ForwardPass,
  call: AdaptedAttention,
  of: { readonly output: Value; readonly active: readonly Participant[] },
): Value {
  const site = pass.model.sites.get(call.path)!;
  return of.active.reduce((output, one) => {
    const stage = stageOf(pass, site, { ...of, one });
    return stage?.rule && "attention" in stage.rule
      ? stage.rule.attention(stage.trace, call, output)
      : output;
  }, of.output);
}

/**
 * Adapters in the order in which they are put around a site. Of neighbours of one method that change
 * inputs the first is the outermost, as PEFT's layer takes the input through them in their order.
 */
export function inputOrder<A extends { readonly adapter: Adapter }>(
  site: Site,
  active: readonly A[],
): readonly A[] {
  const groups: A[][] = [];
  for (const one of active) {
    const { method } = one.adapter, group = groups.at(-1);
    const rule = ruleAt(one.adapter, site.kind);
    const joins = group?.[0].adapter.method === method && rule && "input" in rule;
    if (joins) group.unshift(one);
    else groups.push([one]);
  }
  return groups.flat();
}

/**
 * A mixed batch: each row gets one adapter or none. Every adapter runs on all rows, and rows choose
 * among the outputs; where an adapter does nothing its output is the base's, and costs nothing.
 */
function mixedAdaptation(model: PeftModel, names: readonly string[]): Adaptation {
  const all = participants(model, names.map((name) => adapterOf(model, name)));
  const choose = (
    pass: ForwardPass,
    plain: Value,
    run: (own: ForwardPass, of: Participant) => Value,
  ) =>
    all.reduce((result, participant) => {
      const own = pass.withParameters(parameterSource([participant]));
      const y = run(own, participant);
      if (y === plain) return result;
      const [rows, ...rest] = y.shape;
      const chosen = input(pass.graph, ROW_ADAPTERS, { shape: [rows], dtype: "i32" });
      const mine = equal(chosen, participant.position);
      return select(reshape(mine, [rows, ...rest.map(() => 1)]), y, result);
    }, plain);
  return {
    site: (pass, site, x) =>
      choose(pass, pass.base(site, x), (own, of) => runSite(own, site, { x, active: [of] })),
    attention: (pass, call, output) =>
      choose(pass, output, (own, of) => runAttention(own, call, { output, active: [of] })),
  };
}

/**
 * A pass in which adapters find the weights that they find without a merge, so that merging others
 * before them changes no output (the length of a weight and the bias in DoRA, rows of an
 * embedding).
 */
function unmergedWeights(
  pass: ForwardPass,
  model: PeftModel,
  active: readonly Participant[],
): ForwardPass {
  const { merged } = model;
  if (!merged) return pass;
  const source = parameterSource(active);
  const before = parameterSource(
    participants(model, merged.names.map((name) => model.adapters.get(name)!)),
  );
  const { weight, parameter } = pass.withParameters((name) => {
    const replaced = source(name);
    if (replaced) return replaced;
    const own = before(name)?.tensor ?? parameterOf(merged.base, name);
    if (own === parameterOf(model.base, name)) return undefined;
    const tensor = isBlockType(own.dtype) ? castTensor(own, "f32") : own;
    return { leaf: `unmerged.${resolveTied(merged.base, name)}`, tensor };
  });
  return { ...pass, weight, parameter };
}

/** The leaves of an adapter as a whole as values. */
export function traceShared(
  pass: ForwardPass,
  of: { readonly adapter: Adapter; readonly position: number },
): Readonly<Record<string, Value>> {
  return traceLeaves(pass, { ...of, id: "shared" }) ?? {};
}

/** The rows that stand for those of an embedding. */
export function traceRows(
  pass: ForwardPass,
  tokens: Part,
  { adapter, position }: { readonly adapter: Adapter; readonly position: number },
): Value {
  const { tensor, owner } = single(adapter, tokens);
  return pass.leaf(leafName(position, owner, ""), tensor);
}

/** The factor that the caller asked for, as data: another one compiles nothing. */
export function traceMultiplier(
  pass: ForwardPass,
  model: PeftModel,
  of: { readonly adapter: Adapter; readonly position: number },
): Value | 1 {
  const factor = model.multipliers.get(of.adapter.name);
  return factor === undefined
    ? 1
    : pass.leaf(multiplierLeaf(of.position), tensor(Float32Array.of(factor)));
}

/** What goes into a site, rounded to the type of leaves that are kept in 16 bits. */
function roundedInput(
  x: Value,
  of: { readonly model: PeftModel; readonly adapter: Adapter; readonly site: Site },
): Value {
  if (of.model.castInputDtype === false || x.dtype !== "f32") return x;
  const { leaves } = sitePart(of.adapter, of.site.path)!;
  const held = Object.values(leaves).find(({ kind, tensor }) => kind === "trained" && tensor);
  const dtype = held?.tensor?.dtype;
  return dtype && isHalf(dtype) ? cast(cast(x, dtype), "f32") : x;
}

function prefixOf(active: readonly Participant[]): Adaptation["prefix"] {
  const found = active.find(({ adapter }) => adapter.method.pass?.memory);
  if (!found) return undefined;
  const { method, config } = found.adapter;
  return (pass): CachePrefix =>
    method.pass!.memory!({ pass, config, shared: traceShared(pass, found) });
}

function embedsOf(active: readonly Participant[]): Adaptation["embeds"] {
  const found = active.find(({ adapter }) => adapter.method.pass?.embeds);
  if (!found) return undefined;
  const { method, config } = found.adapter;
  return (pass, rows) =>
    method.pass!.embeds!({ pass, config, shared: traceShared(pass, found) }, rows);
}
