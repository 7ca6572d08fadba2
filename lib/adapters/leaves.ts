/**
 * The trained tensors of a model as a flat map: what training reads and writes, and the names under
 * which a traced pass asks for them.
 *
 * @module
 */
import { nearestNames, ShapeError, ValueError } from "../errors.ts";
import type { SiteLeaves } from "../methods/method.ts";
import type { ForwardPass } from "../model/forward-pass.ts";
import { withParameters } from "../model/model-graph.ts";
import type { Site } from "../model/site.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Adapter, type AnyModel, baseOf, type PeftModel, takingPart } from "./peft-model.ts";
import { checkTensorMap } from "./tensor-map.ts";

/** A leaf's name in programs, and its tensor. */
export interface NamedLeaf {
  /** Such as `a0.model.layers.0.self_attn.q_proj.lora_A`; free of the adapter's own name. */
  readonly leaf: string;
  /** The contents. */
  readonly tensor: Tensor;
}

/**
 * The tensors that training changes, by name.
 *
 * Of a model with adapters they are the leaves of the adapters that are both active and trainable;
 * a name begins with the adapter's position among the active ones, not with its own name, so that
 * adapters of equal structure give equal programs: `a0.<module path>.<leaf>`, `a0.param.<name>` for
 * biases and saved modules, `a0.tokens.<module path>` for rows of embeddings, `a0.shared.<leaf>` for
 * what belongs to no module. What is shared (tied
 * weights) appears once. Of a base model they are all its parameters.
 *
 * @param model A model with or without adapters. Disabled adapters train nothing.
 *
 * @example
 * ```ts
 * import { createModel, getPeftModel, loraConfig, trainableLeaves } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4, targetModules: ["q_proj"] }));
 * for (const [name, { shape }] of trainableLeaves(model)) console.log(name, shape);
 * // a0.model.layers.0.self_attn.q_proj.lora_A [4, 32] …
 * ```
 */
export function trainableLeaves(model: AnyModel): ReadonlyMap<string, Tensor> {
  baseOf(model);
  if (model.type === "model") return model.parameters;
  const leaves = new Map<string, Tensor>();
  takingPart(model).forEach((adapter, position) => {
    if (!model.trainable.includes(adapter.name)) return;
    for (const { leaf, tensor } of adapterLeaves(adapter, position)) leaves.set(leaf, tensor);
  });
  return leaves;
}

/**
 * The model with new tensors for some of its {@link trainableLeaves}.
 *
 * @param model A model with or without adapters.
 * @param leaves New tensors by leaf name; leaves that are absent stay.
 * @throws {ValueError} `LEAF_UNKNOWN` for a name that is no trainable leaf of the model,
 * `TENSOR_MAP` where `leaves` is no map of tensors.
 * @throws {ShapeError} `LEAF_SHAPE` for a tensor of another shape.
 *
 * @example
 * ```ts
 * import { createModel, getPeftModel, loraConfig, tensor } from "@graft/peft";
 * import { trainableLeaves, withLeaves } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4 }));
 * const zeros = new Map([...trainableLeaves(model)].map(([name, { shape }]) => [
 *   name,
 *   tensor(new Float32Array(shape.reduce((n, d) => n * d, 1)), { shape }),
 * ]));
 * const blank = withLeaves(model, zeros);
 * console.log(trainableLeaves(blank) === trainableLeaves(model)); // false: model is as it was
 * ```
 */
export function withLeaves<M extends AnyModel>(model: M, leaves: ReadonlyMap<string, Tensor>): M {
  const known = trainableLeaves(model);
  checkTensorMap(leaves, "The leaves (trainableLeaves)");
  for (const [name, tensor] of leaves) {
    const old = known.get(name);
    if (!old) {
      throw new ValueError(
        "LEAF_UNKNOWN",
        `The model has no trainable leaf "${name}"; ${
          known.size
            ? `nearest: ${
              nearestNames(name, known.keys()).join(", ") || "none"
            }. See trainableLeaves.`
            : "it has none at all, as no active adapter is trainable."
        }`,
        { name },
      );
    }
    if (old.shape.join() !== tensor.shape.join()) {
      throw new ShapeError(
        "LEAF_SHAPE",
        `The leaf "${name}" has shape [${old.shape}], but [${tensor.shape}] was given.`,
        { name, expected: old.shape, found: tensor.shape },
      );
    }
  }
  // A base model's leaves are the names that hold a tensor, so replacing them cuts no alias.
  return (model.type === "model"
    ? withParameters(model, leaves)
    : withAdapterLeaves(model, leaves)) as M;
}

function withAdapterLeaves(model: PeftModel, leaves: ReadonlyMap<string, Tensor>): PeftModel {
  const adapters = new Map(model.adapters);
  takingPart(model).forEach((adapter, position) => {
    if (model.trainable.includes(adapter.name)) {
      adapters.set(adapter.name, replaceLeaves(adapter, position, leaves));
    }
  });
  return { ...model, adapters };
}

