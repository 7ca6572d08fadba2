/**
 * `adapter_config.json`: configs as PEFT writes and reads them.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import {
  camelCase,
  type ConfigSchema,
  type FieldType,
  type FormerName,
  jsonName,
  parseConfig,
  type PeftConfig,
  unknownFields,
} from "./config.ts";
import { checkOptions, type OptionRules, show } from "../options.ts";
import type { PeftMethod } from "./method.ts";
import {
  defaultMethods,
  methodOf,
  type MethodRegistry,
  REGISTRY,
  type RegistryOptions,
} from "./mod.ts";

/** Which methods exist. */
export type PeftJsonOptions = RegistryOptions;

const FROM_JSON: OptionRules<PeftJsonOptions> = { registry: REGISTRY };

/**
 * A config as the text of an `adapter_config.json`, byte for byte as PEFT 0.21 writes the same
 * fields: sorted keys, two spaces, no newline at the end, and `inference_mode` always true. (Lists
 * that are sets in Python have no order there.)
 *
 * @param config A complete config, of a registered method, or of the `schema` that is given.
 * @throws {UnsupportedError} where its method is not registered.
 *
 * @example
 * ```ts
 * import { loraConfig, toPeftJson } from "@graft/peft";
 * const json = toPeftJson(loraConfig({ r: 4, targetModules: ["q_proj", "v_proj"] }));
 * console.log(JSON.parse(json).lora_alpha); // 8
 * ```
 */
export function toPeftJson(
  config: PeftConfig,
  options: PeftJsonOptions & { readonly schema?: ConfigSchema } = {},
): string {
  checkOptions(options, {
    ...FROM_JSON,
    schema: {
      must: "the schema of a config",
      holds: (x) => typeof (x as ConfigSchema | null)?.fields === "object",
    },
  }, { code: "PEFT_JSON_OPTION", of: "toPeftJson" });
  if (typeof config?.peftType !== "string") {
    throw new ConfigError(
      "CONFIG_TYPE",
      `toPeftJson needs a config as loraConfig makes it; found ${show(config)}.`,
    );
  }
  const { schema = methodOf(config.peftType, options.registry).config } = options;
  return writeFields(schema.fields, { ...config, inferenceMode: true }, "");
}

/** Fields as Python writes them, which tells floats from whole numbers. */
function writeFields(fields: ConfigSchema["fields"], values: object, indent: string): string {
  const inner = `${indent}  `;
  const present = savedFields(fields).filter(([name]) => Object.hasOwn(values, name));
  if (present.length === 0) return "{}";
  const lines = present.map(
    ([name, type]): [string, string] => {
      const value = (values as Readonly<Record<string, unknown>>)[name];
      const text = typeof value === "number"
        ? pythonNumber(value, type.float === true)
        : type.nested && value
        ? writeFields(type.nested as never, value, inner)
        : write(value, inner);
      return [jsonName({ fields }, name), text];
    },
  );
  return `{\n${
    lines.sort(byKey).map(([key, text]) => `${inner}${quote(key)}: ${text}`).join(",\n")
  }\n${indent}}`;
}

/**
 * Reads the contents of an `adapter_config.json`.
 *
 * @param json The parsed file. Fields that it lacks, as those of older releases of PEFT do, take
 * their defaults. `runtime_config`, which belongs to a process and not to an adapter, is left out,
 * as in PEFT, and so are fields that old releases wrote, where they say nothing, and fields of later
 * releases that are null or false: what is off is not needed. A method under a name that it had before
 * (BONE) becomes what it is now (MISS).
 * @throws {ConfigError} for a field that the method does not have, for an ill-typed one, and where
 * `peft_type` is missing.
 * @throws {UnsupportedError} for a method that is not registered, and for settings that are not
 * supported.
 *
 * @example
 * ```ts
 * import { fromPeftJson, type LoraConfig } from "@graft/peft";
 * const json = { peft_type: "LORA", r: 4, target_modules: ["q_proj"] };
 * const config = fromPeftJson(json) as LoraConfig;
 * console.log(config.r, config.loraAlpha); // 4 8
 * ```
 */
