/**
 * The part of a plan that says which sites are adapted.
 *
 * @module
 */
import { GraftError, TargetError, UnsupportedError } from "../../errors.ts";
import type { TargetConfig } from "../../methods/config.ts";
import type { LeafRule, PeftMethod, SitePlace } from "../../methods/method.ts";
import { siteKinds } from "../../methods/site-rule.ts";
import { inputEmbedding, type ModelGraph } from "../../model/model-graph.ts";
import type { Site, SiteKind } from "../../model/site.ts";
import { createMatcher, layerNumbering } from "./match-modules.ts";
import { type Module, moduleOf, modulesOf } from "./module-tree.ts";
import { parameterTargets } from "./parameter-targets.ts";
import { nearestText, type PatternReport, patternReport } from "./pattern-report.ts";
import { isAllLinear, type ResolvedConfig } from "./resolve-config.ts";

/** A site that an adapter takes part at. */
export interface PlannedSite {
  /** The site. */
  readonly site: Site;
  /** What its keys in files begin with, after a prefix: its path, or that of PEFT's wrapper. */
  readonly keyPath: string;
  /** Number of its layer; `null` outside of layers. */
  readonly layer: number | null;
  /** Entries of `targetModules`, or of `targetParameters`, that name it. */
  readonly patterns: readonly string[];
  /** Shapes of the leaves that it trains. */
  readonly leaves: Readonly<Record<string, readonly number[]>>;
  /** Shapes of its fixed leaves. */
  readonly frozen: Readonly<Record<string, readonly number[]>>;
  /** Leaves that it shares, transposed or as they are, with the embedding that it is tied to. */
  readonly tied: Readonly<
    Record<string, { readonly path: string; readonly leaf: string; readonly asIs?: boolean }>
  >;
  /** All its leaves as the method declares them. */
  readonly rules: Readonly<Record<string, LeafRule>>;
}

/** Which sites are adapted, and what stands in the way. */
export interface TargetPlan {
  /** Sites in order of execution, tied ones last. */
  readonly sites: readonly PlannedSite[];
  /** Every entry of `targetModules` and `excludeModules`. */
  readonly patterns: readonly PatternReport[];
  /** What cannot be done. */
  readonly problems: readonly GraftError[];
}

/**
 * Plans the sites.
 *
 * @param model The base.
 * @param options The method, the config as it was given, and resolved.
 */
export function planTargets(
  model: ModelGraph,
  options: {
    readonly method: PeftMethod;
    readonly given: TargetConfig;
    readonly resolved: ResolvedConfig;
  },
): TargetPlan {
  const { method, given, resolved: { config, tiedTargets } } = options;
  const modules = modulesOf(model);
  const matcher = createMatcher(config);
  const problems: GraftError[] = [];
  const effective = entriesOf(config.targetModules);
  const isExpression = typeof config.targetModules === "string";
  const matched = new Set(
    [...namedByEach(effective, { modules, names: matcher.names, isExpression })].flatMap((
      [entry, paths],
    ) => paths.filter((path) => matcher.inLayers(entry, path))),
  );
  const adapted = [...modules.values()].filter(({ path }) =>
    matched.has(path) && !tiedTargets.includes(path) && !matcher.excluded(path)
  );
  const kinds: readonly SiteKind[] = siteKinds({ method, config }).filter((kind) =>
    kind !== "parameter"
  );
  const fits = ({ site }: Module) =>
    site && kinds.includes(site.kind) && (!site.partOf || taken.has(site.partOf));
  const taken = new Set(adapted.map(({ path }) => path));
  const unfit = adapted.filter((module) => !fits(module));
  if (unfit.length) problems.push(unfitTarget(unfit, config, kinds));
  // What was given names the patterns: a list that was condensed or made from "all-linear" would
  // not be recognised.
  const shown = isAllLinear(given.targetModules) || given.targetModules === null ? config : given;
  const shownMatcher = createMatcher(shown);
  const named = namedByEach(entriesOf(shown.targetModules), {
    modules,
    names: shownMatcher.names,
    isExpression: typeof shown.targetModules === "string",
  });
  const patterns = [...named].map(([pattern, paths]) =>
    patternReport("targetModules", pattern, {
      named: paths,
      taken: (path) => taken.has(path) || tiedTargets.includes(path),
      known: modules,
      plain: named.size > MANY,
    })
  );
  const patternsOf = new Map<string, string[]>();
  // What is usual for a family can be the names of older releases.
  const usual = given.targetModules === null && adapted.length > 0;
  const missing = usual ? [] : patterns.filter((p) => p.modules.length === 0);
  const parameters = parameterTargets(model, config, taken);
  patterns.push(...parameters.patterns);
  problems.push(...parameters.problems);
  for (const { pattern, modules } of patterns) {
    for (const path of modules) patternsOf.set(path, [...patternsOf.get(path) ?? [], pattern]);
  }
  problems.push(...missing.map((p) => notFound(p, shown)));
  problems.push(...missingLayers(config, modules));
  patterns.push(...excludeReports(config, modules));

  const fit = adapted.flatMap(({ site }) => {
    if (!site || site.partOf || !kinds.includes(site.kind)) return [];
    return [site, ...[...model.sites.values()].filter(({ partOf }) => partOf === site.path)];
  });
  const all = [...fit, ...parameters.targets.map(({ site }) => site)];
  const sites: PlannedSite[] = [];
  const add = (
    site: Site,
    { source, keyPath = site.path }: { readonly source?: PlannedSite; readonly keyPath?: string } =
      {},
  ) => {
    try {
      const { layer } = modules.get(site.kind === "parameter" ? moduleOf(site.path) : site.path)!;
      const patterns = patternsOf.get(site.path) ?? [];
      const place = { config, model, site, sites: all };
      sites.push(planSite(place, { method, source, keyPath, layer, patterns }));
    } catch (error) {
      if (!(error instanceof GraftError)) throw error;
      problems.push(error);
    }
  };
  for (const site of fit) {
    const { path, partOf } = site;
    add(site, partOf ? { keyPath: `${partOf}.base_layer${path.slice(partOf.length)}` } : {});
  }
  for (const { site, keyPath } of parameters.targets) add(site, { keyPath });
  const source = sites.find(({ site }) => site.path === inputEmbedding(model)?.path);
  for (const path of tiedTargets) {
    if (source) add(model.sites.get(path)!, { source });
    else {
      problems.push(
        new UnsupportedError(
          "WEIGHT_TYING",
          `ensureWeightTying is to tie the adapter of ${path} to that of the input embedding, which the config leaves out. ` +
            `Name the embedding in targetModules, or set ensureWeightTying to false.`,
        ),
      );
    }
  }
  if (sites.length === 0 && problems.length === 0) problems.push(nothingLeft(config, patterns));
  return { sites, patterns, problems };
}

