/**
 * The part of a plan that says which parameters are adapted like modules (`targetParameters`).
 *
 * @module
 */
import { type GraftError, TargetError, UnsupportedError } from "../../errors.ts";
import type { TargetConfig } from "../../methods/config.ts";
import { type ModelGraph, parameterOf } from "../../model/model-graph.ts";
import { parameterSite, type Site } from "../../model/site.ts";
import { isBlockType } from "../../tensor/dtype.ts";
import { endingsOf } from "./match-modules.ts";
import { type Module, moduleOf, modulesOf, wrapperOf } from "./module-tree.ts";
import { namesNothing, type PatternReport, patternReport } from "./pattern-report.ts";

/** The parameters that a config names. */
export interface ParameterTargets {
  /** Each as a site, with what its keys begin with, in order of execution. */
  readonly targets: readonly { readonly site: Site; readonly keyPath: string }[];
  /** Every entry. */
  readonly patterns: readonly PatternReport[];
  /** What cannot be adapted. */
  readonly problems: readonly GraftError[];
}

/**
 * Finds the parameters that entries name in full or by the end.
 *
 * @param model The base.
 * @param config The resolved config.
 * @param adapted Paths of the modules that are adapted.
 */
export function parameterTargets(
  model: ModelGraph,
  config: TargetConfig,
  adapted: ReadonlySet<string>,
): ParameterTargets {
  const { targetParameters: entries } = config;
  if (!entries?.length) return { targets: [], patterns: [], problems: [] };
  const modules = modulesOf(model);
  const known = new Map([...model.shapes].map(([path, shape]): [string, Module] => [path, {
    path,
    kind: "parameter",
    site: parameterSite(path, shape),
    layer: modules.get(moduleOf(path))?.layer ?? null,
    endings: endingsOf(path),
  }]));
  const wanted = new Set(entries);
  const found = [...known.values()].filter(({ endings }) => endings.some((end) => wanted.has(end)));
  const patterns = [...wanted].map((pattern) =>
    patternReport("targetParameters", pattern, {
      named: found.filter(({ endings }) => endings.includes(pattern)).map(({ path }) => path),
      known,
    })
  );
  const names = found.map(({ path }) => path);
  const problems = names.flatMap((name) => problemOf(model, name, adapted) ?? []);
  return {
    targets: found.map(({ path, site }) => ({ site: site!, keyPath: wrapperOf(path, names) })),
    patterns,
    problems: [
      ...patterns.filter(({ modules }) => modules.length === 0)
        .map((report) => namesNothing("TARGET_NOT_FOUND", report)),
      ...problems,
    ],
  };
}

function problemOf(
  model: ModelGraph,
  name: string,
  adapted: ReadonlySet<string>,
): GraftError | undefined {
  const path = moduleOf(name),
    shape = model.shapes.get(name)!,
    { dtype } = parameterOf(model, name);
  const refuse = (code: string, why: string) =>
    new TargetError(code, `targetParameters names ${name}, ${why}`, { name, shape });
  if (adapted.has(path)) {
    return refuse(
      "TARGET_TWICE",
      `and targetModules the module ${path} that it belongs to. Leave it out of one of the two; ` +
        "targetModules: [] adapts no modules.",
    );
  }
  if (!path) return refuse("TARGET_KIND", "which belongs to no module that could be wrapped.");
  if (shape.length !== 2 && shape.length !== 3) {
    return refuse(
      "TARGET_SHAPE",
      `of shape [${shape}]; only those of two or three axes have factors.`,
    );
  }
  if (isBlockType(dtype)) {
    return new UnsupportedError(
      "TARGET_QUANTIZED",
      `targetParameters names ${name}, which is block-quantized (${dtype}): adapt its module by targetModules, ` +
        "or load the model with { dequantize: true }.",
      { name, dtype },
    );
  }
  return undefined;
}
