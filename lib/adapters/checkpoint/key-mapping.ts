/**
 * Keys of a checkpoint under other names, for adapters that were made for a model whose modules
 * were called otherwise.
 *
 * @module
 */
import { CheckpointError, ValueError } from "../../errors.ts";
import { pythonSubstitution } from "../../methods/python-regex.ts";
import { show } from "../../options.ts";
import type { Tensor } from "../../tensor/tensor.ts";

/**
 * Regular expressions in Python's syntax, each with what replaces its matches. They are looked for
 * in a key without the prefix `base_model.model.`, and only the first that is found counts.
 */
export type KeyMapping = Readonly<Record<string, string>> | ReadonlyMap<string, string>;

/** A key that a mapping changed. */
export interface RenamedKey {
  /** As the file has it. */
  readonly from: string;
  /** As it was looked for in the model. */
  readonly to: string;
}

/** What PEFT takes off before it looks for a pattern, and puts back after it. */
const PREFIXES = ["base_model.model.", "base_model.", ""];

/**
 * Tensors under mapped keys, in their order.
 *
 * @throws {ValueError} `KEY_MAPPING` for a mapping that is none.
 * @throws {ConfigError} `CONFIG_REGEX` for an expression or a replacement that is not valid.
 * @throws {CheckpointError} `KEY_MAPPING_CLASH` where two keys become the same.
 */
export function mapKeys(tensors: ReadonlyMap<string, Tensor>, mapping: KeyMapping): {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly renamed: readonly RenamedKey[];
} {
  const rules = rulesOf(mapping).map(([pattern, to]) => pythonSubstitution(pattern, to));
  const rename = (key: string) => {
    const prefix = PREFIXES.find((text) => key.startsWith(text))!;
    for (const rule of rules) {
      const { text, count } = rule(key.slice(prefix.length));
      if (count) return prefix + text;
    }
    return key;
  };
  const mapped = new Map<string, Tensor>();
  const sources = new Map<string, string>();
  for (const [from, tensor] of tensors) {
    const to = rename(from);
    if (mapped.has(to)) {
      throw new CheckpointError(
        "KEY_MAPPING_CLASH",
        `keyMapping gives ${JSON.stringify(sources.get(to))} and ${
          JSON.stringify(from)
        } the same key ${JSON.stringify(to)}, so that one of them would be lost. ` +
          "Make its patterns tell them apart, for example with ^ and with groups.",
        { keys: [sources.get(to), from], key: to },
      );
    }
    mapped.set(to, tensor);
    sources.set(to, from);
  }
  return {
    tensors: mapped,
    renamed: [...sources].flatMap(([to, from]) => from === to ? [] : [{ from, to }]),
  };
}

function rulesOf(mapping: KeyMapping): readonly (readonly [string, string])[] {
  const plain = typeof mapping === "object" && mapping !== null && !Array.isArray(mapping);
  const rules = mapping instanceof Map ? [...mapping] : plain ? Object.entries(mapping) : undefined;
  const wrong = rules?.find((rule) => rule.some((text) => typeof text !== "string"));
  if (rules && !wrong) return rules;
  throw new ValueError(
    "KEY_MAPPING",
    "keyMapping must be an object or a Map of regular expressions with what replaces their matches, " +
      `all of them strings; found ${
        wrong ? `${show(wrong[1])} for ${show(wrong[0])}` : show(mapping)
      }.`,
  );
}
