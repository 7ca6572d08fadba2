/**
 * The body of models with an encoder and, for most tasks, a decoder, which share a token embedding.
 *
 * @module
 */
import type { Body } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { type Transformer, transformer } from "./transformer.ts";

/** Declares one. Each half has a name for the embedding, too. */
export function encoderDecoder(
  m: Modules,
  of: {
    readonly shared: string;
    readonly encoder: Transformer;
    readonly decoder?: Transformer;
  },
): Body {
  const { vocab: rows, hidden } = of.encoder;
  const embedding = m.embedding(of.shared, { rows, size: hidden }), tiedTo = embedding;
  const encoder = transformer(m.at("encoder"), { ...of.encoder, causal: false }, { tiedTo });
  const decoder = of.decoder &&
    transformer(m.at("decoder"), of.decoder, { tiedTo, over: "decoderTokens" });
  return {
    hidden,
    embedding,
    run(pass, { ids, decoderIds }) {
      if (!decoder) return { lastHiddenState: encoder.run(pass, { ids }) };
      const memory = pass.encoded(() => encoder.run(pass, { ids }));
      const lastHiddenState = decoder.run(pass, { ids: decoderIds!, memory });
      return { lastHiddenState, ...(memory && { encoderLastHiddenState: memory }) };
    },
  };
}
