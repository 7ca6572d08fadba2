/**
 * One adapter with the contents of another, for the same program.
 *
 * A program depends on the shapes of leaves and on what the config says is computed. Where a method
 * has a rule to refit leaves, leaves of another rank and scale are made to fit; otherwise both adapters
 * must agree.
 *
 * @module
 */
import { ShapeError, UnsupportedError } from "../../errors.ts";
import type { Leaves, SiteLeaves } from "../../methods/method.ts";
import { type ModelGraph, parameterOf } from "../../model/model-graph.ts";
import { castTensor, toFloat32 } from "../../tensor/convert.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { gatheredRows, leavesAt } from "../lazy-leaves.ts";
import type { Adapter, TokenRows } from "../peft-model.ts";

/** Whether the rank of an adapter can be changed. */
export function canResize({ method }: Adapter): boolean {
  return method.refit !== undefined;
}

/**
 * An adapter with another, larger rank at all its sites, which does the same.
 *
 * @throws {ValueError} where it has a larger rank.
 */
export function resizedAdapter(base: ModelGraph, adapter: Adapter, rank: number): Adapter {
  const rule = adapter.method.refit!;
  const config = rule.resized(adapter.config, rank);
  return { ...adapter, config, sites: refitted(base, { ...adapter, config }, adapter) };
}

/**
 * The resident adapter with the contents of the other.
 *
 * @param base The base of both, without any adapter.
 * @throws {UnsupportedError} where the other one is another program.
 * @throws {ValueError} where its rank is larger.
 */
export function swappedAdapter(base: ModelGraph, resident: Adapter, from: Adapter): Adapter {
  if (resident.method.peftType !== from.method.peftType) {
    throw new UnsupportedError(
      "HOTSWAP_METHOD",
      `Incompatible PEFT types found: ${resident.method.peftType} and ${from.method.peftType}. ` +
        "Load the other adapter beside this one with loadAdapter.",
      { resident: resident.method.peftType, found: from.method.peftType },
    );
  }
  const more = [...from.sites.keys()].filter((path) => !resident.sites.has(path));
  if (more.length) throw unexpected(more);
  const rest = {
    parameters: swappedParameters(base, resident.parameters, from.parameters),
    tokens: swappedTokens(base, resident.tokens, from.tokens),
    ...(resident.replacements?.size || from.replacements?.size
      ? {
        replacements: swappedParameters(
          base,
          resident.replacements ?? new Map(),
          from.replacements ?? new Map(),
        ),
      }
      : {}),
  };
  const different = differentFields(resident, from);
  const sameSites = resident.sites.size === from.sites.size &&
    [...resident.sites].every(([path, site]) => sameShapes(site, from.sites.get(path)!));
  if (different.length === 0 && sameSites && sameShapes(resident.shared, from.shared)) {
    return {
      ...resident,
      ...rest,
      config: { ...from.config, inferenceMode: resident.config.inferenceMode },
      shared: like(resident.shared, from.shared),
      sites: new Map(
        [...resident.sites].map(([path, site]) => [path, like(site, from.sites.get(path)!)]),
      ),
    };
  }
  const rule = resident.method.refit;
  if (!rule) throw otherProgram(resident, from, different);
  const config = rule.config(resident.config, from.config);
  return { ...resident, ...rest, config, sites: refitted(base, { ...resident, config }, from) };
}

/** The sites of the adapter `to`, made of the leaves of another. */
function refitted(
  base: ModelGraph,
  to: Adapter,
  from: Adapter,
): ReadonlyMap<string, SiteLeaves> {
  const rule = to.method.refit!;
  return new Map([...to.sites].map(([path, resident]) => {
    const site = base.sites.get(path)!;
    const given = leavesAt(from.sites, path);
    const ties = Object.entries(resident.tied ?? {});
    checkTies(path, ties.map(([, { path }]) => path), from);
    const fitted = rule.refit({
      site,
      config: to.config,
      from: given && { config: from.config, leaves: given },
      tiedTo: ties.length ? base.sites.get(ties[0][1].path) : undefined,
      weight: () => toFloat32(parameterOf(base, `${path}.weight`)),
    });
    const leaves = Object.entries(fitted).filter(([leaf]) => !resident.tied?.[leaf])
      .map(([leaf, tensor]) => [leaf, castTensor(tensor, resident.leaves[leaf]?.dtype ?? "f32")]);
    return [path, { ...resident, leaves: Object.fromEntries(leaves), frozen: {} }];
  }));
}

