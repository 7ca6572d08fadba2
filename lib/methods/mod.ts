/**
 * The registry of PEFT methods, as a value. Another method is a file in this folder and a line
 * here.
 *
 * @module
 */
import { nearestNames, UnsupportedError, ValueError } from "../errors.ts";
import { isIterable, type OptionRule, show, showName } from "../options.ts";
import type { ConfigSchema, PeftConfig } from "./config.ts";
import { ia3 } from "./ia3.ts";
import { ia3Schema } from "./ia3-config.ts";
import { lora } from "./lora/lora.ts";
import { loraSchema } from "./lora/lora-config.ts";
import type { PeftMethod } from "./method.ts";
import { prefixTuning } from "./prefix-tuning.ts";
import { prefixTuningSchema } from "./prefix-tuning-config.ts";
import { vera } from "./vera.ts";
import { veraSchema } from "./vera-config.ts";

/** What is registered of one method. */
// deno-lint-ignore no-explicit-any -- a registry holds methods of different configs
export interface PeftMethodEntry<C extends PeftConfig = any> {
  /** Its name in lower case, such as `lora`; in upper case it is the `peft_type`. */
  readonly name: string;
  /** The fields of its config. */
  readonly config: ConfigSchema<C>;
  /** What it does. */
  readonly method: PeftMethod<C>;
  /** What the keys of its leaves start with; by default the name and `_`. */
  readonly prefix?: string;
  /** Whether it can be active at one time with adapters of other methods on one model. */
  readonly isMixedCompatible?: boolean;
}

/** Methods by `peft_type`. A registry never changes; registering gives another one. */
export type MethodRegistry = ReadonlyMap<string, Required<PeftMethodEntry>>;

/** A registry, as the value of an option. */
export const REGISTRY: OptionRule = {
  must: "a registry of methods (registerPeftMethod)",
  holds: (x) => x instanceof Map && [...x.values()].every((entry) => entry?.method),
};

/** Refuses what is no registry. */
function checkRegistry(registry: MethodRegistry): void {
  if (REGISTRY.holds(registry)) return;
  throw new ValueError(
    "REGISTRY",
    `The registry must be ${REGISTRY.must}; found ${show(registry)}.`,
  );
}

/**
 * A registry with one more method: the same call for the library's own methods and for those from
 * outside.
 *
 * @param registry The registry, which stays as it is.
 * @param entry The method, its config and its name.
 * @throws {ValueError} for a name that ends in `_`, is not in lower case or is taken; for a prefix
 * that is taken; and where name, prefix and `peft_type` of the parts disagree. The messages are
 * PEFT's, which throws a `KeyError` for what is taken and also refuses names that its enum lacks.
 *
 * @example
 * ```ts
 * import { defaultMethods, registerPeftMethod } from "@graft/peft";
 * const lora = defaultMethods.get("LORA")!;
 * try {
 *   registerPeftMethod(defaultMethods, { ...lora, name: "LoRA" });
 * } catch (error) {
 *   console.log((error as Error).message);
 *   // The name of the PEFT method should be in lower case letters, got LoRA.
 * }
 * ```
 */
export function registerPeftMethod<C extends PeftConfig>(
  registry: MethodRegistry,
  entry: PeftMethodEntry<C>,
): MethodRegistry {
  checkRegistry(registry);
  const given = (entry ?? {}) as PeftMethodEntry<C>;
  const { name, config, method, prefix = `${String(name)}_`, isMixedCompatible = false } = given;
  const refuse = (code: string, message: string) => new ValueError(code, message, { name, prefix });
  if (typeof name !== "string" || !config || !method) {
    throw refuse(
      "METHOD_ENTRY",
      `A method is registered with its name, its config and what it does ({ name, config, method }); found ${
        show(name)
      } as the name, ${show(config)} as the config and ${show(method)} as the method.`,
    );
  }
  if (name.endsWith("_")) {
    throw refuse(
      "METHOD_NAME",
      `Please pass the name of the PEFT method without '_' suffix, got ${name}.`,
    );
  }
  // Python's islower(): at least one letter, and none that is not small.
  if (!/\p{Lowercase}/u.test(name) || /[\p{Uppercase}\p{Lt}]/u.test(name)) {
    throw refuse(
      "METHOD_NAME",
      `The name of the PEFT method should be in lower case letters, got ${name}.`,
    );
  }
  const peftType = name.toUpperCase();
  if (registry.has(peftType)) {
    throw refuse(
      "METHOD_DUPLICATE",
      `There is already PEFT method called '${name}', please choose a unique name.`,
    );
  }
  if ([...registry.values()].some((other) => other.prefix === prefix)) {
    throw refuse(
      "METHOD_DUPLICATE",
      `There is already a prefix called '${prefix}', please choose a unique prefix.`,
    );
  }
  if (method.prefix !== prefix) {
    throw refuse(
      "METHOD_PREFIX",
      `Inconsistent prefixes found: '${prefix}' and '${method.prefix}' (they should be the same).`,
    );
  }
  if (method.peftType !== peftType || config.peftType !== peftType) {
    throw refuse(
      "METHOD_TYPE",
      `A method called '${name}' has the peft_type ${peftType}, but its method says ` +
        `${method.peftType} and its config ${config.peftType} (they should be the same).`,
    );
  }
  return new Map([...registry, [peftType, { name, config, method, prefix, isMixedCompatible }]]);
}

/**
 * A registry of these methods.
 *
 * @throws {ValueError} as {@link registerPeftMethod} does.
 */
export function createMethodRegistry(entries: Iterable<PeftMethodEntry>): MethodRegistry {
  if (!isIterable(entries)) {
    throw new ValueError("METHOD_ENTRY", `A list of methods is needed; found ${show(entries)}.`);
  }
  let registry: MethodRegistry = new Map();
  for (const entry of entries) registry = registerPeftMethod(registry, entry);
  return registry;
}

/** The methods that the library brings. */
export const defaultMethods: MethodRegistry = createMethodRegistry([
  { name: "lora", config: loraSchema, method: lora, isMixedCompatible: true },
  { name: "ia3", config: ia3Schema, method: ia3, isMixedCompatible: true },
  { name: "vera", config: veraSchema, method: vera, prefix: "vera_lambda_" },
  { name: "prefix_tuning", config: prefixTuningSchema, method: prefixTuning },
]);

/**
 * What is registered under a `peft_type`.
 *
 * @throws {UnsupportedError} where no such method is registered.
 */
export function methodEntryOf(
  peftType: string,
  registry: MethodRegistry = defaultMethods,
): Required<PeftMethodEntry> {
  checkRegistry(registry);
  const entry = registry.get(peftType);
  if (!entry) {
    const near = typeof peftType === "string" ? nearestNames(peftType, registry.keys(), 1) : [];
    throw new UnsupportedError(
      "METHOD_UNKNOWN",
      `No PEFT method of the type ${showName(peftType)} is registered${
        near.length ? ` (nearest: ${near[0]})` : ""
      }; registered are ${[...registry.keys()].join(", ") || "none"}.`,
      { peftType },
    );
  }
  return entry;
}

/**
 * The method of a `peft_type`.
 *
 * @throws {UnsupportedError} where no such method is registered.
 */
export function methodOf(
  peftType: string,
  registry: MethodRegistry = defaultMethods,
): PeftMethod {
  return methodEntryOf(peftType, registry).method;
}
