/**
 * What one part of a batch is: token ids, a mask, labels, pixels, task ids.
 *
 * @module
 */

/**
 * An axis of a batch input: `"batch"` (rows), `"tokens"` of a row, `"decoderTokens"` of a decoder's
 * row, `"images"` that are there beside rows of text, one of a model's own, or a fixed size.
 */
export type BatchAxis = string | number;

/** One named part of a batch. Architecture, task and methods each bring a list of them. */
export interface BatchInput {
  /** Its name for callers and in programs, such as `tokenTypeIds`. */
  readonly name: string;
  /** Its shape. */
  readonly axes: readonly BatchAxis[];
  /** Type of its elements in programs. */
  readonly dtype: "i32" | "f32";
  /** Smallest value; none by default. */
  readonly from?: number;
  /** Largest value; none by default. */
  readonly to?: number;
  /** A value outside of these that stands for nothing, such as −100 among labels. */
  readonly none?: number;
  /** Whether its numbers are ids of the model's vocabulary. */
  readonly isToken?: boolean;
  /** What stands for all its elements where a caller leaves it out; without it, it must be given. */
  readonly otherwise?: number;
  /** Whether it can be left out, as another part or a rule of its own then says what it is. */
  readonly optional?: boolean;
  /** What shorter rows are filled up with; 0 by default. */
  readonly padding?: number;
  /** What it is: shape, range, default. */
  readonly doc: string;
}

/** Token ids. */
export const INPUT_IDS: BatchInput = {
  name: "inputIds",
  axes: ["batch", "tokens"],
  dtype: "i32",
  isToken: true,
  doc: "Token ids [B, T], each in [0, vocabulary size).",
};

/** Which tokens are padding. */
export const ATTENTION_MASK: BatchInput = {
  name: "attentionMask",
  axes: ["batch", "tokens"],
  dtype: "i32",
  from: 0,
  to: 1,
  optional: true,
  doc: "1 for tokens, 0 for padding on either side [B, T]; all ones by default.",
};

/** Where tokens are. */
export const POSITION_IDS: BatchInput = {
  name: "positionIds",
  axes: ["batch", "tokens"],
  dtype: "i32",
  from: 0,
  optional: true,
  doc:
    "Position of each token [B, T]; 0, 1, 2 … by default, whatever the mask but for families that count otherwise, as in transformers. Virtual tokens of an adapter come before them.",
};

/** What a row of text is made of. */
export const TEXT_INPUTS: readonly BatchInput[] = [INPUT_IDS, ATTENTION_MASK, POSITION_IDS];

/**
 * Images of one size, [B, C, H, W].
 *
 * @param shape Channels, height and width.
 * @param axis What there is one for each of: rows, or `"images"` beside rows of text.
 */
export function pixelValues(
  shape: readonly [channels: number, height: number, width: number],
  axis: "batch" | "images" = "batch",
): BatchInput {
  return {
    name: "pixelValues",
    axes: [axis, ...shape],
    dtype: "f32",
    doc:
      "Images [B, C, H, W], channel by channel, as an image processor gives them; in the size that the config says.",
  };
}

/** Which samples of a packed row tokens belong to. */
export const SEGMENTS: BatchInput = {
  name: "segments",
  axes: ["batch", "tokens"],
  dtype: "i32",
  from: 0,
  optional: true,
  doc:
    "Number of the sample that a token of a packed row belongs to, from 1, and 0 for padding [B, T]; stands for the mask.",
};

/** Token ids of a decoder beside an encoder. */
export const DECODER_INPUT_IDS: BatchInput = {
  name: "decoderInputIds",
  axes: ["batch", "decoderTokens"],
  dtype: "i32",
  isToken: true,
  optional: true,
  doc:
    "Token ids of the decoder [B, U]; by default the labels, for classes and answers the token ids, one to the right behind the config's `decoder_start_token_id`, or what stands for it in the family.",
};

/** Which of them are padding. */
export const DECODER_ATTENTION_MASK: BatchInput = {
  name: "decoderAttentionMask",
  axes: ["batch", "decoderTokens"],
  dtype: "i32",
  from: 0,
  to: 1,
  otherwise: 1,
  doc: "1 for tokens of the decoder, 0 for padding [B, U]; all ones by default.",
};