function replaceLeaves(
  adapter: Adapter,
  position: number,
  leaves: ReadonlyMap<string, Tensor>,
): Adapter {
  const renewedSite = (site: SiteLeaves, nameOf: (leaf: string) => string) => {
    const changed = Object.fromEntries(
      Object.keys(site.leaves).flatMap((leaf) => {
        const tensor = leaves.get(nameOf(leaf));
        return tensor ? [[leaf, tensor]] : [];
      }),
    );
    return Object.keys(changed).length ? { ...site, leaves: { ...site.leaves, ...changed } } : site;
  };
  const sites = new Map(
    [...adapter.sites].map(([path, site]) => [
      path,
      renewedSite(site, (leaf) => siteLeafName(position, path, leaf)),
    ]),
  );
  const shared = renewedSite(adapter.shared, (leaf) => sharedLeaf(position, leaf));
  const parameters = new Map(
    [...adapter.parameters].map(([name, old]) => [
      name,
      leaves.get(parameterLeaf(adapter, name, position)!.leaf) ?? old,
    ]),
  );
  // Paths that share a record (tied weights) share its successor.
  const renewed = new Map(
    [...adapter.tokens].map(([path, entry]) => {
      const { leaf } = tokensLeaf(adapter, path, position)!;
      return [entry, { ...entry, rows: leaves.get(leaf) ?? entry.rows }];
    }),
  );
  const tokens = new Map([...adapter.tokens].map(([path, entry]) => [path, renewed.get(entry)!]));
  return { ...adapter, sites, shared, parameters, tokens };
}

/** All trained leaves of one adapter, each once. */
function adapterLeaves(adapter: Adapter, position: number): readonly NamedLeaf[] {
  const leaves = new Map<string, Tensor>();
  for (const [leaf, tensor] of Object.entries(adapter.shared.leaves)) {
    leaves.set(sharedLeaf(position, leaf), tensor);
  }
  for (const [path, site] of adapter.sites) {
    for (const [leaf, tensor] of Object.entries(site.leaves)) {
      leaves.set(siteLeafName(position, path, leaf), tensor);
    }
  }
  for (const name of adapter.parameters.keys()) {
    const { leaf, tensor } = parameterLeaf(adapter, name, position)!;
    leaves.set(leaf, tensor);
  }
  for (const path of adapter.tokens.keys()) {
    const { leaf, tensor } = tokensLeaf(adapter, path, position)!;
    leaves.set(leaf, tensor);
  }
  return [...leaves].map(([leaf, tensor]) => ({ leaf, tensor }));
}

function siteLeafName(position: number, path: string, leaf: string): string {
  return `a${position}.${path}.${leaf}`;
}

/** The name of a leaf that belongs to no site. */
export function sharedLeaf(position: number, leaf: string): string {
  return `a${position}.shared.${leaf}`;
}

/** The name of the factor on an adapter's scaling. */
export function multiplierLeaf(position: number): string {
  return `a${position}.multiplier`;
}

/**
 * What stands for a parameter of the base while an adapter is active: a trained copy, or one that
 * its file brought along. Parameters that share one tensor (tied weights) share the leaf, which is
 * named after the first of them.
 */
export function parameterLeaf(
  adapter: Adapter,
  name: string,
  position: number,
): NamedLeaf | undefined {
  for (const parameters of [adapter.parameters, adapter.replacements]) {
    const tensor = parameters?.get(name);
    if (!parameters || !tensor) continue;
    const owner = [...parameters.keys()].find((n) => parameters.get(n) === tensor)!;
    return { leaf: `a${position}.param.${owner}`, tensor };
  }
  return undefined;
}

/**
 * The rows that an adapter trains of the embedding (or tied head) at a path. Paths that share the
 * record share the leaf.
 */
export function tokensLeaf(
  adapter: Adapter,
  path: string,
  position: number,
): NamedLeaf & { readonly indices: readonly number[] } | undefined {
  const entry = adapter.tokens.get(path);
  if (!entry) return undefined;
  const owner = [...adapter.tokens.keys()].find((p) => adapter.tokens.get(p) === entry)!;
  return { leaf: `a${position}.tokens.${owner}`, tensor: entry.rows, indices: entry.indices };
}

/**
 * The leaves of one site as values of a pass, trained and fixed ones, with those that are tied to
 * another site's read from there.
 *
 * @param pass The trace.
 * @param of The adapter, its position among the active ones, and the site.
 * @returns `undefined` where the adapter does not adapt the site.
 */
export function traceLeaves(
  pass: ForwardPass,
  of: { readonly adapter: Adapter; readonly position: number; readonly site: Site },
): Readonly<Record<string, Value>> | undefined {
  const { adapter, position, site: { path } } = of;
  const entry = adapter.sites.get(path);
  if (!entry) return undefined;
  const values: Record<string, Value> = {};
  for (const [leaf, tensor] of Object.entries({ ...entry.frozen, ...entry.leaves })) {
    values[leaf] = pass.leaf(siteLeafName(position, path, leaf), tensor);
  }
  for (const [leaf, source] of Object.entries(entry.tied ?? {})) {
    const tensor = adapter.sites.get(source.path)!.leaves[source.leaf];
    values[leaf] = transpose(pass.leaf(siteLeafName(position, source.path, source.leaf), tensor));
  }
  return values;
}
