/**
 * The modules of a model by path: its sites and what contains them.
 *
 * @module
 */
import { inputEmbedding, type ModelGraph } from "../../model/model-graph.ts";
import { endingsOf, layerNumbering } from "./match-modules.ts";
import type { Site, SiteKind } from "../../model/site.ts";

/** A module: a site, or something that holds others. */
export interface Module {
  /** Its path. */
  readonly path: string;
  /** What it is. */
  readonly kind: SiteKind | "container";
  /** The site; containers have none. */
  readonly site?: Site;
  /** Number of the layer that it is in; `null` outside of layers. */
  readonly layer: number | null;
  /** The last parts of its path, from the last one alone to all of them. */
  readonly endings: readonly string[];
}

// Sites never change, and a model with other weights keeps the map of its sites.
const known = new WeakMap<ModelGraph["sites"], ReadonlyMap<string, Module>>();

/** All modules by path, sites in order of execution and each container before its first site. */
export function modulesOf({ sites }: Pick<ModelGraph, "sites">): ReadonlyMap<string, Module> {
  let modules = known.get(sites);
  if (!modules) known.set(sites, modules = listModules(sites));
  return modules;
}

function listModules(sites: ModelGraph["sites"]): ReadonlyMap<string, Module> {
  const layerOf = layerNumbering(null);
  const modules = new Map<string, Module>();
  for (const site of sites.values()) {
    for (let at = site.path.indexOf("."); at >= 0; at = site.path.indexOf(".", at + 1)) {
      const path = site.path.slice(0, at);
      if (modules.has(path)) continue;
      modules.set(path, {
        path,
        kind: "container",
        layer: layerOf(path),
        endings: endingsOf(path),
      });
    }
    const { path, kind } = site;
    modules.set(path, { path, kind, site, layer: layerOf(path), endings: endingsOf(path) });
  }
  return modules;
}

/**
 * Names of the parameters of a module and of everything in it, in order of execution; of the whole
 * model for an empty path.
 */
export function parametersOf(model: ModelGraph, path: string): readonly string[] {
  return [...model.shapes.keys()].filter((name) => !path || name.startsWith(`${path}.`));
}

/** Path of the module that a parameter belongs to. */
export function moduleOf(parameter: string): string {
  return parameter.slice(0, parameter.lastIndexOf("."));
}

/** The output head. */
export function outputHead(model: ModelGraph): Site | undefined {
  return [...model.sites.values()].find((site) => site.head);
}

/** Paths of the modules whose weight is that of the input embedding. */
export function tiedToEmbedding(model: ModelGraph): readonly string[] {
  const source = `${inputEmbedding(model)?.path}.weight`;
  return [...model.tied].filter(([, to]) => to === source)
    .map(([alias]) => moduleOf(alias));
}
