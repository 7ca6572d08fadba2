/**
 * The model: an architecture, its config and its parameters, as one immutable value.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import { CheckpointError, nearestNames } from "../errors.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Architecture, ModelConfig } from "./architecture.ts";
import { parameterShapes, type Site } from "./site.ts";

/**
 * A frozen model. Every function that changes one returns another, which shares the parameters that
 * stayed.
 */
export interface ModelGraph {
  /** Tells a base model from a model with adapters. */
  readonly type: "model";
  /** The family it belongs to. */
  readonly architecture: Architecture;
  /** The parsed `config.json`. */
  readonly config: ModelConfig;
  /** The parsed `generation_config.json`; empty where there is none. */
  readonly generationConfig: ModelConfig;
  /** Where it runs. */
  readonly device: Device;
  /** Parameters by checkpoint name; tied ones only under the name that holds them. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Sites by module path, in order of execution. */
  readonly sites: ReadonlyMap<string, Site>;
  /** Aliases of tied parameters: name to the name that holds the tensor. */
  readonly tied: ReadonlyMap<string, string>;
  /** Folder, file or hub id that it was loaded from, which adapters record as their base. */
  readonly source: string | null;
}

/**
 * Puts a model together and checks its parameters against what the architecture expects.
 *
 * @param architecture The family.
 * @param parts Config, parameters, device and source.
 * @throws {CheckpointError} where parameters are missing, unexpected or of another shape.
 */
export function createModelGraph(
  architecture: Architecture,
  parts: {
    readonly config: ModelConfig;
    readonly generationConfig?: ModelConfig;
    readonly parameters: ReadonlyMap<string, Tensor>;
    readonly device: Device;
    readonly source?: string | null;
  },
): ModelGraph {
  const { config, generationConfig = {}, device, source = null } = parts;
  const sites = new Map(architecture.sites(config).map((s) => [s.path, s]));
  const expected = new Map<string, readonly number[]>();
  for (const site of sites.values()) {
    for (const [name, shape] of Object.entries(parameterShapes(site))) {
      expected.set(`${site.path}.${name}`, shape);
    }
  }
  const given = withoutNoise(architecture, parts.parameters, expected);
  const tied = new Map(
    // A checkpoint may store an untied copy although its config says tied; then the stored one
    // counts only if it is the only one.
    Object.entries(architecture.tied(config)).filter(([, to]) => given.has(to)),
  );
  const problems: string[] = [];
  const parameters = new Map<string, Tensor>();
  for (const [name, shape] of expected) {
    if (tied.has(name)) continue;
    const tensor = given.get(name);
    if (!tensor) {
      const near = nearestNames(name, given.keys(), 2);
      problems.push(`missing ${name}${near.length ? ` (nearest: ${near.join(", ")})` : ""}`);
    } else if (tensor.shape.join() !== shape.join()) {
      problems.push(`${name} has shape [${tensor.shape}], expected [${shape}]`);
    } else {
      parameters.set(name, tensor);
    }
  }
  for (const name of given.keys()) if (!expected.has(name)) problems.push(`unexpected ${name}`);
  if (problems.length) {
    throw new CheckpointError(
      "CHECKPOINT_MISMATCH",
      `The checkpoint${
        source ? ` ${source}` : ""
      } does not fit the ${architecture.name} model that its config describes: ` +
        problems.slice(0, 8).join("; ") +
        (problems.length > 8 ? `; and ${problems.length - 8} more.` : "."),
      { problems },
    );
  }
  return {
    type: "model",
    architecture,
    config,
    generationConfig,
    device,
    parameters,
    sites,
    tied,
    source,
  };
}

function withoutNoise(
  architecture: Architecture,
  parameters: ReadonlyMap<string, Tensor>,
  expected: ReadonlyMap<string, unknown>,
): Map<string, Tensor> {
  const clean = new Map<string, Tensor>();
  for (const [name, tensor] of parameters) {
    if (architecture.ignoredKeys.test(name)) continue;
    const prefixed = architecture.basePrefix + name;
    clean.set(!expected.has(name) && expected.has(prefixed) ? prefixed : name, tensor);
  }
  return clean;
}

/** The name that holds a parameter: itself, or what it is tied to. */
export function resolveTied(model: ModelGraph, name: string): string {
  return model.tied.get(name) ?? name;
}

/**
 * A parameter by name, also under the name of an alias.
 *
 * @throws {CheckpointError} where the model has no such parameter.
 */
export function parameterOf(model: ModelGraph, name: string): Tensor {
  const tensor = model.parameters.get(resolveTied(model, name));
  if (!tensor) {
    throw new CheckpointError(
      "PARAMETER_UNKNOWN",
      `The model has no parameter "${name}"; nearest: ${
        nearestNames(name, model.parameters.keys()).join(", ") || "none"
      }.`,
    );
  }
  return tensor;
}

/** The model with some parameters replaced; a replaced parameter that was tied becomes its own. */
export function withParameters(
  model: ModelGraph,
  replacements: ReadonlyMap<string, Tensor>,
): ModelGraph {
  if (replacements.size === 0) return model;
  const parameters = new Map(model.parameters);
  const tied = new Map(model.tied);
  for (const [name, tensor] of replacements) {
    parameters.set(name, tensor);
    tied.delete(name);
  }
  return { ...model, parameters, tied };
}

/**
 * Gives up the device's copies of a model's weights; they come back when the model runs again.
 *
 * @example
 * ```ts
 * import { createModel, forward, releaseModel } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = model.device;
 * await forward(model, { inputIds: [[1, 2, 3]] });
 * releaseModel(model);
 * await forward(model, { inputIds: [[1, 2, 3]] }); // the weights are brought to the device again
 * ```
 */
export function releaseModel(model: ModelGraph): void {
  model.device.release(model.parameters.values());
}
