/**
 * Fields that name modules, of several configs at once.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { CombinePart } from "./combine.ts";
import type { PeftConfig } from "./config.ts";

/**
 * What a field of several configs names together: a list of all entries, or one regular expression
 * for all of them.
 *
 * @param parts The configs and whose they are.
 * @param field A field that holds a list of names, or a regular expression.
 * @throws {ValueError} `COMBINE_TARGETS` where some hold a list and others an expression.
 */
export function unionOfPatterns<C extends PeftConfig>(
  parts: readonly CombinePart<C>[],
  field: keyof C & string,
): readonly string[] | string {
  const values = parts.map(({ config }) => config[field] as readonly string[] | string | null);
  const expressions = values.filter((value) => typeof value === "string");
  if (expressions.length === 0) return [...new Set(values.flatMap((value) => value ?? []))];
  if (expressions.length < values.length) {
    throw new ValueError(
      "COMBINE_TARGETS",
      `All adapters must give ${field} in the same way, as a list or as a regular expression; ${
        parts.map(({ adapter }, i) =>
          `${JSON.stringify(adapter)} has ${
            typeof values[i] === "string" ? JSON.stringify(values[i]) : "a list"
          }`
        ).join(", ")
      }.`,
      { field, adapters: parts.map(({ adapter }) => adapter) },
    );
  }
  return expressions.map((pattern) => `(${pattern})`).join("|");
}
