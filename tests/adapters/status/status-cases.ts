/**
 * The models of tests/golden/status/, built here as they were built in PEFT.
 *
 * @module
 */
import { addAdapter, getPeftModel } from "../../../lib/adapters/inject.ts";
import type { PeftModel } from "../../../lib/adapters/peft-model.ts";
import {
  deleteAdapter,
  disableAdapters,
  enableAdapters,
  setAdapter,
  setRequiresGrad,
} from "../../../lib/adapters/select.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { defaultMethods } from "../../../lib/methods/mod.ts";
import { fromPeftJson } from "../../../lib/methods/peft-json.ts";
import { golden, goldenBase } from "../bases.ts";

type Fields = Readonly<Record<string, unknown>>;

/** A model, and what PEFT says of it. */
export interface StatusCase {
  readonly name: string;
  readonly kind: string;
  readonly adapters: Readonly<Record<string, Fields>>;
  readonly steps: readonly (readonly unknown[])[];
  readonly layers: readonly Fields[] | { readonly error: Fields };
  readonly model: Fields;
  readonly trainable: number;
  readonly all: number;
  readonly line: string;
  readonly active_adapters: readonly string[];
  readonly peft_config: Readonly<Record<string, string>>;
  readonly base_model_torch_dtype: string;
  readonly modules_to_save: readonly string[] | null;
}

interface StatusIndex {
  readonly cases: readonly StatusCase[];
  readonly pending: readonly StatusCase[];
  readonly lines: readonly (readonly [trainable: number, all: number, line: string])[];
}

const index = await readJsonFile(`${golden}status/status.json`) as unknown as StatusIndex;

/** All cases of methods that are registered. */
export const statusCases: readonly StatusCase[] = [
  ...index.cases,
  ...index.pending.filter(({ adapters }) =>
    Object.values(adapters).every(({ peft_type }) => defaultMethods.has(peft_type as string))
  ),
];

/** Counts and PEFT's lines for them. */
export const lines: StatusIndex["lines"] = index.lines;

/** Builds the model of a case. */
export async function buildCase(item: StatusCase): Promise<PeftModel> {
  const [[adapterName, first], ...others] = Object.entries(item.adapters).map((
    [name, fields],
  ) => [name, fromPeftJson({ task_type: "CAUSAL_LM", ...fields })] as const);
  let model = getPeftModel(await goldenBase(item.kind), first, { adapterName });
  for (const [name, config] of others) model = addAdapter(model, name, config);
  for (const [action, ...args] of item.steps) model = take(model, action as string, args as never);
  return model;
}

function take(model: PeftModel, action: string, [names, flag]: [string[], boolean?]): PeftModel {
  switch (action) {
    case "disable":
      return disableAdapters(model);
    case "enable":
      return enableAdapters(model);
    case "set":
    case "set_all":
      return setAdapter(model, names, flag ? { train: [] } : {});
    case "requires_grad":
      return setRequiresGrad(model, names, flag);
    case "merge":
      return { ...model, merged: { names, base: model.base } };
    case "delete":
      return deleteAdapter(model, String(names));
    default:
      throw new Error(`There is no step called ${action}.`);
  }
}
