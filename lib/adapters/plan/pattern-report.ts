/**
 * Reports of what the entries of a config name.
 *
 * @module
 */
import { nearestNames, TargetError } from "../../errors.ts";
import { type Module, moduleOf } from "./module-tree.ts";

/** What one entry of a config names. */
export interface PatternReport {
  /** The field that holds it. */
  readonly field:
    | "targetModules"
    | "targetParameters"
    | "excludeModules"
    | "modulesToSave"
    | "trainableTokenIndices"
    | "rankPattern"
    | "alphaPattern";
  /** The entry: a name or a regular expression. */
  readonly pattern: string;
  /** Paths of the modules that it names. */
  readonly modules: readonly string[];
  /** The same by number of layer; those outside of layers under `null`. */
  readonly layers: ReadonlyMap<number | null, readonly string[]>;
  /** Those of them that the adapter leaves out: excluded, saved as a whole, or in other layers. */
  readonly leftOut: readonly string[];
  /** Existing names that look like it, where it names nothing. */
  readonly nearest: readonly string[];
}

/** What is known of one entry of a config. */
export function patternReport(
  field: PatternReport["field"],
  pattern: string,
  of: {
    readonly named: readonly string[];
    /** Whether the adapter takes one that it names; by default all. */
    readonly taken?: (path: string) => boolean;
    readonly known: ReadonlyMap<string, Module>;
    /** Whether names that look like it are not looked for, as there are too many entries. */
    readonly plain?: boolean;
  },
): PatternReport {
  const layers = new Map<number | null, string[]>();
  for (const path of of.named) {
    const { layer } = of.known.get(path) ?? of.known.get(moduleOf(path))!;
    const paths = layers.get(layer);
    if (paths) paths.push(path);
    else layers.set(layer, [path]);
  }
  return {
    field,
    pattern,
    modules: of.named,
    layers,
    leftOut: of.named.filter((path) => of.taken?.(path) === false),
    nearest: of.named.length || of.plain ? [] : nearestModules(pattern, of.known.values()),
  };
}

/** Names that look like one, as a sentence after others. */
export function nearestText(nearest: readonly string[]): string {
  return nearest.length ? ` Nearest: ${nearest.join(", ")}.` : "";
}

/** The problem of an entry that names nothing. */
export function namesNothing(code: string, report: PatternReport): TargetError {
  const { field, pattern, nearest } = report;
  return new TargetError(
    code,
    `${field} names ${JSON.stringify(pattern)}, which the base model does not have.${
      nearestText(nearest)
    }`,
    { pattern, nearest },
  );
}

/**
 * Last names and paths that look like a pattern, or, where it is a regular expression, like the
 * words in it.
 */
export function nearestModules(pattern: string, modules: Iterable<Module>): readonly string[] {
  const paths = [...modules].filter(({ site }) => site).map(({ path }) => path);
  const near = (name: string) =>
    nearestNames(
      name,
      name.includes(".") ? paths : paths.map((path) => path.slice(path.lastIndexOf(".") + 1)),
    );
  if (/^[\w.]*$/.test(pattern)) return near(pattern);
  const words = pattern.match(/[A-Za-z]\w+/g)?.toReversed() ?? [];
  return words.map(near).find((found) => found.length) ?? [];
}
