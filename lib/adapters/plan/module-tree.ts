/**
 * The modules of a model by path: its sites and what contains them.
 *
 * @module
 */
import { inputEmbedding, type ModelGraph } from "../../model/model-graph.ts";
import { endingsOf, layerNumbering } from "./match-modules.ts";
import { type Site, type SiteKind, weightName } from "../../model/site.ts";

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
export function modulesOf(
  model: Pick<ModelGraph, "sites" | "shapes">,
): ReadonlyMap<string, Module> {
  const { sites } = model;
  let modules = known.get(sites);
  if (!modules) known.set(sites, modules = listModules(model));
  return modules;
}

function listModules(
  { sites, shapes }: Pick<ModelGraph, "sites" | "shapes">,
): ReadonlyMap<string, Module> {
  const layerOf = layerNumbering(null);
  const modules = new Map<string, Module>();
  const add = (path: string, of: Pick<Module, "kind" | "site">) =>
    modules.set(path, { path, ...of, layer: layerOf(path), endings: endingsOf(path) });
  const addContainers = (inside: string) => {
    for (let at = inside.indexOf("."); at >= 0; at = inside.indexOf(".", at + 1)) {
      const path = inside.slice(0, at);
      if (!modules.has(path)) add(path, { kind: "container" });
    }
  };
  // Some hold parameters that are those of no site.
  const names = [...shapes.keys()], places = new Map(names.map((name, place) => [name, place]));
  let next = 0;
  for (const site of sites.values()) {
    const place = places.get(weightName(site)) ?? next;
    while (next < place) addContainers(names[next++]);
    addContainers(site.path);
    add(site.path, { kind: site.kind, site });
  }
  return modules;
}

/**
 * Path of the module that PEFT makes for a parameter that is adapted: it wraps the one that the
 * parameter belongs to, and the wrappers of those of it that come later wrap this one.
 */
export function wrapperOf(name: string, adapted: readonly string[]): string {
  const later = adapted.slice(adapted.indexOf(name) + 1);
  const path = moduleOf(name);
  return path + ".base_layer".repeat(later.filter((other) => moduleOf(other) === path).length);
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
