/**
 * Calibrations in files, and from adapters as they began.
 *
 * @module
 */
import { CheckpointError, FileError, ValueError } from "../../errors.ts";
import { writeFilesAtomic } from "../../io/atomic-files.ts";
import { pathOf } from "../../io/atomic.ts";
import { openSafetensors, writeSafetensors } from "../../io/safetensors.ts";
import { exists } from "../../io/locate.ts";
import type { Calibration } from "../../methods/calibration.ts";
import { CORDA_PARTS } from "../../methods/lora/corda.ts";
import { GRADIENT } from "../../methods/lora/lora-ga.ts";
import { type LoraConfig, loraShape } from "../../methods/lora/lora-config.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { onHost, type Tensor, tensor } from "../../tensor/tensor.ts";
import { transposed } from "../parts.ts";
import { type AnyModel, pristineBase } from "../peft-model.ts";
import { initialParts, type InitialState } from "./plain-lora.ts";
import { configOf } from "../checkpoint/read-adapter.ts";

/** Names of parts by the ends of their keys, for each initialization: those of PEFT's caches. */
const KEYS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  corda: Object.fromEntries(CORDA_PARTS.map((part) => [`eigens.${part}`, part])),
  lora_ga: { _peft_loraga_grad: GRADIENT },
  initial: Object.fromEntries(CORDA_PARTS.map((part) => [`initial.${part}`, part])),
};

/**
 * Writes a calibration to a safetensors file, under the keys that PEFT's caches have
 * (`<module>.eigens.S_WC`, `<module>._peft_loraga_grad`).
 *
 * @param calibration What `preprocessCorda`, `preprocessLoraga` or {@link initialCalibration} gave.
 * @param path The file; folders are made as needed, and what was there is replaced.
 * @throws {FileError} where it cannot be written.
 *
 * @example
 * ```ts
 * import { loadCalibration, loraConfig, tinyModel } from "@graft/peft";
 * import { preprocessCorda, saveCalibration } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 4, initLoraWeights: "corda" });
 * const batches = [{ inputIds: [[1, 2, 3, 4, 5]] }];
 * const file = await Deno.makeTempFile({ suffix: ".safetensors" });
 * await saveCalibration(await preprocessCorda(base, config, { batches }), file);
 * console.log((await loadCalibration(file)).sites.size); // 4
 * await Deno.remove(file);
 * ```
 */
export async function saveCalibration(
  calibration: Calibration,
  path: string | URL,
): Promise<void> {
  const tensors = new Map<string, Tensor>();
  for (const [module, parts] of calibration.sites) {
    for (const [end, part] of Object.entries(KEYS[calibration.init] ?? {})) {
      tensors.set(`${module}.${end}`, parts[part]);
    }
  }
  await writeTensors(path, tensors);
}

/** Writes tensors to a file of their own. */
export async function writeTensors(
  path: string | URL,
  tensors: ReadonlyMap<string, Tensor>,
): Promise<void> {
  await writeFilesAtomic([{
    path: pathOf(path),
    write: (staged) => writeSafetensors(staged, tensors, { metadata: { format: "pt" } }),
  }]);
}

/**
 * Reads a calibration from its file.
 *
 * @param path What {@link saveCalibration}, or measuring with a `cacheFile`, wrote.
 * @throws {FileError} where it is missing, is no safetensors file or holds something else.
 *
 * @example
 * ```ts ignore
 * import { loadAdapter, loadCalibration } from "@graft/peft";
 * const calibration = await loadCalibration("corda.safetensors");
 * const model = await loadAdapter(base, "trained/", { calibration });
 * ```
 */
export async function loadCalibration(path: string | URL): Promise<Calibration> {
  const sites = new Map<string, Record<string, Tensor>>();
  const tensors = await readTensors(path), [first = ""] = tensors.keys();
  const known = Object.entries(KEYS).map(([init, ends]) => ({ init, ends: Object.entries(ends) }));
  const { init, ends } =
    known.find(({ ends }) => ends.some(([end]) => first.endsWith(`.${end}`))) ??
      { init: "corda", ends: [] };
  for (const [key, value] of tensors) {
    const [end, part] = ends.find(([end]) => key.endsWith(`.${end}`)) ?? [];
    if (!end) {
      throw new FileError(
        "CALIBRATION_FILE",
        `${path} is no calibration: it holds ${key}, where keys are <module>.${
          known.flatMap(({ ends }) => ends.map(([end]) => end)).join(", <module>.")
        }, of one initialization.`,
        { path: String(path), key },
      );
    }
    const module = key.slice(0, -end.length - 1);
    sites.set(module, { ...sites.get(module), [part!]: value });
  }
  return { init, sites };
}

/** As in PEFT, a file that exists and is empty counts as none. */
export async function isFilled(path: string): Promise<boolean> {
  return await exists(path) && (await Deno.stat(path)).size > 0;
}

