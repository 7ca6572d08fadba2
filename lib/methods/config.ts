/**
 * Adapter configs: what all methods share, and how a method declares its own fields.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError, nearestNames } from "../errors.ts";
import { TASK_TYPES, TaskType } from "./peft-types.ts";

/** The PEFT release whose files and behaviour this library follows. */
export const PEFT_VERSION = "0.21.0";

export { TASK_TYPES, TaskType };

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

/** Whether a config selects modules by name. */
export function isTargetConfig(config: PeftConfig): config is TargetConfig {
  return "targetModules" in config;
}

/** How one field is checked and completed. A zod type with a default and a description is one. */
export interface FieldType<T> {
  /** What it accepts, in the words of error messages: "a whole number above 0". */
  readonly description?: string;
  /** Checks a value; `undefined` stands for a field that was left out. */
  safeParse(value: unknown): {
    readonly success: true;
    readonly data: T;
  } | {
    readonly success: false;
    readonly error: { readonly issues: readonly { readonly path: readonly PropertyKey[] }[] };
  };
}

/** How fields are declared: a type for each; a method need not have those that are optional. */
export type ConfigFields<C> = { readonly [K in keyof C]: FieldType<C[K]> };

/** A method's config as data: what PEFT's config class is to Python. */
export interface ConfigSchema<C extends PeftConfig = PeftConfig> {
  /** PEFT's name of the method, such as `LORA`. */
  readonly peftType: string;
  /** Every field by its name in camelCase. */
  readonly fields: ConfigFields<C>;
  /** Fields that Python holds as floats, so that 0 is written as `0.0`. */
  readonly floats?: readonly (keyof C & string)[];
  /** Names in `adapter_config.json` where they are not the snake_case of the field. */
  readonly jsonNames?: Readonly<Record<string, string>>;
  /**
   * Fields that old releases of PEFT wrote and the present one no longer has, by their names in
   * `adapter_config.json`, with the values that say what their absence does. They are left out.
   */
  readonly retired?: Readonly<Record<string, readonly unknown[]>>;
  /** Fields that hold a config of their own, whose names are in snake_case in files too. */
  readonly subconfigs?: readonly (keyof C & string)[];
  /** Fills in what depends on other fields. */
  complete?(config: C): C;
  /** Checks what no single field can tell. Throws `ConfigError` or `UnsupportedError`. */
  check?(config: C): void;
}

/** Makers of {@link FieldType}s; the first argument is the default. */
export interface FieldTypes {
  /** `true` or `false`. */
  boolean(otherwise: boolean): FieldType<boolean>;
  /** A whole number from `minimum` on. */
  integer(otherwise: number, minimum: number): FieldType<number>;
  /** A finite number. */
  number(otherwise: number): FieldType<number>;
  /** Text or `null`; `null` by default. */
  text(otherwise?: string | null): FieldType<string | null>;
  /** A list of strings or `null`. */
  names(): FieldType<readonly string[] | null>;
  /** A list of strings, one string or `null`. */
  patterns(): FieldType<readonly string[] | string | null>;
  /** A JSON object or `null`. */
  object(): FieldType<Readonly<Record<string, unknown>> | null>;
  /** One of these strings. */
  choice<T extends string>(otherwise: T, values: readonly T[]): FieldType<T>;
}

/** Types for the fields of configs, each with the words that error messages use. */
export const field: FieldTypes = {
  boolean: (otherwise) => z.boolean().default(otherwise).describe("true or false"),
  integer: (otherwise, minimum) =>
    z.int().min(minimum).default(otherwise).describe(
      `a whole number${minimum === 1 ? " above 0" : ` from ${minimum} on`}`,
    ),
  number: (otherwise) => z.number().default(otherwise).describe("a number"),
  text: (otherwise = null) => z.string().nullable().default(otherwise).describe("a string or null"),
  names: () => z.array(z.string()).nullable().default(null).describe("a list of strings or null"),
  patterns: () =>
    z.union([z.array(z.string()), z.string()]).nullable().default(null)
      .describe("a list of strings, a string or null"),
  object: () =>
    z.record(z.string(), z.unknown()).nullable().default(null).describe("an object or null"),
  choice: <T extends string>(otherwise: T, values: readonly T[]) =>
    z.literal(values).default(otherwise as never).describe(`one of ${values.join(", ")}`),
};

/** The fields of {@link PeftConfig}. */
export function commonFields(peftType: string): ConfigFields<PeftConfig> {
  return {
    peftType: z.literal(peftType).default(peftType).describe(JSON.stringify(peftType)),
    taskType: z.literal(TASK_TYPES).nullable().default(null)
      .describe(`one of ${TASK_TYPES.join(", ")}, or null`),
    inferenceMode: field.boolean(false),
    baseModelNameOrPath: field.text(),
    revision: field.text(),
    autoMapping: field.object(),
    peftVersion: field.text(PEFT_VERSION),
  };
}

/** The fields of {@link TargetConfig} that every such method has. */
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

/** Refuses combinations of {@link targetFields} as PEFT does. */
export function checkTargets(config: TargetConfig): void {
  const { targetModules, layersToTransform = null, layersPattern = null } = config;
  if (typeof targetModules === "string" && layersToTransform !== null) {
    throw new ConfigError(
      "CONFIG_LAYERS",
      `layersToTransform cannot be used when targetModules is a string, here ${
        show(targetModules)
      }: put the layers into the regular expression, or give a list of names.`,
    );
  }
  if (typeof targetModules === "string" && layersPattern !== null) {
    throw new ConfigError(
      "CONFIG_LAYERS",
      `layersPattern cannot be used when targetModules is a string, here ${
        show(targetModules)
      }: put the layers into the regular expression, or give a list of names.`,
    );
  }
  checkLayersPattern(config);
}

/** Refuses a list of layers without saying which of them, as PEFT does. */
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
  const parts = unknown.map((name) => {
    const near = nearestNames(name, known);
    return near.length ? `"${name}" (nearest: ${near.join(", ")})` : `"${name}"`;
  });
  return new ConfigError(
    "CONFIG_UNKNOWN_FIELD",
    `A ${schema.peftType} config has no field ${parts.join(", no field ")}. Its fields are ${
      [...known].sort().join(", ")
    }.`,
    { unknown, known },
  );
}

function illTyped(
  schema: Pick<ConfigSchema, "peftType" | "jsonNames">,
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
export function jsonName(schema: Pick<ConfigSchema, "jsonNames">, name: string): string {
  return schema.jsonNames?.[name] ?? snakeCase(name);
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
