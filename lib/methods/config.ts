/**
 * Adapter configs: what all methods share, and how a method declares its own fields.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError, nearestHint } from "../errors.ts";
import type { LayerRange, ModelGraph } from "../model/model-graph.ts";
import type { Site } from "../model/site.ts";
import type { Calibration } from "./calibration.ts";
import { described, field, type FieldType, type FieldTypes, nestedField } from "./field.ts";
import { TASK_TYPES, TaskType } from "./peft-types.ts";

/** The PEFT release whose files and behaviour this library follows. */
export const PEFT_VERSION = "0.21.0";

export { described, field, type FieldType, type FieldTypes, nestedField, TASK_TYPES, TaskType };

/** What every config holds, complete: no field is absent. */
export interface PeftConfig {
  /** PEFT's name of the method, such as `LORA`. */
  readonly peftType: string;
  /** What the model is adapted for; `null` for a model without a head. */
  readonly taskType: TaskType | null;
  /** Whether the adapter is not to be trained. PEFT writes `true` to every file. */
  readonly inferenceMode: boolean;
  /** Folder, file or hub id of the base model. */
  readonly baseModelNameOrPath: string | null;
  /** Revision of the base model on the hub. */
  readonly revision: string | null;
  /** Python class of the base model, where there is no task type. */
  readonly autoMapping: Readonly<Record<string, unknown>> | null;
  /** Release of PEFT that wrote the config. */
  readonly peftVersion: string | null;
}

/**
 * What the configs of methods share that adapt modules by name. Fields that not every method has
 * are optional here; a method that has one declares it and holds it in every config.
 */
export interface TargetConfig extends PeftConfig {
  /**
   * Which modules: a list of full paths or of their endings, a regular expression for the whole
   * path, or `"all-linear"`; `null` for what is usual for the architecture.
   */
  readonly targetModules: readonly string[] | string | null;
  /** Modules to leave out, as a list or as a regular expression; comes before everything else. */
  readonly excludeModules?: readonly string[] | string | null;
  /**
   * Parameters, rather than modules, that are adapted: full names or the ends of them, such as
   * `experts.down_proj`. `targetModules: []` adapts no modules beside them.
   */
  readonly targetParameters?: readonly string[] | null;
  /** Only these layers, by number. Applies to endings, not to full paths. */
  readonly layersToTransform?: readonly number[] | number | null;
  /**
   * Name of the list that holds the layers, such as `layers` or `h`, where it cannot be guessed.
   */
  readonly layersPattern?: readonly string[] | string | null;
  /** Modules that are trained and saved as a whole. */
  readonly modulesToSave: readonly string[] | null;
  /** Rows of embeddings to train: of the input embedding, or by module name. */
  readonly trainableTokenIndices?:
    | readonly number[]
    | Readonly<Record<string, readonly number[]>>
    | null;
  /** Keeps tied modules tied when one of them is adapted or saved. */
  readonly ensureWeightTying?: boolean;
  /** Which biases of the base are trained: none, all, or those of the adapted modules. */
  readonly bias?: "none" | "all" | `${string}_only`;
  /**
   * Whether the adapted weights are stored [in, out]. Follows from the modules, and is corrected
   * when an adapter is made.
   */
  readonly fanInFanOut?: boolean;
}

/** A config that holds the fields of {@link targetFields}. */
export type TargetedConfig =
  & PeftConfig
  & Required<
    Pick<
      TargetConfig,
      "targetModules" | "excludeModules" | "layersToTransform" | "layersPattern" | "modulesToSave"
    >
  >;

/** Whether a config selects modules by name. */
export function isTargetConfig(config: PeftConfig): config is TargetConfig {
  return "targetModules" in config;
}

/** How fields are declared: a type for each; a method need not have those that are optional. */
export type ConfigFields<C> = { readonly [K in keyof C]: FieldType<C[K]> };

