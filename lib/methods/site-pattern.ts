/**
 * Settings that differ from site to site, by name or by regular expression.
 *
 * @module
 */
import { z } from "zod";
import { described, type FieldType } from "./field.ts";
import { pythonRegExp } from "./python-regex.ts";

/** The type of a field that sets a number by module, as `valueAt` finds it. */
export function pattern(
  values: z.ZodType<number>,
  what: string,
  valueAt: FieldType<unknown>["valueAt"] = patternValue,
): FieldType<Readonly<Record<string, number>>> {
  const type = z.record(z.string(), values).nullable().default({}).transform((map) => map ?? {})
    .describe(`an object of ${what} by module name or regular expression`);
  return { ...described(type), valueAt };
}

/**
 * The value of the first key that is the path or its end, or as a regular expression matches the
 * end.
 */
export function patternValue(
  patterns: Readonly<Record<string, number>>,
  path: string,
): number | undefined {
  return Object.entries(patterns)
    .find(([key]) => pythonRegExp(`(.*\\.)?(${key})`).test(path))?.[1];
}

/**
 * The same as FourierFT and C³A look values up: an alternative that is in no group ends a key's
 * expression, and a key without a dot before it names a whole path.
 */
export function patternValueAtEnd(
  patterns: Readonly<Record<string, number>>,
  path: string,
): number | undefined {
  const found = Object.keys(patterns).find((key) => pythonRegExp(`(?:.*\\.${key}$).*`).test(path));
  return patterns[found ?? path];
}
