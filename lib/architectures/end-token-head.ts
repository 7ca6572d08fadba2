/**
 * The head of models with a decoder beside an encoder for the classes of texts.
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import type { Head, ModelConfig } from "../model/architecture.ts";
import { equal, tanh } from "../ops/elementwise.ts";
import type { Value } from "../ops/value.ts";
import { configReader } from "./config-reader.ts";
import { classes } from "./heads.ts";
import { lastRows } from "./text-rows.ts";

/**
 * Scores of the classes of a text, by two layers `classification_head` from what the decoder makes of
 * its last end token.
 *
 * @param usual The end token where a config names none.
 */
export function endTokenHead(usual: number): Head {
  const endOf = (config: ModelConfig) => configReader(config).number("eos_token_id", usual);
  const head: Head = (m, { config, body }) => {
    // PEFT adapts these layers like others, and does not save them as a whole.
    const at = m.at("classification_head"), { hidden } = body;
    const dense = at.linear("dense", { in: hidden, out: hidden });
    const out = at.linear("out_proj", classes(config, body));
    const rate = configReader(config).rate("classifier_dropout");
    return (pass, outputs, { ids }) => {
      const { lastHiddenState: h } = outputs, dropped = (x: Value) => pass.dropout(x, rate);
      if (h.shape[1] !== ids.shape[1]) {
        throw new ShapeError(
          "BATCH_SHAPE",
          `decoderInputIds need a token for each of the ${
            ids.shape[1]
          } of inputIds, whose end tokens say where a text's class is read; found ${h.shape[1]}.`,
        );
      }
      const rows = lastRows(h, equal(ids, endOf(config)));
      return { ...outputs, logits: out(dropped(tanh(dense(dropped(rows))))) };
    };
  };
  return Object.assign(head, { needs: endOf });
}
