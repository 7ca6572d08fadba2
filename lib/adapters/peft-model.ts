/**
 * A model with adapters, as plain data.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { PeftConfig } from "../methods/config.ts";
import type { PeftMethod, SiteLeaves } from "../methods/method.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Rows of an embedding that an adapter trains (`trainable_token_indices`). */
export interface TokenRows {
  /** Which rows. */
  readonly indices: readonly number[];
  /** The rows themselves [indices, D], which stand for those of the table. */
  readonly rows: Tensor;
}

/** One adapter: a config and its leaves. */
export interface Adapter {
  /** Unique in a model. */
  readonly name: string;
  /** The method. */
  readonly method: PeftMethod;
  /** The complete config. */
  readonly config: PeftConfig;
  /** Leaves by module path, in order of execution. */
  readonly sites: ReadonlyMap<string, SiteLeaves>;
  /**
   * Parameters of the base that the adapter trains and replaces: saved modules and biases, by
   * checkpoint name.
   */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Trained rows of embeddings, by module path (a tied head's under its own path as well). */
  readonly tokens: ReadonlyMap<string, TokenRows>;
  /**
   * Parameters of the base that the adapter's file brought along without training them
   * (`saveEmbeddingLayers`).
   */
  readonly replacements?: ReadonlyMap<string, Tensor>;
}

/** A base model and adapters on it. Every function that changes one returns another. */
export interface PeftModel {
  /** Tells a model with adapters from a base model. */
  readonly type: "peft";
  /** The model underneath, unchanged. */
  readonly base: ModelGraph;
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
}

/** A model with or without adapters. */
export type AnyModel = ModelGraph | PeftModel;

/**
 * The base of any model.
 *
 * @throws {ValueError} `NOT_A_MODEL` for what is no model.
 */
export function baseOf(model: AnyModel): ModelGraph {
  if (model?.type === "peft") return model.base;
  if (model?.type === "model") return model;
  throw new ValueError(
    "NOT_A_MODEL",
    `A model is needed, as loadModel, createModel or getPeftModel gives one; found ${
      show(model)
    }. Was its promise not awaited?`,
  );
}

/**
 * Refuses a model without adapters where one with adapters is needed.
 *
 * @throws {ValueError} `NOT_PEFT`, {ValueError} `NOT_A_MODEL`.
 */
export function checkPeft(model: AnyModel): void {
  baseOf(model);
  if (model.type === "peft") return;
  throw new ValueError(
    "NOT_PEFT",
    "A model with adapters is needed, and this one is a base. Put an adapter on it with getPeftModel or loadAdapter.",
  );
}

/** The adapters that take part, in order; none while they are disabled. */
export function activeAdapters(model: PeftModel): readonly Adapter[] {
  return model.enabled ? model.active.map((name) => model.adapters.get(name)!) : [];
}
