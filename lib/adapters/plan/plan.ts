/**
 * `planAdapter`: what an adapter would be, before anything is built.
 *
 * @module
 */
import { ConfigError, type GraftError, TargetError } from "../../errors.ts";
import {
  isTargetConfig,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
} from "../../methods/config.ts";
import type { PeftMethod } from "../../methods/method.ts";
import { methodOf, REGISTRY, type RegistryOptions } from "../../methods/mod.ts";
import { pythonRegExp } from "../../methods/python-regex.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { checkOptions, show } from "../../options.ts";
import { TASKS } from "../../tasks/mod.ts";
import { byteLength, sizeOf } from "../../tensor/dtype.ts";
import { modulesOf } from "./module-tree.ts";
import { layeredBase } from "../layered-base.ts";
import { type AnyModel, baseOf } from "../peft-model.ts";
import { planParameters } from "./plan-parameters.ts";
import { nearestText, type PatternReport, patternReport } from "./pattern-report.ts";
import { type PlannedSite, planTargets, shapesOf, type TargetPlan } from "./plan-targets.ts";
import { type PlannedTokens, planTokens } from "./plan-tokens.ts";
import { correctFanInFanOut, resolveConfig } from "./resolve-config.ts";

/** What an adapter would be. */
export interface AdapterPlan {
  /** The method. */
  readonly method: PeftMethod;
  /** The base that it would be on: the model's own, or one with layers that the config repeats. */
  readonly base: ModelGraph;
  /**
   * The config as the adapter would carry it: defaults, `all-linear` and tied weights written out
   * for this model.
   */
  readonly config: PeftConfig;
  /** Adapted sites, in order of execution. */
  readonly sites: readonly PlannedSite[];
  /** Shapes of what the adapter holds as a whole: trained and fixed leaves. */
  readonly shared: Pick<PlannedSite, "leaves" | "frozen">;
  /**
   * Parameters of the base that are trained as a whole (saved modules, biases), each with the one
   * whose copy it uses.
   */
  readonly parameters: ReadonlyMap<string, string>;
  /** Trained rows of embeddings, by module path. */
  readonly tokens: ReadonlyMap<string, PlannedTokens>;
  /** Every entry of the config that names modules, and what it names. */
  readonly patterns: readonly PatternReport[];
  /** Those of them that name nothing, with the nearest names. */
  readonly unmatched: readonly PatternReport[];
  /** Number of adapted sites by layer; those outside of layers under `null`. */
  readonly layers: ReadonlyMap<number | null, number>;
  /**
   * Numbers that training changes; what is tied counts once, unlike in PEFT and in
   * `getNbTrainableParameters`.
   */
  readonly trainableParameters: number;
  /** Numbers in the base. */
  readonly baseParameters: number;
  /** Bytes of the trained tensors (f32). */
  readonly bytes: number;
  /** Bytes of fixed tensors that the method keeps beside them (f32). */
  readonly frozenBytes: number;
  /** What the config asks for in vain, without harm. */
  readonly notes: readonly string[];
  /** Why `getPeftModel` would refuse; empty where it would not. */
  readonly problems: readonly GraftError[];
}

/** How to plan. */
export type PlanOptions = RegistryOptions;

/**
 * Says which modules a config names, what it would train and what is wrong with it. Nothing is
 * built or read.
 *
 * @param model The base, or a model with adapters on it.
 * @param config A config as `loraConfig` makes it, or its fields with `peftType`.
 * @throws {ValueError} `NOT_A_MODEL` for what is no model, and for an option that cannot be.
 * @throws {ConfigError} where the config itself is not valid. What does not fit the model is in
 * `problems`.
 *
 * @example
 * ```ts
 * import { loraConfig, planAdapter, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const plan = planAdapter(base, loraConfig({ targetModules: ["q_proj", "w_proj"] }));
 * console.log(plan.trainableParameters); // 1024
 * console.log(plan.problems[0].message);
 * // Target modules "w_proj" not found in the base model. Nearest: k_proj, o_proj, q_proj.
 * ```
 */
