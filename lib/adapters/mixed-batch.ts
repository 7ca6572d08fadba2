/**
 * Mixed batches: each row of a batch gets one adapter or none.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../errors.ts";
import { show } from "../options.ts";
import { adaptedParameters } from "./parts.ts";
import { type AnyModel, checkPeft } from "./peft-model.ts";
import { adapterOf } from "./select.ts";

/** What a row without an adapter is named. */
export const BASE_ROW = "__base__";

/** Which adapters the rows of a batch get. */
export interface MixedBatch {
  /** Adapters that occur, in the order in which the model holds them. */
  readonly names: readonly string[];
  /** Of each row the place of its adapter in `names`; −1 for none. */
  readonly rows: Int32Array;
}

/**
 * Checks and sorts the adapters of a batch's rows.
 *
 * @param model The model that is to run the batch.
 * @param adapterNames A name for each row, `"__base__"` for none; `undefined` where the batch is not
 * mixed.
 * @param batch Number of rows.
 * @throws {ValueError} `ADAPTER_ROWS` for another number of names, for a model without adapters or
 * with merged ones; `ADAPTER_UNKNOWN`.
 * @throws {UnsupportedError} `MIXED_BATCH` for a method that cannot differ from row to row.
 */
export function mixedBatch(
  model: AnyModel,
  adapterNames: readonly string[] | undefined,
  batch: number,
): MixedBatch | undefined {
  if (adapterNames === undefined) return undefined;
  checkPeft(model);
  const refuse = (message: string) => new ValueError("ADAPTER_ROWS", message, { adapterNames });
  if (!Array.isArray(adapterNames) || adapterNames.length !== batch) {
    throw refuse(
      `adapterNames needs one name for each of the ${batch} rows ("${BASE_ROW}" for none); found ${
        Array.isArray(adapterNames) ? `${adapterNames.length} names` : show(adapterNames)
      }.`,
    );
  }
  if (model.merged) {
    throw refuse(
      `The adapters ${model.merged.names.join(", ")} are merged into the base, so rows cannot ` +
        "choose theirs. Take them out with unmergeAdapter first.",
    );
  }
  const wanted = new Set(adapterNames.filter((name) => name !== BASE_ROW));
  for (const name of wanted) {
    const adapter = adapterOf(model, name), { method, config: { peftType } } = adapter;
    const [parameter] = adaptedParameters(adapter, model.base);
    if (parameter) {
      throw new UnsupportedError(
        "MIXED_BATCH",
        `${peftType} (${
          JSON.stringify(name)
        }) changes ${parameter} for all rows (targetParameters), so it ` +
          "cannot be that of some rows only. Run those rows in a batch of their own.",
        { adapter: name, peftType },
      );
    }
    if (!method.pass?.virtualTokens) continue;
    throw new UnsupportedError(
      "MIXED_BATCH",
      `${peftType} (${JSON.stringify(name)}) puts virtual tokens before every row, so it ` +
        "cannot be that of some rows only. Run those rows in a batch of their own.",
      { adapter: name, peftType },
    );
  }
  const names = [...model.adapters.keys()].filter((name) => wanted.has(name));
  return { names, rows: Int32Array.from(adapterNames, (name) => names.indexOf(name)) };
}

/** What tells the programs of two mixed batches apart. */
export function mixedKey(mixed: MixedBatch | undefined): string {
  return mixed ? JSON.stringify(mixed.names) : "";
}
