/**
 * A model that routes tokens through LoRAs by Arrow.
 *
 * @module
 */
import { ShapeError, ValueError } from "../../errors.ts";
import { type LoraConfig, loraConfig } from "../../methods/lora/lora-config.ts";
import type { ArrowConfig } from "../../methods/lora/variant-configs.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { show } from "../../options.ts";
import { loadAdapter, type LoadAdapterOptions } from "../checkpoint/load.ts";
import type { AdapterParts } from "../checkpoint/read-adapter.ts";
import { addAdapter } from "../inject.ts";
import { adaptedPaths, leavesAt } from "../parts.ts";
import type { AnyModel, PeftModel } from "../peft-model.ts";
import { setAdapter } from "../select.ts";

/** How {@link createArrowModel} loads adapters and routes tokens. */
export interface ArrowModelOptions extends Omit<LoadAdapterOptions, "adapterName"> {
  /** How tokens are routed; absent fields take their defaults. */
  readonly arrowConfig?: Partial<Omit<ArrowConfig, "taskAdapterNames" | "gksAdapterNames">>;
  /** Adapters of what all tasks have in common; needed, and used, where `useGks` is set. */
  readonly generalAdapterPaths?: readonly (string | URL | AdapterParts)[];
}

/** Name of the adapter that routes. */
const ROUTER = "arrow_router";

/**
 * A model with several LoRAs and an adapter, `arrow_router`, that sends each token through those
 * that fit it best (Arrow, Ostapenko et al., 2024, arXiv:2405.11157): no training is needed. With
 * `useGks` the mean of general adapters, such as those for languages, is subtracted from each
 * (GenKnowSub). The adapters are `task_0`, `task_1` … and `gks_0` …; LoRAs that are added later, and
 * deleted ones, count as soon as they are there and no longer.
 *
 * @param base The base of all adapters.
 * @param taskSpecificAdapterPaths The experts, as `loadAdapter` takes them; `"user/repo/folder"` is
 * a folder of a repository on the hub.
 * @param options How tokens are routed, general adapters, and what else `loadAdapter` takes.
 * @throws {ValueError} without experts, and with `useGks` without general adapters.
 * @throws {ShapeError} where adapters differ in rank, in shapes or in what they adapt.
 * @throws what `loadAdapter` throws, and `TargetError` where something else than linear layers is
 * adapted.
 *
 * @example
 * ```ts
 * import { createArrowModel, getAdapterStateDict, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const config = loraConfig({ r: 2, targetModules: ["q_proj"], initLoraWeights: false });
 * const expert = (seed: number) => ({
 *   config,
 *   tensors: getAdapterStateDict(getPeftModel(base, config, { seed })),
 * });
 * const model = await createArrowModel(base, [expert(1), expert(2), expert(3)], {
 *   arrowConfig: { topK: 2 },
 * });
 * console.log(model.active, [...model.adapters.keys()]); // ["arrow_router"] ["task_0", "task_1", …]
 * ```
 */
export async function createArrowModel(
  base: ModelGraph,
  taskSpecificAdapterPaths: readonly (string | URL | AdapterParts)[],
  options: ArrowModelOptions = {},
): Promise<PeftModel> {
  const { arrowConfig = {}, generalAdapterPaths = [], ...load } = options;
  const general = arrowConfig.useGks ? generalAdapterPaths : [];
  if (!Array.isArray(taskSpecificAdapterPaths) || taskSpecificAdapterPaths.length === 0) {
    throw new ValueError(
      "ARROW_EXPERTS",
      `createArrowModel needs a list of at least one adapter to route to; found ${
        show(taskSpecificAdapterPaths)
      }.`,
    );
  }
  if (arrowConfig.useGks && general.length === 0) {
    throw new ValueError(
      "ARROW_GENERAL",
      "useGks subtracts the mean of general adapters: give createArrowModel their generalAdapterPaths, or leave useGks out.",
    );
  }
  let model: AnyModel = base;
  const named = (sources: typeof general, prefix: string) =>
    sources.map((source, i) => ({ adapterName: `${prefix}${i}`, source }));
  const [tasks, common] = [named(taskSpecificAdapterPaths, "task_"), named(general, "gks_")];
  for (const { adapterName, source } of [...tasks, ...common]) {
    const found = await located(source);
    model = await loadAdapter(model, found.source, { ...found.at, ...load, adapterName });
  }
  const { r, targetModules } = commonForm(model as PeftModel);
  const namesOf = (all: typeof tasks) => all.map(({ adapterName }) => adapterName);
  const config = loraConfig({
    r,
    targetModules,
    arrowConfig: {
      ...arrowConfig,
      taskAdapterNames: namesOf(tasks),
      gksAdapterNames: namesOf(common),
    },
  });
  return setAdapter(addAdapter(model as PeftModel, ROUTER, config), ROUTER);
}

/** A source, and the folder of a repository that its name ends in. */
async function located(source: string | URL | AdapterParts): Promise<{
  readonly source: string | URL | AdapterParts;
  readonly at: Pick<LoadAdapterOptions, "subfolder">;
}> {
  if (typeof source !== "string") return { source, at: {} };
  const isFolder = await Deno.stat(source).then(() => true, () => false);
  const [user, repository, ...folder] = source.replace(/^\/+|\/+$/g, "").split("/");
  return isFolder || folder.length === 0
    ? { source, at: {} }
    : { source: `${user}/${repository}`, at: { subfolder: folder.join("/") } };
}

/** What all adapters of a model adapt, and by which rank. */
function commonForm(
  model: PeftModel,
): { readonly r: number; readonly targetModules: readonly string[] } {
  const forms = [...model.adapters].map(([name, adapter]) => {
    const paths = adaptedPaths(adapter);
    const shapes = paths.map((path) =>
      Object.entries(leavesAt(adapter, path)!).map(([leaf, { shape }]) => `${leaf} [${shape}]`)
    );
    const modules = [...new Set(paths.map((path) => path.slice(path.lastIndexOf(".") + 1)))].sort();
    const { r } = adapter.config as LoraConfig;
    return { name, r, modules, form: [r, modules, paths, shapes].join(" ") };
  });
  const [first] = forms, other = forms.find(({ form }) => form !== first.form);
  if (!other) return { r: first.r, targetModules: first.modules };
  const told = ({ name, r, modules }: typeof first) =>
    `${JSON.stringify(name)} has r ${r} at ${modules.join(", ")}`;
  throw new ShapeError(
    "ARROW_EXPERTS",
    `Arrow routes among LoRAs of one rank at the same modules; ${told(first)}, and ${
      told(other)
    }. ` +
      "Leave one of them out, or give it another rank with compressAdapter.",
    { first: first.name, other: other.name },
  );
}