export function planAdapter(
  model: AnyModel,
  config: PeftConfig,
  options: PlanOptions = {},
): AdapterPlan {
  baseOf(model);
  checkOptions(options, { registry: REGISTRY }, { code: "PLAN_OPTION", of: "planAdapter" });
  if (typeof config?.peftType !== "string") {
    throw new ConfigError(
      "CONFIG_TYPE",
      `A config as loraConfig makes it is needed; found ${show(config)}${
        typeof config === "object" && config !== null ? " without a peftType" : ""
      }.`,
    );
  }
  const method = methodOf(config.peftType, options.registry);
  const parsed = parseConfig(method.config, config);
  const base = layeredBase(model, { method, config: parsed });
  checkLengths(parsed, base);
  const given: PeftConfig & Partial<TargetConfig> = withHeads(
    method.config.fit?.(parsed, base) ?? parsed,
  );
  const targeted = isTargetConfig(given)
    ? planTargeted(base, given, method)
    : { config: given, targets: NO_TARGETS, tiedSaved: [], notes: [] };
  const { targets } = targeted;
  const adapted = new Set(targets.sites.map(({ site }) => site.path));
  const saved = planParameters(base, { ...targeted, adapted });
  const tokens = planTokens(base, {
    config: targeted.config,
    adapted,
    parameters: saved.parameters,
  });
  const layers = new Map<number | null, number>();
  for (const { layer } of targets.sites) layers.set(layer, (layers.get(layer) ?? 0) + 1);
  const rules = method.leaves.adapter?.({
    config: targeted.config,
    model: base,
    sites: targets.sites.map(({ site }) => site),
  }) ?? {};
  const shared = { leaves: shapesOf(rules, "trained"), frozen: shapesOf(rules, "fixed") };
  const parts = {
    sites: targets.sites,
    shared,
    parameters: saved.parameters,
    tokens: tokens.tokens,
  };
  const { trained, frozen } = countElements(base, parts);
  const patterns = [
    ...targets.patterns,
    ...saved.patterns,
    ...tokens.patterns,
    ...patternKeys(base, given, adapted),
  ];
  return {
    method,
    base,
    config: targeted.config,
    ...parts,
    patterns,
    unmatched: patterns.filter(({ modules }) => modules.length === 0),
    layers,
    trainableParameters: trained,
    baseParameters: [...base.parameters.values()].reduce((n, t) => n + sizeOf(t.shape), 0),
    bytes: byteLength("f32", [trained]),
    frozenBytes: byteLength("f32", [frozen]),
    notes: [...targeted.notes, ...idleEntries(patterns)],
    problems: [...targets.problems, ...saved.problems, ...tokens.problems],
  };
}

/** The config with the heads of its task among what is saved, where its method saves modules. */
function withHeads<C extends PeftConfig & Partial<TargetConfig>>(config: C): C {
  const heads = config.taskType ? TASKS[config.taskType].heads : undefined;
  if (!heads || !("modulesToSave" in config)) return config;
  return { ...config, modulesToSave: [...new Set([...config.modulesToSave ?? [], ...heads])] };
}

const NO_TARGETS: TargetPlan = { sites: [], patterns: [], problems: [] };

/** The part of a plan for methods that adapt modules by name. */
function planTargeted(
  base: ModelGraph,
  given: TargetConfig,
  method: PeftMethod,
): {
  readonly config: TargetConfig;
  readonly targets: TargetPlan;
  readonly tiedSaved: readonly string[];
  readonly notes: readonly string[];
} {
  // A method may choose by another rule; the config keeps what was written.
  const chosen = method.config.select?.(given, base);
  const selecting = chosen ? { ...given, targetModules: chosen } : given;
  const resolved = resolveConfig(base, { config: selecting, method });
  const targets = planTargets(base, { method, given: selecting, resolved });
  const { config } = resolved;
  return {
    config: correctFanInFanOut(
      chosen ? { ...config, targetModules: given.targetModules } : config,
      targets.sites.map(({ site }) => site),
    ),
    targets,
    tiedSaved: resolved.tiedSaved,
    notes: resolved.notes,
  };
}

