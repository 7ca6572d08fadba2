/**
 * Adapters written into the weights of one site.
 *
 * @module
 */
import { computedOn } from "../../model/computed.ts";
import { createForwardPass, type ForwardPass } from "../../model/forward-pass.ts";
import { parameterOf } from "../../model/model-graph.ts";
import { biasName, type Site, weightName } from "../../model/site.ts";
import { add, mul, sub } from "../../ops/elementwise.ts";
import { constant } from "../../ops/constant.ts";
import { createGraph, type Graph, type Value } from "../../ops/value.ts";
import { castTensor } from "../../tensor/convert.ts";
import { isBlockType } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { mergeRule, ruleAt, type SiteValues } from "../../methods/site-rule.ts";
import { mergedRows } from "../../methods/token-rows.ts";
import { inputOrder, traceMultiplier, traceRows, traceShared } from "../adaptation.ts";
import { traceLeaves } from "../leaves.ts";
import { parameterPart, single, tokensPart } from "../parts.ts";
import { type Adapter, type PeftModel, pristineBase } from "../peft-model.ts";

/** Which adapters are merged at which site. */
export interface SiteMerge {
  /** The model whose factors on the adapters' scaling count. */
  readonly model: PeftModel;
  /** The adapters, in the order in which they are merged. */
  readonly adapters: readonly Adapter[];
  /** The site. */
  readonly site: Site;
}

/** Parameters of one site in f32, as the layer stores them, computed when they are read. */
export interface SiteParameters {
  /** The weight. */
  readonly weight: Tensor;
  /** The bias, where it changes. */
  readonly bias?: Tensor;
}

/** The parameters of a site with adapters merged into those of the model's base. */
export function mergeSite(of: SiteMerge): SiteParameters {
  return trace(of, (merged) => merged);
}

/**
 * What merging adds to the parameters of a site. It is not found as a difference of weights, in
 * which what is small beside them would be lost, as long as the methods add to the weight or
 * multiply its elements.
 */
export function siteChange(of: SiteMerge): SiteParameters {
  return trace(of, difference);
}

/** What stands for a parameter of the base once these adapters are part of it. */
export function replacedParameter(adapters: readonly Adapter[], name: string): Tensor | undefined {
  const adapter = adapters.findLast((adapter) => parameterPart(adapter, name));
  return adapter && single(adapter, parameterPart(adapter, name)!).tensor;
}

function trace(
  of: SiteMerge,
  result: (merged: Value, start: Value) => Value,
): SiteParameters {
  const { model, adapters, site } = of;
  const { pass, weight, bias } = sitePass(createGraph(), of);
  let values: SiteValues = { weight, bias };
  const participants = adapters.map((adapter, position) => ({ adapter, position }));
  for (const at of inputOrder(site, participants)) {
    const { adapter } = at;
    const leaves = traceLeaves(pass, { ...at, id: site.path });
    if (leaves) {
      const trace = {
        pass,
        site,
        config: adapter.config,
        leaves,
        shared: traceShared(pass, at),
        multiplier: traceMultiplier(pass, model, at),
      };
      values = mergeRule(ruleAt(adapter, site.kind)!, trace, values);
    }
    const tokens = tokensPart(adapter, site.path);
    if (tokens) {
      const rows = traceRows(pass, tokens, at), { indices } = tokens.place;
      const old = site.kind === "embedding" ? values.weight : weight;
      values = { ...values, weight: mergedRows(values.weight, old, { rows, indices }) };
    }
  }
  const merged = { weight: result(values.weight, weight) };
  const outputs = bias && values.bias && values.bias !== bias
    ? { ...merged, bias: result(values.bias, bias) }
    : merged;
  return computedOn(model.base.device, outputs, Object.fromEntries(pass.bindings));
}

/** v − start, where v was made of start: sums and products of elements are taken apart. */
function difference(v: Value, start: Value): Value {
  if (v === start) return constant(v.graph, 0, { shape: v.shape });
  const [a, b] = v.inputs;
  const whole = (part: Value) => part.shape.join() === start.shape.join() && follows(part, start);
  switch (v.op === "binary" ? v.attributes.fn : undefined) {
    case "add":
      if (whole(a) && b !== start) return add(difference(a, start), b);
      if (whole(b)) return add(difference(b, start), a);
      break;
    case "sub":
      if (whole(a)) return sub(difference(a, start), b);
      break;
    case "mul":
      // (s + d)·f − s = d·f + s·(f − 1)
      if (whole(a)) return add(mul(difference(a, start), b), mul(start, sub(b, 1)));
      if (whole(b)) return add(mul(difference(b, start), a), mul(start, sub(a, 1)));
      break;
  }
  return sub(v, start);
}

/** Whether a value comes from another through sums and products of elements. */
function follows(v: Value, start: Value): boolean {
  if (v === start) return true;
  const { fn } = v.attributes;
  return v.op === "binary" && (fn === "add" || fn === "sub" || fn === "mul") &&
    (follows(v.inputs[0], start) || (fn !== "sub" && follows(v.inputs[1], start)));
}

/**
 * A pass for one site alone, in which names do not depend on its path: sites of one shape then give
 * one program, which is compiled once. Its weight is an input like any other, so that it does not
 * stay on the device beside the merged one.
 */
function sitePass(
  graph: Graph,
  of: SiteMerge,
): { readonly pass: ForwardPass; readonly weight: Value; readonly bias?: Value } {
  const { site, adapters } = of, { path } = site;
  const base = pristineBase(of.model);
  const local = (name: string) => name.replace(`${path}.`, "");
  const nothing = constant(graph, 0, { shape: [1], dtype: "i32" });
  const inner = createForwardPass(graph, base, {
    querySegments: nothing,
    keySegments: nothing,
    offset: nothing,
  });
  const own = (full: string, name: string) => {
    const stored = replacedParameter(adapters, full) ?? parameterOf(base, full);
    return inner.leaf(name, isBlockType(stored.dtype) ? castTensor(stored, "f32") : stored);
  };
  const weight = own(weightName(site), "weight");
  const bias = site.bias ? own(biasName(site), "bias") : undefined;
  const pass: ForwardPass = {
    ...inner,
    weight: (name) => name === weightName(site) ? { plain: weight } : inner.weight(name),
    parameter: (name) => bias && name === biasName(site) ? bias : inner.parameter(name),
    leaf: (name, tensor) => inner.leaf(local(name), tensor),
  };
  return { pass, weight, bias };
}
