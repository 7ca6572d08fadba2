/**
 * What an adapter that is made of others adapts and replaces, and the config that says so.
 *
 * @module
 */
import { ConfigError, UnsupportedError, ValueError } from "../../errors.ts";
import { unionOfPatterns } from "../../methods/combine-patterns.ts";
import type { CombinePart, CombineRule } from "../../methods/combine.ts";
import type { TargetConfig } from "../../methods/config.ts";
import type { MethodRegistry } from "../../methods/mod.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { copiedParameters } from "../inject.ts";
import { type Adapter, type PeftModel, pristineBase, type TokenRows } from "../peft-model.ts";
import { type AdapterPlan, checkPlan, planAdapter } from "../plan/plan.ts";
import { adapterOf } from "../select.ts";

/** What says which modules a combined adapter adapts. */
export interface PartsToPlan {
  /** The new adapter's name. */
  readonly adapterName: string;
  /** The rule of its method. */
  readonly rule: CombineRule<TargetConfig>;
  /** What it is made of. */
  readonly parts: readonly CombinePart<TargetConfig>[];
  /** Its config but for the fields that name modules. */
  readonly config: TargetConfig;
  /** Methods that are known; the library's own by default. */
  readonly registry?: MethodRegistry;
}

/** An adapter that is made from parts, but for its leaves. */
export interface PlannedCombination {
  /** The adapter, which holds nothing at any site yet. */
  readonly adapter: Adapter;
  /** The sites that it is to adapt, in order of execution. */
  readonly sites: readonly Site[];
}

/**
 * Plans an adapter that adapts what any of its parts adapts, and replaces in the base what any of
 * them replaces.
 *
 * @param model A model that holds the parts.
 * @param of The new adapter's name, its parts, and its config but for what says which modules.
 * @throws {ValueError} where two parts replace the same, or name modules in different ways.
 * @throws {UnsupportedError} where no config names what they adapt and replace together.
 */
export function planOfParts(
  model: PeftModel,
  of: PartsToPlan,
): PlannedCombination {
  const { adapterName, parts } = of;
  const sources = parts.map((part) => adapterOf(model, part.adapter));
  const base = pristineBase(model);
  const whole = wholeParts(sources);
  const plan = planCombined(base, { ...of, sources, whole });
  return {
    sites: plan.sites.map(({ site }) => site),
    adapter: {
      ...sources[0],
      name: adapterName,
      config: plan.config,
      sites: new Map(),
      parameters: withPlanned(base, plan, whole.parameters),
      tokens: whole.tokens,
      replacements: whole.replacements,
    },
  };
}

/** What adapters replace in the base, which nothing can be added to. */
interface WholeParts {
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly tokens: ReadonlyMap<string, TokenRows>;
  readonly replacements?: ReadonlyMap<string, Tensor>;
}

function wholeParts(sources: readonly Adapter[]): WholeParts {
  const owners = new Map<string, { readonly adapter: Adapter; readonly value: unknown }>();
  const claim = (what: string, adapter: Adapter, value: unknown) => {
    const other = owners.get(what);
    owners.set(what, { adapter, value });
    if (!other || other.value === value) return;
    throw new ValueError(
      "COMBINE_SAVED",
      `The adapters ${JSON.stringify(other.adapter.name)} and ${JSON.stringify(adapter.name)} ` +
        `both replace ${what} (modulesToSave, bias, trainableTokenIndices or saved embeddings), ` +
        "and there is no telling which of the two counts. Combine adapters of which at most one does.",
      { adapters: [other.adapter.name, adapter.name], what },
    );
  };
  const parameters = new Map<string, Tensor>();
  const tokens = new Map<string, TokenRows>();
  const replacements = new Map<string, Tensor>();
  for (const adapter of sources) {
    for (const [name, value] of adapter.parameters) {
      claim(name, adapter, value);
      parameters.set(name, value);
    }
    for (const [name, value] of adapter.replacements ?? []) {
      claim(name, adapter, value);
      replacements.set(name, value);
    }
    for (const [path, rows] of adapter.tokens) {
      claim(`rows of ${path}`, adapter, rows);
      tokens.set(path, rows);
    }
  }
  return { parameters, tokens, replacements: replacements.size ? replacements : undefined };
}

interface CombinedTargets extends PartsToPlan {
  readonly sources: readonly Adapter[];
  readonly whole: WholeParts;
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
  const lost = [
    ...[...whole.parameters.keys()].filter((name) => !plan.parameters.has(name)),
    ...[...whole.tokens].filter(([path, { indices }]) =>
      plan.tokens.get(path)?.indices.join() !== indices.join()
    ).map(([path]) => `rows of ${path}`),
  ];
  if (lost.length === 0 && plan.tokens.size === whole.tokens.size) return plan;
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
  const rows = sources.flatMap(({ tokens }) => [...tokens]);
  const fields: Record<string, unknown> = {
    modulesToSave: saved.size ? [...saved] : null,
  };
  const [first] = configs;
  if ("bias" in first) fields.bias = biased?.bias ?? "none";
  if ("trainableTokenIndices" in first) {
    fields.trainableTokenIndices = trained.length > 1
      ? Object.fromEntries(rows.map(([path, { indices }]) => [path, indices]))
      : trained[0]?.trainableTokenIndices ?? null;
  }
  if ("ensureWeightTying" in first) {
    // Tied leaves are combined apart; what is saved as a whole stays tied.
    fields.ensureWeightTying = sources.some(({ config, parameters, tokens }) =>
      (config as TargetConfig).ensureWeightTying && (parameters.size > 0 || tokens.size > 0)
    );
  }
  return fields;
}

/** The parameters of the parts, and those that the config names beside them as the base has them. */
function withPlanned(
  base: ModelGraph,
  plan: AdapterPlan,
  parameters: ReadonlyMap<string, Tensor>,
): ReadonlyMap<string, Tensor> {
  const copies = copiedParameters(base, plan);
  return new Map([...copies].map(([name, copy]) => [name, parameters.get(name) ?? copy]));
}
