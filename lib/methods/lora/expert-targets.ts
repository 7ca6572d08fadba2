/**
 * Targets by the names that modules of experts had before they became parameters, with PEFT's rules.
 *
 * @module
 */
import { ConfigError } from "../../errors.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import type { TargetConfig } from "../config.ts";
import { pythonRegExp } from "../python-regex.ts";

/** The fields of a config that change with its targets. */
interface Ranked extends TargetConfig {
  readonly r: number;
  readonly loraAlpha: number;
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
}

/**
 * The config with targets such as `w1`, `up_proj`, the router `gate` and `"all-linear"` as the
 * parameters that they mean today. One in which several lie gets the rank of all of them.
 *
 * @param config A complete config.
 * @param model The base; a family without experts changes nothing.
 * @param options With `beside`, targets also mean the modules that have such names still, and a
 * family of which PEFT reads no targets so is no exception.
 * @throws {ConfigError} `CONFIG_EXPERTS` where some parts of a parameter are named and others not.
 */
export function expertTargets<C extends Ranked>(
  config: C,
  model: ModelGraph,
  { beside = false }: { readonly beside?: boolean } = {},
): C {
  const { sites, architecture: { stacked } } = model;
  if (!stacked || !(stacked.targets || beside)) return config;
  const today = new Map([
    ["gate", "gate.weight"],
    ...Object.entries(stacked.parts).flatMap(([name, parts]) => parts.map((part) => [part, name])),
  ] as [string, string][]);
  const { targetModules, targetParameters, r, loraAlpha } = config;
  if (targetModules === null) {
    return targetParameters?.length ? { ...config, targetModules: [] } : config;
  }
  const given = typeof targetModules === "string"
    ? namesOf(targetModules, model, today)
    : targetModules;
  const named = new Set(given.map(lastName).filter((name) => today.has(name)));
  if (named.size === 0) return config;
  const wider = Object.entries(stacked.parts).flatMap(([name, parts]) => {
    const present = parts.filter((part) => named.has(part));
    if (present.length === 0 || present.length === parts.length) {
      return present.length > 1 ? [[`.*\\.${name}`, parts.length] as const] : [];
    }
    throw new ConfigError(
      "CONFIG_EXPERTS",
      `targetModules names ${present.join(", ")} without ${
        parts.filter((part) => !named.has(part)).join(", ")
      }, and of experts both lie in one parameter, ${name}. Name all of them, or the parameter in targetParameters.`,
      { present, parameter: name },
    );
  });
  const patterns = (value: number) =>
    Object.fromEntries(wider.map(([key, count]) => [key, value * count]));
  const parameters = [...named].map((name) => today.get(name)!);
  return {
    ...config,
    targetModules: given.filter((target) =>
      beside
        ? [...sites.keys()].some((path) => `.${path}`.endsWith(`.${target}`))
        : !today.has(lastName(target))
    ),
    targetParameters: [...new Set([...targetParameters ?? [], ...parameters])],
    rankPattern: { ...config.rankPattern, ...patterns(r) },
    alphaPattern: { ...config.alphaPattern, ...patterns(loraAlpha) },
  };
}

function lastName(path: string): string {
  return path.slice(path.lastIndexOf(".") + 1);
}

/** Last names of what an expression matches, or `"all-linear"` means, old names included. */
function namesOf(
  targets: string,
  { sites, shapes }: ModelGraph,
  today: ReadonlyMap<string, string>,
): readonly string[] {
  if (targets.toLowerCase() === "all-linear") {
    const linear = [...sites.values()].filter(({ kind, head }) =>
      (kind === "linear" || kind === "conv1d") && !head
    );
    return [...new Set([...linear.map(({ path }) => lastName(path)), ...today.keys()])];
  }
  const expression = pythonRegExp(targets);
  const paths = new Set([...sites.keys(), ...shapes.keys()].flatMap((name) => {
    const words = name.split(".");
    return words.map((_, i) => words.slice(0, i + 1).join("."));
  }));
  for (const [old, name] of today) {
    for (const path of shapes.keys()) {
      if (lastName(path) === name) paths.add(path.slice(0, -name.length) + old);
    }
  }
  return [...new Set([...paths].filter((path) => expression.test(path)).map(lastName))];
}
