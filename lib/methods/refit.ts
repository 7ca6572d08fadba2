/**
 * Leaves of one config as leaves of another: what a method says about it, so that adapters can take
 * each other's place in a program.
 *
 * @module
 */
import type { Site } from "../model/site.ts";
import type { PeftConfig } from "./config.ts";
import type { InitSource, Leaves } from "./method.ts";

/** What a rule gets to refit one site. */
export interface RefitContext<C extends PeftConfig> extends Pick<InitSource, "weight"> {
  /** The site. */
  readonly site: Site;
  /** The config whose shapes and scale the leaves are to fit. */
  readonly config: C;
  /**
   * The config that the leaves have now, and the leaves: trained, fixed and tied ones together.
   * Absent where there are none: those to make then change nothing.
   */
  readonly from?: { readonly config: C; readonly leaves: Leaves };
  /** The site whose leaves these are the transposes of, where they are tied. */
  readonly tiedTo?: Site;
}

/** How leaves of a method are made to fit another config. */
export interface RefitRule<C extends PeftConfig> {
  /**
   * The config of an adapter that takes another's place: the resident one's, with what changes no
   * program.
   *
   * @throws {UnsupportedError} where no leaves can make up for the difference.
   */
  config(resident: C, from: C): C;
  /**
   * The config under which all sites have one rank, with the scale that it has now.
   *
   * @param config The config.
   * @param rank The rank.
   */
  resized(config: C, rank: number): C;
  /**
   * All trained leaves of one site, which change its weight by what the given ones do. There are no
   * fixed ones.
   *
   * @throws {ValueError} where the rank is too small.
   */
  refit(context: RefitContext<C>): Leaves;
}