/**
 * The plan, where it can be carried out.
 *
 * @param plan A plan.
 * @param options With `allowUnmatched`, entries and layers that name nothing are no reason to
 * refuse as long as something is adapted, or the method adapts no modules.
 * @throws {GraftError} the plan's problem, or a {@link TargetError} that lists them.
 */
export function checkPlan(
  plan: AdapterPlan,
  options: { readonly allowUnmatched?: boolean } = {},
): AdapterPlan {
  const harmless = ["TARGET_NOT_FOUND", "LAYER_NOT_FOUND", "MODULES_TO_SAVE_NOT_FOUND"];
  const adapts = plan.sites.length || !plan.method.sites;
  const problems = options.allowUnmatched && adapts
    ? plan.problems.filter(({ code }) => !harmless.includes(code))
    : plan.problems;
  if (problems.length === 1) throw problems[0];
  if (problems.length > 1) {
    throw new TargetError(
      problems[0].code,
      [
        ...problems.slice(0, SHOWN).map(({ message }) => message),
        ...problems.length > SHOWN ? [`And ${problems.length - SHOWN} more.`] : [],
      ].join("\n"),
      { problems },
    );
  }
  return plan;
}

/** How many problems a message lists. */
const SHOWN = 20;

/**
 * Refuses lists of names that are longer than any for this model can be, before each name is looked
 * for.
 */
function checkLengths(config: PeftConfig, base: ModelGraph): void {
  const modules = modulesOf(base).size, most = 1000 + 10 * modules;
  for (const [field, value] of Object.entries(config)) {
    if (typeof value !== "object" || value === null) continue;
    const names = Array.isArray(value)
      ? value.filter((x) => typeof x === "string")
      : Object.keys(value);
    if (names.length <= most) continue;
    throw new ConfigError(
      "CONFIG_LENGTH",
      `${field} has ${names.length} entries, and the base model ${modules} modules. Name those that are meant, ` +
        "by the ends of their paths or by a regular expression.",
      { field, entries: names.length, modules },
    );
  }
}

function countElements(
  base: ModelGraph,
  parts: Pick<AdapterPlan, "sites" | "shared" | "parameters" | "tokens">,
): { readonly trained: number; readonly frozen: number } {
  const count = (shapes: Readonly<Record<string, readonly number[]>>) =>
    Object.values(shapes).reduce((n, shape) => n + sizeOf(shape), 0);
  let trained = count(parts.shared.leaves), frozen = count(parts.shared.frozen);
  for (const site of parts.sites) {
    trained += count(site.leaves);
    frozen += count(site.frozen);
  }
  for (const name of new Set(parts.parameters.values())) {
    trained += sizeOf(base.shapes.get(name)!);
  }
  for (const { indices, width } of new Set(parts.tokens.values())) {
    trained += indices.length * width;
  }
  return { trained, frozen };
}

/** What the keys of `rankPattern` and `alphaPattern` name among adapted modules. */
function patternKeys(
  base: ModelGraph,
  config: PeftConfig,
  adapted: ReadonlySet<string>,
): readonly PatternReport[] {
  return (["rankPattern", "alphaPattern"] as const).flatMap((field) => {
    const patterns = (config as unknown as Record<string, unknown>)[field] ?? {};
    return Object.keys(patterns).map((key) => {
      const expression = pythonRegExp(`(.*\\.)?(${key})`);
      const named = [...adapted].filter((path) => expression.test(path));
      return patternReport(field, key, { named, known: modulesOf(base) });
    });
  });
}

/** Entries that name nothing without that being a reason to refuse. */
function idleEntries(patterns: readonly PatternReport[]): readonly string[] {
  const what: Partial<Record<PatternReport["field"], string>> = {
    excludeModules: "module",
    rankPattern: "adapted module",
    alphaPattern: "adapted module",
  };
  return patterns.filter(({ field, modules }) => what[field] && modules.length === 0)
    .map(({ field, pattern, nearest }) =>
      `${field} has ${JSON.stringify(pattern)}, which names no ${what[field]}.${
        nearestText(nearest)
      }`
    );
}
