/**
 * A model with adapters, as plain data.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { PeftConfig } from "../methods/config.ts";
import type { PeftMethod } from "../methods/method.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import type { TaskType } from "../model/task-type.ts";
import { show } from "../options.ts";
import type { Parts } from "./parts.ts";

/** One adapter: a config and what it holds. */
export interface Adapter {
  /** Unique in a model. */
  readonly name: string;
  /** The method. */
  readonly method: PeftMethod;
  /** The complete config. */
  readonly config: PeftConfig;
  /** What it holds. */
  readonly parts: Parts;
}

/** A base model and adapters on it. Every function that changes one returns another. */
export interface PeftModel<T extends TaskType = TaskType> {
  /** Tells a model with adapters from a base model. */
  readonly type: "peft";
  /** The model underneath, unchanged; while adapters are merged, the one they are merged into. */
  readonly base: ModelGraph<T>;
  /** While adapters are merged: their names, and the base without them. */
  readonly merged?: { readonly names: readonly string[]; readonly base: ModelGraph };
  /** Adapters by name. */
  readonly adapters: ReadonlyMap<string, Adapter>;
  /** Names of the active adapters, in the order in which they take part. */
  readonly active: readonly string[];
  /** Whether active adapters take part at all. */
  readonly enabled: boolean;
  /** Factors on the adapters' own scaling, by name; 1 where absent. */
  readonly multipliers: ReadonlyMap<string, number>;
  /** Names of the adapters that training changes. */
  readonly trainable: readonly string[];
  /**
   * Functions that show the signature of the base (`updateSignature`); the others show the one that
   * models with adapters have in general.
   */
  readonly signatures?: { readonly forward?: "base"; readonly generate?: "base" };
  /**
   * Whether leaves that are kept in 16 bits get their input rounded to their own type, as PEFT
   * does; true where absent.
   */
  readonly castInputDtype?: boolean;
}

/** A model with or without adapters. */
export type AnyModel<T extends TaskType = TaskType> = ModelGraph<T> | PeftModel<T>;

/**
 * The base of any model.
 *
 * @throws {ValueError} `NOT_A_MODEL` for what is no model.
 */
export function baseOf(model: AnyModel): ModelGraph {
  const base = model?.type === "peft" && isMap(model.adapters) ? model.base : model;
  if (base?.type === "model" && isMap(base.parameters)) return base;
  throw new ValueError(
    "NOT_A_MODEL",
    `A model is needed, as loadModel, createModel or getPeftModel gives one; found ${
      show(model)
    }. Was its promise not awaited?`,
  );
}

/** Not so for a model that went through JSON. */
function isMap(entries: ReadonlyMap<unknown, unknown> | undefined): boolean {
  return typeof entries?.get === "function";
}

/**
 * Refuses a model without adapters where one with adapters is needed.
 *
 * @throws {ValueError} `NOT_PEFT`, {ValueError} `NOT_A_MODEL`.
 */
export function checkPeft(model: AnyModel): asserts model is PeftModel {
  baseOf(model);
  if (model.type === "peft") return;
  throw new ValueError(
    "NOT_PEFT",
    "A model with adapters is needed, and this one is a base. Put an adapter on it with getPeftModel or loadAdapter.",
  );
}

/**
 * The adapters that take part, in order; none while they are disabled. Merged ones are part of the
 * base.
 */
export function takingPart(model: PeftModel): readonly Adapter[] {
  if (!model.enabled) return [];
  const merged = model.merged?.names ?? [];
  return model.active.filter((name) => !merged.includes(name))
    .map((name) => model.adapters.get(name)!);
}

/** The base as it is without any adapter, merged ones taken out. */
export function pristineBase(model: AnyModel): ModelGraph {
  return model.type === "peft" ? model.merged?.base ?? model.base : model;
}

/** Number of virtual tokens that active adapters put before those of each row. */
export function virtualTokens(model: AnyModel): number {
  if (model.type !== "peft") return 0;
  return takingPart(model).reduce(
    (n, { method, config }) => n + (method.pass?.virtualTokens?.(config) ?? 0),
    0,
  );
}
