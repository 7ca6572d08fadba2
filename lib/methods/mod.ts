/**
 * The registry of PEFT methods, as a value.
 *
 * @module
 */
import { nearestHint, UnsupportedError, ValueError } from "../errors.ts";
import { checkValue, isIterable, type OptionRule, rule, show, showName } from "../options.ts";
import * as all from "./all.ts";
import type { PeftConfig } from "./config.ts";
import type { PeftMethod } from "./method.ts";

/** Methods by `peft_type`. A registry never changes; registering gives another one. */
export type MethodRegistry = ReadonlyMap<string, PeftMethod>;

/** Options of what looks methods up. */
export interface RegistryOptions {
  /** Methods that are known; the library's own by default. */
  readonly registry?: MethodRegistry;
}

/** A registry, as the value of an option. */
export const REGISTRY: OptionRule = rule(
  "a registry of methods (registerPeftMethod)",
  (x) => x instanceof Map && [...x.values()].every((method) => method?.config),
);

/**
 * A registry with one more method: the same call for the library's own methods and for those from
 * outside.
 *
 * @param registry The registry, which stays as it is.
 * @param method The method.
 * @throws {ValueError} for a name that ends in `_`, is not in lower case or is taken; for a prefix
 * that is taken; and where name and `peft_type` disagree. The messages are
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
  method: PeftMethod<C>,
): MethodRegistry {
  checkValue(registry, REGISTRY, { code: "REGISTRY", of: "registry" });
  const given = (method ?? {}) as PeftMethod<C>;
  const { name, config, leaves } = given, prefix = prefixOf(given);
  const refuse = (code: string, message: string) => new ValueError(code, message, { name, prefix });
  if (typeof name !== "string" || !config || !leaves) {
    throw refuse(
      "METHOD_ENTRY",
      `A method has a name, a config and leaves ({ name, config, leaves, … }); found ${
        show(name)
      } as the name, ${show(config)} as the config and ${show(leaves)} as the leaves.`,
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
  const taken = [...registry].some(([type, other]) =>
    prefixOf(other) === prefix && type !== config.extends && other.config.extends !== peftType
  );
  if (taken) {
    throw refuse(
      "METHOD_DUPLICATE",
      `There is already a prefix called '${prefix}', please choose a unique prefix.`,
    );
  }
  if (config.peftType !== peftType) {
    throw refuse(
      "METHOD_TYPE",
      `A method called '${name}' has the peft_type ${peftType}, but its config says ` +
        `${config.peftType} (they should be the same).`,
    );
  }
  return new Map([...registry, [peftType, method]]);
}

/** What the names of a method's leaves start with. */
export function prefixOf({ name, prefix = `${String(name)}_` }: PeftMethod): string {
  return prefix;
}

/**
 * A registry of these methods.
 *
 * @throws {ValueError} as {@link registerPeftMethod} does.
 *
 * @example
 * ```ts
 * import { createMethodRegistry, defaultMethods } from "@graft/peft";
 * const registry = createMethodRegistry([defaultMethods.get("LORA")!, defaultMethods.get("OFT")!]);
 * console.log([...registry.keys()]); // ["LORA", "OFT"]
 * ```
 */
export function createMethodRegistry(methods: Iterable<PeftMethod>): MethodRegistry {
  checkValue(methods, rule("a list of methods", isIterable), {
    code: "METHOD_ENTRY",
    of: "methods",
  });
  let registry: MethodRegistry = new Map();
  for (const method of methods) registry = registerPeftMethod(registry, method);
  return registry;
}

/** The methods that the library brings. */
export const defaultMethods: MethodRegistry = createMethodRegistry(
  Object.values(all).filter((member) => typeof member === "object"),
);

/**
 * The method of a `peft_type`.
 *
 * @throws {UnsupportedError} where no such method is registered.
 *
 * @example
 * ```ts
 * import { methodOf } from "@graft/peft";
 * console.log(methodOf("POLY").name); // poly
 * ```
 */
export function methodOf(
  peftType: string,
  registry: MethodRegistry = defaultMethods,
): PeftMethod {
  checkValue(registry, REGISTRY, { code: "REGISTRY", of: "registry" });
  const method = registry.get(peftType);
  if (method) return method;
  throw new UnsupportedError(
    "METHOD_UNKNOWN",
    `No PEFT method of the type ${showName(peftType)} is registered${
      nearestHint(peftType, registry.keys(), 1)
    }; registered are ${[...registry.keys()].join(", ") || "none"}.`,
    { peftType },
  );
}
