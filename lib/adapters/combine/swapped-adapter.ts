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
import { type ModelGraph, parameterOf } from "../../model/model-graph.ts";
import { castTensor } from "../../tensor/convert.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { gatheredRows, weightOutIn } from "../lazy-leaves.ts";
import {
  adaptedParameters,
  adaptedPaths,
  type AdapterLeaf,
  leavesAt,
  mapLeaves,
  type Part,
  partId,
  type PartPlace,
  partsOf,
  partsOfKind,
  single,
  sitePart,
} from "../parts.ts";
import type { Adapter } from "../peft-model.ts";

/** Whether the rank of an adapter can be changed. */
export function canResize({ method }: Adapter): boolean {
  return method.combine?.refit !== undefined;
}

/**
 * An adapter with another, larger rank at all its sites, which does the same.
 *
 * @throws {ValueError} where it has a larger rank.
 */
export function resizedAdapter(base: ModelGraph, adapter: Adapter, rank: number): Adapter {
  const config = adapter.method.combine!.refit!.resized(adapter.config, rank);
  return withParts({ ...adapter, config }, refitted(base, { ...adapter, config }, adapter));
}

/**
 * The resident adapter with the contents of the other.
 *
 * @param base The base of both, without any adapter.
 * @throws {UnsupportedError} where the other one is another program.
 * @throws {ValueError} where its rank is larger.
 */
export function swappedAdapter(base: ModelGraph, resident: Adapter, from: Adapter): Adapter {
  if (resident.config.peftType !== from.config.peftType) {
    throw new UnsupportedError(
      "HOTSWAP_METHOD",
      `Incompatible PEFT types found: ${resident.config.peftType} and ${from.config.peftType}. ` +
        "Load the other adapter beside this one with loadAdapter.",
      { resident: resident.config.peftType, found: from.config.peftType },
    );
  }
  const more = adaptedPaths(from).filter((path) => !sitePart(resident, path));
  if (more.length) throw unexpected(more);
  const replaced = swappedReplacements(base, resident, from);
  const different = differentFields(resident, from);
  const own = partsOfKind(resident, "site", "adapter");
  const same = own.length === partsOfKind(from, "site", "adapter").length &&
    own.every((part) => sameShapes(part, from.parts.get(partId(part.place))));
  if (different.length === 0 && same) {
    const config = { ...from.config, inferenceMode: resident.config.inferenceMode };
    // In the number types of what they replace.
    const swapped = mapLeaves(
      partsOf(own),
      ({ dtype }, { id, name }) => castTensor(from.parts.get(id)!.leaves[name].tensor!, dtype),
    );
    return withParts({ ...resident, config }, [...swapped.values(), ...replaced]);
  }
  const rule = adaptedParameters(resident, base).length
    ? undefined
    : resident.method.combine?.refit;
  if (!rule) throw otherProgram(resident, from, different);
  const config = rule.config(resident.config, from.config);
  return withParts({ ...resident, config }, [
    ...refitted(base, { ...resident, config }, from),
    ...replaced,
  ]);
}

/** The adapter with some of its parts replaced, in its own order. */
function withParts(adapter: Adapter, parts: readonly Part[]): Adapter {
  return { ...adapter, parts: new Map([...adapter.parts, ...partsOf(parts)]) };
}

/** The sites of the adapter `to`, made of the leaves of another. */
function refitted(base: ModelGraph, to: Adapter, from: Adapter): readonly Part[] {
  const rule = to.method.combine!.refit!;
  return partsOfKind(to, "site").map((part) => {
    const { path } = part.place;
    const site = base.sites.get(path)!;
    const given = leavesAt(from, path);
    const sources = tiesOf(part);
    checkTies(path, sources, from);
    const fitted = rule.refit({
      site,
      config: to.config,
      from: given && { config: from.config, leaves: given },
      tiedTo: sources.length ? base.sites.get(sources[0]) : undefined,
      weight: () => weightOutIn(base, site),
    });
    const leaves = Object.entries(part.leaves).filter(([leaf]) => fitted[leaf])
      .map(([leaf, old]): [string, AdapterLeaf] => {
        if (old.tie) return [leaf, { ...old, shape: fitted[leaf].shape }];
        const tensor = castTensor(fitted[leaf], old.tensor!.dtype);
        return [leaf, { ...old, tensor, shape: tensor.shape }];
      });
    return { ...part, leaves: Object.fromEntries(leaves) };
  });
}

