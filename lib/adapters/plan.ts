/**
 * `planAdapter`: what an adapter would be, before anything is built.
 *
 * @module
 */
import { ConfigError, type GraftError, TargetError, UnsupportedError } from "../errors.ts";
import { isTargetConfig, type PeftConfig, type TargetConfig } from "../methods/config.ts";
import type { PeftMethod } from "../methods/method.ts";
import { methodOf, type MethodRegistry } from "../methods/mod.ts";
import { pythonRegExp } from "../methods/python-regex.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { show } from "../options.ts";
import { byteLength, sizeOf } from "../tensor/dtype.ts";
import { parameterShape } from "./module-tree.ts";
import { type AnyModel, baseOf } from "./peft-model.ts";
import { planParameters } from "./plan-parameters.ts";
import { type PatternReport, type PlannedSite, planTargets } from "./plan-targets.ts";
import { type PlannedTokens, planTokens } from "./plan-tokens.ts";
import { correctFanInFanOut, resolveConfig } from "./resolve-config.ts";

/** What an adapter would be. */
export interface AdapterPlan {
  /** The method. */
  readonly method: PeftMethod;
  /**
   * The config as the adapter would carry it: defaults, `all-linear` and tied weights written out
   * for this model.
   */
  readonly config: TargetConfig;
  /** Adapted sites, in order of execution. */
  readonly sites: readonly PlannedSite[];
  /**
   * Parameters of the base that are trained as a whole (saved modules, biases), each with the one
   * whose copy it uses.
   */
  readonly parameters: ReadonlyMap<string, string>;
  /** Trained rows of embeddings, by module path. */
  readonly tokens: ReadonlyMap<string, PlannedTokens>;
  /** Every entry of the config that names modules, and what it names. */
  readonly patterns: readonly PatternReport[];
  /** Number of adapted sites by layer; those outside of layers under `null`. */
  readonly layers: ReadonlyMap<number | null, number>;
  /** Numbers that training changes. */
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
export interface PlanOptions {
  /** Methods to choose from; the library's own by default. */
  readonly registry?: MethodRegistry;
}

/**
 * Says which modules a config names, what it would train and what is wrong with it. Nothing is
 * built or read.
 *
 * @param model The base, or a model with adapters on it.
 * @param config A config as `loraConfig` makes it, or its fields with `peftType`.
 * @throws {ConfigError} where the config itself is not valid. What does not fit the model is in
 * `problems`.
 *
 * @example
 * ```ts
 * import { createModel, loraConfig, planAdapter } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
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
  const base = baseOf(model);
  if (typeof config?.peftType !== "string") {
    throw new ConfigError(
      "CONFIG_TYPE",
      `A config as loraConfig makes it is needed; found ${show(config)}${
        typeof config === "object" && config !== null ? " without a peftType" : ""
      }.`,
    );
  }
  const method = methodOf(config.peftType, options.registry);
  const given = method.parseConfig(config);
  if (!isTargetConfig(given)) {
    throw new UnsupportedError(
      "METHOD_TARGETS",
      `${method.peftType} does not adapt modules by name, so there is nothing to plan.`,
    );
  }
  const resolved = resolveConfig(base, { config: given, method });
  const targets = planTargets(base, { method, given, resolved });
  const adapted = new Set(targets.sites.map(({ site }) => site.path));
  const saved = planParameters(base, { resolved, adapted });
  const tokens = planTokens(base, {
    config: resolved.config,
    adapted,
    parameters: saved.parameters,
  });
  const layers = new Map<number | null, number>();
  for (const { layer } of targets.sites) layers.set(layer, (layers.get(layer) ?? 0) + 1);
  const { trained, frozen } = countElements(base, {
    sites: targets.sites,
    parameters: saved.parameters,
    tokens: tokens.tokens,
  });
  return {
    method,
    config: correctFanInFanOut(resolved.config, targets.sites.map(({ site }) => site)),
    sites: targets.sites,
    parameters: saved.parameters,
    tokens: tokens.tokens,
    patterns: [...targets.patterns, ...saved.patterns, ...tokens.patterns],
    layers,
    trainableParameters: trained,
    baseParameters: [...base.parameters.values()].reduce((n, t) => n + sizeOf(t.shape), 0),
    bytes: byteLength("f32", [trained]),
    frozenBytes: byteLength("f32", [frozen]),
    notes: [...resolved.notes, ...idlePatterns(given, adapted), ...idleExcludes(targets.patterns)],
    problems: [...targets.problems, ...saved.problems, ...tokens.problems],
  };
}

/**
 * The plan, where it can be carried out.
 *
 * @param plan A plan.
 * @param options With `allowUnmatched`, entries and layers that name nothing are no reason to
 * refuse as long as something is adapted.
 * @throws {GraftError} the plan's problem, or a {@link TargetError} that lists them.
 */
export function checkPlan(
  plan: AdapterPlan,
  options: { readonly allowUnmatched?: boolean } = {},
): AdapterPlan {
  const harmless = ["TARGET_NOT_FOUND", "LAYER_NOT_FOUND", "MODULES_TO_SAVE_NOT_FOUND"];
  const problems = options.allowUnmatched && plan.sites.length
    ? plan.problems.filter(({ code }) => !harmless.includes(code))
    : plan.problems;
  if (problems.length === 1) throw problems[0];
  if (problems.length > 1) {
    throw new TargetError(
      problems[0].code,
      problems.map(({ message }) => message).join("\n"),
      { problems },
    );
  }
  return plan;
}

function countElements(
  base: ModelGraph,
  parts: Pick<AdapterPlan, "sites" | "parameters" | "tokens">,
): { readonly trained: number; readonly frozen: number } {
  const count = (shapes: Readonly<Record<string, readonly number[]>>) =>
    Object.values(shapes).reduce((n, shape) => n + sizeOf(shape), 0);
  let trained = 0, frozen = 0;
  for (const site of parts.sites) {
    trained += count(site.leaves);
    frozen += count(site.frozen);
  }
  for (const name of new Set(parts.parameters.values())) {
    trained += sizeOf(parameterShape(base, name)!);
  }
  for (const { indices, width } of new Set(parts.tokens.values())) {
    trained += indices.length * width;
  }
  return { trained, frozen };
}

/** Keys of `rankPattern` and `alphaPattern` that no adapted module has. */
function idlePatterns(config: TargetConfig, adapted: ReadonlySet<string>): readonly string[] {
  const notes: string[] = [];
  for (const field of ["rankPattern", "alphaPattern"]) {
    const patterns = (config as unknown as Record<string, unknown>)[field] ?? {};
    for (const key of Object.keys(patterns)) {
      const expression = pythonRegExp(`(.*\\.)?(${key})`);
      if (![...adapted].some((path) => expression.test(path))) {
        notes.push(`${field} has ${JSON.stringify(key)}, which names no adapted module.`);
      }
    }
  }
  return notes;
}

function idleExcludes(patterns: readonly PatternReport[]): readonly string[] {
  return patterns.filter((p) => p.field === "excludeModules" && p.modules.length === 0)
    .map((p) => `excludeModules has ${JSON.stringify(p.pattern)}, which names no module.`);
}
