/**
 * How many numbers a model has, and how many of them training changes.
 *
 * @module
 */
import { checkOptions, FUNCTION } from "../../options.ts";
import { sizeOf } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { type AnyModel, baseOf, pristineBase } from "../peft-model.ts";
import type { Part } from "../parts.ts";
import { savedCopies } from "./saved-modules.ts";

/** Numbers of parameters. */
export interface ParameterCounts {
  /** Those that training changes. */
  readonly trainable: number;
  /** Those of the base and of all adapters, active or not. */
  readonly all: number;
}

/**
 * Counts parameters as PEFT does: all are those of the base, each weight that is tied once and
 * quantized ones by what they stand for, and the trained leaves of all adapters with their copies
 * of saved modules; trainable are those of the adapters in `model.trainable`, unless adapters are
 * disabled. What follows from the base and the config (VeRA's projections, PiSSA's initial factors)
 * is no parameter. A leaf that is tied to another one by `ensureWeightTying` counts a second time,
 * as it does in PEFT. Of a base all parameters are trainable.
 *
 * @param model A model with or without adapters.
 * @throws {ValueError} `NOT_A_MODEL` for what is no model.
 *
 * @example
 * ```ts
 * import { getNbTrainableParameters, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4, targetModules: ["q_proj"] }));
 * console.log(getNbTrainableParameters(model)); // { trainable: 512, all: 24224 }
 * ```
 */
export function getNbTrainableParameters(model: AnyModel): ParameterCounts {
  baseOf(model);
  const base = pristineBase(model);
  const own = total(base.parameters.values());
  if (model.type === "model") return { trainable: own, all: own };
  let trainable = 0, all = own;
  const replaced = new Map<string, number>();
  for (const adapter of model.adapters.values()) {
    const copies = savedCopies(base, adapter);
    const parts = [...adapter.parts.values()];
    const added = parts.reduce((n, part) => n + addedBy(part, copies), 0);
    all += added;
    if (!model.enabled || !model.trainable.includes(adapter.name)) continue;
    trainable += added;
    for (const { place, leaves } of parts) {
      if (place.kind !== "parameter" || leaves[""].kind !== "trained") continue;
      if (!copies.has(place.name)) replaced.set(place.name, sizeOf(leaves[""].shape));
    }
  }
  // Biases are trained in the place of the base's own, so that they are among all already, and
  // are the same for all adapters.
  return { trainable: [...replaced.values()].reduce((n, size) => n + size, trainable), all };
}

/**
 * Numbers that a part adds to those of the base. What is tied counts once, but for transposes, which
 * PEFT keeps apart.
 */
function addedBy({ place, leaves }: Part, copies: ReadonlySet<string>): number {
  if (place.kind === "parameter" && !copies.has(place.name)) return 0;
  return Object.values(leaves).filter(({ kind, tie }) =>
    kind === "trained" && !(tie && !tie.transposed)
  ).reduce((n, { shape }) => n + sizeOf(shape), 0);
}

/**
 * Prints how many parameters are trainable, in PEFT's words:
 * `trainable params: 512 || all params: 24,224 || trainable%: 2.1136`.
 *
 * @param model A model with or without adapters.
 * @param options With `write`, who gets the line; `console.log` by default.
 * @returns The line.
 * @throws {ValueError} `NOT_A_MODEL` for what is no model.
 *
 * @example
 * ```ts
 * import { getPeftModel, loraConfig, printTrainableParameters, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4, targetModules: ["q_proj"] }));
 * printTrainableParameters(model);
 * // trainable params: 512 || all params: 24,224 || trainable%: 2.1136
 * ```
 */
export function printTrainableParameters(
  model: AnyModel,
  options: { readonly write?: (line: string) => void } = {},
): string {
  checkOptions(options, { write: FUNCTION }, {
    code: "PRINT_OPTION",
    of: "printTrainableParameters",
  });
  const { write = console.log } = options;
  const line = formatCounts(getNbTrainableParameters(model));
  write(line);
  return line;
}

/** PEFT's line for counts. */
export function formatCounts({ trainable, all }: ParameterCounts): string {
  const grouped = (n: number) => n.toLocaleString("en-US");
  const percent = fourDecimals(100 * trainable / all);
  return `trainable params: ${grouped(trainable)} || all params: ${
    grouped(all)
  } || trainable%: ${percent}`;
}

/**
 * A number with four decimals as Python writes it: where it lies in the middle between two, the
 * even one. Such a number is an odd multiple of 1/32.
 */
function fourDecimals(x: number): string {
  if (x * 32 % 2 !== 1) return x.toFixed(4);
  const below = Math.floor(x * 1e4);
  return ((below + below % 2) / 1e4).toFixed(4);
}

function total(tensors: Iterable<Tensor>): number {
  let count = 0;
  for (const { shape } of tensors) count += sizeOf(shape);
  return count;
}
