/**
 * What stands after the body of a model, for each task.
 *
 * @module
 */
import type { Body, Head, ModelConfig } from "../model/architecture.ts";
import { mul } from "../ops/elementwise.ts";
import { softCap } from "../ops/functions.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { labelCount } from "../model/label-count.ts";
import { configReader, RATE } from "./config-reader.ts";
import { firstRows, isText, lastRows } from "./text-rows.ts";

/** Scores of the next token, by `lm_head`. */
export function languageHead(options: {
  /**
   * Whether its weight is that of the token embedding, where a checkpoint has no other and the config
   * does not say; or whatever the config says.
   */
  readonly tied: boolean | "always";
  /** Factor of the hidden state. */
  readonly scale?: (config: ModelConfig) => number;
  /** Whether it has a bias; false by default. */
  readonly bias?: boolean;
  /** What scores come near to but not above; none by default. */
  readonly cap?: (config: ModelConfig) => number | null;
}): Head {
  return (m, { config, body }) => {
    const { size, boolean } = configReader(config), out = size("vocab_size");
    const tied = options.tied === "always" || boolean("tie_word_embeddings", options.tied);
    const head = m.linear("lm_head", { in: body.hidden, out }, {
      bias: options.bias ?? false,
      head: true,
      tiedTo: tied ? body.embedding : undefined,
    });
    const scale = options.scale?.(config) ?? 1, cap = options.cap?.(config) ?? null;
    return (pass, outputs) => {
      const rows = pass.headRows(outputs.lastHiddenState);
      const logits = head(scale === 1 ? rows : mul(rows, scale));
      return { ...outputs, logits: cap === null ? logits : softCap(logits, cap) };
    };
  };
}

/** Scores of the classes of each token, by `classifier` or another name. */
export function tokenHead(
  dropout: (config: ModelConfig) => number,
  name = "classifier",
): Head {
  return (m, { config, body }) => {
    const classifier = m.linear(name, classes(config, body));
    return (pass, outputs) => ({
      ...outputs,
      logits: classifier(pass.dropout(outputs.lastHiddenState, dropout(config))),
    });
  };
}

/** The dropout that decoders have before a classifier of tokens: its own, or that of the body. */
export function classifierDropout(config: ModelConfig): number {
  const { classifier_dropout: own, hidden_dropout: other } = config;
  return configReader({ dropout: own ?? other }).number("dropout", 0.1, RATE);
}

/** What transformers puts after most decoders for the classes of tokens. */
export const tokenScoreHead: Head = tokenHead(classifierDropout, "score");

/** Scores of the classes of a text, by `classifier` from what a pooler gives. */
export function pooledHead(dropout: (config: ModelConfig) => number): Head {
  return (m, { config, body }) => {
    const classifier = m.linear("classifier", classes(config, body), { head: true });
    return (pass, outputs) => ({
      ...outputs,
      logits: classifier(pass.dropout(outputs.poolerOutput, dropout(config))),
    });
  };
}

/** Scores of the classes of a text, by two layers `classifier` from what the first token has become. */
export function firstTokenHead(
  activation: (x: Value) => Value,
  dropout: (config: ModelConfig) => number,
): Head {
  return (m, { config, body }) => {
    const at = m.at("classifier"), { hidden } = body;
    const dense = at.linear("dense", { in: hidden, out: hidden }, { head: true });
    const out = at.linear("out_proj", classes(config, body), { head: true });
    return (pass, outputs) => {
      const dropped = (x: Value) => pass.dropout(x, dropout(config));
      const rows = dropped(firstRows(outputs.lastHiddenState));
      return { ...outputs, logits: out(dropped(activation(dense(rows)))) };
    };
  };
}

/** Scores of the classes of a text, by `score` at the last token that is no padding. */
export const lastTokenHead: Head = (m, { config, body }) => {
  const score = m.linear("score", classes(config, body), { bias: false, head: true });
  return (_pass, outputs, { ids }) => {
    const { lastHiddenState: h } = outputs;
    return { ...outputs, logits: score(lastRows(h, isText(h, { config, ids }))) };
  };
};

/** Scores of each token to be the first and the last of an answer, by `qa_outputs`. */
export const answerHead: Head = (m, { body }) => {
  const bounds = m.linear("qa_outputs", { in: body.hidden, out: 2 });
  return (_pass, { lastHiddenState, ...outputs }) => {
    return { ...outputs, lastHiddenState, ...splitBounds(bounds(lastHiddenState)) };
  };
};

/** Scores [B, T, 2] of the first and the last token of an answer, each [B, T]. */
export function splitBounds(
  logits: Value,
): { readonly startLogits: Value; readonly endLogits: Value } {
  const at = (start: number) =>
    reshape(sliceAxis(logits, { axis: 2, start, size: 1 }), logits.shape.slice(0, 2));
  return { startLogits: at(0), endLogits: at(1) };
}

/** The same in a model whose body is at another place. */
export function bodyAt(bodyPath: string, head: Head): Head {
  return Object.assign((...args: Parameters<Head>) => head(...args), head, { bodyPath });
}

/** The sizes of a classifier. */
export function classes(
  config: ModelConfig,
  body: Body,
): { readonly in: number; readonly out: number } {
  return { in: body.hidden, out: labelCount(config) };
}
