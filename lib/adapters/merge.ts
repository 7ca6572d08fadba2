/**
 * `mergeAndUnload`: adapters written into the weights of a model.
 *
 * @module
 */
import type { Executable } from "../device/device.ts";
import { UnsupportedError, ValueError } from "../errors.ts";
import { createForwardPass, type ForwardPass } from "../model/forward-pass.ts";
import { type ModelGraph, parameterOf, withParameters } from "../model/model-graph.ts";
import type { Site } from "../model/site.ts";
import { add, sub } from "../ops/binary.ts";
import { constant } from "../ops/constant.ts";
import { gather } from "../ops/gather.ts";
import { scatterAdd } from "../ops/scatter-add.ts";
import { createGraph, type Graph, type Value } from "../ops/value.ts";
import { checkOptions, oneOf, type OptionRules } from "../options.ts";
import { type Program, programOf } from "../program/program.ts";
import { castTensor } from "../tensor/convert.ts";
import { isBlockType, type TypedArray } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { parameterLeaf, tokensLeaf, traceLeaves } from "./leaves.ts";
import { type Adapter, checkPeft, type PeftModel } from "./peft-model.ts";
import { setAdapter } from "./select.ts";

/** How to merge. */
export interface MergeOptions {
  /** Names of the adapters to merge, in order; the active ones by default. */
  readonly adapterNames?: readonly string[];
  /**
   * Type of the merged weights. f32 by default, whatever the base has: what an adapter adds is
   * often too small for 16 bits.
   */
  readonly dtype?: "f32" | "f16" | "bf16";
}

const MERGE_OPTIONS: OptionRules<MergeOptions> = {
  adapterNames: null,
  dtype: oneOf(["f32", "f16", "bf16"]),
};

/**
 * A base model that gives what the model with its adapters gives. The model and its own base stay
 * as they are, and weights that no adapter touches are shared. Merged weights are computed on the
 * model's device when they are first needed. Where only one of two tied weights changes, the merged
 * model has both.
 *
 * @param model A model with adapters.
 * @throws {UnsupportedError} where a method, or what an adapter holds, cannot be merged.
 * @throws {ValueError} where there is nothing to merge.
 *
 * @example
 * ```ts
 * import { createModel, forward, getPeftModel, loraConfig, mergeAndUnload } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ initLoraWeights: false }));
 * const merged = mergeAndUnload(model);
 * const { logits } = await forward(merged, { inputIds: [[1, 2, 3]] });
 * console.log(merged.type, logits.shape); // model [1, 3, 96]
 * ```
 */
export function mergeAndUnload(model: PeftModel, options: MergeOptions = {}): ModelGraph {
  checkPeft(model);
  checkOptions(options, MERGE_OPTIONS, { code: "MERGE_OPTION", of: "mergeAndUnload" });
  const { dtype = "f32" } = options;
  const chosen = options.adapterNames ? setAdapter(model, options.adapterNames) : model;
  const active = chosen.active.map((name) => chosen.adapters.get(name)!);
  if (active.length === 0 || (!chosen.enabled && !options.adapterNames)) {
    throw new ValueError(
      "NOTHING_TO_MERGE",
      `There is nothing to merge: ${
        active.length ? "the adapters are disabled" : "no adapter is active"
      }. Activate one, name it in adapterNames, or take the base with unload.`,
    );
  }
  const { base } = model;
  const merged = new Map<string, Tensor>();
  for (const adapter of active) {
    for (const names of [adapter.parameters, adapter.replacements]) {
      for (const name of names?.keys() ?? []) {
        merged.set(name, replacedParameter(active, name)!);
      }
    }
  }
  const following = new Set(
    [...base.tied].filter(([alias, source]) => follows(active, alias, source)).map(([a]) => a),
  );
  for (const site of base.sites.values()) {
    const { path } = site;
    const touched = active.some((a) => a.sites.has(path) || a.tokens.has(path));
    if (!touched || following.has(`${path}.weight`)) continue;
    const { weight, bias } = mergeSite(chosen, active, site);
    merged.set(`${path}.weight`, weight);
    if (bias) merged.set(`${path}.bias`, bias);
  }
  for (const [alias, source] of base.tied) {
    if (following.has(alias)) merged.delete(alias);
    else if (merged.has(source) && !merged.has(alias)) merged.set(alias, parameterOf(base, source));
  }
  const own = new Map(
    [...merged].map(([name, tensor]) => [
      name,
      base.parameters.get(name) === tensor ? tensor : castTensor(tensor, dtype),
    ]),
  );
  return { ...withParameters(base, own), source: null };
}

/**
 * The base of a model, without its adapters.
 *
 * @example
 * ```ts
 * import { createModel, getPeftModel, loraConfig, unload } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * console.log(unload(getPeftModel(base, loraConfig())) === base); // true
 * ```
 */
export function unload(model: PeftModel): ModelGraph {
  return model.base;
}

function replacedParameter(active: readonly Adapter[], name: string): Tensor | undefined {
  for (let i = active.length - 1; i >= 0; i--) {
    const found = parameterLeaf(active[i], name, i);
    if (found) return found.tensor;
  }
  return undefined;
}