/** What is tied in the resident adapter has to be so, or absent, in the other. */
function checkTies(path: string, sources: readonly string[], from: Adapter): void {
  for (const source of new Set(sources)) {
    const given = from.sites.get(path);
    const tied = Object.values(given?.tied ?? {}).some((tie) => tie.path === source);
    if (given ? tied : !from.sites.has(source)) continue;
    throw new UnsupportedError(
      "HOTSWAP_TIED",
      `${path} and ${source} share their leaves (ensureWeightTying), but those of the adapter ${
        JSON.stringify(from.name)
      } are its own. Load it beside this one with loadAdapter.`,
      { paths: [path, source] },
    );
  }
}

/** Fields that say where an adapter comes from, or whose effect shows in its sites. */
const OTHER_FIELDS: ReadonlySet<string> = new Set([
  "inferenceMode",
  "baseModelNameOrPath",
  "revision",
  "autoMapping",
  "peftVersion",
  "taskType",
  "targetModules",
  "excludeModules",
  "layersToTransform",
  "layersPattern",
  "modulesToSave",
  "trainableTokenIndices",
  "ensureWeightTying",
  "bias",
  "fanInFanOut",
]);

/** Fields of the configs that differ and may say what is computed. */
function differentFields({ config: a }: Adapter, { config: b }: Adapter): readonly string[] {
  const [x, y] = [a, b] as unknown as Readonly<Record<string, unknown>>[];
  // How leaves begin and what training drops out of their input is no part of the program.
  const counts = (field: string) => !OTHER_FIELDS.has(field) && !/^init|dropout/i.test(field);
  return [...new Set([...Object.keys(x), ...Object.keys(y)])].filter((field) =>
    counts(field) && text(x[field]) !== text(y[field])
  );
}

/** A value of a config as text. Lists of names are sets in Python and have no order. */
function text(value: unknown): string {
  const names = Array.isArray(value) && value.every((name) => typeof name === "string");
  return JSON.stringify(names ? [...value].sort() : value) ?? "null";
}

function sameShapes(a: SiteLeaves, b: SiteLeaves): boolean {
  const shapes = ({ leaves, frozen, tied = {} }: SiteLeaves) =>
    [
      ...[leaves, frozen].flatMap((part, i) =>
        Object.entries(part).map(([leaf, { shape }]) => `${i} ${leaf} ${shape}`)
      ),
      ...Object.entries(tied).map(([leaf, { path }]) => `2 ${leaf} ${path}`),
    ].sort().join();
  return shapes(a) === shapes(b);
}

/** Leaves in the number types of those that they replace. */
function like(resident: SiteLeaves, from: SiteLeaves): SiteLeaves {
  const cast = (old: Leaves, leaves: Leaves) =>
    Object.fromEntries(
      Object.keys(old).map((leaf) => [leaf, castTensor(leaves[leaf], old[leaf].dtype)]),
    );
  return {
    ...resident,
    leaves: cast(resident.leaves, from.leaves),
    frozen: cast(resident.frozen, from.frozen),
  };
}

