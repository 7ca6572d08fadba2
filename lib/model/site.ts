/**
 * Sites: the modules of a model at which adapters can take part.
 *
 * @module
 */
import type { PatchOptions } from "../ops/patches.ts";
import { sizeOf } from "../tensor/dtype.ts";

/**
 * What a site computes. `conv1d` is a linear layer whose weight is stored [in, out], as GPT-2's, and
 * goes by the name of its class in Python; `conv` is a convolution of one to three dimensions;
 * `attention` is a module that holds the projections of one layer, and no weights of its own;
 * `multihead` is torch's `nn.MultiheadAttention`, whose projections are one module to adapters.
 * `parameter` is none of a model's sites, but a parameter that an adapter takes for one.
 */
export type SiteKind =
  | "linear"
  | "conv1d"
  | "conv"
  | "embedding"
  | "norm"
  | "attention"
  | "multihead"
  | "parameter";

/** How a convolution moves over its input [B, C, ...]; its kernel says in how many dimensions. */
export interface ConvRule extends PatchOptions {
  /** Groups of channels that are convolved apart from each other. */
  readonly groups: number;
}

/** How a norm normalises. */
export interface NormRule {
  /** By the mean square alone (RMSNorm), or by mean and variance (LayerNorm). */
  readonly kind: "rms" | "layer";
  /** What is added under the root. */
  readonly epsilon: number;
  /** What is added to its weight; 0 by default. */
  readonly offset?: number;
}

/** What an attention module attends to. */
export interface AttentionLayout {
  /** Heads of queries. */
  readonly heads: number;
  /** Heads of keys and values, a divisor of `heads`. */
  readonly keyHeads: number;
  /** Size of a head. */
  readonly headSize: number;
  /**
   * The sequence that it belongs to: the tokens of a batch, those of its decoder, or, from the
   * decoder's tokens, to what an encoder made of the others (`memory`); or rows of anything, such as
   * what an image was cut into, all of which are seen (`patches`).
   */
  readonly over: "tokens" | "decoderTokens" | "memory" | "patches";
  /** Its number among those over the same sequence, in order of execution. */
  readonly index: number;
}

/** A module with weights of its own, named by its path in the checkpoint. */
export interface Site {
  /** Module path, such as `model.layers.0.self_attn.q_proj`. */
  readonly path: string;
  /** What it computes. */
  readonly kind: SiteKind;
  /** Features that go in: the vocabulary for an embedding. */
  readonly inFeatures: number;
  /** Features that come out. */
  readonly outFeatures: number;
  /** Whether it has a bias. */
  readonly bias: boolean;
  /** Whether it is the output head, which `all-linear` leaves out. */
  readonly head?: boolean;
  /** How many positions it knows, for a table of learned positions. */
  readonly positions?: number;
  /** How it normalises, for a norm. */
  readonly norm?: NormRule;
  /** How it moves, for a convolution, whose features are channels. */
  readonly conv?: ConvRule;
  /** What the names of its parameters start with, as in `in_proj_weight`. */
  readonly stem?: string;
  /** Path of the module that is adapted in its place, and it with that one. */
  readonly partOf?: string;
  /** What it attends to, for attention. */
  readonly attention?: AttentionLayout;
  /** How many matrices [out, in] it is, for a parameter of three axes. */
  readonly count?: number;
}

/** A parameter [out, in] or [count, out, in] as a site, whose path is its name. */
export function parameterSite(name: string, shape: readonly number[]): Site {
  const [outFeatures, inFeatures] = shape.slice(-2);
  const count = shape.length > 2 ? { count: shape[0] } : {};
  return { path: name, kind: "parameter", inFeatures, outFeatures, bias: false, ...count };
}

/** The name of a site's weight. */
export function weightName(
  { path, kind, stem = "" }: Pick<Site, "path" | "kind" | "stem">,
): string {
  return kind === "parameter" ? path : `${path}.${stem}weight`;
}

/** The name of a site's bias. */
export function biasName({ path, stem = "" }: Pick<Site, "path" | "stem">): string {
  return `${path}.${stem}bias`;
}

/** The shape of a site's weight. */
export function weightShape(site: Site): readonly number[] {
  return parameterShapes(site)[`${site.stem ?? ""}weight`];
}

/** Shapes of a site's parameters by their last name, such as `weight` and perhaps `bias`. */
export function parameterShapes(site: Site): Readonly<Record<string, readonly number[]>> {
  const { kind, inFeatures: i, outFeatures: o, conv, stem = "" } = site;
  if (kind === "attention") return {};
  const weight = conv
    ? [o, i / conv.groups, ...conv.kernel]
    : isOutIn(site)
    ? [o, i]
    : kind === "norm"
    ? [o]
    : [i, o];
  return { [`${stem}weight`]: weight, ...(site.bias && { [`${stem}bias`]: [o] }) };
}

/** Whether the weight of a site that multiplies has outputs in its first dimension. */
export function isOutIn({ kind }: Site): boolean {
  return kind === "linear" || kind === "conv" || kind === "multihead";
}

/** How many numbers of its input each output of a site is made of. */
export function fanIn({ inFeatures, conv }: Site): number {
  return conv ? inFeatures / conv.groups * sizeOf(conv.kernel) : inFeatures;
}
