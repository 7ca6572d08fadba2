/**
 * Reading the fields of a `config.json`, with an error for each that is missing or of another type.
 *
 * @module
 */
import { ConfigError, UnsupportedError } from "../errors.ts";
import type { ModelConfig } from "../model/architecture.ts";
import {
  BOOLEAN,
  FINITE,
  numberIn,
  oneOf,
  type OptionRule,
  rule,
  show,
  wholeFrom,
} from "../options.ts";

/** What a norm adds to a variance. */
export const EPSILON: OptionRule = numberIn(0, 1);

const LIST: OptionRule = rule("a list", Array.isArray);

/** What is a part of something, such as a rate of dropout. */
export const RATE: OptionRule = numberIn(0, 1);

/**
 * Reads fields. One that is absent or null has its default, and is an error where there is none.
 */
export interface ConfigReader {
  /** A whole number above 0, and not above `most`. */
  size(name: string, otherwise?: number, most?: number): number;
  /** A finite number, in a range where one is given. */
  number(name: string, otherwise?: number, rule?: OptionRule): number;
  /** A share from 0 to 1. */
  rate(name: string, otherwise?: number): number;
  /** A whole number above 0 or, where it is absent, null. */
  optionalSize(name: string): number | null;
  /** `true` or `false`. */
  boolean(name: string, otherwise: boolean): boolean;
  /** A list; `null` where there is none. */
  list(name: string): readonly unknown[] | null;
  /** Throws `UnsupportedError` where a field, else the contrary, is this; `why` is what it means. */
  refuse(name: string, value: boolean, why: string): void;
  /** What a name of a table stands for. */
  choice<T>(name: string, otherwise: string, table: Readonly<Record<string, T>>): T;
}

/** A reader of a config. Its methods throw `ConfigError` with the code `MODEL_CONFIG`. */
export function configReader(config: ModelConfig): ConfigReader {
  const read = <T>(
    name: string,
    otherwise: T | undefined,
    is: OptionRule,
  ): T => {
    const value = config[name] ?? otherwise;
    if (value !== undefined && is.holds(value)) return value as T;
    throw new ConfigError(
      "MODEL_CONFIG",
      `The config of a ${config.model_type} model needs ${is.must} for ${
        JSON.stringify(name)
      }; found ${
        config[name] != null
          ? show(config[name])
          : otherwise === undefined
          ? "no such field"
          : `no such field, and ${otherwise} from the others`
      }.`,
      { name, value: config[name] },
    );
  };
  const size = wholeFrom(1);
  const number = (name: string, otherwise?: number, is = FINITE) =>
    read(
      name,
      otherwise,
      rule(
        `${is.must} within single precision`,
        (x) => is.holds(x) && Number.isFinite(Math.fround(x as number)),
      ),
    );
  return {
    size: (name, otherwise, most = Infinity) =>
      read(
        name,
        otherwise,
        most === Infinity ? size : rule(
          `a whole number from 1 to ${most}`,
          (x) => size.holds(x) && x as number <= most,
        ),
      ),
    optionalSize: (name) => config[name] == null ? null : read<number>(name, undefined, size),
    number,
    rate: (name, otherwise = 0) => number(name, otherwise, RATE),
    boolean: (name, otherwise) => read(name, otherwise, BOOLEAN),
    refuse(name, value, why) {
      if (read(name, !value, BOOLEAN) !== value) return;
      throw new UnsupportedError(
        "MODEL_CONFIG_FIELD",
        `A ${config.model_type} model with ${name} ${value} ${why}, which is not supported.`,
        { name, value },
      );
    },
    list: (name) => config[name] == null ? null : read<unknown[]>(name, undefined, LIST),
    choice: (name, otherwise, table) => table[read(name, otherwise, oneOf(Object.keys(table)))],
  };
}

/** Features of a head: those of the hidden state, shared among the heads. */
export function headSizeOf(
  config: ModelConfig,
  of: { readonly hidden: number; readonly heads: number; readonly keyHeads?: number },
): number {
  const { hidden, heads, keyHeads = heads } = of;
  if (hidden % heads === 0 && heads % keyHeads === 0) return hidden / heads;
  throw new ConfigError(
    "MODEL_CONFIG",
    `The config of a ${config.model_type} model has a hidden size of ${hidden} for ${heads} heads${
      keyHeads === heads ? "" : ` and ${keyHeads} of keys and values`
    }: each must be a multiple of the next.`,
    { hidden, heads, keyHeads },
  );
}

/** The fields of an object inside a config; none of what is no object. */
export function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? value as Record<string, unknown> : {};
}
