/**
 * How the active adapters of a model take part in a forward pass.
 *
 * @module
 */
import type { CachePrefix } from "../methods/method.ts";
import type { Adaptation, ForwardPass, ParameterSource } from "../model/forward-pass.ts";
import { parameterOf, resolveTied } from "../model/model-graph.ts";
import type { Site } from "../model/site.ts";
import { lookup } from "../model/weight.ts";
import { add, equal, mul, sub } from "../ops/binary.ts";
import { cast } from "../ops/cast.ts";
import { constant } from "../ops/constant.ts";
import { input } from "../ops/input.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import type { Value } from "../ops/value.ts";
import { castTensor } from "../tensor/convert.ts";
import { isBlockType, isHalf } from "../tensor/dtype.ts";
import { tensor } from "../tensor/tensor.ts";
import { multiplierLeaf, parameterLeaf, sharedLeaf, tokensLeaf, traceLeaves } from "./leaves.ts";
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
    prefix: prefixOf(active),
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
    for (const { adapter, position } of active.toReversed()) {
      const found = parameterLeaf(adapter, name, position);
      if (found) return found;
    }
    return undefined;
  };
}

/** A site with adapters, one after the other: each works on what those before it give. */
function runSite(
  pass: ForwardPass,
  site: Site,
  of: { readonly x: Value; readonly active: readonly Participant[] },
): Value {
  type Run = (x: Value) => Value;
  const run = of.active.reduce<Run>((before, { model, adapter, position }) => {
    const at = { adapter, position, site };
    const leaves = traceLeaves(pass, at);
    const tokens = tokensLeaf(adapter, site.path, position);
    if (!leaves && !tokens) return before;
    const own = unmergedWeights(pass, model, of.active);
    return (x) => {
      const result = leaves
        ? adapter.method.forward({
          pass: own,
          site,
          config: adapter.config,
          leaves,
          shared: traceShared(pass, at),
          multiplier: traceMultiplier(pass, model, at),
          x: roundedInput(x, { model, adapter, site }),
          result: before(x),
          base: before,
        })
        : before(x);
      if (!tokens) return result;
      const rows = pass.leaf(tokens.leaf, tokens.tensor);
      return replaceTokens(own, { site, x, result, rows, indices: tokens.indices });
    };
  }, (x) => pass.base(site, x));
  return run(of.x);
}

/**
 * A mixed batch: each row gets one adapter or none. Every adapter runs on all rows, and rows choose
 * among the outputs; where an adapter does nothing its output is the base's, and costs nothing.
 */
function mixedAdaptation(model: PeftModel, names: readonly string[]): Adaptation {
  const all = participants(model, names.map((name) => adapterOf(model, name)));
  return {
    site(pass, site, x) {
      const plain = pass.base(site, x);
      return all.reduce((result, participant) => {
        const active = [participant];
        const own = pass.withParameters(parameterSource(active));
        const y = runSite(own, site, { x, active });
        if (y === plain) return result;
        const [rows, ...rest] = y.shape;
        const chosen = input(pass.graph, ROW_ADAPTERS, { shape: [rows], dtype: "i32" });
        const mine = equal(chosen, participant.position);
        return select(reshape(mine, [rows, ...rest.map(() => 1)]), y, result);
      }, plain);
    },
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
  const { leaves, frozen } = of.adapter.shared;
  return Object.fromEntries(
    Object.entries({ ...frozen, ...leaves }).map(([leaf, tensor]) => [
      leaf,
      pass.leaf(sharedLeaf(of.position, leaf), tensor),
    ]),
  );
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
  const leaf = Object.values(of.adapter.sites.get(of.site.path)?.leaves ?? {})[0];
  return leaf && isHalf(leaf.dtype) ? cast(cast(x, leaf.dtype), "f32") : x;
}

function prefixOf(active: readonly Participant[]): Adaptation["prefix"] {
  const found = active.find(({ adapter }) => adapter.method.cachePrefix);
  if (!found) return undefined;
  const { method, config } = found.adapter;
  return (pass): CachePrefix =>
    method.cachePrefix!({ pass, config, shared: traceShared(pass, found) });
}

/**
 * Puts trained rows in the place of an embedding's own, or of the rows of a head that is tied to
 * it.
 */
function replaceTokens(
  pass: ForwardPass,
  at: {
    readonly site: Site;
    readonly x: Value;
    readonly result: Value;
    readonly rows: Value;
    readonly indices: readonly number[];
  },
): Value {
  const { site, x, result, rows } = at;
  const n = at.indices.length;
  const indices = constant(pass.graph, at.indices, { dtype: "i32" });
  if (site.kind === "embedding") {
    const hits = cast(equal(reshape(x, [...x.shape, 1]), indices), "f32");
    const kept = sub(1, sum(hits, { axes: [-1], keepDims: true }));
    return add(mul(result, kept), matmul(hits, rows));
  }
  const old = lookup(pass.weight(`${site.path}.weight`), indices);
  const change = matmul(x, sub(rows, old), { transposeB: true });
  const columns = equal(
    iota(pass.graph, [n, site.outFeatures], { axis: 1 }),
    reshape(indices, [n, 1]),
  );
  return add(result, matmul(change, cast(columns, "f32")));
}
