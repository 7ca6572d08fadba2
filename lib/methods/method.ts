/**
 * What a PEFT method has to say about itself.
 *
 * @module
 */
import type { ForwardPass } from "../model/forward-pass.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import type { Site, SiteKind } from "../model/site.ts";
import type { Value } from "../ops/value.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Calibration } from "./calibration.ts";
import type { CombineRule } from "./combine.ts";
import type { PeftConfig } from "./config.ts";
import type { RefitRule } from "./refit.ts";
import type { TorchRandom } from "./torch-random.ts";

/** Tensors of one site by leaf name, such as `lora_A`. */
export type Leaves = Readonly<Record<string, Tensor>>;

/** What one adapter holds for one site. */
export interface SiteLeaves {
  /** Trained leaves, which are saved. */
  readonly leaves: Leaves;
  /** Fixed ones that follow from the base and the config, and are computed again on load. */
  readonly frozen: Leaves;
  /** Leaves that are the transpose of another site's, which holds them (tied embeddings). */
  readonly tied?: Readonly<Record<string, { readonly path: string; readonly leaf: string }>>;
}

/** What a method gets to make the leaves of one site. */
export interface InitContext<C extends PeftConfig> {
  /** The site. */
  readonly site: Site;
  /** The adapter's config, complete. */
  readonly config: C;
  /** The base model. */
  readonly model: ModelGraph;
  /** Random numbers as torch's global generator gives them, in the order of the sites. */
  readonly random: TorchRandom;
  /**
   * The site's weight in f32 as [out, in], whichever way it is stored; an embedding's as [in, out].
   */
  weight(): Promise<Float32Array>;
  /** What was measured for leaves to begin with, where the caller gave it. */
  readonly calibration?: Calibration;
}

/** What a method gets to check what leaves are to begin with. */
export interface CalibrationCheck {
  /** The sites that the adapter takes part at. */
  readonly sites: readonly Site[];
  /** What the caller gave. */
  readonly calibration?: Calibration;
  /** Whether the trained leaves are about to come from a file. */
  readonly loaded: boolean;
}

/** What a method gets to make what an adapter holds as a whole. */
export interface SharedContext<C extends PeftConfig> {
  /** The adapter's config, complete. */
  readonly config: C;
  /** The base model. */
  readonly model: ModelGraph;
  /** The sites that the adapter takes part at, in order of execution. */
  readonly sites: readonly Site[];
  /** As {@link InitContext.random}; shared leaves come before those of the first site. */
  readonly random: TorchRandom;
}

/** Shapes of trained and of fixed leaves. */
export interface LeafShapes {
  /** Of the trained ones. */
  readonly leaves: Readonly<Record<string, readonly number[]>>;
  /** Of the fixed ones. */
  readonly frozen: Readonly<Record<string, readonly number[]>>;
}

/** What a method gets to trace the part of an adapter that belongs to no site. */
export interface SharedTrace<C extends PeftConfig> {
  /** The pass that is being traced. */
  readonly pass: ForwardPass;
  /** The adapter's config, complete. */
  readonly config: C;
  /** The adapter's leaves as a whole as values, trained and fixed ones, in f32. */
  readonly shared: Readonly<Record<string, Value>>;
}

/** Keys and values that stand before those of the tokens. */
export interface CachePrefix {
  /** Number N of virtual tokens. */
  readonly length: number;
  /** Keys and values of one attention layer, each [N, heads of keys, size of a head]. */
  layer(index: number): { readonly k: Value; readonly v: Value };
}

/** What a method gets to trace one site. */
export interface SiteContext<C extends PeftConfig> {
  /** The pass that is being traced, for dropout and the base's weights. */
  readonly pass: ForwardPass;
  /** The site. */
  readonly site: Site;
  /** The adapter's config, complete. */
  readonly config: C;
  /** Leaves as values: trained and frozen ones, in f32. */
  readonly leaves: Readonly<Record<string, Value>>;
  /** Leaves of the adapter as a whole as values, in f32. */
  readonly shared: Readonly<Record<string, Value>>;
  /**
   * Factor on the adapter's own scaling: 1, or f32 [1] where the caller asked for another, so that
   * all factors share a program.
   */
  readonly multiplier: Value | 1;
}

/** What a method gets in the forward pass of one site. */
export interface ForwardContext<C extends PeftConfig> extends SiteContext<C> {
  /** What goes into the site: [..., in], or token ids for an embedding. */
  readonly x: Value;
  /**
   * What came out so far: the base's output and the parts of adapters that are active before this
   * one.
   */
  readonly result: Value;
  /** Runs the site without any adapter on any input. */
  base(x: Value): Value;
}

/** What a method gets to merge one site. */
export interface MergeContext<C extends PeftConfig> extends SiteContext<C> {
  /** The weight in f32, as the layer stores it. */
  readonly weight: Value;
  /** The bias, where the layer has one. */
  readonly bias?: Value;
}

