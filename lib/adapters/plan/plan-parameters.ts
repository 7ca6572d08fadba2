/**
 * The part of a plan that says which parameters of the base are trained as a whole: saved modules
 * and biases.
 *
 * @module
 */
import { TargetError } from "../../errors.ts";
import type { PeftConfig, TargetConfig } from "../../methods/config.ts";
import { inputEmbedding, type ModelGraph, siteAt } from "../../model/model-graph.ts";
import { biasName, weightName } from "../../model/site.ts";
import { TASKS } from "../../tasks/mod.ts";
import { modulesOf, parametersOf } from "./module-tree.ts";
import { namesNothing, type PatternReport, patternReport } from "./pattern-report.ts";

/** Which parameters are trained, and what stands in the way. */
export interface ParameterPlan {
  /**
   * Names of parameters, each with the name of the one whose copy it uses: its own, or that of what
   * it stays tied to.
   */
  readonly parameters: ReadonlyMap<string, string>;
  /** Every entry of `modulesToSave`. */
  readonly patterns: readonly PatternReport[];
  /** What cannot be done. */
  readonly problems: readonly TargetError[];
}

/**
 * Plans saved modules and biases.
 *
 * @param model The base.
 * @param options The resolved config, the modules that stay tied to a saved one, and the paths of
 * the adapted sites.
 */
export function planParameters(
  model: ModelGraph,
  options: {
    readonly config: PeftConfig & Partial<TargetConfig>;
    readonly tiedSaved: readonly string[];
    readonly adapted: ReadonlySet<string>;
  },
): ParameterPlan {
  const { config, tiedSaved, adapted } = options;
  const modules = modulesOf(model);
  const problems: TargetError[] = [];
  const parameters = new Map<string, string>();
  // A task has several names for its head, of which a model has one.
  const heads: readonly string[] = config.taskType ? TASKS[config.taskType].heads ?? [] : [];
  const patterns = (config.modulesToSave ?? []).flatMap((pattern): PatternReport[] => {
    // PEFT compares the end of the path without regard to its parts: "norm" means input_layernorm
    // too.
    const named = [...modules.keys()].filter((path) => path.endsWith(pattern));
    if (named.length === 0 && heads.includes(pattern)) return [];
    for (const name of named.flatMap((path) => parametersOf(model, path))) {
      parameters.set(name, name);
    }
    const report = patternReport("modulesToSave", pattern, {
      named,
      known: modules,
    });
    if (named.length === 0) problems.push(namesNothing("MODULES_TO_SAVE_NOT_FOUND", report));
    return [report];
  });
  const both = [...adapted].find((path) => parameters.has(weightName(siteAt(model, path))));
  if (both) {
    problems.push(
      new TargetError(
        "TARGET_SAVED",
        `${both} is named by targetModules or targetParameters and, as the end of its path, by modulesToSave. A module is either adapted or saved: ` +
          `write its name in full, or leave it out of one of the two.`,
        { path: both },
      ),
    );
  }
  const source = `${inputEmbedding(model)?.path}.weight`;
  for (const path of tiedSaved) parameters.set(`${path}.weight`, source);
  for (const name of biases(model, config, adapted)) {
    if (!parameters.has(name)) parameters.set(name, name);
  }
  const ordered = parametersOf(model, "").flatMap((name): [string, string][] => {
    const owner = parameters.get(name);
    return owner === undefined ? [] : [[name, owner]];
  });
  return { parameters: new Map(ordered), patterns, problems };
}

function biases(
  model: ModelGraph,
  config: Partial<TargetConfig>,
  adapted: ReadonlySet<string>,
): readonly string[] {
  const { bias = "none" } = config;
  if (bias === "none") return [];
  return [...model.sites.values()]
    // PEFT knows biases by this name.
    .filter((site) => site.bias && !site.stem && (bias === "all" || adapted.has(site.path)))
    .map(biasName);
}
