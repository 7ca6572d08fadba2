/**
 * The trained tensors of a model as a flat map: what training reads and writes, and the names under
 * which a traced pass asks for them.
 *
 * @module
 */
import { nearestNames, ShapeError, ValueError } from "../errors.ts";
import { ruleAt } from "../methods/site-rule.ts";
import type { ForwardPass, ParameterSource } from "../model/forward-pass.ts";
import { type ModelGraph, withParameters } from "../model/model-graph.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Adapter, type AnyModel, baseOf, type PeftModel, takingPart } from "./peft-model.ts";
import { leavesOf, mapLeaves, parameterPart, single, sitePart, tensorOf } from "./parts.ts";
import { moduleOf } from "./plan/module-tree.ts";
import { checkTensorMap } from "./tensor-map.ts";

/**
 * The tensors that training changes, by name.
 *
 * Of a model with adapters they are the leaves of the adapters that are both active and trainable;
 * a name begins with the adapter's position among the active ones, not with its own name, so that
 * adapters of equal structure give equal programs: `a0.<module path>.<leaf>`, `a0.param.<name>` for
 * biases and saved modules, `a0.tokens.<module path>` for rows of embeddings, `a0.shared.<leaf>` for
 * what belongs to no module. What is shared (tied
 * weights) appears once, and what holds no number does not. Of a base model they are all its parameters.
 *
 * @param model A model with or without adapters. Disabled adapters train nothing.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, tinyModel, trainableLeaves } from "@graft/peft";
 * const base = await tinyModel();
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
    for (const { id, name, leaf: { kind, tensor } } of leavesOf(adapter)) {
      if (kind !== "trained" || !tensor || sizeOf(tensor.shape) === 0) continue;
      leaves.set(leafName(position, id, name), tensor);
    }
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
 * import { getPeftModel, loraConfig, tensor, tinyModel } from "@graft/peft";
 * import { trainableLeaves, withLeaves } from "@graft/peft";
 * const base = await tinyModel();
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
      const parts = mapLeaves(
        adapter.parts,
        (old, { id, name }) => leaves.get(leafName(position, id, name)) ?? old,
      );
      adapters.set(adapter.name, { ...adapter, parts });
    }
  });
  return { ...model, adapters };
}

/** The name of a leaf in programs, such as `a0.model.layers.0.self_attn.q_proj.lora_A`. */
export function leafName(position: number, id: string, leaf: string): string {
  return `a${position}.${id}${leaf && `.${leaf}`}`;
}

/** The name of the factor on an adapter's scaling. */
export function multiplierLeaf(position: number): string {
  return `a${position}.multiplier`;
}

/**
 * What stands for a parameter of the base while an adapter is active: a trained copy, one that its
 * file brought along, or a leaf of a site whose rule replaces parameters. What is tied shares a leaf.
 */
export function parameterLeaf(
  adapter: Adapter,
  base: ModelGraph,
  at: { readonly name: string; readonly position: number },
): ReturnType<ParameterSource> {
  const { name, position } = at;
  const part = parameterPart(adapter, name);
  if (part) {
    const { tensor, owner } = single(adapter, part);
    return { leaf: leafName(position, owner, ""), tensor };
  }
  const path = moduleOf(name);
  const rule = sitePart(adapter, path) && ruleAt(adapter, base.sites.get(path)!.kind);
  if (!rule || !("replaces" in rule) || rule.rows) return undefined;
  const leaf = rule.replaces[name.slice(path.length + 1) as keyof typeof rule.replaces];
  const held = leaf === undefined ? undefined : sitePart(adapter, path)!.leaves[leaf];
  return held && { leaf: leafName(position, path, leaf!), tensor: tensorOf(adapter, held) };
}

/**
 * The leaves of one part as values of a pass, trained and fixed ones, with those that are tied to
 * another's read from there.
 *
 * @param pass The trace.
 * @param of The adapter, its position among the active ones, and the part's name.
 * @returns `undefined` where the adapter has no such part.
 */
export function traceLeaves(
  pass: ForwardPass,
  of: { readonly adapter: Adapter; readonly position: number; readonly id: string },
): Readonly<Record<string, Value>> | undefined {
  const { adapter, position, id } = of;
  const part = adapter.parts.get(id);
  if (!part) return undefined;
  const values: Record<string, Value> = {};
  for (const [name, { tensor, tie }] of Object.entries(part.leaves)) {
    if (tensor) values[name] = pass.leaf(leafName(position, id, name), tensor);
    else if (tie) {
      const own = adapter.parts.get(tie.part)!.leaves[tie.leaf].tensor!;
      const value = pass.leaf(leafName(position, tie.part, tie.leaf), own);
      values[name] = tie.transposed ? transpose(value) : value;
    }
  }
  return values;
}
