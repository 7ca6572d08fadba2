/**
 * Settings that differ from site to site.
 *
 * @module
 */
import { z } from "zod";
import type { FieldType } from "./field.ts";
import { pythonRegExp } from "./python-regex.ts";

/** Numbers by module name, or by a regular expression for the end of its path; the first match counts. */
export type SitePattern = Readonly<Record<string, number>>;

/** A field of patterns with such values; the words say what they are. */
export function patternField(values: z.ZodType<number>, what: string): FieldType<SitePattern> {
  return z.record(z.string(), values).nullable().default({}).transform((map) => map ?? {})
    .describe(`an object of ${what} by module name or regular expression`);
}

/** `rankPattern` and `alphaPattern`, as several methods have them. */
export function patternFields(): {
  readonly rankPattern: FieldType<SitePattern>;
  readonly alphaPattern: FieldType<SitePattern>;
} {
  return {
    rankPattern: patternField(z.int().min(1), "whole numbers above 0"),
    alphaPattern: patternField(z.number(), "numbers"),
  };
}

/**
 * Refuses keys that are no regular expressions.
 *
 * @throws {ConfigError}
 */
export function checkPatterns(...patterns: readonly SitePattern[]): void {
  for (const key of patterns.flatMap(Object.keys)) pythonRegExp(key);
}

/** The value of the first key that is the path or its end, or as an expression matches the end. */
export function patternValue(patterns: SitePattern, path: string): number | undefined {
  return Object.entries(patterns)
    .find(([key]) => pythonRegExp(`(.*\\.)?(${key})`).test(path))?.[1];
}