/** One PEFT method. Registering one from outside is the same call that the library itself uses. */
// deno-lint-ignore no-explicit-any -- a registry holds methods of different configs
export interface PeftMethod<C extends PeftConfig = any> {
  /** PEFT's name of the method, such as `LORA`. */
  readonly peftType: string;
  /** What the keys of its leaves start with, such as `lora_`. */
  readonly prefix: string;
  /** Completes and checks a config in camelCase. Throws `ConfigError`. */
  parseConfig(config: unknown): C;
  /**
   * Fills in what the config leaves to the model, such as its sizes; again once the targets are
   * known, so that a complete config stays as it is. Throws `ConfigError` where the
   * model does not say it.
   */
  completeConfig?(config: C, model: ModelGraph): C;
  /** Whether an adapter with its default initialisation changes nothing until it is trained. */
  readonly isIdentityAtInit?: boolean;
  /** Whether `withAdapterScale` means something for it: what it adds is scaled. */
  readonly isScalable?: boolean;
  /** Whether what it adds to a linear layer is a weight delta, which a LoRA can stand for. */
  readonly supportsLoraConversion?: boolean;
  /** Kinds of sites that it can adapt; none for a method that adapts none. */
  readonly siteKinds: readonly SiteKind[];
  /** Suffixes of target modules by `model_type`, for configs that name none. */
  readonly defaultTargets: Readonly<Record<string, readonly string[]>>;
  /**
   * Whether a long list of targets stays as it is, because another field names modules by entries of
   * it; the shortest endings that say the same stand for it otherwise.
   */
  readonly keepsTargets?: boolean;
  /** Shapes of the trained leaves of one site; known before anything is computed. */
  leafShapes(config: C, site: Site): Readonly<Record<string, readonly number[]>>;
  /** Shapes of the fixed leaves of one site; without it there are none. */
  frozenShapes?(config: C, site: Site): Readonly<Record<string, readonly number[]>>;
  /**
   * Which leaves of a linear head are the transposes of which leaves of the embedding that it is
   * tied to (`ensureWeightTying`), such as `lora_A` of `lora_embedding_B`; a method without it
   * cannot tie.
   */
  readonly tiedLeaves?: Readonly<Record<string, string>>;
  /**
   * Refuses a calibration that does not fit, or the lack of one, before anything is computed. A
   * method without it takes none.
   */
  checkCalibration?(config: C, check: CalibrationCheck): void;
  /** Makes the leaves of one site. */
  init(context: InitContext<C>): Promise<SiteLeaves>;
  /** Only the fixed leaves, for an adapter that is being loaded; `null` where there are none. */
  frozen?(context: InitContext<C>): Promise<Leaves>;
  /** Shapes of what an adapter holds as a whole; without it there is nothing. */
  sharedShapes?(
    config: C,
    of: { readonly model: ModelGraph; readonly sites: readonly Site[] },
  ): LeafShapes;
  /** Makes the shared leaves. */
  initShared?(context: SharedContext<C>): Promise<SiteLeaves>;
  /** Only the fixed shared leaves, for an adapter that is being loaded; `null` where none. */
  frozenShared?(context: SharedContext<C>): Promise<Leaves>;
  /** Checkpoint keys of shared leaves that files hold, trained or fixed, by leaf; whole keys. */
  sharedKeys?(config: C): Readonly<Record<string, string>>;
  /** Whole keys of what files may hold although the config says that it is made again. */
  ignoredKeys?(config: C): readonly string[];
  /**
   * Whether a file's tensor can stand for a shared leaf although it has not the leaf's shape, such
   * as a projection that was made for larger layers.
   */
  fitsShared?(
    leaf: string,
    shapes: { readonly expected: readonly number[]; readonly found: readonly number[] },
  ): boolean;
  /**
   * Tensors that are saved in the place of shared leaves and cannot be loaded back into them, by
   * whole key, such as the prefix that an encoder computes.
   */
  derivedTensors?(config: C, shared: SiteLeaves): ReadonlyMap<string, Tensor>;
  /** Keys and values before those of the tokens, for a method that is no part of any site. */
  cachePrefix?(context: SharedTrace<C>): CachePrefix;
  /** Number of virtual tokens that {@link PeftMethod.cachePrefix} gives. */
  prefixLength?(config: C): number;
  /** What its checkpoint keys start with before a module path; `base_model.model.` by default. */
  readonly keyPrefix?: string;
  /** Traces the site with the adapter. */
  forward(context: ForwardContext<C>): Value;
  /** Traces the merged weights; absent where a method cannot be merged. */
  merge?(context: MergeContext<C>): { readonly weight: Value; readonly bias?: Value };
  /** The end of a leaf's checkpoint key, such as `lora_A.weight`, after the module path. */
  keyOf(leaf: string, site: Site): string;
  /** How adapters become one; absent where a method's adapters cannot be combined. */
  readonly combine?: CombineRule<C>;
  /** How leaves take other shapes (hot swap); without it only adapters of one structure swap. */
  readonly refit?: RefitRule<C>;
}
