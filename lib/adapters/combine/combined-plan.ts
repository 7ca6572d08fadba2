/**
 * What an adapter that is made of others adapts and replaces, and the config that says so.
 *
 * @module
 */
import { ConfigError, UnsupportedError, ValueError } from "../../errors.ts";
import type { CombinePart, CombineRule } from "../../methods/combine.ts";
import type { TargetConfig } from "../../methods/config.ts";
import type { RegistryOptions } from "../../methods/mod.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { copiedParameters } from "../inject.ts";
import {
  type Part,
  partId,
  type Parts,
  partsOf,
  partsOfKind,
  single,
  trainedParameters,
} from "../parts.ts";
import { type Adapter, type PeftModel, pristineBase } from "../peft-model.ts";
import { type AdapterPlan, checkPlan, planAdapter } from "../plan/plan.ts";
import type { PlannedSite } from "../plan/plan-targets.ts";
import { adapterOf } from "../select.ts";

/** What says which modules a combined adapter adapts. */
export interface PartsToPlan extends RegistryOptions {
  /** The new adapter's name. */
  readonly adapterName: string;
  /** The rule of its method. */
  readonly rule: CombineRule<TargetConfig>;
  /** What it is made of. */
  readonly parts: readonly CombinePart<TargetConfig>[];
  /** Its config but for the fields that name modules. */
  readonly config: TargetConfig;
}

/**
 * Plans an adapter that adapts what any of its parts adapts, and replaces in the base what any of
 * them replaces.
 *
 * @param model A model that holds the parts.
 * @param of The new adapter's name, its parts, and its config but for what says which modules.
 * @returns The adapter, which holds what it replaces in the base and nothing at any site yet, and
 * the sites that it is to adapt, in order of execution.
 * @throws {ValueError} where two parts replace the same, or name modules in different ways.
 * @throws {UnsupportedError} where no config names what they adapt and replace together.
 */
export function planOfParts(
  model: PeftModel,
  of: PartsToPlan,
): { readonly adapter: Adapter; readonly sites: readonly PlannedSite[] } {
  const { adapterName, parts } = of;
  const sources = parts.map((part) => adapterOf(model, part.adapter));
  const base = pristineBase(model);
  const whole = wholeParts(sources);
  const plan = planCombined(base, { ...of, sources, whole });
  return {
    sites: plan.sites,
    adapter: {
      ...sources[0],
      name: adapterName,
      config: plan.config,
      // Parameters that the config names and no part holds stay as the base has them.
      parts: new Map([...partsOf(copiedParameters(base, plan)), ...whole]),
    },
  };
}

/** What adapters replace in the base, which nothing can be added to. */
function wholeParts(sources: readonly Adapter[]): Parts {
  const owners = new Map<string, { readonly adapter: Adapter; readonly value: Tensor }>();
  const whole = new Map<string, Part>();
  for (const adapter of sources) {
    for (const part of partsOfKind(adapter, "parameter", "tokens")) {
      const id = partId(part.place), value = single(adapter, part).tensor;
      const other = owners.get(id);
      owners.set(id, { adapter, value });
      whole.set(id, part);
      if (!other || other.value === value) continue;
      const what = part.place.kind === "tokens" ? `rows of ${part.place.path}` : part.place.name;
      throw new ValueError(
        "COMBINE_SAVED",
        `The adapters ${JSON.stringify(other.adapter.name)} and ${JSON.stringify(adapter.name)} ` +
          `both replace ${what} (modulesToSave, bias, trainableTokenIndices or saved embeddings), ` +
          "and there is no telling which of the two counts. Combine adapters of which at most one does.",
        { adapters: [other.adapter.name, adapter.name], what },
      );
    }
  }
  return whole;
}

interface CombinedTargets extends PartsToPlan {
  readonly sources: readonly Adapter[];
  readonly whole: Parts;
}

/**
 * A plan with exactly the sites that the parts have: PEFT's union of the targets where that names
 * them, else their full paths.
 */
function planCombined(base: ModelGraph, of: CombinedTargets): AdapterPlan {
  const { parts, sources, registry, rule: { patterns = {} } } = of;
  const fields = ["targetModules", ...Object.keys(patterns)];
  const paths = [...base.sites.keys()].filter((path) => parts.some((part) => part.leavesAt(path)));
  const names = (field: string, path: string) =>
    parts.some((part) => part.leavesAt(path) && patterns[field](part.config, path));
  const config: TargetConfig = { ...of.config, ...savedFields(sources) };
  const united: TargetConfig = {
    ...config,
    ...Object.fromEntries(
      fields.map((field) => [field, unionOfPatterns(parts, field as keyof TargetConfig & string)]),
    ),
  };
  const named = tryPlan(() => planAdapter(base, united, { registry }));
  const holds = Object.keys(patterns).every((field) =>
    paths.every((path) => patterns[field](united, path) === names(field, path))
  );
  if (named && holds && hasSites(named, paths)) return checked(named, of);
  const filters = ["excludeModules", "layersToTransform", "layersPattern"];
  const byPath: TargetConfig = {
    ...config,
    ...Object.fromEntries(filters.filter((field) => field in config).map((f) => [f, null])),
    ...Object.fromEntries(
      Object.keys(patterns).map((field) => [field, paths.filter((path) => names(field, path))]),
    ),
    targetModules: paths,
  };
  const plan = checkPlan(planAdapter(base, byPath, { registry }), { allowUnmatched: true });
  if (!hasSites(plan, paths)) throw notOneConfig(paths, plan);
  return checked(plan, of);
}