function otherProgram(
  resident: Adapter,
  from: Adapter,
  different: readonly string[],
): UnsupportedError {
  const value = ({ config }: Adapter, field: string) =>
    JSON.stringify((config as unknown as Record<string, unknown>)[field]);
  const fewer = [...resident.sites.keys()].filter((path) => !from.sites.has(path));
  return new UnsupportedError(
    "HOTSWAP_CONFIG",
    `An adapter of the method ${resident.method.peftType} can only be swapped for one that agrees with it: ${
      different.length
        ? `configs are incompatible: ${
          different.map((field) =>
            `for ${field}, ${value(resident, field)} != ${value(from, field)}`
          )
            .join("; ")
        }`
        : fewer.length
        ? `the other one lacks ${fewer.slice(0, 5).join(", ")}`
        : "the shapes of their leaves differ"
    }. Load it beside this one with loadAdapter.`,
    { fields: different },
  );
}

function unexpected(what: readonly string[]): UnsupportedError {
  return new UnsupportedError(
    "HOTSWAP_TARGETS",
    `Hot swapping the adapter did not succeed: it also changes ${what.slice(0, 5).join(", ")}${
      what.length > 5 ? ` and ${what.length - 5} more` : ""
    }, which the adapter that it is to replace does not, so that it is another program. ` +
      "Begin with an adapter that adapts all modules that are needed, or load it with loadAdapter.",
    { unexpected: what },
  );
}

/** Parameters that stand for those of the base: where the other adapter has none, the base's. */
function swappedParameters(
  base: ModelGraph,
  resident: ReadonlyMap<string, Tensor>,
  from: ReadonlyMap<string, Tensor>,
): ReadonlyMap<string, Tensor> {
  return swapped(resident, from, {
    named: (name) => name,
    missing: (name) => parameterOf(base, name),
    replace(name, old, found) {
      checkShape(name, old, found);
      // One object for each parameter of the adapter, as its identity tells which of them are tied.
      return { ...castTensor(found, old.dtype) };
    },
  });
}

/** Trained rows of embeddings: where the other adapter has none, the base's. */
function swappedTokens(
  base: ModelGraph,
  resident: ReadonlyMap<string, TokenRows>,
  from: ReadonlyMap<string, TokenRows>,
): ReadonlyMap<string, TokenRows> {
  return swapped(resident, from, {
    named: (path) => `rows of ${path}`,
    missing: (path) => resident.get(path)!,
    replace(path, old, found) {
      if (found.indices.join() !== old.indices.join()) {
        throw unexpected([`the rows ${found.indices.join(", ")} of ${path}`]);
      }
      const table = parameterOf(base, `${path}.weight`);
      const rows = found === old ? gatheredRows(table, old.indices) : found.rows;
      checkShape(path, old.rows, rows);
      return { indices: old.indices, rows: castTensor(rows, old.rows.dtype) };
    },
  });
}

/** The entries of one map with the contents of another; entries that were one object stay one. */
function swapped<T>(
  resident: ReadonlyMap<string, T>,
  from: ReadonlyMap<string, T>,
  how: {
    named(key: string): string;
    missing(key: string): T;
    replace(key: string, old: T, found: T): T;
  },
): ReadonlyMap<string, T> {
  const more = [...from.keys()].filter((key) => !resident.has(key));
  if (more.length) throw unexpected(more.map(how.named));
  const renewed = new Map<T, { readonly found: T; readonly value: T }>();
  for (const [key, old] of resident) {
    const found = from.get(key) ?? how.missing(key);
    const known = renewed.get(old);
    if (!known) {
      renewed.set(old, { found, value: how.replace(key, old, found) });
    } else if (known.found !== found) {
      throw new UnsupportedError(
        "HOTSWAP_TIED",
        `${
          how.named(key)
        } are tied in the adapter that is to be replaced, but not in the other. Load it beside this one with loadAdapter.`,
        { name: key },
      );
    }
  }
  return new Map([...resident].map(([key, old]) => [key, renewed.get(old)!.value]));
}

function checkShape(name: string, old: Tensor, { shape }: Tensor): void {
  if (old.shape.join() === shape.join()) return;
  throw new ShapeError(
    "HOTSWAP_SHAPE",
    `${name} has shape [${shape}] in the other adapter and [${old.shape}] in the one that is to be replaced. They belong to different bases.`,
    { name, expected: old.shape, found: shape },
  );
}
