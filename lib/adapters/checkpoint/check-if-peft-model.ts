/**
 * `checkIfPeftModel`: whether a folder or a repository holds an adapter.
 *
 * @module
 */
import { FileError, UnsupportedError } from "../../errors.ts";
import type { JsonObject } from "../../io/json.ts";
import { defaultMethods, type MethodRegistry } from "../../methods/mod.ts";
import { PeftType } from "../../methods/peft-types.ts";
import { fromPeftJson, knownFields } from "../../methods/peft-json.ts";
import { BOOLEAN, checkOptions, type OptionRules } from "../../options.ts";
import { type LoadPeftConfigOptions, PEFT_CONFIG_OPTIONS } from "./load-peft-config.ts";
import { readAdapterConfig } from "./read-adapter.ts";

/** How to look for an adapter. */
export interface CheckPeftOptions extends LoadPeftConfigOptions {
  /**
   * Whether it is an error where the hub cannot be reached or does not let this caller look, and where
   * the config is damaged or not valid: nothing is known then. False by default, as in PEFT.
   */
  readonly strict?: boolean;
}

const OPTIONS: OptionRules<CheckPeftOptions> = { ...PEFT_CONFIG_OPTIONS, strict: BOOLEAN };

/**
 * Whether a source holds an adapter: a valid `adapter_config.json` that names a method of PEFT's, or a
 * registered one. Only that file is read. Whatever goes wrong means `false`, unless `strict` is set;
 * then only a source without an adapter does.
 *
 * @param source A folder, or the id of a model on the hub.
 * @throws {FileError} with `strict`, where the hub cannot be reached or does not let this caller look,
 * and for an `adapter_config.json` that is no valid JSON.
 * @throws {ConfigError} with `strict`, for a config that is not valid.
 * @throws {ValueError} for an option that cannot be.
 *
 * @example
 * ```ts
 * import { checkIfPeftModel } from "@graft/peft";
 * const folder = await Deno.makeTempDir();
 * console.log(await checkIfPeftModel(folder)); // false
 * await Deno.writeTextFile(`${folder}/adapter_config.json`, `{ "peft_type": "LORA" }`);
 * console.log(await checkIfPeftModel(folder)); // true
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function checkIfPeftModel(
  source: string | URL,
  options: CheckPeftOptions = {},
): Promise<boolean> {
  checkOptions(options, OPTIONS, { code: "LOAD_OPTION", of: "checkIfPeftModel" });
  const { strict = false, registry = defaultMethods, ...place } = options;
  try {
    return isPeftConfig(await readAdapterConfig(source, place), registry);
  } catch (error) {
    if (!strict || (error instanceof FileError && ABSENT.includes(error.code))) return false;
    throw error;
  }
}

/** Whether a config names a method, and holds for it where that is known here. */
function isPeftConfig(json: JsonObject, registry: MethodRegistry): boolean {
  const { peft_type: type } = json;
  if (typeof type !== "string") return false;
  if (!registry.has(type)) return Object.hasOwn(PeftType, type);
  try {
    // A later release may have fields that are not known yet.
    fromPeftJson(knownFields(json, { registry }), { registry });
  } catch (error) {
    if (!(error instanceof UnsupportedError)) throw error; // PEFT can do more
  }
  return true;
}

const ABSENT: readonly string[] = [
  "FILE_NOT_FOUND",
  "HUB_FILE_MISSING",
  "HUB_NOT_FOUND",
  "NOT_A_FOLDER",
];
