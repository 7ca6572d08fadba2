/**
 * The model: an architecture, its config and its parameters, as one immutable value.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import { CheckpointError, nearestHint, nearestNames } from "../errors.ts";
import { commonType, isBlockType, isFloating, type WeightType } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Architecture, ArchitecturePass, ModelConfig } from "./architecture.ts";
import { type BatchInput, INPUT_IDS, TEXT_INPUTS } from "./batch-input.ts";
import type { PassInputs, PassOutputs } from "./architecture.ts";
import { type Modules, recordModules, type Structure } from "./modules.ts";
import { type AttentionLayout, parameterSite, type Site } from "./site.ts";
import { taskOf } from "./task-of.ts";
import type { TaskType } from "./task-type.ts";
import { checkTokenIds } from "./token-ids.ts";

/**
 * A frozen model. Every function that changes one returns another, which shares the parameters that
 * stayed.
 */
export interface ModelGraph<T extends TaskType = TaskType> {
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
  /**
   * The one type that its plain weights are saved in: that of most, f32 where others are
   * block-quantized. What is merged into it is computed in f32 until then.
   */
  readonly dtype: WeightType;
  /** What it is for, which decides about its head. */
  readonly taskType: T;
  /** Which layers it was made of, where some are repeated or left out (`replicateLayers`). */
  readonly layerOrder?: readonly number[];
  /** Sites by module path, in the order in which torch constructs them. */
  readonly sites: ReadonlyMap<string, Site>;
  /** Shapes of all parameters by checkpoint name, tied ones included. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Aliases of tied parameters: name to the name that holds the tensor. */
  readonly tied: ReadonlyMap<string, string>;
  /** Parameters that no checkpoint had and that are new, such as those of a head for another task. */
  readonly initialized: readonly string[];
  /**
   * Parameters that the config ties to others, and for which the checkpoint holds other values. These
   * count, as in transformers.
   */
  readonly untied: readonly string[];
  /** Folder, file or hub id that it was loaded from, which adapters record as their base. */
  readonly source: string | null;
}

/** A range of layers: the first, and the one that comes after the last. */
export type LayerRange = readonly [from: number, to: number];

/** What says which modules a model has. */
export interface ModelKind {
  /** The family. */
  readonly architecture: Architecture;
  /** Its config. */
  readonly config: ModelConfig;
  /** What it is for. */
  readonly taskType: TaskType;
  /** Numbers of the layers that its list has, where they are not all of them in their order. */
  readonly layerOrder?: readonly number[];
}

/** Declares a model's modules, those of its body first, and gives what runs it. */
export function declareModel(
  m: Modules,
  { architecture, config, taskType }: ModelKind,
): (pass: ArchitecturePass, inputs: PassInputs) => PassOutputs {
  const head = architecture.heads[taskType], bodyPath = head?.bodyPath ?? architecture.bodyPath;
  // transformers' models without a head have no place for it beside the body.
  const body = architecture.body(head && bodyPath ? m.at(bodyPath) : m, config, taskType);
  const finish = head?.(m, { config, body });
  return (pass, inputs) => {
    const outputs = body.run(pass, inputs);
    return finish?.(pass, outputs, inputs) ?? outputs;
  };
}

/**
 * The modules, parameters and ties of a model.
 *
 * @param limit How many parameters there can be.
 * @throws {CheckpointError} `CHECKPOINT_MISMATCH` where the config describes more.
 */
export function structureOf(kind: ModelKind, limit = Infinity): Structure {
  const check = (count: number) => {
    if (count <= limit) return;
    throw new CheckpointError(
      "CHECKPOINT_MISMATCH",
      `The config of the ${kind.architecture.name} model describes more than ${limit} parameters, many more than ` +
        "the checkpoint has: its number of layers is not that of the weights.",
    );
  };
  const { layerOrder } = kind;
  const made = recordModules((m) => declareModel(m, kind), { check, layerOrder });
  if (!layerOrder) return made;
  // A layer that comes again has the weights of its first place.
  const tied = new Map(made.tied), [list] = made.lists;
  for (const name of made.shapes.keys()) {
    const at = placeIn(list, name);
    if (!at) continue;
    const first = layerOrder.indexOf(layerOrder[at.place]);
    if (first !== at.place) tied.set(name, `${list}.${first}.${at.rest}`);
  }
  return { ...made, tied };
}

