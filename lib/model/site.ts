/**
 * Sites: the modules of a model at which adapters can take part.
 *
 * @module
 */

/**
 * What a site computes. `conv1d` is a linear layer whose weight is stored [in, out], as GPT-2's.
 */
export type SiteKind = "linear" | "conv1d" | "embedding" | "norm";

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
}

/** Shapes of a site's parameters by their last name, `weight` and perhaps `bias`. */
export function parameterShapes(site: Site): Readonly<Record<string, readonly number[]>> {
  const { kind, inFeatures: i, outFeatures: o } = site;
  const weight = kind === "linear" ? [o, i] : kind === "norm" ? [o] : [i, o];
  return site.bias ? { weight, bias: [o] } : { weight };
}