function entriesOf(targets: TargetConfig["targetModules"]): readonly string[] {
  return targets === null ? [] : typeof targets === "string" ? [targets] : targets;
}

/**
 * The modules that each entry names. Endings are looked up for every module instead of being tried
 * on it, as there can be as many of them as there are modules.
 */
function namedByEach(
  entries: readonly string[],
  of: {
    readonly modules: ReadonlyMap<string, Module>;
    readonly names: (entry: string, path: string) => boolean;
    readonly isExpression: boolean;
  },
): ReadonlyMap<string, readonly string[]> {
  const named = new Map<string, string[]>(entries.map((entry) => [entry, []]));
  for (const { path, endings } of of.modules.values()) {
    const found = of.isExpression
      ? entries.filter((entry) => of.names(entry, path))
      : endings.filter((ending) => named.has(ending));
    for (const entry of found) named.get(entry)!.push(path);
  }
  return named;
}

/** From how many entries on no names are looked for that look like one. */
const MANY = 500;

function excludeReports(
  config: TargetConfig,
  modules: ReadonlyMap<string, Module>,
): readonly PatternReport[] {
  const { excludeModules } = config;
  const entries = entriesOf(excludeModules || null);
  return entries.map((pattern) => {
    const alone = createMatcher({
      ...config,
      modulesToSave: null,
      excludeModules: typeof excludeModules === "string" ? pattern : [pattern],
    });
    return patternReport("excludeModules", pattern, {
      named: [...modules.values()].filter(({ path, site }) => site && alone.excluded(path))
        .map(({ path }) => path),
      known: modules,
    });
  });
}