export function fromPeftJson(
  json: Readonly<Record<string, unknown>>,
  options: PeftJsonOptions = {},
): PeftConfig {
  checkOptions(options, FROM_JSON, { code: "PEFT_JSON_OPTION", of: "fromPeftJson" });
  const { registry = defaultMethods } = options;
  const { json: present } = presentJson(json ?? {}, registry), { peft_type: peftType } = present;
  if (typeof peftType !== "string") {
    throw new ConfigError(
      "CONFIG_PEFT_TYPE",
      `An adapter_config.json must name its method as peft_type, one of ${
        [...registry.keys()].join(", ")
      }; found ${peftType === undefined ? "no such field" : show(peftType)}.`,
    );
  }
  const schema: ConfigSchema = methodOf(peftType, registry).config, names = namesOf(schema);
  const given = Object.entries(present).filter(([key, value]) =>
    key !== "runtime_config" && !isRetired(schema, key, value) &&
    (names.has(key) || !saysNothing(value))
  );
  const unknown = given.map(([key]) => key).filter((key) => !names.has(key));
  if (unknown.length) throw unknownFields(schema, unknown, [...names.keys()]);
  const fields: Readonly<Record<string, FieldType<unknown>>> = schema.fields;
  return parseConfig(
    schema,
    Object.fromEntries(given.map(([key, value]) => {
      const name = names.get(key)!;
      return [name, fields[name].nested ? renamed(value, camelCase) : value];
    })),
  );
}

/** A config of a method under a name that it had before, as files say it now, and what it was. */
export function presentJson(
  json: Readonly<Record<string, unknown>>,
  registry: MethodRegistry = defaultMethods,
): {
  readonly json: Readonly<Record<string, unknown>>;
  readonly former?: FormerName & { readonly method: PeftMethod };
} {
  const { peft_type: type } = json;
  if (typeof type !== "string" || registry.has(type)) return { json };
  const method = [...registry.values()].find(({ config }) =>
    Object.hasOwn(config.formerly ?? {}, type)
  );
  if (!method) return { json };
  const former = method.config.formerly![type], { fields = (config) => config } = former;
  return {
    json: { ...fields(json), peft_type: method.config.peftType },
    former: { ...former, method },
  };
}

function isRetired({ retired = {} }: ConfigSchema, key: string, value: unknown): boolean {
  return Object.hasOwn(retired, key) && retired[key].includes(value);
}

/** The fields of an `adapter_config.json` that its method has here. */
export function knownFields(
  json: Readonly<Record<string, unknown>>,
  { registry }: PeftJsonOptions = {},
): Record<string, unknown> {
  const names = namesOf(methodOf(json.peft_type as string, registry).config);
  return Object.fromEntries(Object.entries(json).filter(([key]) => names.has(key)));
}

/** Names of fields by what a file calls them. */
function namesOf(schema: ConfigSchema): ReadonlyMap<string, string> {
  return new Map(savedFields(schema.fields).map(([name]) => [jsonName(schema, name), name]));
}

/** Those that files hold. */
function savedFields(
  fields: ConfigSchema["fields"],
): readonly (readonly [string, FieldType<unknown>])[] {
  return Object.entries<FieldType<unknown>>(fields).filter(([, { unsaved }]) => !unsaved);
}

/** Whether a setting is off. */
function saysNothing(value: unknown): boolean {
  return value === null || value === false;
}

/** A config inside a config with other names for its fields; what is none stays as it is. */
function renamed(value: unknown, rename: (name: string) => string): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [rename(name), field]));
}

function byKey([a]: readonly [string, ...unknown[]], [b]: readonly [string, ...unknown[]]): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** A value as `json.dumps(…, indent=2, sort_keys=True)` writes it. */
function write(value: unknown, indent: string): string {
  if (typeof value === "string") return quote(value);
  if (typeof value === "number") return pythonNumber(value, false);
  if (typeof value !== "object" || value === null) return JSON.stringify(value ?? null);
  const inner = `${indent}  `;
  const [open, close, items] = Array.isArray(value)
    ? ["[", "]", value.map((item) => write(item, inner))]
    : [
      "{",
      "}",
      Object.entries(value).sort(byKey).map(([k, v]) => `${quote(k)}: ${write(v, inner)}`),
    ];
  if (items.length === 0) return open + close;
  return `${open}\n${items.map((item) => inner + item).join(",\n")}\n${indent}${close}`;
}

/** A string in quotes, with everything outside ASCII escaped, as Python does by default. */
function quote(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * A number as Python prints an int or a float: exponents from 1e16 on and below 1e-4, with two
 * digits at least.
 */
function pythonNumber(value: number, float: boolean): string {
  const magnitude = Math.abs(value);
  const whole = Number.isInteger(value);
  if (whole && !float && Number.isSafeInteger(value)) return String(value);
  if (magnitude !== 0 && (magnitude < 1e-4 || magnitude >= 1e16)) {
    return value.toExponential().replace(
      /e([+-])(\d+)$/,
      (_, sign, digits) => `e${sign}${digits.padStart(2, "0")}`,
    );
  }
  return Object.is(value, -0) ? "-0.0" : whole ? `${value}.0` : String(value);
}
