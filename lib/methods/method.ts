/**
 * What a PEFT method has to say about itself: a config, leaves, and rules.
 *
 * @module
 */
import type { BatchInput } from "../model/batch-input.ts";
import type { ForwardPass } from "../model/forward-pass.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import type { Site } from "../model/site.ts";
import type { Value } from "../ops/value.ts";
import type { ScalarType } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Calibration } from "./calibration.ts";
import type { CombineRule } from "./combine.ts";
import type { ConfigSchema, PeftConfig } from "./config.ts";
import type { SiteRules } from "./site-rule.ts";
import type { TorchRandom } from "./torch-random.ts";
import type { MethodTraining, TrainedAdapter } from "./training-rule.ts";

/** Tensors by leaf name, such as `lora_A`. */
export type Leaves = Readonly<Record<string, Tensor>>;

/**
 * What becomes of a leaf: it is trained and saved; it is fixed, and follows from the base and the
 * config; it is state, which passes of training change (`ForwardPass.update`), and saved; or it is
 * saved in the place of others, from which it is computed, and cannot be read back.
 */
export type LeafKind = "trained" | "fixed" | "state" | "derived";

/** One leaf as a method declares it. */
export interface LeafRule {
  /** Its shape, known before anything is computed. */
  readonly shape: readonly number[];
  /** `"trained"` by default. */
  readonly kind?: LeafKind;
  /**
   * What it is called in files: the end of its key, after the module path, or the whole key where it
   * belongs to no site. Its own name by default; `null`, the default of fixed leaves, where files do
   * not hold it and it is made again.
   */
  readonly key?: string | null;
  /**
   * The leaf of the adapter as a whole that stands here, such as a vector that a group of sites
   * trains together. It is that leaf and no other: files hold it again where it has a key.
   */
  readonly shares?: string;
  /**
   * Of a fixed leaf of whole numbers, `i32` in memory: their type in files, which may hold them as
   * f32, too, and what all of them are below, or those of each row.
   */
  readonly whole?: { readonly stored: ScalarType; readonly below: number | readonly number[] };
  /** Whether it is a part of the base's weight, without which the site goes on. */
  readonly takenOut?: true;
  /**
   * Whether a fixed leaf of a site is made of the leaves of the adapter as a whole, and again where a
   * file brings those; no random numbers go into it.
   */
  readonly follows?: true;
  /** Whole keys of what files may hold beside it, or although it is made again. */
  readonly idleKeys?: RegExp;
  /** Whether a file's tensor of another shape can stand for it. */
  accepts?(found: readonly number[]): boolean;
  /**
   * The leaf of the input embedding whose transpose it is, where its site is a head that is tied to
   * the embedding (`ensureWeightTying`). A method whose leaves have none cannot tie.
   */
  readonly tiedTo?: string;
  /** Whether it is the embedding's leaf as it is, and not its transpose. */
  readonly tiedAsIs?: boolean;
  /**
   * Makes it. Leaves are made in order: those of the adapter as a whole, then site by site, each in
   * the order of its record, so that random numbers are those of torch.
   */
  init?(from: InitSource): Leaf | Promise<Leaf>;
  /**
   * Computes a derived leaf from the others of its place. Its shape may be known only once its contents
   * have been read, and is `[]` in its rule then.
   */
  saved?(all: Leaves): Tensor;
  /** Makes the leaf of what a file holds in its place: derived leaves by name. */
  read?(found: Leaves, all: Leaves): Promise<Float32Array<ArrayBuffer>>;
}

/** Contents of a leaf: a tensor, or its elements in f32. */
export type Leaf = Tensor | Float32Array<ArrayBuffer>;

/** What leaves begin from. */
export interface InitSource {
  /** Random numbers as torch's global generator gives them. */
  readonly random: TorchRandom;
  /**
   * The weight of the site, or of another, in f32 as [out, in], whichever way it is stored; an
   * embedding's as [in, out].
   */
  weight(of?: Site): Promise<Float32Array>;
  /** For leaves of a site, those of the adapter as a whole. */
  readonly shared?: Leaves;
  /** Ids of a text by a tokenizer: its folder or file, or a model on the hub. */
  tokenize?(text: string, tokenizer: string): Promise<readonly number[]>;
  /** What was measured for leaves to begin with, where the caller gave it. */
  readonly calibration?: Calibration;
}

/** Where an adapter has leaves of its own as a whole. */
export interface AdapterPlace<C extends PeftConfig> {
  /** The adapter's config, complete. */
  readonly config: C;
  /** The base model. */
  readonly model: ModelGraph;
  /** The sites that the adapter takes part at, in order of execution. */
  readonly sites: readonly Site[];
}

