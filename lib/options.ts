/**
 * Checks of options as callers from plain JavaScript give them: a name that is not known or a value
 * of another type is an error, not a setting that silently does nothing.
 *
 * @module
 */
import { nearestHint, ValueError } from "./errors.ts";

/** What the value of one option must be. */
export interface OptionRule {
  /** The rule in the words of messages: "a whole number above 0". */
  readonly must: string;
  /** Whether a value follows it. */
  readonly holds: (value: unknown) => boolean;
  /** TypeScript type of values, for tools. */
  readonly type?: string;
  /** What the option is, for tools; the doc comment of its field says the same. */
  readonly doc?: string;
}

/**
 * A rule for every option of a function, by name; `null` where the type of the value says nothing
 * or another place checks it.
 */
export type OptionRules<T> = { readonly [K in keyof Required<T>]: OptionRule | null };

/** A rule from its words and its check. */
export function rule(must: string, holds: OptionRule["holds"], type?: string): OptionRule {
  return { must, holds, type };
}

function number(must: string, holds: (value: number) => boolean): OptionRule {
  return rule(must, (x) => Number.isFinite(x) && holds(x as number), "number");
}

/** `true` or `false`. */
export const BOOLEAN: OptionRule = rule(
  "true or false",
  (x) => typeof x === "boolean",
  "boolean",
);

/** A function. */
export const FUNCTION: OptionRule = rule("a function", (x) => typeof x === "function");

/** A string that is not empty. */
export const TEXT: OptionRule = rule(
  "a string that is not empty",
  (x) => typeof x === "string" && x !== "",
);

/** Names of adapters. */
export const NAMES: OptionRule = rule("a list of adapters' names", Array.isArray);

/** A signal of an `AbortController`. */
export const SIGNAL: OptionRule = rule(
  "an AbortSignal",
  (x) => x instanceof AbortSignal,
  "AbortSignal",
);

/** A finite number. */
export const FINITE: OptionRule = number("a finite number", () => true);

/** A number above 0. */
export const POSITIVE: OptionRule = number("a number above 0", (x) => x > 0);

/** A number from 0 on. */
export const NOT_NEGATIVE: OptionRule = number("a number from 0 on", (x) => x >= 0);

/** A number from 0 up to, but not including, 1. */
export const BELOW_ONE: OptionRule = number("a number from 0 below 1", (x) => x >= 0 && x < 1);

/** A whole number of any sign. */
export const WHOLE: OptionRule = number("a whole number", Number.isSafeInteger);

/** Batches, one after the other. */
export const BATCHES: OptionRule = rule(
  "a list or another iterable of batches such as { inputIds }",
  isIterable,
);

/** A number from `minimum` to `maximum`. */
export function numberIn(minimum: number, maximum: number): OptionRule {
  return number(`a number from ${minimum} to ${maximum}`, (x) => x >= minimum && x <= maximum);
}

/** A whole number from `minimum` on. */
export function wholeFrom(minimum: number): OptionRule {
  return number(
    `a whole number ${minimum === 1 ? "above 0" : `from ${minimum} on`}`,
    (x) => Number.isSafeInteger(x) && x >= minimum,
  );
}

/** A rule with what tools show of the option; without a rule another place checks the value. */
export function documented(rule: OptionRule | null, doc: string, type = rule?.type): OptionRule {
  return { must: "what it says", holds: () => true, ...rule, doc, type };
}

/** One of these strings. */
export function oneOf(names: readonly string[]): OptionRule {
  return rule(`one of ${names.join(", ")}`, (x) => names.includes(x as string));
}

/** Whether a value can be gone through, perhaps asynchronously. */
export function isIterable(x: unknown): boolean {
  return typeof x === "object" && x !== null &&
    (Symbol.iterator in x || Symbol.asyncIterator in x);
}

/**
 * Checks options. Those that are `undefined` count as not given.
 *
 * @param options What the caller gave.
 * @param rules What there is.
 * @param about The code of the errors and the name of the function.
 * @throws {ValueError} that names the option, what it must be and what was found.
 */
export function checkOptions<T>(
  options: T,
  rules: OptionRules<NoInfer<T>>,
  about: { readonly code: string; readonly of: string },
): void {
  const { code, of } = about;
  if (typeof options !== "object" || options === null) {
    throw new ValueError(code, `${of} needs an object of options; found ${show(options)}.`);
  }
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (!Object.hasOwn(rules, name)) {
      const known = Object.keys(rules), near = nearestHint(camelCase(name), known);
      throw new ValueError(
        code,
        `${of} has no option ${JSON.stringify(name)}${near}; its options are ${
          known.join(", ") || "none"
        }.`,
        { name, known },
      );
    }
    const rule = rules[name as keyof T];
    if (rule) checkValue(value, rule, { code, of: name });
  }
}

/**
 * Checks one value.
 *
 * @throws {ValueError} that says what it must be and what was found.
 */
export function checkValue(
  value: unknown,
  { must, holds }: OptionRule,
  { code, of }: { readonly code: string; readonly of: string },
): void {
  if (holds(value)) return;
  throw new ValueError(code, `${of} must be ${must}; found ${show(value)}.`, { name: of, value });
}

/** A name as messages show it: quoted, or as what it is where it is no string. */
export function showName(name: unknown): string {
  return typeof name === "string" ? JSON.stringify(name) : show(name);
}

/** A value as messages show it, with its type where that is what is wrong. */
export function show(value: unknown): string {
  if (typeof value === "string") {
    return `the string ${JSON.stringify(value.length > 80 ? `${value.slice(0, 77)}…` : value)}`;
  }
  if (typeof value === "bigint") return `the bigint ${value}`;
  if (typeof value === "function") return "a function";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return String(value);
}

/** Python's spelling of an option leads to the one that is used here. */
function camelCase(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
}
