/**
 * What a decoder beside an encoder reads where a batch does not say it.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import type { HostPart } from "./objective.ts";

/**
 * Rows of ids [B, T], one to the right behind what the family's decoders begin with, and padding in
 * place of −100.
 *
 * @throws {ValueError} `DECODER_START` where the config does not say what that is.
 */
export function shiftRight(
  { data, shape }: HostPart,
  { architecture, config }: Pick<ModelGraph, "architecture" | "config">,
): HostPart & { readonly data: Int32Array<ArrayBuffer> } {
  const pad = typeof config.pad_token_id === "number" ? config.pad_token_id : 0;
  const ids = Int32Array.from(data, (id) => id === IGNORED_LABEL ? pad : id), [, length] = shape;
  const start = config.decoder_start_token_id ?? config.pad_token_id;
  const first = (at: number) => {
    if (architecture.decoderStart !== "last token") return start as number;
    // As transformers, which counts from the left on whatever side padding is.
    const tokens = ids.subarray(at, at + length).filter((id) => id !== pad).length;
    return ids[at + (tokens + length - 1) % length];
  };
  if (architecture.decoderStart !== "last token" && typeof start !== "number") {
    throw new ValueError(
      "DECODER_START",
      "decoderInputIds are left out, and the config has no decoder_start_token_id that they could begin with. Give them.",
    );
  }
  return { data: ids.map((_, i) => i % length ? ids[i - 1] : first(i)), shape };
}