/** Where an adapter has leaves of a site. */
export interface SitePlace<C extends PeftConfig> {
  /** The adapter's config, complete. */
  readonly config: C;
  /** The base model. */
  readonly model: ModelGraph;
  /** The site. */
  readonly site: Site;
  /** All sites that the adapter takes part at, in order of execution. */
  readonly sites: readonly Site[];
}

/** The leaves that a method's adapters have. */
export interface LeafRules<C extends PeftConfig> {
  /** Of one site. Throws `ConfigError` where the site cannot have what the config asks for. */
  site?(at: SitePlace<C>): Readonly<Record<string, LeafRule>>;
  /** Of the adapter as a whole. */
  adapter?(at: AdapterPlace<C>): Readonly<Record<string, LeafRule>>;
}

/** What a rule gets to trace an adapter. */
export interface AdapterTrace<C extends PeftConfig> {
  /** The pass that is being traced, for dropout, inputs and the base's weights. */
  readonly pass: ForwardPass;
  /** The adapter's config, complete. */
  readonly config: C;
  /** Leaves of the adapter as a whole as values, in f32; whole numbers in `i32`. */
  readonly shared: Readonly<Record<string, Value>>;
}

/** What a rule gets to trace one site. */
export interface SiteTrace<C extends PeftConfig> extends AdapterTrace<C> {
  /** The site. */
  readonly site: Site;
  /** Leaves of the site as values, in f32; whole numbers in `i32`. */
  readonly leaves: Readonly<Record<string, Value>>;
  /**
   * Factor on the adapter's own scaling: 1, or f32 [1] where the caller asked for another, so that
   * all factors share a program.
   */
  readonly multiplier: Value | 1;
  /** The model's other adapters that have leaves at the site, by name; not where one is merged. */
  others?(): ReadonlyMap<string, OtherAdapter>;
}

/** Another adapter of a model, at a site. */
export interface OtherAdapter {
  /** Its config, complete. */
  readonly config: PeftConfig;
  /** Its leaves at the site. */
  readonly leaves: Leaves;
}

/** Keys and values that stand before those of the tokens. */
export interface CachePrefix {
  /** Number N of virtual tokens. */
  readonly length: number;
  /** Keys and values of one attention layer, each [N, heads of keys, size of a head]. */
  layer(index: number): { readonly k: Value; readonly v: Value };
}

/** What a method does to a pass as a whole, at no site. */
export interface PassRule<C extends PeftConfig> {
  /** Parts of a batch that it needs, such as task ids. */
  inputs?(config: C): readonly BatchInput[];
  /** Names of parts of a batch that it has no use for, so that they count as left out. */
  ignores?(config: C): readonly string[];
  /** Number of virtual tokens that it puts before those of each row. */
  virtualTokens?(config: C): number;
  /** Their keys and values, where they have no embeddings. */
  memory?(trace: AdapterTrace<C>): CachePrefix;
  /** Puts their embeddings before the rows of the token embedding [B, T, D]: [B, N+T, D]. */
  embeds?(trace: AdapterTrace<C>, rows: Value): Value;
}

/**
 * One PEFT method. Registering one from outside is the same call that the library itself uses.
 *
 * What follows from the rules is not said again: an adapter can be merged where each of its sites
 * has a rule for weights; scaled and converted to LoRA where it adds a delta; and active for some
 * rows of a batch only where it puts no virtual tokens before them.
 */
// deno-lint-ignore no-explicit-any -- a registry holds methods of different configs
export interface PeftMethod<C extends PeftConfig = any> {
  /** Its name in lower case, such as `lora`; in upper case it is the `peft_type`. */
  readonly name: string;
  /** What its config holds, and what is usual for it. */
  readonly config: ConfigSchema<C>;
  /** What the names of its leaves start with; by default its own name and `_`. */
  readonly prefix?: string;
  /** The leaves of its adapters. */
  readonly leaves: LeafRules<C>;
  /** What it does at sites, by their kind; nothing for a method that adapts none. */
  sites?(config: C): SiteRules<C>;
  /** What it does to a pass as a whole. */
  readonly pass?: PassRule<C>;
  /**
   * Numbers that follow from the token ids of each row, by the names of inputs `i32` [B]; an id of −1
   * is padding in front of a prompt.
   */
  rowInputs?(config: C): Readonly<Record<string, (ids: Int32Array) => number>>;
  /** What it adds to training. */
  training?(adapter: TrainedAdapter<C>): MethodTraining<C> | undefined;
  /** How adapters become one or take each other's place; without it they cannot. */
  readonly combine?: CombineRule<C>;
}
