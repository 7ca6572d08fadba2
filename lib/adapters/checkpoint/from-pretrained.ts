/**
 * `fromPretrained`: an adapter together with the base that its config names.
 *
 * @module
 */
import { resolve } from "node:path";
import { FileError, ValueError } from "../../errors.ts";
import { HUB_RULES } from "../../io/hub.ts";
import { loadModel, type LoadModelOptions } from "../../io/load-model.ts";
import { exists, locate } from "../../io/locate.ts";
import { checkOptions, type OptionRules } from "../../options.ts";
import { emptyModel } from "../inject.ts";
import { attachAdapter, LOAD_ADAPTER_OPTIONS, type LoadAdapterOptions } from "./load.ts";
import type { PeftModel } from "../peft-model.ts";
import { type AdapterFiles, readAdapter } from "./read-adapter.ts";

/**
 * How to load an adapter and its base. `revision` is the adapter's; that of the base is in the
 * adapter's config.
 */
export interface FromPretrainedOptions extends
  LoadAdapterOptions,
  Pick<
    LoadModelOptions,
    | "device"
    | "threads"
    | "architectures"
    | "taskType"
    | "numLabels"
    | "dequantize"
    | "dtype"
    | "file"
  > {}

type BaseOptions = Omit<FromPretrainedOptions, keyof LoadAdapterOptions>;

/** Options that are the base's; `loadModel` checks them. */
const BASE: OptionRules<BaseOptions> = {
  device: null,
  threads: null,
  architectures: null,
  taskType: null,
  numLabels: null,
  dequantize: null,
  dtype: null,
  file: null,
};

/**
 * Loads an adapter and the base that its config names (`base_model_name_or_path` at `revision`).
 *
 * The name of the base may be a path, which is looked for from the working folder and then from the
 * adapter's folder, or the id of a model on the hub.
 *
 * @param source A folder, or the id of an adapter on the hub.
 * @param options As for `loadModel` and `loadAdapter`.
 * @throws {ValueError} `NO_BASE` where the config names no base.
 * @throws {FileError} `BASE_NOT_FOUND` where it names one that is neither here nor on the hub;
 * otherwise as `loadModel` and `loadAdapter`.
 *
 * @example
 * ```ts ignore
 * import { fromPretrained, generate } from "@graft/peft";
 * const model = await fromPretrained("someone/pirate-lora");
 * using _device = model.base.device;
 * console.log((await generate(model, "Where is the treasure?")).text);
 * ```
 */
export async function fromPretrained(
  source: string | URL,
  options: FromPretrainedOptions = {},
): Promise<PeftModel> {
  checkOptions(options, { ...LOAD_ADAPTER_OPTIONS, ...BASE }, {
    code: "LOAD_OPTION",
    of: "fromPretrained",
  });
  if (typeof source !== "string" && !(source instanceof URL)) {
    throw new ValueError(
      "ADAPTER_SOURCE",
      "fromPretrained needs a folder or an id on the hub. For an adapter in memory, load its base with loadModel and give both to loadAdapter.",
    );
  }
  const files = await readAdapter(source, options);
  const { base: name, revision } = baseNameOf(files);
  const own = Object.entries(options).filter(([option]) => option in BASE || option in HUB_RULES);
  const base = await loadModel(await placeOfBase(name, files), {
    ...Object.fromEntries(own),
    revision,
  });
  try {
    return await attachAdapter(emptyModel(base), files, options);
  } catch (error) {
    if (base.device !== options.device) base.device[Symbol.dispose]();
    throw error;
  }
}

function baseNameOf(
  { config, folder, source }: AdapterFiles,
): { readonly base: string; readonly revision?: string } {
  const { base_model_name_or_path: base, revision } = config;
  if (typeof base === "string" && base !== "") {
    return { base, revision: typeof revision === "string" ? revision : undefined };
  }
  throw new ValueError(
    "NO_BASE",
    `The adapter_config.json of ${source} names no base (base_model_name_or_path is ${
      JSON.stringify(base) ?? "absent"
    }), so it cannot be found from the adapter. Load the base with loadModel, and the adapter onto it with loadAdapter.`,
    { folder },
  );
}

/** What `loadModel` is to load: a path from here, one from the adapter's folder, or an id. */
async function placeOfBase(name: string, { folder, source }: AdapterFiles): Promise<string> {
  if (await exists(name) || /^(https?|file):/.test(name)) return name;
  const beside = resolve(folder, name);
  if (await exists(beside)) return beside;
  try {
    await locate(name);
  } catch (cause) {
    if (!(cause instanceof FileError) || cause.code !== "FILE_NOT_FOUND") throw cause;
    throw new FileError(
      "BASE_NOT_FOUND",
      `The adapter ${source} was made for the base ${JSON.stringify(name)}, which is neither ` +
        `here nor at ${beside}, and is not the id of a model on the hub either. Load the base with ` +
        "loadModel from where it is now, and the adapter onto it with loadAdapter.",
      { base: name, folder },
      { cause },
    );
  }
  return name;
}