/** Paths of the sites whose leaves those of a part are. */
function tiesOf({ leaves }: Part): readonly string[] {
  return Object.values(leaves).flatMap(({ tie }) => tie ? [tie.part] : []);
}

/** What is tied in the resident adapter has to be so, or absent, in the other. */
function checkTies(path: string, sources: readonly string[], from: Adapter): void {
  for (const source of new Set(sources)) {
    const given = sitePart(from, path);
    if (given ? tiesOf(given).includes(source) : !sitePart(from, source)) continue;
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

function sameShapes(a: Part, b: Part | undefined): boolean {
  const shapes = ({ leaves }: Part) =>
    Object.entries(leaves).map(([name, { kind, shape, tie }]) =>
      `${kind} ${name} ${shape} ${tie?.part}`
    ).sort().join();
  return b !== undefined && shapes(a) === shapes(b);
}

function otherProgram(
  resident: Adapter,
  from: Adapter,
  different: readonly string[],
): UnsupportedError {
  const value = ({ config }: Adapter, field: string) =>
    JSON.stringify((config as unknown as Record<string, unknown>)[field]);
  const fewer = adaptedPaths(resident).filter((path) => !sitePart(from, path));
  return new UnsupportedError(
    "HOTSWAP_CONFIG",
    `An adapter of the method ${resident.config.peftType} can only be swapped for one that agrees with it: ${
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

/**
 * What stands for parameters and rows of the base. Where the other adapter has nothing, it is the
 * base's own; what is tied has to be so in both.
 */
function swappedReplacements(
  base: ModelGraph,
  resident: Adapter,
  from: Adapter,
): readonly Part[] {
  const replacing = (adapter: Adapter) => partsOfKind(adapter, "parameter", "tokens");
  const more = replacing(from).filter(({ place }) => !resident.parts.has(partId(place)));
  if (more.length) throw unexpected(more.map(({ place }) => nameOf(place)));
  const sources = new Map<string, Tensor | undefined>();
  return replacing(resident).map((part) => {
    const { place, leaves: { "": leaf } } = part;
    const id = partId(place), other = from.parts.get(id);
    const found = other && single(from, other).tensor;
    if (leaf.tie) {
      if (sources.get(leaf.tie.part) === found) return part;
      throw new UnsupportedError(
        "HOTSWAP_TIED",
        `${
          nameOf(place)
        } are tied in the adapter that is to be replaced, but not in the other. Load it beside this one with loadAdapter.`,
        { name: nameOf(place) },
      );
    }
    sources.set(id, found);
    if (place.kind === "tokens" && other?.place.kind === "tokens") {
      const { indices } = other.place;
      if (indices.join() !== place.indices.join()) {
        throw unexpected([`the rows ${indices.join(", ")} of ${place.path}`]);
      }
    }
    const tensor = found ??
      (place.kind === "tokens"
        ? gatheredRows(parameterOf(base, `${place.path}.weight`), place.indices)
        : parameterOf(base, place.name));
    checkShape(nameOf(place), leaf.tensor!, tensor);
    return {
      ...part,
      leaves: { "": { ...leaf, tensor: castTensor(tensor, leaf.tensor!.dtype) } },
    };
  });
}

function nameOf(place: PartPlace & { readonly kind: "parameter" | "tokens" }): string {
  return place.kind === "parameter" ? place.name : `rows of ${place.path}`;
}

function checkShape(name: string, old: Tensor, { shape }: Tensor): void {
  if (old.shape.join() === shape.join()) return;
  throw new ShapeError(
    "HOTSWAP_SHAPE",
    `${name} has shape [${shape}] in the other adapter and [${old.shape}] in the one that is to be replaced. They belong to different bases.`,
    { name, expected: old.shape, found: shape },
  );
}