/** Whether a tied parameter changes as what it is tied to does, so that it can stay tied. */
function follows(active: readonly Adapter[], alias: string, source: string): boolean {
  const path = (name: string) => name.slice(0, name.lastIndexOf("."));
  return active.every(({ sites, tokens, parameters, replacements }) =>
    !sites.has(path(alias)) && !sites.has(path(source)) &&
    tokens.get(path(alias)) === tokens.get(path(source)) &&
    parameters.get(alias) === parameters.get(source) &&
    replacements?.get(alias) === replacements?.get(source)
  );
}

function mergeSite(
  model: PeftModel,
  active: readonly Adapter[],
  site: Site,
): { readonly weight: Tensor; readonly bias?: Tensor } {
  const graph = createGraph();
  const { pass, weight, bias } = sitePass(graph, model, { active, site });
  let values: { readonly weight: Value; readonly bias?: Value } = { weight, bias };
  active.forEach((adapter, position) => {
    const leaves = traceLeaves(pass, { adapter, position, site });
    if (leaves) {
      const { method, config, name } = adapter;
      if (!method.merge) {
        throw new UnsupportedError(
          "MERGE_METHOD",
          `${method.peftType} cannot be merged into weights (adapter ${JSON.stringify(name)}). ` +
            `Keep the adapter, or merge others by adapterNames.`,
          { peftType: method.peftType, adapter: name },
        );
      }
      const multiplier = model.multipliers.get(name) ?? 1;
      values = method.merge({ pass, site, config, leaves, multiplier, ...values });
    }
    const tokens = tokensLeaf(adapter, site.path, position);
    if (tokens) {
      const rows = pass.leaf(tokens.leaf, tokens.tensor);
      const old = site.kind === "embedding" ? values.weight : weight;
      values = { ...values, weight: withRows(values.weight, { old, rows, ...tokens }) };
    }
  });
  const outputs: Record<string, Value> = { weight: values.weight };
  if (values.bias && values.bias !== bias) outputs.bias = values.bias;
  const compute = computed(programOf(outputs), {
    model: model.base,
    inputs: Object.fromEntries(pass.bindings),
  });
  return { weight: compute("weight"), ...(outputs.bias ? { bias: compute("bias") } : {}) };
}

/**
 * A table with the given rows in the place of its own: the difference to `old` is added at their
 * indices.
 */
function withRows(
  table: Value,
  change: { readonly old: Value; readonly rows: Value; readonly indices: readonly number[] },
): Value {
  const ids = constant(table.graph, change.indices, { dtype: "i32" });
  const difference = sub(change.rows, gather(change.old, ids));
  return add(table, scatterAdd(difference, ids, { rows: table.shape[0] }));
}

/**
 * A pass for one site alone, in which names do not depend on its path: sites of one shape then give
 * one program, which is compiled once. Its weight is an input like any other, so that it does not
 * stay on the device beside the merged one.
 */
function sitePass(
  graph: Graph,
  model: PeftModel,
  of: { readonly active: readonly Adapter[]; readonly site: Site },
): { readonly pass: ForwardPass; readonly weight: Value; readonly bias?: Value } {
  const { site: { path, bias: biased }, active } = of;
  const local = (name: string) => name.replace(`${path}.`, "");
  const nothing = constant(graph, 0, { shape: [1], dtype: "i32" });
  const inner = createForwardPass(graph, model.base, {
    querySegments: nothing,
    keySegments: nothing,
    offset: nothing,
  });
  const own = (name: string) => {
    const full = `${path}.${name}`;
    const stored = replacedParameter(active, full) ?? parameterOf(model.base, full);
    return inner.leaf(name, isBlockType(stored.dtype) ? castTensor(stored, "f32") : stored);
  };
  const weight = own("weight");
  const bias = biased ? own("bias") : undefined;
  const pass: ForwardPass = {
    ...inner,
    weight: (name) => name === `${path}.weight` ? { plain: weight } : inner.weight(name),
    parameter: (name) => bias && name === `${path}.bias` ? bias : inner.parameter(name),
    leaf: (name, tensor) => inner.leaf(local(name), tensor),
  };
  return { pass, weight, bias };
}

/**
 * The outputs of a program as tensors, computed when they are read and kept as long as somebody
 * holds them.
 */
function computed(
  program: Program,
  run: { readonly model: ModelGraph; readonly inputs: Readonly<Record<string, Tensor>> },
): (output: string) => Tensor {
  const { device } = run.model;
  let executable: Promise<Executable> | undefined;
  return (output) => {
    const compute = async () => {
      const { run: execute } = await (executable ??= device.compile(program));
      return await (await execute(run.inputs, { read: [output] }))[output].data();
    };
    return {
      dtype: "f32",
      shape: program.outputs.get(output)!.shape,
      where: "device",
      data: weakly(compute),
    };
  };
}

function weakly(make: () => Promise<TypedArray>): () => Promise<TypedArray> {
  let kept: WeakRef<TypedArray> | undefined;
  let pending: Promise<TypedArray> | undefined;
  return () => {
    const known = kept?.deref();
    if (known) return Promise.resolve(known);
    pending ??= make().then((array) => {
      kept = new WeakRef(array);
      return array;
    }).finally(() => {
      pending = undefined;
    });
    return pending;
  };
}
