/**
 * How many numbers a file of an adapter holds.
 *
 * @module
 */
import { checkOptions, FUNCTION } from "../../options.ts";
import { byteLength, sizeOf } from "../../tensor/dtype.ts";
import { leavesOf } from "../parts.ts";
import type { PeftModel } from "../peft-model.ts";
import { adapterOf } from "../select.ts";

/** Numbers that saving an adapter stores, whole numbers as the 32-bit floats that would fill their bytes. */
export interface SavableCounts {
  /** The method's own leaves. */
  readonly adapter: number;
  /** What is trained of the base along with them: saved modules, biases, token rows. */
  readonly other: number;
}

/**
 * Counts what {@link savePretrained} stores of an adapter, which can be much less than what it trains
 * (`saveOnlyTopkWeights`), or more.
 *
 * @param model A model with adapters.
 * @param adapterName Which one.
 * @throws {ValueError} where there is none of this name.
 *
 * @example
 * ```ts
 * import { getNbSavableParameters, getPeftModel, tinyModel, vbLoraConfig } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = vbLoraConfig({ numVectors: 64, vectorLength: 8, saveOnlyTopkWeights: true });
 * console.log(getNbSavableParameters(getPeftModel(base, config))); // { adapter: 664, other: 0 }
 * ```
 */
export function getNbSavableParameters(
  model: PeftModel,
  adapterName = "default",
): SavableCounts {
  let adapter = 0, other = 0;
  for (const { part: { place }, leaf } of leavesOf(adapterOf(model, adapterName))) {
    const { key, kind, shape, whole } = leaf;
    const own = place.kind === "site" || place.kind === "adapter";
    if (key === null || (!own && kind !== "trained")) continue;
    const size = whole ? byteLength(whole.stored, shape) / 4 : sizeOf(shape);
    if (own) adapter += size;
    else other += size;
  }
  return { adapter: Math.floor(adapter), other };
}

/**
 * Prints {@link getNbSavableParameters} in PEFT's words, with the `peft_type` for the method's name:
 * `VBLORA params to-be-saved (float32-equivalent): 664 || total params to-be-saved: 664`.
 *
 * @param model A model with adapters.
 * @param options The adapter's name (`"default"`), and with `write`, who gets the line; `console.log`
 * by default.
 * @returns The line.
 * @throws {ValueError} where there is no adapter of this name.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, printSavableParameters, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * printSavableParameters(getPeftModel(base, loraConfig({ r: 4, targetModules: ["q_proj"] })));
 * // LORA params to-be-saved (float32-equivalent): 512 || total params to-be-saved: 512
 * ```
 */
export function printSavableParameters(
  model: PeftModel,
  options: {
    readonly adapterName?: string;
    readonly write?: (line: string) => void;
  } = {},
): string {
  checkOptions(options, { adapterName: null, write: FUNCTION }, {
    code: "PRINT_OPTION",
    of: "printSavableParameters",
  });
  const { adapterName = "default", write = console.log } = options;
  const { adapter, other } = getNbSavableParameters(model, adapterName);
  const grouped = (n: number) => n.toLocaleString("en-US");
  const { peftType } = adapterOf(model, adapterName).config;
  const line = `${peftType} params to-be-saved (float32-equivalent): ${
    grouped(adapter)
  } || total params to-be-saved: ${grouped(adapter + other)}`;
  write(line);
  return line;
}