/** What does not fit was read from a file, which is to be told. */
export function checkFile(path: string, check: () => void): void {
  try {
    check();
  } catch (cause) {
    if (!(cause instanceof ValueError)) throw cause;
    throw new CheckpointError(
      "CALIBRATION_FILE",
      `${path} was made for another model or another config. ${cause.message} Remove the file to have it made again.`,
      { ...cause.details, file: path },
      { cause },
    );
  }
}

/** Tensors of a file, read at once, so that the file may change afterwards. */
export async function readTensors(path: string | URL): Promise<ReadonlyMap<string, Tensor>> {
  try {
    const { tensors } = await openSafetensors(path);
    return new Map(
      await Promise.all([...tensors].map(async ([key, t]) => [key, await onHost(t)] as const)),
    );
  } catch (cause) {
    if (!(cause instanceof FileError) || !await isPickle(path)) throw cause;
    throw new FileError(
      "CALIBRATION_PICKLE",
      `${path} is a Python pickle, as PEFT writes it with torch.save, which is not read here because it can run code. ` +
        "In Python, safetensors.torch.save_file(torch.load(path), other) makes one of it that is.",
      { path: String(path) },
      { cause },
    );
  }
}

/** Whether a file is what torch.save writes: a zip archive. */
async function isPickle(path: string | URL): Promise<boolean> {
  try {
    using file = await Deno.open(path);
    const start = new Uint8Array(2);
    return await file.read(start) === 2 && start[0] === 0x50 && start[1] === 0x4b;
  } catch {
    return false;
  }
}

/** Which of the adapters of a model {@link initialCalibration} takes. */
export interface InitialCalibrationOptions {
  /** Its name, where the state is that of a model with adapters; `"default"` by default. */
  readonly adapterName?: string;
}

/**
 * The calibration of a CorDA or LoRA-GA adapter, from the adapter as it was saved before training:
 * what `loadAdapter` needs where the calibration itself was not kept. PEFT has such an adapter saved with
 * `init_lora_weights` set to `True`, for `path_initial_model_for_weight_conversion`.
 *
 * @param model The base, or a model on it.
 * @param initial The adapter as it began: a folder, an id on the hub, its parts, or a model with it.
 * @throws {CheckpointError} where it adapts modules that the model lacks.
 * @throws {ValueError} where it is no LoRA.
 * @throws {FileError} where its files are missing or damaged.
 *
 * @example
 * ```ts
 * import { getPeftModel, initialCalibration, loadAdapter, tinyModel } from "@graft/peft";
 * import { loraConfig, preprocessCorda, savePretrained } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 4, initLoraWeights: "corda", taskType: "CAUSAL_LM" });
 * const batches = [{ inputIds: [[1, 2, 3, 4, 5]] }];
 * const calibration = await preprocessCorda(base, config, { batches });
 * const start = await Deno.makeTempDir();
 * await savePretrained(getPeftModel(base, config, { calibration }), start);
 * const again = await initialCalibration(base, start);
 * console.log((await loadAdapter(base, start, { calibration: again })).active); // ["default"]
 * await Deno.remove(start, { recursive: true });
 * ```
 */
export async function initialCalibration(
  model: AnyModel,
  initial: Exclude<InitialState, true>,
  options: InitialCalibrationOptions = {},
): Promise<Calibration> {
  const base = pristineBase(model);
  const parts = await initialParts(initial, options.adapterName ?? "default");
  const { tensors } = parts, config = configOf(parts);
  if (config.peftType !== "LORA") {
    throw new ValueError(
      "CALIBRATION_INITIAL",
      `A CorDA or LoRA-GA adapter is of the method LORA; the one that was given is of the method ${config.peftType}.`,
      { peftType: config.peftType },
    );
  }
  const sites = new Map<string, Record<string, Tensor>>();
  for (const [key, a] of tensors) {
    const [, path] = /^base_model\.model\.(.*)\.lora_A\.weight$/.exec(key) ?? [];
    if (path === undefined) continue;
    const b = tensors.get(`base_model.model.${path}.lora_B.weight`);
    const site = base.sites.get(path);
    if (!site || !b) throw misfit(base, path, site ? "its B is missing" : "the model has none");
    const { scale } = loraShape(config as LoraConfig, site);
    // What was taken over is B · scale · A, whatever its singular values are.
    const r = a.shape[0];
    sites.set(path, {
      S_WC: tensor(new Float32Array(r).fill(scale), { shape: [r] }),
      U_WC: b,
      V_WC: transposed(a),
    });
  }
  return { init: "initial", sites };
}

function misfit(base: ModelGraph, path: string, why: string): CheckpointError {
  return new CheckpointError(
    "CALIBRATION_INITIAL",
    `The initial adapter has ${path}, and ${why}: it was made for another model than ${
      JSON.stringify(base.source)
    } (${base.architecture.name}), or is damaged.`,
    { path },
  );
}