/** A method's config as data: what PEFT's config class is to Python. */
export interface ConfigSchema<C extends PeftConfig = PeftConfig> {
  /** PEFT's name of the method, such as `LORA`. */
  readonly peftType: string;
  /** Every field by its name in camelCase. */
  readonly fields: ConfigFields<C>;
  /**
   * Fields that old releases of PEFT wrote and the present one no longer has, by their names in
   * `adapter_config.json`, with the values that say what their absence does. They are left out.
   */
  readonly retired?: Readonly<Record<string, readonly unknown[]>>;
  /** Names that the method had in files of older releases of PEFT, by `peft_type`. */
  readonly formerly?: Readonly<Record<string, FormerName>>;
  /** Fills in what depends on other fields. */
  complete?(config: C): C;
  /** Checks what no single field can tell. Throws `ConfigError` or `UnsupportedError`. */
  check?(config: C): void;
  /**
   * Fills in what the config leaves to the model, such as its sizes; again once the targets are
   * known, so that a complete config stays as it is. Throws `ConfigError` where the
   * model does not say it.
   */
  fit?(config: C, model: ModelGraph): C;
  /** Layers of the base that adapters are put on, range by range, where they are not all in order. */
  layers?(config: C): readonly LayerRange[] | null;
  /** Paths of the modules that are adapted, where `targetModules` is not what says it. */
  select?(config: C, model: ModelGraph): readonly string[];
  /** Suffixes of target modules by `model_type`, for configs that name none. */
  readonly targets?: Readonly<Record<string, readonly string[]>>;
  /** Target modules for all other families. */
  readonly otherTargets?: string;
  /**
   * Whether a long list of targets stays as it is, because another field names modules by entries of
   * it; the shortest endings that say the same stand for it otherwise.
   */
  readonly keepsTargets?: boolean;
  /** Whether a head that is tied to the input embedding follows an adapter of the embedding. */
  readonly followsTies?: boolean;
  /** Whether adapters can be active at one time with those of other such methods on one model. */
  readonly mixes?: boolean;
  /** The `peft_type` of the method whose config this one extends, and whose prefix it may share. */
  readonly extends?: string;
  /** What keys of modules start with in files; `base_model.model.` by default. */
  readonly keyPrefix?: string;
  /**
   * Refuses a calibration that does not fit, or the lack of one, before anything is computed. A
   * config without it takes none.
   */
  checkCalibration?(config: C, check: CalibrationCheck): void;
  /** Whether an adapter with its default initialisation changes nothing until it is trained. */
  readonly isIdentityAtInit?: boolean;
  /** What has no default and must be set before an adapter can be made: values for examples and tests. */
  readonly example?: Partial<C>;
}

