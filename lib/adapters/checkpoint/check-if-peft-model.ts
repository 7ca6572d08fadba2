/**
 * `checkIfPeftModel`: whether a folder or a repository holds an adapter.
 *
 * @module
 */
import { FileError } from "../../errors.ts";
import { defaultMethods } from "../../methods/mod.ts";
import { PeftType } from "../../methods/peft-types.ts";
import { checkOptions } from "../../options.ts";
import { type LoadPeftConfigOptions, PEFT_CONFIG_OPTIONS } from "./load-peft-config.ts";
import { readAdapterConfig } from "./read-adapter.ts";

/** How to look for an adapter. */
export type CheckPeftOptions = LoadPeftConfigOptions;

/**
 * Whether a source holds an adapter: an `adapter_config.json` that names a method of PEFT's, or a
 * registered one. Only that file is read. A source that does not exist holds none.
 *
 * PEFT answers `false` where the hub cannot be reached or the file is damaged, too; here nothing is
 * known then, so these are errors.
 *
 * @param source A folder, or the id of a model on the hub.
 * @throws {FileError} where the hub cannot be reached or does not let this caller look, and for an
 * `adapter_config.json` that is no valid JSON.
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
  checkOptions(options, PEFT_CONFIG_OPTIONS, { code: "LOAD_OPTION", of: "checkIfPeftModel" });
  const { registry = defaultMethods } = options;
  try {
    const { peft_type: type } = await readAdapterConfig(source, options);
    return typeof type === "string" && (Object.hasOwn(PeftType, type) || registry.has(type));
  } catch (error) {
    if (error instanceof FileError && ABSENT.includes(error.code)) return false;
    throw error;
  }
}

const ABSENT: readonly string[] = [
  "FILE_NOT_FOUND",
  "HUB_FILE_MISSING",
  "HUB_NOT_FOUND",
  "NOT_A_FOLDER",
];
