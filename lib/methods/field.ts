/**
 * The types of a config's fields.
 *
 * @module
 */
import { z } from "zod";

/** How one field is checked and completed. A zod type with a default and a description is one. */
export interface FieldType<T> {
  /** Its name in `adapter_config.json`, where it is not the snake_case of the field. */
  readonly json?: string;
  /** Whether Python holds it as a float, so that 0 is written as `0.0`. */
  readonly float?: boolean;
  /** Fields of the config that it holds, whose names are in snake_case in files too. */
  readonly nested?: Readonly<Record<string, FieldType<unknown>>>;
  /** Of an object by module, whose order counts: what it says of the module at a path. */
  readonly valueAt?: (values: Readonly<Record<string, number>>, path: string) => number | undefined;
  /** Whether files do not hold it, as they cannot hold a function. */
  readonly unsaved?: boolean;
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

/** Makers of {@link FieldType}s; the first argument is the default. */
export interface FieldTypes {
  /** `true` or `false`. */
  boolean(otherwise: boolean): FieldType<boolean>;
  /** A whole number from `minimum` on. */
  integer(otherwise: number, minimum: number): FieldType<number>;
  /** A finite number, whole or not. */
  number(otherwise: number): FieldType<number>;
  /** A finite number, which Python holds as a float: 0 is written as `0.0`. */
  float(otherwise: number): FieldType<number>;
  /** A number from 0 up to, not including, 1, which Python holds as a float. */
  probability(otherwise: number): FieldType<number>;
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
  float: (otherwise) => float(z.number().default(otherwise).describe("a number")),
  probability: (otherwise) =>
    float(
      z.number().min(0).lt(1).default(otherwise)
        .describe("a number from 0 up to, not including, 1"),
    ),
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

function float(type: FieldType<number>): FieldType<number> {
  return { ...described(type), float: true };
}

/**
 * A type with more said about it: its name in files, or that it is a config of its own.
 *
 * @example
 * ```ts
 * import { described, field } from "@graft/peft";
 * console.log(described(field.integer(1, 1), { json: "deltaT" }).json); // deltaT
 * ```
 */
export function described<T>(
  type: FieldType<T>,
  more: Pick<FieldType<T>, "json" | "nested" | "float" | "unsaved"> = {},
): FieldType<T> {
  return { description: type.description, safeParse: (value) => type.safeParse(value), ...more };
}

/**
 * The type of a field that holds a config of its own, or `null` by default. Fields of it that are
 * absent take their defaults; others than these are refused.
 *
 * @param fields The fields of that config.
 *
 * @example
 * ```ts
 * import { field, nestedField } from "@graft/peft";
 * const type = nestedField<{ readonly steps: number }>({ steps: field.integer(3, 1) });
 * console.log(type.description); // an object with steps (a whole number above 0), or null
 * ```
 */
export function nestedField<T extends object>(
  fields: { readonly [K in keyof T]: FieldType<T[K]> },
): FieldType<T | null> {
  const nested: Readonly<Record<string, FieldType<unknown>>> = fields;
  const parts = Object.entries(nested).map(([name, { description }]) => `${name} (${description})`);
  return {
    description: `an object with ${parts.join(", ")}, or null`,
    nested,
    safeParse(value) {
      if (value === undefined || value === null) return { success: true, data: null };
      const refused = (...path: string[]) =>
        ({ success: false, error: { issues: [{ path }] } }) as const;
      if (typeof value !== "object" || Array.isArray(value)) return refused();
      const unknown = Object.keys(value).find((name) => !Object.hasOwn(nested, name));
      if (unknown !== undefined) return refused(unknown);
      const complete: Record<string, unknown> = {};
      for (const [name, type] of Object.entries(nested)) {
        const found = type.safeParse((value as Record<string, unknown>)[name]);
        if (!found.success) return refused(name);
        complete[name] = found.data;
      }
      return { success: true, data: complete as T };
    },
  };
}