/** In which place of a list of layers a parameter is. */
export function placeIn(
  list: string,
  name: string,
): { readonly place: number; readonly rest: string } | undefined {
  if (!name.startsWith(`${list}.`)) return undefined;
  const [place, ...rest] = name.slice(list.length + 1).split(".");
  return { place: Number(place), rest: rest.join(".") };
}

/**
 * Puts a model together and checks its parameters against what the architecture expects.
 *
 * @param architecture The family.
 * @param parts Config, parameters, device and source.
 * @throws {CheckpointError} where parameters are missing, unexpected, of another shape or no floats.
 * @throws {ConfigError} for special tokens whose ids are no whole numbers.
 */
export function createModelGraph(
  architecture: Architecture,
  parts: {
    readonly config: ModelConfig;
    readonly taskType?: TaskType;
    readonly layerOrder?: readonly number[];
    readonly generationConfig?: ModelConfig;
    readonly initialized?: readonly string[];
    readonly untied?: readonly string[];
    /** What to do where it does not fit. */
    readonly hint?: string;
    readonly parameters: ReadonlyMap<string, Tensor>;
    readonly device: Device;
    readonly source?: string | null;
  },
): ModelGraph {
  const { generationConfig = {}, initialized = [], untied = [], device, source = null } = parts;
  const { layerOrder } = parts;
  const config = architecture.completeConfig?.(parts.config) ?? parts.config;
  const taskType = parts.taskType ?? taskOf(architecture, config);
  for (const each of [config, generationConfig]) checkTokenIds(each);
  const { sites, shapes, tied: ties } = structureOf({ architecture, config, taskType, layerOrder });
  const given = withoutNoise(architecture, parts.parameters, shapes);
  const tied = new Map(
    [...ties].filter(([name, to]) => given.has(to) && !given.has(name)),
  );
  const problems: string[] = [];
  const parameters = new Map<string, Tensor>();
  for (const [name, shape] of shapes) {
    if (tied.has(name)) continue;
    const tensor = given.get(name);
    if (!tensor) {
      const near = problems.length < SHOWN ? nearestHint(name, given.keys(), 2) : "";
      problems.push(`missing ${name}${near}`);
    } else if (!isFloating(tensor.dtype) && !isBlockType(tensor.dtype)) {
      problems.push(`${name} is of the type ${tensor.dtype}, which holds no weights`);
    } else if (tensor.shape.join() !== shape.join()) {
      problems.push(`${name} has shape [${tensor.shape}], expected [${shape}]`);
    } else {
      parameters.set(name, tensor);
    }
  }
  for (const name of given.keys()) if (!shapes.has(name)) problems.push(`unexpected ${name}`);
  if (problems.length) {
    throw new CheckpointError(
      "CHECKPOINT_MISMATCH",
      `The checkpoint${
        source ? ` ${source}` : ""
      } does not fit the ${architecture.name} model that its config describes: ` +
        problems.slice(0, SHOWN).join("; ") +
        (problems.length > SHOWN ? `; and ${problems.length - SHOWN} more.` : ".") +
        (parts.hint ? ` ${parts.hint}` : ""),
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
    dtype: commonType(parameters.values()),
    taskType,
    ...(layerOrder && { layerOrder }),
    sites,
    shapes,
    tied,
    initialized,
    untied,
    source,
  };
}

/** How many problems a message lists. */
const SHOWN = 8;

function withoutNoise(
  architecture: Architecture,
  parameters: ReadonlyMap<string, Tensor>,
  expected: ReadonlyMap<string, unknown>,
): Map<string, Tensor> {
  const clean = new Map<string, Tensor>();
  for (const [name, tensor] of parameters) {
    if (!architecture.ignoredKeys?.test(name)) {
      clean.set(storedName(name, architecture, expected), tensor);
    }
  }
  return clean;
}

/** The name that a checkpoint's key has in a model, which may have a head that the other lacks. */
export function storedName(
  key: string,
  architecture: Architecture,
  expected: { has(name: string): boolean },
): string {
  const { oldKeys = [], fileNames = [] } = architecture;
  const known = oldKeys.reduce((key, [pattern, name]) => key.replace(pattern, name), key);
  const name = fileNames.reduce((key, [own, inFiles]) => key.replace(inFiles, own), known);
  const inner = withoutBodyPath(name, architecture);
  const places = bodyPaths(architecture).map((path) => `${path}.${inner}`);
  return [name, ...places, inner].find((n) => expected.has(n)) ?? name;
}

/** The name that a parameter has in files. */
export function fileName(name: string, { fileNames = [] }: Architecture): string {
  return fileNames.toReversed().reduce((key, [own, inFiles]) => key.replace(own, inFiles), name);
}

/** A parameter's name in a model without a head. */
export function withoutBodyPath(name: string, architecture: Architecture): string {
  const path = bodyPaths(architecture).find((path) => name.startsWith(`${path}.`));
  return path === undefined ? name : name.slice(path.length + 1);
}

/** Where the body may be in models with a head. */
function bodyPaths({ bodyPath, heads }: Architecture): string[] {
  return [...new Set([bodyPath, ...Object.values(heads).map((head) => head?.bodyPath)])].filter(
    (path) => path !== undefined && path !== "",
  ) as string[];
}

/** The site at a path, or else the parameter of this name as one. */
export function siteAt(
  { sites, shapes }: Pick<ModelGraph, "sites" | "shapes">,
  path: string,
): Site {
  return sites.get(path) ?? parameterSite(path, shapes.get(path)!);
}

/** The attention layers over a sequence, in order of execution. */
export function attentionLayers(
  model: Pick<ModelGraph, "sites">,
  over: AttentionLayout["over"],
): readonly AttentionLayout[] {
  return [...model.sites.values()].flatMap(({ attention }) =>
    attention?.over === over ? [attention] : []
  );
}

/** The sequence that a model writes token by token: its decoder's, if it has one beside an encoder. */
export function writtenSequence(model: Pick<ModelGraph, "sites">): "tokens" | "decoderTokens" {
  return attentionLayers(model, "decoderTokens").length ? "decoderTokens" : "tokens";
}

/** Whether token ids are a part of its batches. */
export function readsText({ architecture, config }: Pick<ModelGraph, "architecture" | "config">) {
  return (architecture.reads?.(config) ?? TEXT_INPUTS).includes(INPUT_IDS);
}

/** Whether rows of its batches are images. */
export function readsImages({ architecture, config }: Pick<ModelGraph, "architecture" | "config">) {
  return architecture.reads?.(config).some(isPixels) ?? false;
}

/** Whether a part of a batch is an image for each row. */
export function isPixels({ name, axes: [axis] }: BatchInput): boolean {
  return name === "pixelValues" && axis === "batch";
}

/** The input embedding: the first site that is one, and no table of positions. */
export function inputEmbedding(model: Pick<ModelGraph, "sites">): Site | undefined {
  return [...model.sites.values()].find((s) => s.kind === "embedding" && !s.positions);
}

/** Number of ids that a model's token embedding knows. */
export function vocabularySize(model: Pick<ModelGraph, "sites">): number {
  return inputEmbedding(model)?.inFeatures ?? Infinity;
}

/** How many positions a model's table has, where it learned them so; without it there is no end. */
export function positionLimit(model: Pick<ModelGraph, "sites">): number {
  return [...model.sites.values()].find((site) => site.positions)?.positions ?? Infinity;
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
 * import { forward, releaseModel, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * await forward(model, { inputIds: [[1, 2, 3]] });
 * releaseModel(model);
 * await forward(model, { inputIds: [[1, 2, 3]] }); // the weights are brought to the device again
 * ```
 */
export function releaseModel(model: ModelGraph): void {
  model.device.release(model.parameters.values());
}