/**
 * What a field of several configs names together: a list of all entries, or one regular expression
 * for all of them.
 *
 * @param parts The configs and whose they are.
 * @param field A field that holds a list of names, or a regular expression.
 * @throws {ValueError} `COMBINE_TARGETS` where some hold a list and others an expression.
 */
function unionOfPatterns(
  parts: readonly CombinePart<TargetConfig>[],
  field: keyof TargetConfig & string,
): readonly string[] | string {
  const values = parts.map(({ config }) => config[field] as readonly string[] | string | null);
  const expressions = values.filter((value) => typeof value === "string");
  if (expressions.length === 0) return [...new Set(values.flatMap((value) => value ?? []))];
  if (expressions.length < values.length) {
    throw new ValueError(
      "COMBINE_TARGETS",
      `All adapters must give ${field} in the same way, as a list or as a regular expression; ${
        parts.map(({ adapter }, i) =>
          `${JSON.stringify(adapter)} has ${
            typeof values[i] === "string" ? JSON.stringify(values[i]) : "a list"
          }`
        ).join(", ")
      }.`,
      { field, adapters: parts.map(({ adapter }) => adapter) },
    );
  }
  return expressions.map((pattern) => `(${pattern})`).join("|");
}

/** Expressions that are valid apart may not be so together. */
function tryPlan(plan: () => AdapterPlan): AdapterPlan | undefined {
  try {
    return plan();
  } catch (error) {
    if (error instanceof ConfigError && error.code === "CONFIG_REGEX") return undefined;
    throw error;
  }
}

function hasSites(plan: AdapterPlan, paths: readonly string[]): boolean {
  const planned = new Set(
    plan.sites.filter(({ tied }) => !Object.keys(tied).length).map(({ site }) => site.path),
  );
  return planned.size === paths.length && paths.every((path) => planned.has(path));
}

function notOneConfig(paths: readonly string[], plan: AdapterPlan): UnsupportedError {
  const planned = plan.sites.map(({ site }) => site.path);
  const missing = paths.filter((path) => !planned.includes(path));
  return new UnsupportedError(
    "COMBINE_TARGETS",
    `No config names what the adapters adapt together: ${missing.slice(0, 3).join(", ")}${
      missing.length > 3 ? ` and ${missing.length - 3} more` : ""
    } would be left out, because one of them saves that module as a whole and another adapts it, ` +
      "or ties it to another.",
    { missing },
  );
}

function checked(plan: AdapterPlan, { whole }: CombinedTargets): AdapterPlan {
  checkPlan(plan, { allowUnmatched: true });
  let rows = 0;
  const lost = [...whole.values()].flatMap(({ place, leaves }) => {
    if (place.kind === "tokens") {
      rows++;
      const planned = plan.tokens.get(place.path)?.indices.join();
      return planned === place.indices.join() ? [] : [`rows of ${place.path}`];
    }
    const isTrained = place.kind === "parameter" && leaves[""].kind === "trained";
    return isTrained && !plan.parameters.has(place.name) ? [place.name] : [];
  });
  if (lost.length === 0 && plan.tokens.size === rows) return plan;
  throw new UnsupportedError(
    "COMBINE_SAVED",
    `No config names what the adapters save together: ${
      lost.join(", ") || "token rows"
    } would not fit it. ` +
      "Combine adapters of which at most one has modulesToSave, bias or trainableTokenIndices.",
    { lost },
  );
}

/** The fields for what adapters replace: those of the adapters that do. */
function savedFields(sources: readonly Adapter[]): Partial<TargetConfig> {
  const configs = sources.map(({ config }) => config as TargetConfig);
  const saved = new Set(configs.flatMap(({ modulesToSave }) => modulesToSave ?? []));
  const trained = configs.filter(({ trainableTokenIndices: t }) => t && Object.keys(t).length);
  const biased = configs.find(({ bias }) => bias && bias !== "none");
  const rows = sources.flatMap((source) => partsOfKind(source, "tokens"));
  const fields: Record<string, unknown> = {
    modulesToSave: saved.size ? [...saved] : null,
  };
  const [first] = configs;
  if ("bias" in first) fields.bias = biased?.bias ?? "none";
  if ("trainableTokenIndices" in first) {
    fields.trainableTokenIndices = trained.length > 1
      ? Object.fromEntries(rows.map(({ place: { path, indices } }) => [path, indices]))
      : trained[0]?.trainableTokenIndices ?? null;
  }
  if ("ensureWeightTying" in first) {
    // Tied leaves are combined apart; what is saved as a whole stays tied.
    fields.ensureWeightTying = sources.some((source) =>
      (source.config as TargetConfig).ensureWeightTying &&
      (trainedParameters(source).length > 0 || partsOfKind(source, "tokens").length > 0)
    );
  }
  return fields;
}