/** How files say what they say now under a name that a method had before. */
export interface FormerName {
  /** The last release of PEFT that had it. */
  readonly until: string;
  /** What the names of its leaves started with. */
  readonly prefix: string;
  /** The fields of a config, of a file or as they are here, as they are now. */
  fields?(config: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>;
}

/** What a method gets to check what leaves are to begin with. */
export interface CalibrationCheck {
  /** The sites that the adapter takes part at. */
  readonly sites: readonly Site[];
  /** What the caller gave. */
  readonly calibration?: Calibration;
  /** Whether the trained leaves are about to come from a file. */
  readonly loaded: boolean;
}

/**
 * The fields of {@link PeftConfig}, for a method of this `peft_type`.
 *
 * @example
 * ```ts
 * import { commonFields, parseConfig } from "@graft/peft";
 * const schema = { peftType: "NONE", fields: commonFields("NONE") };
 * console.log(parseConfig(schema, {}).inferenceMode); // false
 * ```
 */
export function commonFields<T extends string>(
  peftType: T,
): ConfigFields<PeftConfig & { readonly peftType: T }> {
  return {
    peftType: described<T>(
      z.literal(peftType as string).default(peftType).describe(
        JSON.stringify(peftType),
      ) as unknown as FieldType<T>,
    ),
    taskType: z.literal(TASK_TYPES).nullable().default(null)
      .describe(`one of ${TASK_TYPES.join(", ")}, or null`),
    inferenceMode: field.boolean(false),
    baseModelNameOrPath: field.text(),
    revision: field.text(),
    autoMapping: field.object(),
    peftVersion: field.text(PEFT_VERSION),
  };
}

/**
 * The fields of {@link TargetConfig} that every such method has.
 *
 * @example
 * ```ts
 * import { targetFields } from "@graft/peft";
 * console.log(Object.keys(targetFields()).length); // 5
 * ```
 */
export function targetFields(): ConfigFields<
  Required<
    Pick<
      TargetConfig,
      "targetModules" | "excludeModules" | "layersToTransform" | "layersPattern" | "modulesToSave"
    >
  >
> {
  return {
    targetModules: field.patterns(),
    excludeModules: field.patterns(),
    layersToTransform: z.union([z.array(z.int()), z.int()]).nullable().default(null)
      .describe("a list of whole numbers, a whole number or null"),
    layersPattern: field.patterns(),
    modulesToSave: field.names(),
  };
}

/**
 * Refuses combinations of {@link targetFields} as PEFT does.
 *
 * @throws {ConfigError} `CONFIG_LAYERS` for layers beside a regular expression, and for a name of their
 * list without their numbers.
 *
 * @example
 * ```ts
 * import { checkTargets, loraConfig } from "@graft/peft";
 * checkTargets(loraConfig({ targetModules: ["q_proj"], layersToTransform: [0] }));
 * ```
 */
export function checkTargets(config: TargetConfig): void {
  checkExpression(config);
  checkLayersPattern(config);
}

/**
 * Refuses layers beside a regular expression for the whole path.
 *
 * @throws {ConfigError} `CONFIG_LAYERS`.
 */
export function checkExpression(config: TargetConfig): void {
  for (const field of ["layersToTransform", "layersPattern"] as const) {
    if (typeof config.targetModules !== "string" || (config[field] ?? null) === null) continue;
    throw new ConfigError(
      "CONFIG_LAYERS",
      `${field} cannot be used when targetModules is a string, here ${
        show(config.targetModules)
      }: put the layers into the regular expression, or give a list of names.`,
    );
  }
}

/**
 * Refuses a list of layers without saying which of them, as PEFT does.
 *
 * @throws {ConfigError} `CONFIG_LAYERS`.
 *
 * @example
 * ```ts
 * import { checkLayersPattern, oftConfig } from "@graft/peft";
 * checkLayersPattern(oftConfig({ layersToTransform: 1, layersPattern: "h" }));
 * ```
 */
export function checkLayersPattern(config: TargetConfig): void {
  const { layersToTransform = null, layersPattern } = config;
  if (layersPattern?.length && layersToTransform === null) {
    throw new ConfigError(
      "CONFIG_LAYERS",
      "When layersPattern is given, layersToTransform must be given too: it says which layers of that list.",
    );
  }
}

/**
 * Completes and checks a config.
 *
 * @param schema The method's fields.
 * @param config Fields in camelCase; absent ones (and `undefined`) take their defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for a field that does not exist, is ill-typed, or contradicts another one.
 *
 * @example
 * ```ts
 * import { defaultMethods, parseConfig } from "@graft/peft";
 * const config = parseConfig(defaultMethods.get("OFT")!.config, { oftBlockSize: 16 });
 * console.log(config.peftType); // OFT
 * ```
 */
export function parseConfig<C extends PeftConfig>(schema: ConfigSchema<C>, config: unknown): C {
  if (typeof config !== "object" || config === null || Array.isArray(config)) {
    throw new ConfigError(
      "CONFIG_TYPE",
      `A ${schema.peftType} config must be an object with its fields; found ${show(config)}.`,
    );
  }
  const fields: Readonly<Record<string, FieldType<unknown>>> = schema.fields;
  const unknown = Object.keys(config).filter((name) => !Object.hasOwn(fields, name));
  if (unknown.length) throw unknownFields(schema, unknown, Object.keys(fields));
  const complete: Record<string, unknown> = {};
  for (const [name, type] of Object.entries(fields)) {
    const value = (config as Record<string, unknown>)[name];
    const result = type.safeParse(value);
    if (!result.success) {
      throw illTyped(schema, name, { value, type, path: result.error.issues[0].path });
    }
    complete[name] = result.data;
  }
  const given = complete as unknown as C;
  const parsed = Object.freeze(schema.complete?.(given) ?? given);
  schema.check?.(parsed);
  return parsed;
}

/** The error for fields that a schema does not have, with the nearest names that it has. */
export function unknownFields(
  schema: Pick<ConfigSchema, "peftType">,
  unknown: readonly string[],
  known: readonly string[],
): ConfigError {
  const parts = unknown.slice(0, 10).map((name) => `"${name}"${nearestHint(name, known)}`);
  return new ConfigError(
    "CONFIG_UNKNOWN_FIELD",
    `A ${schema.peftType} config has no field ${parts.join(", no field ")}${
      unknown.length > 10 ? ` and ${unknown.length - 10} more` : ""
    }. Its fields are ${[...known].sort().join(", ")}.`,
    { unknown, known },
  );
}

function illTyped(
  schema: Pick<ConfigSchema, "peftType" | "fields">,
  name: string,
  of: {
    readonly value: unknown;
    readonly type: FieldType<unknown>;
    readonly path: readonly PropertyKey[];
  },
): ConfigError {
  let found: unknown = of.value;
  for (const key of of.path) found = (found as Record<PropertyKey, unknown>)?.[key];
  const at = of.path.map((key) => `[${JSON.stringify(key)}]`).join("");
  const json = jsonName(schema, name);
  return new ConfigError(
    "CONFIG_FIELD_TYPE",
    `The field ${name}${json === name ? "" : ` (${json} in adapter_config.json)`} of a ` +
      `${schema.peftType} config must be ${of.type.description ?? "of another type"}; found ${
        at
          ? `${show(found)} (${typeName(found)}) at ${name}${at}`
          : `${show(found)} (${typeName(found)})`
      }.`,
    { field: name, value: of.value, expected: of.type.description },
  );
}

/** The name of a field in `adapter_config.json`. */
export function jsonName({ fields }: Pick<ConfigSchema, "fields">, name: string): string {
  return (fields as Readonly<Record<string, FieldType<unknown>>>)[name]?.json ?? snakeCase(name);
}

/** A name in camelCase as Python spells it. */
export function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
}

/** A name in snake_case as it is spelled here. */
export function camelCase(name: string): string {
  return name.replace(/_([a-z])/g, (_, c) => c.toUpperCase());
}

function typeName(value: unknown): string {
  return value === null
    ? "null"
    : Array.isArray(value)
    ? "a list"
    : typeof value === "object"
    ? "an object"
    : `a ${typeof value}`;
}

/** A value as error messages show it. */
function show(value: unknown): string {
  // JSON has no NaN, which it shows as null, and no bigints.
  const plain = typeof value === "number" || typeof value === "bigint";
  const text = (plain ? undefined : JSON.stringify(value)) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}