function planSite(
  place: SitePlace<TargetConfig>,
  at: {
    readonly method: PeftMethod;
    readonly source?: PlannedSite;
    readonly keyPath: string;
    readonly layer: number | null;
    readonly patterns: readonly string[];
  },
): PlannedSite {
  const { site, config } = place, { method, source, keyPath, layer, patterns } = at;
  const rules = method.leaves.site?.(place) ?? {};
  const shapes = shapesOf(rules, "trained");
  const tied: Record<string, { path: string; leaf: string; asIs?: boolean }> = {};
  if (source) {
    for (const [leaf, { tiedTo: from, tiedAsIs: asIs }] of Object.entries(rules)) {
      if (from === undefined) continue;
      const theirs = source.leaves[from] ?? [];
      if (shapes[leaf].join() !== (asIs ? theirs : theirs.toReversed()).join()) {
        throw new UnsupportedError(
          "WEIGHT_TYING",
          `ensureWeightTying cannot tie ${leaf} of ${site.path}, of shape [${
            shapes[leaf]
          }], to ${from} of ` +
            `${source.site.path}, of shape [${source.leaves[from]}]: both need the same rank.`,
        );
      }
      delete shapes[leaf];
      tied[leaf] = { path: source.site.path, leaf: from, ...(asIs && { asIs }) };
    }
    if (Object.keys(tied).length === 0) {
      throw new UnsupportedError(
        "WEIGHT_TYING",
        `${config.peftType} cannot tie the adapter of ${site.path} to that of ${source.site.path}. Set ensureWeightTying to false.`,
      );
    }
  }
  const frozen = shapesOf(rules, "fixed");
  return { site, keyPath, layer, patterns, leaves: shapes, frozen, tied, rules };
}

/** Shapes of the leaves of a kind. */
export function shapesOf(
  rules: Readonly<Record<string, LeafRule>>,
  kind: LeafRule["kind"],
): Record<string, readonly number[]> {
  return Object.fromEntries(
    Object.entries(rules).filter(([, rule]) => !rule.shares && (rule.kind ?? "trained") === kind)
      .map(([leaf, { shape }]) => [leaf, shape]),
  );
}

function unfitTarget(
  unfit: readonly Module[],
  config: TargetConfig,
  kinds: readonly string[],
): TargetError {
  const [{ path, kind, site }] = unfit, whole = site?.partOf;
  if (whole && kinds.includes(kind)) {
    return new TargetError(
      "TARGET_PART",
      `targetModules names ${path}, which is adapted with ${whole} alone: PEFT makes one adapter for both. ` +
        `Name ${whole}.`,
      { path, whole },
    );
  }
  const holdsOthers = kind === "container" || kind === "attention";
  const what = holdsOthers ? "a container of other modules" : `of the kind "${kind}"`;
  return new TargetError(
    "TARGET_KIND",
    `targetModules names ${path}, which is ${what}; ${config.peftType} adapts modules of the kinds ${
      kinds.join(", ")
    }. ${holdsOthers ? "Name the modules in it" : "Leave it out"}, or add it to excludeModules.`,
    { modules: unfit.map((m) => ({ path: m.path, kind: m.kind })) },
  );
}

function notFound(pattern: PatternReport, config: TargetConfig): TargetError {
  const expression = typeof config.targetModules === "string";
  return new TargetError(
    "TARGET_NOT_FOUND",
    `Target modules ${JSON.stringify(pattern.pattern)} not found in the base model${
      expression ? " (a string is a regular expression for the whole path)" : ""
    }.${nearestText(pattern.nearest)}`,
    { pattern: pattern.pattern, nearest: pattern.nearest },
  );
}

/** Layers that are asked for and do not exist. */
function missingLayers(
  config: TargetConfig,
  modules: ReadonlyMap<string, Module>,
): readonly TargetError[] {
  const { layersToTransform = null, layersPattern } = config;
  // Layers do not matter to an expression.
  if (layersToTransform === null || typeof config.targetModules === "string") return [];
  const asked = typeof layersToTransform === "number" ? [layersToTransform] : layersToTransform;
  const numberOf = layerNumbering(layersPattern);
  const existing = new Set([...modules.keys()].map(numberOf).filter((n) => n !== null));
  const missing = asked.filter((layer) => !existing.has(layer));
  if (missing.length === 0) return [];
  const layers = [...existing].sort((a, b) => a - b);
  const range = layers.length ? `${layers[0]} to ${layers[layers.length - 1]}` : "none";
  return [
    new TargetError(
      "LAYER_NOT_FOUND",
      `layersToTransform asks for ${missing.slice(0, 20).join(", ")}${
        missing.length > 20 ? " and more" : ""
      }, but the layers of the base model${
        layersPattern?.length ? ` under ${JSON.stringify(layersPattern)}` : ""
      } are ${range}.`,
      { missing, layers },
    ),
  ];
}

function nothingLeft(config: TargetConfig, patterns: readonly PatternReport[]): TargetError {
  const named = patterns.filter((p) => p.field === "targetModules").flatMap((p) => p.modules);
  return new TargetError(
    "TARGETS_EMPTY",
    named.length
      ? `No modules were targeted for adaptation: all ${named.length} that targetModules names are left out by ` +
        `excludeModules, modulesToSave or layersToTransform.`
      : `No modules were targeted for adaptation: targetModules is ${
        JSON.stringify(config.targetModules)
      }.`,
    { named },
  );
}
