/**
 * How adapters of a method become one: what a method says about it.
 *
 * @module
 */
import type { Site } from "../model/site.ts";
import type { PeftConfig } from "./config.ts";
import type { InitSource, Leaves } from "./method.ts";
import type { RefitRule } from "./refit.ts";
import type { TorchRandom } from "./torch-random.ts";

/** How the majority sign of several tensors is found: by their sum, or by counting. */
export type MajoritySignMethod = "total" | "frequency";

/** How to combine adapters, whatever the method. */
export interface CombineOptions {
  /** One of the rule's types, or its `exact` one. */
  readonly combinationType: string;
  /** Rank that a singular value decomposition leaves. */
  readonly svdRank?: number;
  /** Quantile of the factors' elements to which a decomposition is clamped, from 0 to 1. */
  readonly svdClamp?: number;
  /** Share of the elements that pruning leaves, from 0 to 1. */
  readonly density?: number;
  /** How TIES elects signs. */
  readonly majoritySignMethod: MajoritySignMethod;
}

/** One of the adapters that are combined. */
export interface CombinePart<C extends PeftConfig> {
  /** Its name. */
  readonly adapter: string;
  /** Its config, complete. */
  readonly config: C;
  /** How much it counts. */
  readonly weight: number;
  /** Factor on its own scaling, 1 unless the model has another. */
  readonly multiplier: number;
  /** The sites that it adapts, in order of execution. */
  readonly sites: readonly Site[];
  /**
   * What it holds for a module: trained, fixed and tied leaves together; `undefined` where it does
   * not adapt it.
   */
  leavesAt(path: string): Leaves | undefined;
}

/** The config of a combined adapter and the sites it has, before anything is computed. */
export interface CombineSite<C extends PeftConfig> {
  /** The site. */
  readonly site: Site;
  /** The combined adapter's config, complete. */
  readonly config: C;
  /** All parts, also those that do not adapt the site. */
  readonly parts: readonly CombinePart<C>[];
  /** How to combine. */
  readonly options: CombineOptions;
}

/** What a rule gets to combine one site; random numbers as torch has them when it comes there. */
export interface CombineContext<C extends PeftConfig>
  extends CombineSite<C>, Pick<InitSource, "random" | "weight"> {}

/** What a rule gets to lower the rank of one site. */
export interface CompressContext<C extends PeftConfig> {
  /** The site. */
  readonly site: Site;
  /** The adapter; its weight is 1. */
  readonly part: CombinePart<C>;
  /** The rank that the site is to have, as the compressed config says. */
  readonly rank: number;
}

/** A site at a lower rank. */
export interface CompressedSite {
  /** Its leaves. */
  readonly leaves: Leaves;
  /** Squared Frobenius norm of what the adapter added to the weight. */
  readonly total: number;
  /** Squared Frobenius norm of the part of it that is lost. */
  readonly lost: number;
}

/** How a method's adapters are combined into one of the same method. */
export interface CombineRule<C extends PeftConfig> {
  /** PEFT's names of the ways to combine; the first is the default. */
  readonly types: readonly string[];
  /** Name of the way in which the combined adapter adds exactly the weighted sum of what all add. */
  readonly exact: string;
  /**
   * Fields beside `targetModules` that name modules, each with whether it names one. The combined
   * config names what those of the parts name.
   */
  readonly patterns?: Readonly<Record<string, (config: C, path: string) => boolean>>;
  /**
   * The config of the combined adapter, but for the fields that name modules. Throws where the
   * parts or options do not allow it.
   */
  config(parts: readonly CombinePart<C>[], options: CombineOptions): C;
  /** Computes the leaves of one site that at least one part adapts. */
  combine(context: CombineContext<C>): Promise<Leaves>;
  /** For ways that draw random numbers, so that each site can be computed alone. */
  readonly draws?: {
    /** How many numbers of 32 bits `combine` takes for a site. */
    count(at: CombineSite<C>): number;
    /** Takes what PEFT draws for the combined adapter before it comes to the first site. */
    before(
      random: TorchRandom,
      of: Omit<CombineSite<C>, "site"> & { readonly sites: readonly Site[] },
    ): Promise<void>;
  };
  /**
   * The config with which the same leaves add `factor` times as much; `undefined` where new leaves
   * are needed.
   */
  rescale?(config: C, factor: number): C | undefined;
  /** How leaves take other shapes (hot swap); without it only adapters of one structure swap. */
  readonly refit?: RefitRule<C>;
  /** Lowering the rank, for methods that have one. */
  readonly compress?: {
    /** The config of the compressed adapter. */
    config(part: CombinePart<C>, rank: number): C;
    /** The rank of a site by such a config. */
    rank(config: C, site: Site): number;
    /** Computes a site. */
    site(context: CompressContext<C>): Promise<CompressedSite>;
  };
}
