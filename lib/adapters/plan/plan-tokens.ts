/**
 * The part of a plan that says which rows of embeddings are trained (`trainableTokenIndices`).
 *
 * @module
 */
import { ConfigError, type GraftError, TargetError } from "../../errors.ts";
import type { TargetConfig } from "../../methods/config.ts";
import { inputEmbedding, type ModelGraph } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import { modulesOf, tiedToEmbedding } from "./module-tree.ts";
import { namesNothing, type PatternReport, patternReport } from "./pattern-report.ts";

/** Rows of one module. */
export interface PlannedTokens {
  /** Which rows, in the config's order. */
  readonly indices: readonly number[];
  /** Numbers in a row. */
  readonly width: number;
  /** The module whose rows they are: itself, or the embedding that it is tied to. */
  readonly owner: string;
}

/** Which rows are trained, and what stands in the way. */
export interface TokenPlan {
  /** Rows by module path. */
  readonly tokens: ReadonlyMap<string, PlannedTokens>;
  /** Every entry of `trainableTokenIndices`. */
  readonly patterns: readonly PatternReport[];
  /** What cannot be done. */
  readonly problems: readonly GraftError[];
}

/**
 * Plans the rows.
 *
 * @param model The base.
 * @param options The config, the paths of the adapted sites and the names of the parameters that
 * are trained as a whole.
 */
export function planTokens(
  model: ModelGraph,
  options: {
    readonly config: Partial<TargetConfig>;
    readonly adapted: ReadonlySet<string>;
    readonly parameters: ReadonlyMap<string, string>;
  },
): TokenPlan {
  const { config, adapted, parameters } = options;
  const given = config.trainableTokenIndices;
  const tokens = new Map<string, PlannedTokens>();
  if (!given) return { tokens, patterns: [], problems: [] };
  const problems: GraftError[] = [];
  const embedding = inputEmbedding(model)?.path ?? "";
  const modules = modulesOf(model);
  const entries: readonly (readonly [string, readonly number[]])[] = isList(given)
    ? [[embedding, given]]
    : Object.entries(given);
  const patterns: PatternReport[] = entries.map(([pattern, indices]) => {
    const named = [...modules.values()].filter(({ path }) => path.endsWith(pattern));
    for (const { path, site } of named) {
      const problem = checkModule(site, path) ?? checkIndices(site!, indices) ??
        checkUse(path, { adapted, parameters });
      if (problem) problems.push(problem);
      else {
        const width = site!.kind === "embedding" ? site!.outFeatures : site!.inFeatures;
        tokens.set(path, { indices, width, owner: path });
      }
    }
    const report = patternReport("trainableTokenIndices", pattern, {
      named: named.map(({ path }) => path),
      known: modules,
    });
    if (named.length === 0) problems.push(namesNothing("TOKENS_NOT_FOUND", report));
    return report;
  });
  const source = tokens.get(embedding);
  for (const path of source ? tiedToEmbedding(model) : []) {
    const own = tokens.get(path);
    if (!own || own.indices.join() === source!.indices.join()) {
      tokens.delete(path); // so that it follows its owner
      tokens.set(path, source!);
    } else if (config.ensureWeightTying) {
      problems.push(
        new ConfigError(
          "TOKENS_TIED",
          `ensureWeightTying cannot tie different rows: ${embedding} has [${
            source!.indices
          }], ${path} has [${own.indices}]. ` +
            `Name the same rows for both, or set ensureWeightTying to false.`,
        ),
      );
    }
  }
  return { tokens, patterns, problems };
}

function isList(given: unknown): given is readonly number[] {
  return Array.isArray(given);
}

function checkModule(site: Site | undefined, path: string): TargetError | undefined {
  if (site?.kind === "embedding" || site?.kind === "linear") return undefined;
  return new TargetError(
    "TOKENS_KIND",
    `trainableTokenIndices names ${path}, which is ${
      site ? `of the kind "${site.kind}"` : "a container"
    }; rows can be trained of embeddings and linear layers.`,
    { path },
  );
}

function checkIndices(site: Site, indices: readonly number[]): ConfigError | undefined {
  const rows = site.kind === "embedding" ? site.inFeatures : site.outFeatures;
  const outside = indices.find((index) => !(index >= 0 && index < rows));
  if (outside !== undefined) {
    return new ConfigError(
      "TOKENS_RANGE",
      `trainableTokenIndices has ${outside}, but ${site.path} has the rows 0 to ${
        rows - 1
      }. For new tokens, resize the base before (resizeTokenEmbeddings).`,
      { path: site.path, index: outside, rows },
    );
  }
  const seen = new Set<number>();
  const twice = indices.find((index) => seen.size === seen.add(index).size);
  if (twice === undefined && indices.length > 0) return undefined;
  return new ConfigError(
    "TOKENS_INDICES",
    `trainableTokenIndices ${
      twice === undefined ? "is empty" : `has ${twice} twice`
    } for ${site.path}.`,
    { path: site.path, indices },
  );
}

function checkUse(
  path: string,
  { adapted, parameters }: {
    readonly adapted: ReadonlySet<string>;
    readonly parameters: ReadonlyMap<string, string>;
  },
): TargetError | undefined {
  if (parameters.has(`${path}.weight`)) {
    return new TargetError(
      "TOKENS_SAVED",
      `The layer ${path} is already trained fully by modulesToSave, and trainableTokenIndices names rows of it. Choose one of the two.`,
      { path },
    );
  }
  if (!adapted.has(path)) return undefined;
  return new TargetError(
    "TOKENS_TARGETED",
    `trainableTokenIndices cannot be applied to ${path}, which targetModules adapts. Choose one of the two.`,
    { path },
  );
}
