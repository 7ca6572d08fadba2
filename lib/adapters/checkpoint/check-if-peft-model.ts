/**
 * `checkIfPeftModel`: whether a folder or a repository holds an adapter.
 *
 * @module
 */
import { join } from "node:path";
import { FileError } from "../../errors.ts";
import { downloadFromHub } from "../../io/hub.ts";
import { readJsonFile } from "../../io/json.ts";
import { exists, locate } from "../../io/locate.ts";
import { defaultMethods, type MethodRegistry } from "../../methods/mod.ts";
import { PeftType } from "../../methods/peft-types.ts";
import { checkOptions } from "../../options.ts";
import { PEFT_CONFIG_OPTIONS } from "./load-peft-config.ts";
import { ADAPTER_FILES, type AdapterSource } from "./read-adapter.ts";

/** How to look for an adapter. */
export interface CheckPeftOptions extends AdapterSource {
  /** Methods that count beside PEFT's; the library's own by default. */
  readonly registry?: MethodRegistry;
}

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
  const path = await findConfig(source, options);
  if (path === undefined) return false;
  const { peft_type: type } = await readJsonFile(path);
  return typeof type === "string" && (Object.hasOwn(PeftType, type) || registry.has(type));
}

/** The path of an adapter's config; `undefined` where there is none. */
async function findConfig(
  source: string | URL,
  options: AdapterSource,
): Promise<string | undefined> {
  const name = join(options.subfolder ?? "", ADAPTER_FILES.config);
  try {
    const place = await locate(source);
    if (place.kind === "hub") {
      const wanted = { ...options, files: [name.replaceAll("\\", "/")], optionalFiles: [] };
      return join((await downloadFromHub(place.id, wanted)).folder, name);
    }
    const path = place.kind === "folder" ? join(place.path, name) : undefined;
    return path !== undefined && await exists(path) ? path : undefined;
  } catch (error) {
    const absent = ["FILE_NOT_FOUND", "HUB_NOT_FOUND", "HUB_FILE_MISSING"];
    if (error instanceof FileError && absent.includes(error.code)) return undefined;
    throw error;
  }
}
